//! What one connection has tried, and what it may still try.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use crate::planner::Target;
use std::time::Duration;

/// How long the first, second, … slow dial is waited for, as kube-proxy's userspace mode did.
const PATIENCE: [Duration; 4] = [
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
];

/// Refusals cost no time, but a service of a thousand dead endpoints is no reason for as many dials.
const MOST: usize = 16;

/// The failed dials of one connection. Every endpoint is tried once before any is tried again, and
/// again are tried only those that did not answer in time; each at most twice.
#[derive(Debug, Default)]
pub(super) struct Dials {
    refused: Vec<Target>,
    /// Twice in here: has had its second chance.
    slow: Vec<Target>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// It said no, or cannot be reached.
    Refused,
    /// It said nothing in time.
    Slow,
}

impl Dials {
    pub(super) fn failed(&mut self, target: Target, failure: Failure) {
        match failure {
            Failure::Refused => self.refused.push(target),
            Failure::Slow => self.slow.push(target),
        }
    }

    /// Where the next dial may go; nowhere, when it is time to give up.
    pub(super) fn candidates(&self, targets: &[Target]) -> Vec<Target> {
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

    /// How long to wait for a dial to the only candidate, or to one of several. After the last one
    /// nothing is gained by giving up early.
    pub(super) fn patience(&self, candidates: &[Target]) -> Duration {
        match candidates {
            [last] if self.slow.contains(last) => PATIENCE[PATIENCE.len() - 1],
            _ => PATIENCE[self.slow.len().min(PATIENCE.len() - 1)],
        }
    }
}
