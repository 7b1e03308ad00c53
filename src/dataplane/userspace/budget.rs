//! How many files the listeners and relays of this process may hold open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Left to the rest of the daemon: netlink, manifests, health checks, the admin socket.
const RESERVE: usize = 512;

/// Where the kernel names no limit.
const UNLIMITED: usize = 1 << 20;

/// Files, each of which is one permit of `all`.
#[derive(Debug)]
pub struct Budget {
    all: Arc<Semaphore>,
    /// Of `all`: what is accepted needs room too.
    listeners: Arc<Semaphore>,
}

/// Open until this is dropped.
pub type Files = OwnedSemaphorePermit;

/// A listening socket's.
#[derive(Debug)]
pub struct ListenerFile {
    _file: Files,
    _of_listeners: Files,
}

impl Budget {
    /// Of this process. Its soft limit is raised to the hard one: the soft one is low (1024 under
    /// systemd) only for programs that use select(2), which this is not.
    pub fn of_this_process() -> Self {
        let limit = getrlimit(Resource::Nofile);
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        let current = match setrlimit(Resource::Nofile, raised) {
            Ok(()) => limit.maximum,
            Err(_) => limit.current,
        };
        let files = current.and_then(|files| usize::try_from(files).ok()).unwrap_or(UNLIMITED);
        Self::of(files.min(UNLIMITED))
    }

    pub fn of(files: usize) -> Self {
        let files = files.saturating_sub(RESERVE);
        Self {
            all: Arc::new(Semaphore::new(files)),
            listeners: Arc::new(Semaphore::new(files / 2)),
        }
    }

    /// `None`: there is no room.
    pub fn listener(&self) -> Option<ListenerFile> {
        let of_listeners = Arc::clone(&self.listeners).try_acquire_owned().ok()?;
        let file = self.files(1)?;
        Some(ListenerFile { _file: file, _of_listeners: of_listeners })
    }

    /// For what is relayed; `None`: there is no room.
    pub fn files(&self, count: u32) -> Option<Files> {
        Arc::clone(&self.all).try_acquire_many_owned(count).ok()
    }

    /// As [`Budget::files`], when there is room.
    pub async fn files_at_last(&self, count: u32) -> Files {
        let files = Arc::clone(&self.all).acquire_many_owned(count).await;
        files.expect("the semaphore is never closed")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_of_the_daemon_keeps_its_files() {
        for (files, listeners, all) in
            [(0, 0, 0), (512, 0, 0), (1024, 256, 512), (20_000, 9744, 19_488)]
        {
            let budget = Budget::of(files);
            assert_eq!(budget.listeners.available_permits(), listeners);
            assert_eq!(budget.all.available_permits(), all);
        }
    }

    #[test]
    fn listeners_leave_half_to_what_they_accept() {
        let budget = Budget::of(RESERVE + 4);
        let held: Vec<_> = (0..3).map_while(|_| budget.listener()).collect();
        assert_eq!(held.len(), 2);
        let files = budget.files(2).unwrap();
        assert!(budget.files(1).is_none());
        drop(files);
        assert!(budget.files(1).is_some());
    }
}
