//! What the writer publishes for everyone else to read.

use super::{AtWork, Durations, NoLocalEndpoints, StickyServices};
use crate::conntrack::{Removals, ResetCount};
use crate::dataplane::Applied;
use crate::model::{Known, Problem, ServiceKey};
use crate::planner::{HealthCheck, Plan};
use crate::sources::Scope;
use imbl::OrdMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// How long writing may fail before this node counts as one that does not follow the cluster:
/// twice kube-proxy's default `syncPeriod` of 30 s, as there.
const STALE: Duration = Duration::from_secs(60);

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
    /// What load balancers were to be told of services then: endpoints that no commit has brought yet take no
    /// connections.
    pub served: OrdMap<ServiceKey, HealthCheck>,
    /// Why it does not now, if so.
    pub last_error: Option<Arc<str>>,
    /// Since when nothing has succeeded, if so.
    pub failing_since: Option<Instant>,
    /// Whether the writer waits for the kernel at this moment.
    pub at_work: AtWork,
    pub commits: u64,
    pub failures: u64,
    /// Of these, while classes that had not been used for long were removed.
    pub cleanup_failures: u64,
    /// Why the relay does not carry what it should, if so: the kernel has it meanwhile.
    pub relay_failure: Option<Arc<str>>,
    /// Repairs of foreign edits.
    pub repairs: u64,
    /// Times that what the kernel holds was read back, and the difference written.
    pub resyncs: u64,
    /// Changes of Services that sources have told of.
    pub service_changes: u64,
    /// Changes of EndpointSlices and Endpoints objects that sources have told of.
    pub endpoint_changes: u64,
    /// Of these, how many came after the last success.
    pub pending_services: u64,
    pub pending_endpoints: u64,
    /// When a source last told of a change.
    pub last_queued: Option<SystemTime>,
    pub durations: Durations,
    pub no_local: NoLocalEndpoints,
    pub sticky: StickyServices,
    /// Of stale UDP conntrack entries.
    pub removals: Removals,
    /// TCP connections that were reset because their endpoint is gone.
    pub resets: ResetCount,
    /// All that was written since the start.
    pub applied: Applied,
}

impl SyncStatus {
    /// Whether this node does what the cluster says, so that a load balancer may send it something.
    /// The kernel must have held the whole plan once, and writing must not have failed, nor hung, for
    /// [`STALE`] on end: what was right a moment ago is still better than no node. With nothing to
    /// write, the last success may be any time ago.
    pub fn is_healthy(&self, now: Instant) -> bool {
        self.synced && self.last_success.is_some() && self.is_alive(now)
    }

    /// Whether a new process would do no better: one that waits for its source would wait too.
    pub fn is_alive(&self, now: Instant) -> bool {
        let lately = |since| now.saturating_duration_since(since) < STALE;
        self.failing_since.is_none_or(lately) && self.at_work.since().is_none_or(lately)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn healthy_once_all_was_written_and_while_failures_are_young() {
        let now = Instant::now();
        let at = |seconds| now + Duration::from_secs(seconds);
        let mut status = SyncStatus::default();
        assert!(!status.is_healthy(now) && status.is_alive(now));
        status.synced = true;
        assert!(!status.is_healthy(now), "nothing was written yet");
        status.last_success = Some(SystemTime::UNIX_EPOCH);
        assert!(status.is_healthy(at(86_400)), "nothing to write is no fault");
        status.failing_since = Some(now);
        assert!(status.is_healthy(at(59)));
        assert!(!status.is_healthy(at(60)) && !status.is_alive(at(60)));
    }

    #[test]
    fn a_write_that_hangs_counts_as_one_that_fails() {
        let status = SyncStatus::default();
        let now = Instant::now();
        let (published, at) = (status.clone(), |seconds| now + Duration::from_secs(seconds));
        status.at_work.begin(now);
        assert!(published.is_alive(at(59)) && !published.is_alive(at(61)));
        status.at_work.end();
        assert!(published.is_alive(at(61)));
    }

    #[test]
    fn a_first_write_that_fails_makes_no_healthy_node() {
        let now = Instant::now();
        let status = SyncStatus { synced: true, failing_since: Some(now), ..SyncStatus::default() };
        assert!(!status.is_healthy(now));
    }
}
