//! What the writer publishes for everyone else to read.

use crate::conntrack::ResetCount;
use crate::dataplane::Applied;
use crate::model::{Known, Problem, ServiceKey};
use crate::planner::Plan;
use crate::sources::Scope;
use imbl::OrdMap;
use std::sync::Arc;
use std::time::SystemTime;

/// One consistent state of everything. All maps are persistent: publishing after one change
/// costs O(log n), and a reader's copy never changes under it.
#[derive(Debug, Clone)]
pub struct Snapshot {
    pub known: OrdMap<ServiceKey, Arc<Known>>,
    pub plan: Plan,
    /// What the sources say is wrong.
    pub problems: OrdMap<Scope, Arc<[Problem]>>,
    pub status: SyncStatus,
}

/// How far the kernel follows the plan.
#[derive(Debug, Clone, Default)]
pub struct SyncStatus {
    /// Counts published states.
    pub generation: u64,
    /// Every source and the node facts have said that their first list is complete.
    pub synced: bool,
    /// When the kernel last held exactly the plan.
    pub last_success: Option<SystemTime>,
    /// Why it does not now, if so.
    pub last_error: Option<Arc<str>>,
    pub commits: u64,
    pub failures: u64,
    /// Repairs of foreign edits.
    pub repairs: u64,
    /// TCP connections that were reset because their endpoint is gone.
    pub resets: ResetCount,
    /// All that was written since the start.
    pub applied: Applied,
}
