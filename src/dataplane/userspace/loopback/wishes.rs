//! What the thread is told.

use crate::planner::FrontendKey;
use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// Frontends whose socket shall be open or shall not, since somebody looked last.
#[derive(Debug, Default)]
pub(super) struct Wishes {
    pending: Mutex<Pending>,
    changed: watch::Sender<()>,
    followed: Condvar,
}

#[derive(Debug, Default)]
struct Pending {
    wishes: BTreeMap<FrontendKey, bool>,
    /// How often something was added, and how much of that was taken and followed.
    added: u64,
    taken: u64,
    followed: u64,
}

impl Wishes {
    pub(super) fn take(&self) -> BTreeMap<FrontendKey, bool> {
        let mut pending = self.pending();
        pending.taken = pending.added;
        std::mem::take(&mut pending.wishes)
    }

    /// What was taken has been tried.
    pub(super) fn follow(&self) {
        let mut pending = self.pending();
        pending.followed = pending.taken;
        drop(pending);
        self.followed.notify_all();
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    pub(super) fn add(&self, wishes: impl Iterator<Item = (FrontendKey, bool)>) {
        let mut pending = self.pending();
        pending.wishes.extend(wishes);
        pending.added += 1;
        drop(pending);
        self.changed.send_replace(());
    }

    /// Blocks until all that was added has been tried, for so long at most.
    pub(super) fn wait(&self, most: Duration) {
        let is_left = |pending: &mut Pending| pending.followed < pending.added;
        drop(self.followed.wait_timeout_while(self.pending(), most, is_left));
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Family, Protocol};
    use crate::planner::FrontendAddress;
    use std::sync::Arc;
    use std::time::Instant;

    const LONG: Duration = Duration::from_secs(60);

    fn wish() -> impl Iterator<Item = (FrontendKey, bool)> {
        let at = FrontendAddress::NodePort(Family::V4);
        std::iter::once((FrontendKey { at, protocol: Protocol::Tcp, port: 1 }, true))
    }

    #[test]
    fn who_waits_goes_on_when_all_was_tried() {
        let wishes = Arc::new(Wishes::default());
        wishes.wait(LONG);
        wishes.add(wish());
        let taken = wishes.take();
        wishes.add(wish());
        // The second one is left.
        wishes.follow();
        let begun = Instant::now();
        let within = Duration::from_millis(50);
        wishes.wait(within);
        assert!(begun.elapsed() >= within && taken.len() == 1);
        let other = Arc::clone(&wishes);
        let thread = std::thread::spawn(move || {
            other.take();
            other.follow();
        });
        wishes.wait(LONG);
        thread.join().unwrap();
        assert!(wishes.take().is_empty());
    }
}
