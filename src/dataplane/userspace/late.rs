//! TCP frontends that were relayed a moment ago. PURE.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use super::served::Served;
use crate::model::Protocol;
use crate::planner::{FrontendAddress, FrontendKey};
use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// For so long connections are accepted at a frontend that is relayed no more: the kernel had made them
/// before, or is about to. A SYN-ACK that is lost is sent again after a second.
pub(super) const LATE: Duration = Duration::from_secs(2);

#[derive(Debug, Default)]
pub(super) struct Late {
    known: BTreeMap<FrontendKey, (Arc<Served>, Instant)>,
    /// By when they are forgotten. One that came again has a later place besides.
    order: VecDeque<(Instant, FrontendKey)>,
}

impl Late {
    pub(super) fn note(&mut self, key: FrontendKey, served: Arc<Served>, now: Instant) {
        if key.protocol == Protocol::Tcp {
            self.known.insert(key, (served, now + LATE));
            self.order.push_back((now + LATE, key));
        }
    }

    pub(super) fn forget(&mut self, now: Instant) {
        while let Some((_, key)) = self.order.pop_front_if(|(until, _)| *until <= now) {
            if self.known.get(&key).is_some_and(|(_, until)| *until <= now) {
                self.known.remove(&key);
            }
        }
    }

    pub(super) fn get(&self, key: &FrontendKey, now: Instant) -> Option<Arc<Served>> {
        let (served, until) = self.known.get(key)?;
        (now < *until).then(|| Arc::clone(served))
    }

    pub(super) fn has(&self, address: IpAddr, now: Instant) -> bool {
        let at = FrontendAddress::Address(address);
        let key = |port| FrontendKey { at, protocol: Protocol::Tcp, port };
        self.known.range(key(0)..=key(u16::MAX)).any(|(_, (_, until))| now < *until)
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.known.is_empty() && self.order.is_empty()
    }
}
