//! One node port of the loopback address, as its listener sees it.

use super::pin::{Ask, Pin};
use super::places::Port;
use crate::dataplane::userspace::random;
use crate::listen::Count;
use crate::planner::Target;
use arc_swap::ArcSwap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// A port with what must be remembered between its connections. It may become another service's
/// while the socket stays.
pub(super) struct Served {
    port: ArcSwap<Port>,
    pin: Mutex<Pin>,
    pub(super) failed_dials: Count,
}

impl Served {
    pub(super) fn new(port: Port, failed_dials: Count) -> Self {
        Self { port: ArcSwap::from_pointee(port), pin: Mutex::default(), failed_dials }
    }

    pub(super) fn port(&self) -> Arc<Port> {
        self.port.load_full()
    }

    /// New connections go by this; open ones stay where they are.
    pub(super) fn update(&self, port: Port) {
        self.port.store(Arc::new(port));
    }

    /// Where the next connection goes, out of what `candidates` leaves of the endpoints.
    pub(super) fn choose(
        &self,
        candidates: impl FnOnce(&[Target]) -> Vec<Target>,
    ) -> Option<(Target, Vec<Target>)> {
        let port = self.port.load();
        let candidates = candidates(&port.listener.targets);
        let ask = Ask {
            candidates: &candidates,
            affinity: port.listener.affinity,
            now: Instant::now(),
            random: random(),
        };
        // A panic while it is held leaves a whole pin.
        let mut pin = self.pin.lock().unwrap_or_else(PoisonError::into_inner);
        let target = pin.choose(&ask)?;
        drop(pin);
        Some((target, candidates))
    }

    pub(super) fn has(&self, target: Target) -> bool {
        self.port.load().listener.targets.binary_search(&target).is_ok()
    }
}
