//! What the writer measures of its own work.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use crate::histogram::{DOUBLING, Histogram};

/// kube-proxy 1.37's bounds for `network_programming_duration`: ¼ and ½, then each second up to a
/// minute, every 5 up to two, every 30 up to five.
const PROGRAMMING: [f64; 80] = {
    let mut bounds = [0.25; 80];
    bounds[1] = 0.5;
    let (mut at, mut second) = (2, 1);
    while at < bounds.len() {
        bounds[at] = second as f64;
        second += match second {
            ..60 => 1,
            60..120 => 5,
            _ => 30,
        };
        at += 1;
    }
    bounds
};

/// What the writer measures.
#[derive(Debug, Clone)]
pub struct Durations {
    /// From what somebody did in the cluster to the commit: of IPv4 slices, of IPv6 slices.
    pub programming: [Histogram; 2],
    /// Of writing that succeeded or failed, whatever its kind.
    pub syncs: Histogram,
    /// Of those that read back what the kernel holds.
    pub full: Histogram,
    /// Of those that write what changed.
    pub partial: Histogram,
}

impl Default for Durations {
    fn default() -> Self {
        let sync = || Histogram::new(&DOUBLING);
        Self {
            programming: [Histogram::new(&PROGRAMMING), Histogram::new(&PROGRAMMING)],
            syncs: sync(),
            full: sync(),
            partial: sync(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bounds_are_kube_proxys() {
        let seconds: Vec<f64> = (1..60)
            .chain((60..120).step_by(5))
            .chain((120..=300).step_by(30))
            .map(f64::from)
            .collect();
        assert_eq!(PROGRAMMING[..2], [0.25, 0.5]);
        assert_eq!(PROGRAMMING[2..], seconds[..]);
        assert_eq!((DOUBLING[0], DOUBLING[1], DOUBLING[14]), (0.001, 0.002, 16.384));
    }
}
