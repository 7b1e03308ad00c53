//! When to say that the affinity table is full. PURE.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::time::{Duration, Instant};

/// Between two warnings, at least: a table that is full stays so for hours.
const QUIET: Duration = Duration::from_secs(600);

/// Connections that found no room for their pin, as the kernel's counter is looked at.
#[derive(Debug)]
pub(super) struct Unpinned {
    seen: u64,
    untold: u64,
    told: Option<Instant>,
}

impl Unpinned {
    /// `seen`: what the counter says of the time before this process, and was told then.
    pub fn since(seen: u64) -> Self {
        Self { seen, untold: 0, told: None }
    }

    /// How many there were since the last warning, if one is due. A counter that says less than
    /// before has started again from 0.
    pub fn look(&mut self, count: u64, now: Instant) -> Option<u64> {
        self.untold += count.checked_sub(self.seen).unwrap_or(count);
        self.seen = count;
        let quiet = self.told.is_some_and(|at| now.saturating_duration_since(at) < QUIET);
        if self.untold == 0 || quiet {
            return None;
        }
        self.told = Some(now);
        Some(std::mem::take(&mut self.untold))
    }
}
