//! Session affinity: which endpoint a client has, until it has not connected for a while.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use crate::planner::Target;
use foldhash::HashMap;
use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Clients of one Service port that are remembered, about 100 bytes each. More are spread.
pub(super) const MOST: usize = 1 << 18;

/// Old pins that each new client looks at. Two per one that comes keep up with any rate.
const SWEPT: usize = 2;

/// Looked at when there is no room.
const SWEPT_WHEN_FULL: usize = 16;

/// The clients of one Service port, whichever frontend they come by.
#[derive(Debug, Default)]
pub(super) struct Pins {
    clients: HashMap<IpAddr, Pin>,
    /// Each client of `clients` once, those pinned or looked at the longest ago first.
    order: VecDeque<IpAddr>,
    unpinned: u64,
}

#[derive(Debug)]
struct Pin {
    /// `None` after a failure.
    target: Option<Target>,
    used: Instant,
}

/// Who asks, and when.
#[derive(Debug, Clone, Copy)]
pub(super) struct Visit {
    pub client: IpAddr,
    pub now: Instant,
    /// Without a connection for this long a client is a new one.
    pub lasts: Duration,
}

/// A client's endpoint, and how long ago it last connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PinAge {
    pub client: IpAddr,
    pub target: Target,
    pub age: Duration,
}

impl Pin {
    fn is_over(&self, visit: &Visit) -> bool {
        self.target.is_none() || visit.now.saturating_duration_since(self.used) >= visit.lasts
    }
}

impl Pins {
    pub(super) fn get(&self, visit: &Visit) -> Option<Target> {
        let pin = self.clients.get(&visit.client)?;
        if pin.is_over(visit) { None } else { pin.target }
    }

    /// From now on the client has this endpoint; or still, which lasts anew.
    pub(super) fn set(&mut self, visit: &Visit, target: Target) {
        let pin = Pin { target: Some(target), used: visit.now };
        if let Some(known) = self.clients.get_mut(&visit.client) {
            *known = pin;
            return;
        }
        let full = self.clients.len() >= MOST;
        self.sweep(visit, if full { SWEPT_WHEN_FULL } else { SWEPT });
        if self.clients.len() >= MOST {
            self.unpinned += 1;
            return;
        }
        self.clients.insert(visit.client, pin);
        self.order.push_back(visit.client);
    }

    /// The endpoint failed the client, which gets another one.
    pub(super) fn reset(&mut self, client: IpAddr, target: Target) {
        if let Some(pin) = self.clients.get_mut(&client)
            && pin.target == Some(target)
        {
            pin.target = None;
        }
    }

    /// All that have an endpoint, in the order in which they are to be looked at.
    pub(super) fn ages(&self, now: Instant) -> Vec<PinAge> {
        let age = |client: &IpAddr| {
            let pin = self.clients.get(client)?;
            let age = now.saturating_duration_since(pin.used);
            Some(PinAge { client: *client, target: pin.target?, age })
        };
        self.order.iter().filter_map(age).collect()
    }

    /// Takes over what a former process knew; what is known here is newer.
    pub(super) fn restore(&mut self, pins: Vec<PinAge>, now: Instant) {
        for PinAge { client, target, age } in pins {
            // On a machine that has run for a shorter time it would lie before all times.
            let Some(used) = now.checked_sub(age) else { continue };
            if self.clients.len() < MOST && !self.clients.contains_key(&client) {
                self.clients.insert(client, Pin { target: Some(target), used });
                self.order.push_back(client);
            }
        }
    }

    pub(super) fn clear(&mut self) {
        self.clients = HashMap::default();
        self.order = VecDeque::new();
    }

    /// Clients that found no room.
    pub(super) fn unpinned(&self) -> u64 {
        self.unpinned
    }

    fn sweep(&mut self, visit: &Visit, most: usize) {
        for _ in 0..most.min(self.order.len()) {
            let Some(client) = self.order.pop_front() else { return };
            if self.clients.get(&client).is_none_or(|pin| pin.is_over(visit)) {
                self.clients.remove(&client);
            } else {
                self.order.push_back(client);
            }
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        assert_eq!(self.clients.len(), self.order.len());
        self.clients.len()
    }
}
