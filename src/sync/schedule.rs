//! When to write. PURE: `now` is an argument.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::time::{Duration, Instant};

/// Deletions that packets in flight must not see wait this long, unless a commit takes them along.
pub(super) const SETTLE: Duration = Duration::from_millis(50);
/// Between two looks whether what was waited for has ended.
pub(super) const LOOK: Duration = Duration::from_secs(1);
/// A class that no service uses is kept this long: it costs nothing, and may be used again.
pub(super) const TRIM: Duration = Duration::from_secs(30);
const FIRST_PAUSE: Duration = Duration::from_millis(10);
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Before the first try to start what could not be started: what it lacks comes from elsewhere (a
/// loopback interface, files), and no packet waits for it.
pub(super) const FIRST_REVIVAL: Duration = Duration::from_millis(500);

/// What is to be done now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Work {
    Nothing,
    /// Starts what could not be started.
    Revive,
    /// Removes classes that have not been used for long.
    Trim,
    /// Deletes what the last commit left to packets in flight.
    Settle,
    /// Writes what changed.
    Apply,
    /// Reads back what the kernel holds and writes the difference.
    Resync,
}

#[derive(Debug)]
pub struct Schedule {
    min_period: Duration,
    pending: Work,
    not_before: Option<Instant>,
    settle_at: Option<Instant>,
    trim_at: Option<Instant>,
    failures: u32,
    /// When to try again to start what could not be started, and how often that was done.
    revive_at: Option<Instant>,
    revivals: u32,
}

impl Schedule {
    /// At least `min_period` lies between the end of a write and the next.
    pub fn new(min_period: Duration) -> Self {
        Self {
            min_period,
            pending: Work::Nothing,
            not_before: None,
            settle_at: None,
            trim_at: None,
            failures: 0,
            revive_at: None,
            revivals: 0,
        }
    }

    /// Counts from the next write on.
    pub fn set_min_period(&mut self, min_period: Duration) {
        self.min_period = min_period;
    }

    pub fn request(&mut self, work: Work) {
        self.pending = self.pending.max(work);
    }

    pub fn due(&self, now: Instant) -> Work {
        let reached = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if self.pending > Work::Nothing && self.not_before.is_none_or(|at| at <= now) {
            self.pending
        } else if reached(self.settle_at) && self.failures == 0 {
            Work::Settle
        } else if reached(self.trim_at) && self.failures == 0 {
            Work::Trim
        } else if reached(self.revive_at) && self.failures == 0 {
            Work::Revive
        } else {
            Work::Nothing
        }
    }

    /// When `due` may next say something else than it does now without a request.
    pub fn wake_at(&self) -> Option<Instant> {
        let write = self.not_before.filter(|_| self.pending > Work::Nothing);
        let quiet = [self.settle_at, self.trim_at, self.revive_at];
        let quiet = if self.failures == 0 { quiet } else { [None; 3] };
        write.into_iter().chain(quiet.into_iter().flatten()).min()
    }

    /// A write succeeded; `deferred`: it left deletions behind.
    pub fn succeeded(&mut self, now: Instant, work: Work, deferred: bool) {
        match work {
            Work::Settle => self.settle_at = None,
            Work::Trim => self.trim_at = None,
            Work::Revive => self.revive_at = None,
            _ => {
                self.pending = Work::Nothing;
                self.failures = 0;
                self.not_before = (!self.min_period.is_zero()).then(|| now + self.min_period);
                self.trim_at = Some(now + TRIM);
                // It tries all.
                if work == Work::Resync {
                    self.revive_at = None;
                }
            }
        }
        if deferred {
            self.settle_at = Some(now + SETTLE);
        }
    }

    /// There will be something to delete, nobody knows when.
    pub fn set_waiting(&mut self, now: Instant, waiting: bool) {
        if waiting {
            self.settle_at.get_or_insert(now + LOOK);
        }
    }

    /// Something could not be started, or all is there.
    pub fn set_lacking(&mut self, now: Instant, lacking: bool) {
        if !lacking {
            (self.revive_at, self.revivals) = (None, 0);
        } else if self.revive_at.is_none() {
            let pause = FIRST_REVIVAL * 2u32.saturating_pow(self.revivals.min(16));
            self.revivals = self.revivals.saturating_add(1);
            self.revive_at = Some(now + pause.min(LONGEST_PAUSE));
        }
    }

    /// A write failed: the next try reads back first, after a pause that grows.
    pub fn failed(&mut self, now: Instant) {
        self.pending = Work::Resync;
        let pause = FIRST_PAUSE * 2u32.saturating_pow(self.failures.min(16));
        self.failures = self.failures.saturating_add(1);
        self.not_before = Some(now + pause.min(LONGEST_PAUSE));
    }
}
