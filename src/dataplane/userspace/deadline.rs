//! When the connections to an endpoint must have ended, told to those that are open; and that
//! something else has changed which they go by.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// An endpoint's. Connections look at a number with each packet, and at the rest when that changes.
#[derive(Debug, Default)]
pub(super) struct Deadline {
    changes: AtomicU64,
    at: Mutex<Option<Instant>>,
    changed: Notify,
}

impl Deadline {
    /// The endpoint takes no part any more: what is open has until then, or until an earlier
    /// deadline that was set before.
    pub(super) fn set(&self, at: Instant) {
        let mut now = self.at();
        if now.is_none() {
            *now = Some(at);
            drop(now);
            self.tell();
        }
    }

    /// It is back.
    pub(super) fn lift(&self) {
        if self.at().take().is_some() {
            self.tell();
        }
    }

    /// Has open connections look again at what they go by.
    ///
    /// Counted before, so that who registers from here on sees a change, and once more behind: who
    /// had seen it already and was woken must register again.
    pub(super) fn tell(&self) {
        self.changes.fetch_add(1, Ordering::SeqCst);
        self.changed.notify_waiters();
        self.changes.fetch_add(1, Ordering::SeqCst);
    }

    /// Differs from what it was when there was something to tell since.
    pub(super) fn changes(&self) -> u64 {
        self.changes.load(Ordering::SeqCst)
    }

    /// Polled once, it has the task woken by the next change.
    pub(super) fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    pub(super) fn get(&self) -> Option<Instant> {
        *self.at()
    }

    fn at(&self) -> MutexGuard<'_, Option<Instant>> {
        self.at.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
