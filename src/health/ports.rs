//! Which service a port answers for.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use crate::model::{Created, ServiceKey};
use crate::planner::HealthCheck;
use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use std::collections::{BTreeMap, BTreeSet};

/// The services of each port. The API server gives a port to one service only; should two have it,
/// the oldest is answered for, then the first by name.
#[derive(Debug, Default)]
pub(super) struct Ports(BTreeMap<u16, BTreeSet<(Created, ServiceKey)>>);

/// Whether any port is another service's now, or there is one more or less.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Followed {
    Same,
    Changed,
}

type Services = OrdMap<ServiceKey, HealthCheck>;

impl Ports {
    /// Takes in what differs between two states; numbers of endpoints are no difference.
    pub(super) fn follow(&mut self, before: &Services, now: &Services) -> Followed {
        let mut followed = Followed::Same;
        for item in before.diff(now) {
            let (service, old, new) = match item {
                DiffItem::Add(service, new) => (service, None, Some(port(new))),
                DiffItem::Update { old: (_, old), new: (service, new) } => {
                    (service, Some(port(old)), Some(port(new)))
                }
                DiffItem::Remove(service, old) => (service, Some(port(old)), None),
            };
            if old == new {
                continue;
            }
            followed = Followed::Changed;
            if let Some((port, since)) = old
                && let Some(services) = self.0.get_mut(&port)
            {
                services.remove(&(since, service.clone()));
            }
            if let Some((port, since)) = new {
                self.0.entry(port).or_default().insert((since, service.clone()));
            }
        }
        self.0.retain(|_, services| !services.is_empty());
        followed
    }

    pub(super) fn holders(&self) -> impl Iterator<Item = (u16, &ServiceKey)> {
        self.0.iter().filter_map(|(port, services)| Some((*port, &services.first()?.1)))
    }

    /// Services whose port answers for another one.
    pub(super) fn losers(&self) -> impl Iterator<Item = (u16, &ServiceKey)> {
        self.0.iter().flat_map(|(port, services)| services.iter().skip(1).map(|s| (*port, &s.1)))
    }
}

fn port(check: &HealthCheck) -> (u16, Created) {
    (check.port.get(), check.since)
}
