//! Ways of making plans true on this host.
//!
//! In: [`PlanDelta`]s. Out: kernel state, and what it took ([`Applied`]).
//! Never: a Kubernetes type; a dataplane importing another; touching what is not vipd's.

pub mod nftables;

use crate::planner::{Plan, PlanDelta};

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

    /// Work that may wait for a quiet moment: deletions that packets in flight must not see.
    fn settle(&mut self) -> Result<Applied, Self::Error>;

    /// Removes everything of vipd's from the kernel.
    fn cleanup(&mut self) -> Result<Applied, Self::Error>;
}
