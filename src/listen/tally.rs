//! Numbers that one task counts and others read.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only grows; copies count on the same.
#[derive(Debug, Clone, Default)]
pub struct Count(Arc<AtomicU64>);

impl Count {
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How many sockets are open, and how many tries to open one have failed since the start. One task
/// sets it; copies see the same.
#[derive(Debug, Clone, Default)]
pub struct Tally(Arc<Numbers>);

#[derive(Debug, Default)]
struct Numbers {
    open: AtomicU64,
    failures: AtomicU64,
}

impl Tally {
    pub fn set(&self, open: usize, failures: u64) {
        self.0.open.store(open as u64, Ordering::Relaxed);
        self.0.failures.store(failures, Ordering::Relaxed);
    }

    pub fn open(&self) -> u64 {
        self.0.open.load(Ordering::Relaxed)
    }

    pub fn failures(&self) -> u64 {
        self.0.failures.load(Ordering::Relaxed)
    }
}
