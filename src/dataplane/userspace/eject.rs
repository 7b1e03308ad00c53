//! Endpoints that fail again and again are left out for a while.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use super::dials::Failure;
use crate::planner::Target;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Failed dials in a row that eject an endpoint, or connections in a row that it took and broke off
/// with nothing heard of it in between.
pub(super) const STREAK: u32 = 3;

/// The first ejection lasts this long, each further one in a row twice as long as the one before.
pub(super) const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);

/// After an ejection one connection tries, and the others wait for what comes of it; not for ever,
/// if that is never heard of.
pub(super) const TRIAL: Duration = Duration::from_secs(5);

/// The endpoints of one Service port that failed since they last took a connection.
#[derive(Debug, Default)]
pub(super) struct Ejections {
    failing: BTreeMap<Target, State>,
    breaking: BTreeMap<Target, Breaks>,
}

/// An endpoint that is out, as another process is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ejection {
    pub target: Target,
    /// Until one connection may try it.
    pub left: Duration,
    pub times: u32,
    pub failure: Failure,
}

#[derive(Debug)]
enum State {
    /// So many times in a row.
    Failing(u32),
    /// For the `times`th time in a row.
    Out { until: Instant, times: u32, cause: Cause },
    /// Out for others than the connection that tries.
    Trial { until: Instant, times: u32, cause: Cause },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    Dial(Failure),
    Break,
}

/// Of an endpoint that takes connections and breaks them off. That it takes one says nothing for it.
#[derive(Debug, Default)]
struct Breaks {
    in_a_row: u32,
    /// Ejections in a row.
    times: u32,
    /// Bytes that all its connections had brought at the last break: more of them end the row.
    heard: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Judged {
    Ejected,
    Kept,
}

impl Ejections {
    pub(super) fn is_empty(&self) -> bool {
        self.failing.is_empty()
    }

    pub(super) fn is_out(&self, target: Target, now: Instant) -> bool {
        match self.failing.get(&target) {
            Some(State::Out { until, .. } | State::Trial { until, .. }) => now < *until,
            Some(State::Failing(_)) | None => false,
        }
    }

    /// What is left of the candidates out of a pool, which is sorted. All of them, where more than
    /// half of the pool is out (endpoints came and went since), or nothing else is left.
    pub(super) fn without_ejected(
        &self,
        candidates: Vec<Target>,
        pool: &[Target],
        now: Instant,
    ) -> Vec<Target> {
        if self.failing.is_empty() || self.out_of(pool, now) > pool.len() / 2 {
            return candidates;
        }
        let left: Vec<Target> =
            candidates.iter().filter(|target| !self.is_out(**target, now)).copied().collect();
        if left.is_empty() { candidates } else { left }
    }

    /// A connection goes there.
    pub(super) fn chosen(&mut self, target: Target, now: Instant) {
        let Some(state) = self.failing.get_mut(&target) else { return };
        match *state {
            State::Out { until, times, cause } | State::Trial { until, times, cause }
                if until <= now =>
            {
                match cause {
                    Cause::Dial(_) => *state = State::Trial { until: now + TRIAL, times, cause },
                    // That a connection is not broken off may never be heard of: all try again, and
                    // the first break ejects it again.
                    Cause::Break => drop(self.failing.remove(&target)),
                }
            }
            _ => {}
        }
    }

    /// A dial failed. Of each pool at most half is ejected, those first that cost a connection more
    /// than a moment.
    pub(super) fn failed(
        &mut self,
        target: Target,
        failure: Failure,
        pool: &[Target],
        now: Instant,
    ) -> Judged {
        let state = self.failing.entry(target).or_insert(State::Failing(0));
        let times = match state {
            State::Failing(times) => {
                *times = times.saturating_add(1);
                if *times < STREAK || !self.has_room(failure, pool, now) {
                    return Judged::Kept;
                }
                0
            }
            // Dialled before it was ejected.
            State::Out { until, .. } if now < *until => return Judged::Kept,
            State::Out { times, .. } | State::Trial { times, .. } => *times,
        };
        self.eject(target, (Cause::Dial(failure), times), now);
        Judged::Ejected
    }

    /// It took a connection, and broke it off before it said anything. `heard`: bytes that it ever
    /// sent.
    pub(super) fn broke_off(
        &mut self,
        target: Target,
        heard: u64,
        pool: &[Target],
        now: Instant,
    ) -> Judged {
        let breaks = self.breaking.entry(target).or_default();
        if breaks.heard != heard {
            *breaks = Breaks { heard, ..Breaks::default() };
        }
        breaks.in_a_row = breaks.in_a_row.saturating_add(1);
        let enough = breaks.in_a_row >= STREAK;
        if !enough || self.is_out(target, now) || !self.has_room(Failure::Refused, pool, now) {
            return Judged::Kept;
        }
        let breaks = self.breaking.entry(target).or_default();
        let times = breaks.times;
        (breaks.in_a_row, breaks.times) = (STREAK - 1, times.saturating_add(1));
        self.eject(target, (Cause::Break, times), now);
        Judged::Ejected
    }

    /// `times`: in a row before this one.
    fn eject(&mut self, target: Target, (cause, times): (Cause, u32), now: Instant) {
        let until = now + FIRST.saturating_mul(1 << times.min(16)).min(LONGEST);
        let times = times.saturating_add(1);
        self.failing.insert(target, State::Out { until, times, cause });
    }

    /// For one more of a pool. Who refuses makes room for who says nothing.
    fn has_room(&mut self, failure: Failure, pool: &[Target], now: Instant) -> bool {
        if self.out_of(pool, now) < pool.len() / 2 {
            return true;
        }
        let refusing = self.failing.iter_mut().find(|(target, state)| {
            let refuses = |state: &State| {
                let State::Out { until, cause, .. } = state else { return false };
                *cause != Cause::Dial(Failure::Slow) && now < *until
            };
            pool.binary_search(target).is_ok() && refuses(state)
        });
        match refusing {
            Some((_, state)) if failure == Failure::Slow => {
                *state = State::Failing(0);
                true
            }
            _ => false,
        }
    }

    /// It took a connection.
    pub(super) fn connected(&mut self, target: Target) {
        if !matches!(self.failing.get(&target), Some(State::Out { cause: Cause::Break, .. })) {
            self.failing.remove(&target);
        }
    }

    pub(super) fn out(&self, now: Instant) -> Vec<Ejection> {
        let out = |(target, state): (&Target, &State)| match state {
            State::Out { until, times, cause } | State::Trial { until, times, cause } => {
                let left = until.saturating_duration_since(now);
                let failure = match cause {
                    Cause::Dial(failure) => *failure,
                    Cause::Break => Failure::Refused,
                };
                Some(Ejection { target: *target, left, times: *times, failure })
            }
            State::Failing(_) => None,
        };
        self.failing.iter().filter_map(out).collect()
    }

    /// Takes over what a former process knew.
    pub(super) fn restore(&mut self, ejections: Vec<Ejection>, now: Instant) {
        for Ejection { target, left, times, failure } in ejections {
            let until = now + left.min(LONGEST);
            let cause = Cause::Dial(failure);
            self.failing.entry(target).or_insert(State::Out { until, times, cause });
        }
    }

    /// Only these are endpoints still.
    pub(super) fn retain(&mut self, is_endpoint: impl Fn(Target) -> bool) {
        self.failing.retain(|target, _| is_endpoint(*target));
        self.breaking.retain(|target, _| is_endpoint(*target));
    }

    fn out_of(&self, pool: &[Target], now: Instant) -> usize {
        let in_pool = |target: &&Target| pool.binary_search(target).is_ok();
        self.failing.keys().filter(in_pool).filter(|target| self.is_out(**target, now)).count()
    }
}
