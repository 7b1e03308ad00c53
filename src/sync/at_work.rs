//! Since when the writer has been in one write: what does not come back is never published.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Copies tell the same.
#[derive(Debug, Clone)]
pub struct AtWork {
    born: Instant,
    /// Nanoseconds from `born` to the beginning; 0: no write is under way.
    since: Arc<AtomicU64>,
}

impl Default for AtWork {
    fn default() -> Self {
        Self { born: Instant::now(), since: Arc::default() }
    }
}

impl AtWork {
    pub fn begin(&self, now: Instant) {
        let since = now.saturating_duration_since(self.born).as_nanos();
        self.since.store(u64::try_from(since).unwrap_or(u64::MAX).max(1), Ordering::Relaxed);
    }

    pub fn end(&self) {
        self.since.store(0, Ordering::Relaxed);
    }

    /// Since when, if a write is under way.
    pub fn since(&self) -> Option<Instant> {
        let since = self.since.load(Ordering::Relaxed);
        (since > 0).then(|| self.born + Duration::from_nanos(since))
    }
}
