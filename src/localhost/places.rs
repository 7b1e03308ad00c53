//! What shall listen where, and what a change of the plan changes about it.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use crate::model::{Family, Protocol, ServiceKey};
use crate::planner::{Listening, NodePlan, NodePortListener};
use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

/// A socket's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub protocol: Protocol,
    pub at: SocketAddr,
}

impl Place {
    pub(super) fn family(self) -> Family {
        Family::of(self.at.ip())
    }
}

/// What is served there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Port {
    pub service: ServiceKey,
    pub listener: NodePortListener,
}

/// Families whose loopback address is listened on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Families([bool; 2]);

impl Families {
    pub(super) fn of(node: &NodePlan) -> Self {
        Self(node.localhost_node_ports)
    }

    fn has(self, family: Family) -> bool {
        Family::BOTH.into_iter().zip(self.0).any(|(other, answered)| other == family && answered)
    }
}

pub(super) type Services = OrdMap<ServiceKey, Arc<Listening>>;

/// What differs between two states.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    /// What is served from now on; `None`: nothing any more.
    pub places: BTreeMap<Place, Option<Port>>,
    /// A new node port that nothing listens for, because it is SCTP's.
    pub sctp: Option<(ServiceKey, u16)>,
}

/// Walks over what differs only, unless the families do. A place that one service gives up and
/// another takes is one change.
pub(super) fn changes(before: (&Services, Families), now: (&Services, Families)) -> Changes {
    let mut changes = Changes::default();
    let mut come = Vec::new();
    let mut gone = |(key, listening): (&ServiceKey, &Arc<Listening>)| {
        let places = ports(key, listening, before.1).map(|(place, _)| (place, None));
        changes.places.extend(places);
    };
    if before.1 == now.1 {
        for item in before.0.diff(now.0) {
            match item {
                DiffItem::Add(key, new) => come.push((key, new)),
                DiffItem::Remove(key, old) => gone((key, old)),
                DiffItem::Update { old, new } => {
                    gone(old);
                    come.push(new);
                }
            }
        }
    } else {
        before.0.iter().for_each(gone);
        come.extend(now.0.iter());
    }
    for (key, listening) in come {
        let places = ports(key, listening, now.1).map(|(place, port)| (place, Some(port)));
        changes.places.extend(places);
        if let Some(port) = sctp(listening, now.1) {
            changes.sctp.get_or_insert_with(|| (key.clone(), port));
        }
    }
    changes
}

/// Node ports with endpoints. SCTP is not listened for: Linux needs a module for its sockets that
/// most nodes do not load.
fn ports<'a>(
    service: &'a ServiceKey,
    listening: &'a Listening,
    families: Families,
) -> impl Iterator<Item = (Place, Port)> + 'a {
    let served = listening.node_ports.iter().filter(move |port| {
        families.has(port.family) && port.protocol != Protocol::Sctp && !port.targets.is_empty()
    });
    served.map(move |listener| {
        (place(listener), Port { service: service.clone(), listener: listener.clone() })
    })
}

fn place(listener: &NodePortListener) -> Place {
    let ip = match listener.family {
        Family::V4 => IpAddr::V4(Ipv4Addr::LOCALHOST),
        Family::V6 => IpAddr::V6(Ipv6Addr::LOCALHOST),
    };
    Place { protocol: listener.protocol, at: SocketAddr::new(ip, listener.port) }
}

fn sctp(listening: &Listening, families: Families) -> Option<u16> {
    let mut ports = listening.node_ports.iter();
    let unserved = ports.find(|port| port.protocol == Protocol::Sctp && families.has(port.family));
    unserved.map(|port| port.port)
}
