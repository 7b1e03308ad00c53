//! How long things took, or how large they were, counted by size: what a monitoring system makes
//! percentiles of. PURE.
//!
//! In: durations or sizes. Out: counts below fixed bounds, and their sum.
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

/// What is counted, and what a sum is kept in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    /// Bounds in seconds, the sum in nanoseconds.
    Time,
    /// Both in bytes.
    Size,
}

/// Durations or sizes, by how large they are. Copies count on the same.
#[derive(Debug, Clone)]
pub struct Histogram(Arc<Counts>);

#[derive(Debug)]
struct Counts {
    unit: Unit,
    /// Ascending.
    bounds: &'static [f64],
    /// One more than there are bounds: the last is of what exceeds them all.
    buckets: Box<[AtomicU64]>,
    sum: AtomicU64,
}

impl Histogram {
    /// Of durations. `bounds`: seconds, ascending.
    pub fn new(bounds: &'static [f64]) -> Self {
        Self::of(Unit::Time, bounds)
    }

    /// Of sizes. `bounds`: bytes, ascending.
    pub fn of_sizes(bounds: &'static [f64]) -> Self {
        Self::of(Unit::Size, bounds)
    }

    fn of(unit: Unit, bounds: &'static [f64]) -> Self {
        let buckets = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self(Arc::new(Counts { unit, bounds, buckets, sum: AtomicU64::new(0) }))
    }

    pub fn observe(&self, took: Duration) {
        debug_assert_eq!(self.0.unit, Unit::Time);
        self.add(took.as_secs_f64(), u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
    }

    pub fn observe_size(&self, bytes: u64) {
        debug_assert_eq!(self.0.unit, Unit::Size);
        self.add(bytes as f64, bytes);
    }

    fn add(&self, value: f64, more: u64) {
        let Counts { bounds, buckets, sum, .. } = &*self.0;
        let bucket = bounds.partition_point(|bound| *bound < value);
        buckets[bucket].fetch_add(1, Ordering::Relaxed);
        sum.fetch_add(more, Ordering::Relaxed);
    }

    /// Each bound, in seconds or bytes, with how many did not exceed it; at last infinity, with how
    /// many there were.
    pub fn cumulative(&self) -> impl Iterator<Item = (f64, u64)> {
        let bounds = self.0.bounds.iter().copied().chain([f64::INFINITY]);
        let mut sum = 0;
        bounds.zip(&self.0.buckets).map(move |(bound, bucket)| {
            sum += bucket.load(Ordering::Relaxed);
            (bound, sum)
        })
    }

    /// Seconds or bytes.
    pub fn sum(&self) -> f64 {
        let sum = self.0.sum.load(Ordering::Relaxed);
        match self.0.unit {
            Unit::Time => Duration::from_nanos(sum).as_secs_f64(),
            Unit::Size => sum as f64,
        }
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

    #[test]
    fn a_size_counts_in_its_bucket_and_all_above() {
        let histogram = Histogram::of_sizes(&[64.0, 256.0]);
        for bytes in [0, 64, 65, 257] {
            histogram.observe_size(bytes);
        }
        let counts: Vec<(f64, u64)> = histogram.cumulative().collect();
        assert_eq!(counts, [(64.0, 2), (256.0, 3), (f64::INFINITY, 4)]);
        assert_eq!(histogram.sum(), 386.0);
    }
}
