//! What is counted of each endpoint and Service port, and how it is told.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use super::deadline::Deadline;
use super::relayed::PortId;
use crate::histogram::Histogram;
use crate::model::ServiceKey;
use crate::planner::Target;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Of the time until an endpoint takes a connection, in seconds.
const CONNECT: [f64; 13] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0];

pub(super) fn connect_times() -> Histogram {
    Histogram::new(&CONNECT)
}

/// An endpoint of a Service port, counted on by all threads.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub target: Target,
    active: AtomicU64,
    turn: AtomicU64,
    pub opened: Number,
    pub failed: Number,
    pub ejections: Number,
    /// Bytes towards the endpoint.
    pub sent: Number,
    /// Bytes from it.
    pub received: Number,
    /// Of its open connections.
    pub deadline: Deadline,
    pub requests: Number,
    pub broken: Number,
    pub retried: Number,
}

/// A number that only grows.
#[derive(Debug, Default)]
pub(super) struct Number(AtomicU64);

impl Number {
    pub(super) fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Endpoint {
    pub(super) fn new(target: Target) -> Self {
        Self {
            target,
            active: AtomicU64::new(0),
            turn: AtomicU64::new(0),
            opened: Number::default(),
            failed: Number::default(),
            ejections: Number::default(),
            sent: Number::default(),
            received: Number::default(),
            deadline: Deadline::default(),
            requests: Number::default(),
            broken: Number::default(),
            retried: Number::default(),
        }
    }

    /// Connections, those included that are dialled; where requests are balanced, requests.
    pub(super) fn active(&self) -> u64 {
        self.active.load(Ordering::Relaxed)
    }

    /// The last choice of its Service port that was this endpoint: the higher, the later.
    pub(super) fn turn(&self) -> u64 {
        self.turn.load(Ordering::Relaxed)
    }

    pub(super) fn has_turn(&self, turn: u64) {
        self.turn.store(turn, Ordering::Relaxed);
    }
}

/// A connection to an endpoint, a dial, or a request: active until this is dropped.
#[derive(Debug)]
pub(super) struct Held(Arc<Endpoint>);

impl Held {
    pub(super) fn new(endpoint: &Arc<Endpoint>) -> Self {
        endpoint.active.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(endpoint))
    }

    /// The endpoint, active or not: what a connection counts on that waits for requests.
    pub(super) fn endpoint(&self) -> Arc<Endpoint> {
        Arc::clone(&self.0)
    }
}

impl Deref for Held {
    type Target = Endpoint;

    fn deref(&self) -> &Endpoint {
        &self.0
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Everything that is counted, at one moment.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    /// Sorted by service and port.
    pub ports: Vec<PortCounts>,
    /// Connections and datagrams for what is no relayed frontend (any more).
    pub strays: u64,
}

#[derive(Debug, Clone)]
pub struct PortCounts {
    pub service: ServiceKey,
    pub port: PortId,
    /// Connections and sessions that were refused because there are too many, or because this
    /// machine had no file or port for them.
    pub refused: u64,
    /// Connections that no endpoint took.
    pub unserved: u64,
    /// Connections and datagrams of clients outside of the source ranges, which the kernel's rules
    /// let pass because they were not there.
    pub denied: u64,
    /// Clients that found no room among the pins.
    pub unpinned: u64,
    /// Until an endpoint took a TCP connection.
    pub connect_times: Histogram,
    /// Sorted by target.
    pub endpoints: Vec<EndpointCounts>,
}

impl PortCounts {
    pub fn active(&self) -> u64 {
        self.endpoints.iter().map(|endpoint| endpoint.active).sum()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndpointCounts {
    pub target: Target,
    /// Connections and sessions; where requests are balanced, requests.
    pub active: u64,
    pub opened: u64,
    /// Dials that it did not take, and refused datagrams.
    pub failed: u64,
    /// Bytes towards the endpoint.
    pub sent: u64,
    /// Bytes from it.
    pub received: u64,
    pub ejections: u64,
    /// Requests given to it, where requests are balanced.
    pub requests: u64,
    /// Of these, those that it did not answer whole.
    pub broken: u64,
    /// Requests that could not be sent to it and went elsewhere.
    pub retried: u64,
    /// Out now: it gets no connection while others can have it.
    pub ejected: bool,
}
