//! Every address and port that a service answers on, and what happens there.

use super::endpoints::{Choice, PortRef, without};
use super::policy::disjoint;
use super::relay::balanced;
use super::{
    Action, Carrier, ExternalIps, Forward, Frontend, FrontendAddress, FrontendKey, FrontendKind,
    HealthCheck, Masquerade, Policy, Pool, PortPlan, Reach, Scope, ServicePlan,
};
use crate::model::{
    Family, Known, NodeFacts, Protocol, Service, ServicePort, ServiceType, TrafficPolicy,
};
use ipnet::IpNet;
use smallvec::SmallVec;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

/// The plan that a service would have if nobody else claimed its frontends; `None` without a
/// Service object. Of `facts` only name, zone and the Node's addresses count.
pub fn plan_service(known: &Known, facts: &NodeFacts, policy: &Policy) -> Option<ServicePlan> {
    let service = known.service.as_deref()?;
    let site = Site { service, known, facts, policy };
    let mut wanted: Vec<&ServicePort> = service.ports.iter().collect();
    wanted.sort_by_key(|port| (port.port, port.protocol));
    // The API allows no number twice; should it come, the first is the one that counts.
    wanted.dedup_by_key(|port| (port.port, port.protocol));
    let mut unpooled = [None, None];
    let mut ports: Box<[PortPlan]> = wanted
        .iter()
        .flat_map(|port| Family::BOTH.into_iter().map(move |family| (port, family)))
        .filter_map(|(port, family)| site.port(port, family, &mut unpooled[family.index()]))
        .collect();
    let node_ports = wanted.iter().filter(|port| port.node_port.is_some()).count();
    if node_ports > 1 {
        drop_repeated(&mut ports);
    }
    let idle = site.idle(&ports, unpooled);
    Some(ServicePlan { key: service.key.clone(), ports, idle, health: site.health() })
}

/// Nor does it allow a node port twice: that of the first port counts.
fn drop_repeated(ports: &mut [PortPlan]) {
    let mut seen = BTreeSet::new();
    for port in ports {
        let node_port = |f: &Frontend| f.kind == FrontendKind::NodePort;
        let mut frontends = std::mem::take(&mut port.frontends).into_vec();
        frontends.retain(|frontend| !node_port(frontend) || seen.insert(frontend.at));
        port.frontends = frontends.into();
    }
}

/// The frontends that a service's plan has, in no particular order.
pub(super) fn wanted_frontends(
    service: &Service,
    policy: &Policy,
) -> impl Iterator<Item = FrontendKey> {
    let external_ips = policy.external_ips;
    service.ports.iter().flat_map(move |port| {
        let families = Family::BOTH.into_iter();
        let frontends = move |family| frontends(service, port, family, external_ips);
        families.flat_map(frontends).map(|(at, _)| at)
    })
}

/// Where a port answers in one family: nowhere, if the service has no cluster IP of it. An address
/// that is named twice counts once, and source ranges hold for it.
fn frontends(
    service: &Service,
    port: &ServicePort,
    family: Family,
    external_ips: ExternalIps,
) -> SmallVec<[(FrontendKey, FrontendKind); 1]> {
    let mut found: SmallVec<[(FrontendKey, FrontendKind); 1]> = SmallVec::new();
    let Some(cluster_ip) = service.cluster_ips.get(family) else { return found };
    let mut add = |at, number, kind| {
        let at = FrontendKey { at, protocol: port.protocol, port: number };
        if found.iter().all(|(other, _)| *other != at) {
            found.push((at, kind));
        }
    };
    add(FrontendAddress::Address(cluster_ip), port.port, FrontendKind::ClusterIp);
    if let Some(external) = service.external() {
        let vips = external.vips.iter().map(|ip| (ip, FrontendKind::LoadBalancer));
        let ips = external.ips.iter().filter(|_| external_ips == ExternalIps::Served);
        let ips = ips.map(|ip| (ip, FrontendKind::ExternalIp));
        for (ip, kind) in vips.chain(ips).filter(|(ip, _)| Family::of(**ip) == family) {
            add(FrontendAddress::Address(*ip), port.port, kind);
        }
    }
    // The API allows a node port once per protocol; should it come twice, the first port has it.
    let taken = |other: &ServicePort| {
        (other.node_port, other.protocol) == (port.node_port, port.protocol)
            && other.port < port.port
    };
    if let Some(node_port) = port.node_port.filter(|_| !service.ports.iter().any(taken)) {
        add(FrontendAddress::NodePort(family), node_port.get(), FrontendKind::NodePort);
    }
    found
}

/// What a service is planned from.
#[derive(Clone, Copy)]
struct Site<'a> {
    service: &'a Service,
    known: &'a Known,
    facts: &'a NodeFacts,
    policy: &'a Policy,
}

impl Site<'_> {
    /// `None` where the service has no address of this family. `unpooled` becomes what this port's
    /// pools leave of the family's endpoints, where the port has them all.
    fn port(
        self,
        port: &ServicePort,
        family: Family,
        unpooled: &mut Option<Vec<IpAddr>>,
    ) -> Option<PortPlan> {
        let wanted = frontends(self.service, port, family, self.policy.external_ips);
        if wanted.is_empty() {
            return None;
        }
        let mut pools = Pools::new(self.choice(port, family));
        let frontends = wanted
            .into_iter()
            .map(|(at, kind)| Frontend {
                at,
                kind,
                action: self.action(kind, family, &mut pools),
                allow: match kind {
                    FrontendKind::LoadBalancer => self.allow(family),
                    _ => None,
                },
                foreign: self.is_foreign(at, kind),
                lost_to: None,
            })
            .collect();
        let (cluster, local) = (pools.cluster.unwrap_or_default(), pools.local.unwrap_or_default());
        if unpooled.is_none() {
            *unpooled = pools.choice.unpooled([&cluster, &local]);
        }
        let carrier = self.policy.carrier(self.service, port.protocol);
        Some(PortPlan {
            name: port.name.clone(),
            protocol: port.protocol,
            port: port.port,
            family,
            affinity: self.service.affinity,
            carrier,
            balanced: balanced(self.service, port, carrier),
            serving: match (port.protocol, carrier) {
                (Protocol::Udp, _) | (_, Carrier::Relay(_)) => pools.choice.serving(),
                (Protocol::Tcp | Protocol::Sctp, _) => Box::default(),
            },
            frontends,
            cluster,
            local,
        })
    }

    fn is_foreign(&self, at: FrontendKey, kind: FrontendKind) -> bool {
        let own = &self.facts.interface_addresses;
        let is_own = |address: IpAddr| own.binary_search(&address).is_ok();
        kind == FrontendKind::ExternalIp
            && matches!(at.at, FrontendAddress::Address(address) if !is_own(address))
    }

    fn choice(&self, port: &ServicePort, family: Family) -> Choice<'_> {
        let wanted = PortRef { name: &port.name, protocol: port.protocol, family };
        Choice::new(self.known, self.facts, wanted)
    }

    fn action(&self, kind: FrontendKind, family: Family, pools: &mut Pools<'_>) -> Action {
        let policy = match kind {
            FrontendKind::ClusterIp => self.service.internal_policy,
            _ => self.service.external_policy,
        };
        let inside = self.policy.cluster_ip_masquerade(family);
        match (kind, policy) {
            (FrontendKind::ClusterIp, TrafficPolicy::Cluster) => {
                pools.action(Reach::Cluster, inside)
            }
            (FrontendKind::ClusterIp, TrafficPolicy::Local) => pools.action(Reach::Local, inside),
            (_, TrafficPolicy::Cluster) => pools.action(Reach::Cluster, Masquerade::Always),
            (_, TrafficPolicy::Local) => {
                pools.action(Reach::LocalFromOutside, Masquerade::NodeOnly)
            }
        }
    }

    /// Who may ask at a load balancer's address. Ranges of one family close the other. Where they
    /// allow this node, they allow its own packets too, which have the address as their source
    /// where it is bound to an interface.
    fn allow(&self, family: Family) -> Option<Arc<[IpNet]>> {
        let external = self.service.external()?;
        if external.source_ranges.is_empty() {
            return None;
        }
        let of_family = |net: &&IpNet| Family::of(net.addr()) == family;
        let mut ranges: Vec<IpNet> =
            external.source_ranges.iter().filter(of_family).copied().collect();
        if ranges.iter().any(|range| range.prefix_len() == 0) {
            return None;
        }
        if ranges.iter().any(|range| self.facts.addresses.iter().any(|ip| range.contains(ip))) {
            let vips = external.vips.iter().filter(|ip| Family::of(**ip) == family);
            ranges.extend(vips.map(|ip| IpNet::from(*ip)));
        }
        Some(disjoint(ranges.iter()).into())
    }

    /// `unpooled`: per family what one port's pools leave, where a port has all endpoints.
    fn idle(&self, ports: &[PortPlan], unpooled: [Option<Vec<IpAddr>>; 2]) -> Box<[IpAddr]> {
        let mut idle = Vec::new();
        for (family, unpooled) in Family::BOTH.into_iter().zip(unpooled) {
            let mut left = unpooled.unwrap_or_else(|| self.listed(family));
            let of_family = ports.iter().filter(|port| port.family == family);
            for pool in of_family.flat_map(|port| [&port.cluster, &port.local]) {
                if !left.is_empty() {
                    without(&mut left, pool.keys().map(|target| target.address));
                }
            }
            idle.append(&mut left);
        }
        idle.into()
    }

    /// Addresses of the family's endpoints, sorted, each once.
    fn listed(&self, family: Family) -> Vec<IpAddr> {
        let sets = self.known.sets().filter(|set| set.family == family);
        let mut listed: Vec<IpAddr> =
            sets.flat_map(|set| set.endpoints.iter().map(|e| e.address)).collect();
        listed.sort_unstable();
        listed.dedup();
        listed
    }

    /// The API allocates the port only for type LoadBalancer with externalTrafficPolicy Local; a
    /// left-over one means nothing.
    fn health(&self) -> Option<HealthCheck> {
        let port = self.service.external()?.health_check_node_port?;
        let asked = self.service.service_type == ServiceType::LoadBalancer
            && self.service.external_policy == TrafficPolicy::Local;
        let here = |family: Family| {
            let served = self.service.cluster_ips.get(family).is_some();
            let ports = self.service.ports.iter().filter(|_| served);
            let here =
                ports.flat_map(|port| self.choice(port, family).ready_here().collect::<Vec<_>>());
            here.collect::<BTreeSet<_>>().len() as u32
        };
        let since = self.service.created;
        asked.then(|| HealthCheck { port, since, local_endpoints: Family::BOTH.map(here) })
    }
}

/// A port's pools, filled as frontends ask for them.
struct Pools<'a> {
    choice: Choice<'a>,
    cluster: Option<Pool>,
    local: Option<Pool>,
}

impl<'a> Pools<'a> {
    fn new(choice: Choice<'a>) -> Self {
        Self { choice, cluster: None, local: None }
    }

    fn action(&mut self, reach: Reach, masquerade: Masquerade) -> Action {
        let mut any = false;
        for scope in reach.scopes() {
            let pool = match scope {
                Scope::Cluster => &mut self.cluster,
                Scope::Local => &mut self.local,
            };
            any |= !pool.get_or_insert_with(|| self.choice.pool(*scope)).is_empty();
        }
        if any {
            Action::Forward(Forward { reach, masquerade })
        } else if self.choice.any_usable() {
            Action::Drop
        } else {
            Action::Reject
        }
    }
}
