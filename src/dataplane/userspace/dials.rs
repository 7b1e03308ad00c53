//! What one connection has tried, and what it may still try.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use crate::model::Limits;
use crate::planner::Target;
use std::time::Duration;

/// How long the first, second, … slow dial is waited for: so many parts of the whole. By default this is
/// 250 ms, 500 ms, 1 s and 2 s, as in kube-proxy's userspace mode.
const PATIENCE: [u32; 4] = [1, 2, 4, 8];
const PARTS: u32 = 15;

/// Refusals cost no time, but a service of a thousand dead endpoints is no reason for as many dials.
const MOST: usize = 16;

/// The failed dials of one connection. Every endpoint is tried once before any is tried again, and
/// again are tried only those that did not answer in time; each at most twice.
#[derive(Debug, Default)]
pub struct Dials {
    refused: Vec<Target>,
    /// Twice in here: has had its second chance.
    slow: Vec<Target>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// It said no, or cannot be reached.
    Refused,
    /// It said nothing in time.
    Slow,
}

impl Dials {
    pub fn failed(&mut self, target: Target, failure: Failure) {
        match failure {
            Failure::Refused => self.refused.push(target),
            Failure::Slow => self.slow.push(target),
        }
    }

    /// Whether none has failed yet: all endpoints are candidates.
    pub fn is_first(&self) -> bool {
        self.refused.is_empty() && self.slow.is_empty()
    }

    /// Whether an endpoint said nothing, rather than all saying no.
    pub fn timed_out(&self) -> bool {
        !self.slow.is_empty()
    }

    /// Where the next dial may go; nowhere, when it is time to give up.
    pub fn candidates(&self, targets: &[Target]) -> Vec<Target> {
        if self.slow.len() >= PATIENCE.len() || self.slow.len() + self.refused.len() >= MOST {
            return Vec::new();
        }
        let with = |slow: usize| {
            let timed_out = move |target| self.slow.iter().filter(|t| **t == target).count();
            let wanted = move |t: &&Target| !self.refused.contains(t) && timed_out(**t) == slow;
            targets.iter().filter(wanted).copied().collect::<Vec<_>>()
        };
        let fresh = with(0);
        if fresh.is_empty() { with(1) } else { fresh }
    }

    /// As [`Self::patience_within`], within what holds where nobody says.
    pub fn patience(&self, target: Target, candidates: usize) -> Duration {
        self.patience_within(Limits::DEFAULT.connect, target, candidates)
    }

    /// How long to wait for a dial to `target`, which is one of so many candidates, where all dials
    /// together have `within`. After the last one nothing is gained by giving up early.
    pub fn patience_within(&self, within: Duration, target: Target, candidates: usize) -> Duration {
        let last = PATIENCE.len() - 1;
        let parts = match candidates {
            1 if self.slow.contains(&target) => PATIENCE[last],
            _ => PATIENCE[self.slow.len().min(last)],
        };
        within / PARTS * parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    fn target(last: u8) -> Target {
        Target { address: IpAddr::from([10, 180, 0, last]), port: 8080 }
    }

    fn targets(lasts: &[u8]) -> Vec<Target> {
        lasts.iter().map(|last| target(*last)).collect()
    }

    /// The dials of a connection whose every dial ends like this: last byte of the endpoint, wait
    /// in milliseconds.
    fn dials(all: &[Target], mut ends: impl FnMut(Target) -> Failure) -> Vec<(IpAddr, u128)> {
        let (mut dials, mut seen) = (Dials::default(), Vec::new());
        loop {
            let candidates = dials.candidates(all);
            let Some(target) = candidates.first().copied() else { return seen };
            let patience = dials.patience(target, candidates.len());
            seen.push((target.address, patience.as_millis()));
            dials.failed(target, ends(target));
        }
    }

    fn expected<const N: usize>(dials: [(u8, u128); N]) -> Vec<(IpAddr, u128)> {
        dials.map(|(last, wait)| (target(last).address, wait)).into()
    }

    #[test]
    fn slow_dials_get_longer_and_there_are_four() {
        let slow = |_| Failure::Slow;
        let five = targets(&[1, 2, 3, 4, 5]);
        assert_eq!(dials(&five, slow), expected([(1, 250), (2, 500), (3, 1000), (4, 2000)]));
        assert_eq!(dials(&five[..2], slow), expected([(1, 250), (2, 500), (1, 1000), (2, 2000)]));
        assert_eq!(dials(&five[..1], slow), expected([(1, 250), (1, 2000)]));
        assert_eq!(dials(&[], slow), []);
    }

    #[test]
    fn all_dials_together_have_the_time_that_they_are_given() {
        let (mut dials, mut waited) = (Dials::default(), Duration::ZERO);
        let (all, within) = (targets(&[1, 2, 3, 4, 5]), Duration::from_secs(30));
        while let candidates = dials.candidates(&all)
            && let Some(target) = candidates.first().copied()
        {
            waited += dials.patience_within(within, target, candidates.len());
            dials.failed(target, Failure::Slow);
        }
        assert_eq!(waited, within);
    }

    #[test]
    fn who_refused_is_not_asked_again_and_costs_no_patience() {
        let all = targets(&[1, 2, 3]);
        assert_eq!(dials(&all, |_| Failure::Refused), expected([(1, 250), (2, 250), (3, 250)]));
        let second_slow = |t| if t == target(2) { Failure::Slow } else { Failure::Refused };
        assert_eq!(dials(&all, second_slow), expected([(1, 250), (2, 250), (3, 500), (2, 2000)]));
    }

    #[test]
    fn a_thousand_dead_endpoints_are_not_all_dialled() {
        let many: Vec<Target> = (1..=250).map(target).collect();
        assert_eq!(dials(&many, |_| Failure::Refused).len(), 16);
    }
}
