//! One step from what the kernel holds to what it should hold. PURE.

use super::layout::ChainDefinition;
use super::set::{Element, Set};
use super::types::Room;
use crate::model::ServiceKey;

/// Work on everything but elements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Structure {
    RemoveTable,
    Table,
    /// A set, and how many elements it shall have room for.
    Set(Set, Room),
    RemoveSet(Set),
    /// Whatever is in the set goes.
    FlushSet(Set),
    FlushChain(String),
    /// The chain is not there yet.
    Chain(ChainDefinition),
    /// The chain is there with other rules.
    Rewrite(ChainDefinition),
}

/// Elements to write, in the order that keeps every packet's look-ups answered.
#[derive(Debug, Default)]
pub struct Changes {
    /// Chains that elements below refer to.
    pub structure: Vec<Structure>,
    /// What the commit before this one left to packets in flight.
    pub overdue: Vec<(Set, Element)>,
    /// Targets: endpoints, pins' endpoints, addresses, class chains.
    pub replaced_targets: Vec<(Set, Element)>,
    pub new_targets: Vec<(Set, Element)>,
    /// References to them.
    pub replaced_frontends: Vec<(Set, Element)>,
    pub new_frontends: Vec<(Set, Element)>,
    /// What nothing refers to any more.
    pub removed: Vec<(Set, Element)>,
    /// Chains that nothing refers to any more.
    pub removed_chains: Vec<String>,
    /// Services with a pool that no number or class was left for: their clients meet silence.
    pub unplaced: Vec<ServiceKey>,
}

impl Changes {
    pub fn is_empty(&self) -> bool {
        self.structure.is_empty()
            && self.overdue.is_empty()
            && self.replaced_targets.is_empty()
            && self.new_targets.is_empty()
            && self.replaced_frontends.is_empty()
            && self.new_frontends.is_empty()
            && self.removed.is_empty()
            && self.removed_chains.is_empty()
    }
}
