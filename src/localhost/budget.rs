//! How many files these listeners may hold open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Left to the rest of the daemon: netlink, manifests, health checks, the admin socket.
const RESERVE: usize = 512;

/// For connections (two files each) and UDP sessions, at most.
const TRAFFIC: usize = 8192;

/// Where the kernel names no limit.
const UNLIMITED: usize = 1 << 20;

/// Files, each of which is one permit.
#[derive(Debug)]
pub(super) struct Budget {
    pub listeners: Arc<Semaphore>,
    pub traffic: Arc<Semaphore>,
}

pub(super) type Files = OwnedSemaphorePermit;

impl Budget {
    /// Of this process. Its soft limit is raised to the hard one: the soft one is low (1024 under
    /// systemd) only for programs that use select(2), which this is not.
    pub(super) fn of_this_process() -> Self {
        let limit = getrlimit(Resource::Nofile);
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        let current = match setrlimit(Resource::Nofile, raised) {
            Ok(()) => limit.maximum,
            Err(_) => limit.current,
        };
        let files = current.and_then(|files| usize::try_from(files).ok()).unwrap_or(UNLIMITED);
        Self::of(files.min(UNLIMITED))
    }

    /// Half for listeners, half for what they accept.
    pub(super) fn of(files: usize) -> Self {
        let half = files.saturating_sub(RESERVE) / 2;
        Self {
            listeners: Arc::new(Semaphore::new(half)),
            traffic: Arc::new(Semaphore::new(half.min(TRAFFIC))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_of_the_daemon_keeps_its_files() {
        for (files, listeners, traffic) in
            [(0, 0, 0), (512, 0, 0), (1024, 256, 256), (524_288, 261_888, 8192)]
        {
            let budget = Budget::of(files);
            assert_eq!(budget.listeners.available_permits(), listeners);
            assert_eq!(budget.traffic.available_permits(), traffic);
        }
    }
}
