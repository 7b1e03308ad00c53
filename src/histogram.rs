//! How long things took, counted by size: what a monitoring system makes percentiles of. PURE.
//!
//! In: durations. Out: counts below fixed bounds, and their sum.
//! Never: a list of samples.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Bounds that double from 1 ms to 16 s: kube-proxy's for what it does itself (1.37).
pub const DOUBLING: [f64; 15] = {
    let mut bounds = [0.001; 15];
    let mut at = 1;
    while at < bounds.len() {
        bounds[at] = bounds[at - 1] * 2.0;
        at += 1;
    }
    bounds
};

/// Durations by size. Copies count on the same.
#[derive(Debug, Clone)]
pub struct Histogram(Arc<Counts>);

#[derive(Debug)]
struct Counts {
    /// Seconds, ascending.
    bounds: &'static [f64],
    /// One more than there are bounds: the last is of what exceeds them all.
    buckets: Box<[AtomicU64]>,
    nanoseconds: AtomicU64,
}

impl Histogram {
    /// `bounds`: seconds, ascending.
    pub fn new(bounds: &'static [f64]) -> Self {
        let buckets = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self(Arc::new(Counts { bounds, buckets, nanoseconds: AtomicU64::new(0) }))
    }

    pub fn observe(&self, took: Duration) {
        let Counts { bounds, buckets, nanoseconds } = &*self.0;
        let bucket = bounds.partition_point(|bound| *bound < took.as_secs_f64());
        buckets[bucket].fetch_add(1, Ordering::Relaxed);
        let more = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        nanoseconds.fetch_add(more, Ordering::Relaxed);
    }

    /// Each bound in seconds, with how many durations did not exceed it; at last infinity, with how
    /// many there were.
    pub fn cumulative(&self) -> impl Iterator<Item = (f64, u64)> {
        let bounds = self.0.bounds.iter().copied().chain([f64::INFINITY]);
        let mut sum = 0;
        bounds.zip(&self.0.buckets).map(move |(bound, bucket)| {
            sum += bucket.load(Ordering::Relaxed);
            (bound, sum)
        })
    }

    /// Seconds
    pub fn sum(&self) -> f64 {
        Duration::from_nanos(self.0.nanoseconds.load(Ordering::Relaxed)).as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_counts_in_its_bucket_and_all_above() {
        let histogram = Histogram::new(&[0.001, 0.002, 0.004, 16.0]);
        for milliseconds in [1, 3, 3, 20_000] {
            histogram.observe(Duration::from_millis(milliseconds));
        }
        let counts: Vec<(f64, u64)> = histogram.cumulative().collect();
        let expected = [(0.001, 1), (0.002, 1), (0.004, 3), (16.0, 3), (f64::INFINITY, 4)];
        assert_eq!(counts, expected);
        assert!((histogram.sum() - 20.007).abs() < 1e-9, "{}", histogram.sum());
    }
}
