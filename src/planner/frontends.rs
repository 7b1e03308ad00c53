//! Every address and port that a service answers on, and what happens there.

use super::endpoints::{Choice, PortRef};
use super::{
    Action, Forward, Frontend, FrontendAddress, FrontendKey, FrontendKind, Masquerade, Policy,
    Pool, PortPlan, Scope, ServicePlan,
};
use crate::model::{Family, Known, NodeFacts, Protocol, Service, ServicePort, TrafficPolicy};
use std::net::IpAddr;

/// The plan that a service would have if nobody else claimed its frontends; `None` without a
/// Service object. Of `facts` only name and zone count.
pub fn plan_service(known: &Known, facts: &NodeFacts, policy: &Policy) -> Option<ServicePlan> {
    let service = known.service.as_deref()?;
    let site = Site { service, known, facts, policy };
    let mut wanted: Vec<&ServicePort> = service.ports.iter().collect();
    wanted.sort_by_key(|port| (port.port, port.protocol));
    // The API allows no number twice; should it come, the first is the one that counts.
    wanted.dedup_by_key(|port| (port.port, port.protocol));
    let ports = wanted
        .into_iter()
        .flat_map(|port| Family::BOTH.into_iter().filter_map(move |family| site.port(port, family)))
        .collect();
    Some(ServicePlan { key: service.key.clone(), ports })
}

/// The frontends that a service's plan has, in no particular order.
pub(super) fn wanted_frontends(service: &Service) -> impl Iterator<Item = FrontendKey> {
    service.ports.iter().flat_map(move |port| {
        service.cluster_ips.iter().map(move |address| cluster_ip(address, port))
    })
}

fn cluster_ip(address: IpAddr, port: &ServicePort) -> FrontendKey {
    let at = FrontendAddress::Address(address);
    FrontendKey { at, protocol: port.protocol, port: port.port }
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
    /// `None` where the service has no address of this family.
    fn port(self, port: &ServicePort, family: Family) -> Option<PortPlan> {
        let address = self.service.cluster_ips.get(family)?;
        let wanted = PortRef { name: &port.name, protocol: port.protocol, family };
        let mut pools = Pools::new(Choice::new(self.known, self.facts, wanted));
        let scope = match self.service.internal_policy {
            TrafficPolicy::Cluster => Scope::Cluster,
            TrafficPolicy::Local => Scope::Local,
        };
        let cluster_ip = Frontend {
            at: cluster_ip(address, port),
            kind: FrontendKind::ClusterIp,
            action: pools.action(scope, self.policy.cluster_ip_masquerade(family)),
            lost_to: None,
        };
        Some(PortPlan {
            name: port.name.clone(),
            protocol: port.protocol,
            port: port.port,
            family,
            affinity: self.service.affinity,
            serving: match port.protocol {
                Protocol::Udp => pools.choice.serving(),
                Protocol::Tcp | Protocol::Sctp => Box::default(),
            },
            frontends: Box::new([cluster_ip]),
            cluster: pools.cluster.unwrap_or_default(),
            local: pools.local.unwrap_or_default(),
        })
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

    fn action(&mut self, scope: Scope, masquerade: Masquerade) -> Action {
        let pool = match scope {
            Scope::Cluster => &mut self.cluster,
            Scope::Local => &mut self.local,
        };
        let pool = pool.get_or_insert_with(|| self.choice.pool(scope));
        if !pool.is_empty() {
            Action::Forward(Forward { scope, masquerade, allow: None })
        } else if self.choice.any_usable() {
            Action::Drop
        } else {
            Action::Reject
        }
    }
}
