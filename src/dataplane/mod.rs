//! Ways of making plans true on this host.
//!
//! In: [`PlanDelta`]s. Out: kernel state, and what it took ([`Applied`]).
//! Never: a Kubernetes type; a dataplane importing another; touching what is not vipd's.

mod both;
mod edits;
pub mod nftables;
pub mod userspace;

pub use both::{Both, Error};

use crate::planner::{FrontendKey, Plan, PlanDelta};
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// What one apply or resync did to the kernel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Applied {
    /// Objects (elements, rules, chains, sets) written or removed.
    pub operations: u64,
    pub transactions: u64,
    pub messages: u64,
    pub bytes: u64,
}

impl std::ops::Add for Applied {
    type Output = Self;

    fn add(mut self, other: Self) -> Self {
        self += other;
        self
    }
}

impl std::ops::AddAssign for Applied {
    fn add_assign(&mut self, other: Self) {
        self.operations += other.operations;
        self.transactions += other.transactions;
        self.messages += other.messages;
        self.bytes += other.bytes;
    }
}

/// What others may have done since the last resync began, before anybody listened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unheard {
    Nothing,
    /// They wrote something: only another resync can tell what.
    Edits,
}

/// One way of making plans true. All calls come from one task, one after the other; they block
/// for as long as the kernel takes.
pub trait Dataplane {
    type Error: std::error::Error + Send + Sync + 'static;

    /// Makes the difference that led to `plan` true, atomically per commit. After an error the
    /// kernel holds the former state, or part of a long delta; the next call must be `resync`.
    fn apply(&mut self, delta: &PlanDelta, plan: &Plan) -> Result<Applied, Self::Error>;

    /// Reads back what the kernel holds and writes only the difference: at start (adoption of what
    /// a former process left), after an error, after a foreign edit that could not be followed.
    fn resync(&mut self, plan: &Plan) -> Result<Applied, Self::Error>;

    /// Frontends that resyncs found in the kernel and removed, because no plan has them: services
    /// that were deleted while nobody looked.
    fn take_former(&mut self) -> Vec<FrontendKey> {
        Vec::new()
    }

    /// Work that may wait for a quiet moment: deletions that packets in flight must not see.
    fn settle(&mut self) -> Result<Applied, Self::Error>;

    /// Whether deletions wait for `settle`.
    fn has_deferred(&self) -> bool;

    /// Whether `settle` will have more to do, at a time that nobody tells of: relayed connections end.
    fn is_waiting(&self) -> bool {
        false
    }

    /// Work for a long quiet moment: gives back what has not been used for long.
    fn trim(&mut self) -> Result<Applied, Self::Error>;

    /// From now on foreign edits are noticed; the answer is about those before. Doing so twice is
    /// harmless.
    fn subscribe(&mut self) -> Result<Unheard, Self::Error>;

    /// A descriptor that becomes readable when others edit what is vipd's; `None` before
    /// `subscribe`.
    fn foreign_edits(&self) -> Option<OwnedFd>;

    /// Undoes the foreign edits noticed so far; `None` if there were none.
    fn repair(&mut self, plan: &Plan) -> Result<Option<Applied>, Self::Error>;

    /// Why what should be relayed is not, if so; the kernel carries it meanwhile.
    fn relay_failure(&self) -> Option<Arc<str>> {
        None
    }

    /// Tries once more what could not be started; whether it has, so that a resync is wanted now.
    fn revive(&mut self) -> bool {
        false
    }

    /// Removes everything of vipd's from the kernel.
    fn cleanup(&mut self) -> Result<Applied, Self::Error>;
}
