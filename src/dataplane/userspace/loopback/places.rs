//! Which node ports have a socket at a loopback address, and what is served there. PURE.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use crate::dataplane::userspace::lower::relayed;
use crate::dataplane::userspace::relayed::Relayed;
use crate::model::{Family, Protocol};
use crate::planner::{
    Carrier, Frontend, FrontendAddress, FrontendKey, FrontendKind, PortPlan, Reach, ServicePlan,
};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// For each family, whether its loopback address answers at node ports.
pub(super) type Families = [bool; 2];

/// Node ports that a service holds, that have endpoints, and that tproxy does not lead to the relay. The
/// node itself may use all endpoints, whatever the policy.
pub(super) fn places(
    plan: &ServicePlan,
    families: Families,
) -> impl Iterator<Item = (FrontendKey, Relayed)> + '_ {
    with_endpoints(plan, of_kernel(plan, families))
}

/// The same of those that tproxy leads to the relay, while it can.
pub(super) fn led(
    plan: &ServicePlan,
    families: Families,
) -> impl Iterator<Item = (FrontendKey, Relayed)> + '_ {
    let of_relay = node_ports(plan, families);
    let of_relay = of_relay.filter(|(port, frontend)| port.relay_of(frontend).is_some());
    with_endpoints(plan, of_relay)
}

fn with_endpoints<'a>(
    plan: &'a ServicePlan,
    ports: impl Iterator<Item = (&'a PortPlan, &'a Frontend)>,
) -> impl Iterator<Item = (FrontendKey, Relayed)> {
    ports
        .filter(|(port, _)| port.protocol != Protocol::Sctp && !port.cluster.is_empty())
        .map(|(port, frontend)| (at_loopback(frontend.at), served(plan, (port, frontend))))
}

/// The first SCTP node port. It is not listened for: Linux needs a module for SCTP's sockets that most
/// nodes do not load.
pub(super) fn sctp(plan: &ServicePlan, families: Families) -> Option<u16> {
    let mut ports = of_kernel(plan, families);
    ports.find(|(port, _)| port.protocol == Protocol::Sctp).map(|(_, frontend)| frontend.at.port)
}

fn of_kernel(
    plan: &ServicePlan,
    families: Families,
) -> impl Iterator<Item = (&PortPlan, &Frontend)> {
    node_ports(plan, families).filter(|(port, frontend)| port.relay_of(frontend).is_none())
}

fn node_ports(
    plan: &ServicePlan,
    families: Families,
) -> impl Iterator<Item = (&PortPlan, &Frontend)> {
    plan.held().filter(move |(port, frontend)| {
        frontend.kind == FrontendKind::NodePort && families[port.family.index()]
    })
}

fn at_loopback(node_port: FrontendKey) -> FrontendKey {
    let address = match node_port.at.family() {
        Family::V4 => IpAddr::V4(Ipv4Addr::LOCALHOST),
        Family::V6 => IpAddr::V6(Ipv6Addr::LOCALHOST),
    };
    FrontendKey { at: FrontendAddress::Address(address), ..node_port }
}

/// As its carrier serves it elsewhere. The kernel: no PROXY header, and connections stay whole.
fn served(plan: &ServicePlan, (port, frontend): (&PortPlan, &Frontend)) -> Relayed {
    let relayed = relayed(&plan.key, (port, frontend), Reach::Cluster);
    let relayed = Relayed { local: Box::default(), ..relayed };
    match port.carrier {
        // At least another frontend of the port is relayed, and shares its endpoints and limits.
        Carrier::Relay(relay) => Relayed {
            balancer: relay.balancer,
            limits: relay.limits,
            proxy_protocol: port.relay_of(frontend).and_then(|relay| relay.proxy_protocol),
            requests: port.requests_of(frontend),
            ..relayed
        },
        Carrier::Kernel | Carrier::KernelFor(_) => relayed,
    }
}
