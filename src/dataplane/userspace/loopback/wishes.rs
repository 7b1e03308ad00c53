//! What the thread is told.

use crate::planner::FrontendKey;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// Frontends whose socket shall be open or shall not, since somebody looked last.
#[derive(Debug, Default)]
pub(super) struct Wishes {
    pending: Mutex<BTreeMap<FrontendKey, bool>>,
    changed: watch::Sender<()>,
}

impl Wishes {
    pub(super) fn take(&self) -> BTreeMap<FrontendKey, bool> {
        std::mem::take(&mut self.pending())
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    pub(super) fn add(&self, wishes: impl Iterator<Item = (FrontendKey, bool)>) {
        self.pending().extend(wishes);
        self.changed.send_replace(());
    }

    fn pending(&self) -> MutexGuard<'_, BTreeMap<FrontendKey, bool>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
