//! How often something may happen: a burst, then one at a time. PURE.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::time::{Duration, Instant};

#[derive(Debug, Clone, Copy)]
pub(super) struct Limit {
    /// How many at once.
    pub burst: u32,
    /// Until there is one more again.
    pub every: Duration,
}

/// A bucket of tokens, told by when it will be full again: `None` is full.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Bucket(Option<Instant>);

impl Bucket {
    /// When there is a token, at the earliest.
    pub fn ready_at(self, limit: Limit, now: Instant) -> Instant {
        let spare = limit.every * limit.burst.saturating_sub(1);
        match self.0 {
            Some(full) if full > now + spare => full - spare,
            _ => now,
        }
    }

    pub fn take(&mut self, limit: Limit, now: Instant) {
        let full = self.0.map_or(now, |full| full.max(now));
        self.0 = Some(full + limit.every);
    }

    pub fn is_full(self, now: Instant) -> bool {
        self.0.is_none_or(|full| full <= now)
    }
}
