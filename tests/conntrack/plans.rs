//! Plans with nothing in them but what conntrack asks for.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use vipd::model::{Family, NodeFacts, Protocol, ServiceKey};
use vipd::planner::{
    Action, Balanced, Carrier, Forward, Frontend, FrontendAddress, FrontendKey, FrontendKind,
    Masquerade, Plan, PlanDelta, PodsToldBy, Policy, PortPlan, Reach, Relay, Served, ServiceDelta,
    ServicePlan, Target,
};

pub const NODE: &str = "192.0.2.1";
pub const NODE6: &str = "2001:db8::1";

pub fn target(text: &str) -> Target {
    let socket: std::net::SocketAddr = text.parse().expect("an address and a port");
    Target { address: socket.ip(), port: socket.port() }
}

/// `10.96.0.10:53`, or `node:30053` and `node6:30053` for node ports.
pub fn frontend(text: &str) -> FrontendKey {
    let node_port = |port: &str, family| FrontendKey {
        at: FrontendAddress::NodePort(family),
        protocol: Protocol::Udp,
        port: port.parse().expect("a port"),
    };
    if let Some(port) = text.strip_prefix("node:") {
        return node_port(port, Family::V4);
    }
    if let Some(port) = text.strip_prefix("node6:") {
        return node_port(port, Family::V6);
    }
    let Target { address, port } = target(text);
    FrontendKey { at: FrontendAddress::Address(address), protocol: Protocol::Udp, port }
}

/// One UDP port, all frontends of it, serving these endpoints.
pub fn service(name: &str, frontends: &[&str], serving: &[&str]) -> Arc<ServicePlan> {
    of_protocol(Protocol::Udp, name, frontends, serving)
}

pub fn of_protocol(
    protocol: Protocol,
    name: &str,
    frontends: &[&str],
    serving: &[&str],
) -> Arc<ServicePlan> {
    let mut serving: Vec<_> = serving.iter().map(|text| target(text)).collect();
    serving.sort();
    let frontends: Box<[_]> = frontends
        .iter()
        .map(|text| Frontend {
            at: FrontendKey { protocol, ..frontend(text) },
            kind: FrontendKind::ClusterIp,
            action: Action::Reject,
            allow: None,
            foreign: false,
            lost_to: None,
        })
        .collect();
    let port = PortPlan {
        name: "port".into(),
        protocol,
        port: frontends.first().map_or(0, |f| f.at.port),
        family: frontends.first().map_or(Family::V4, |f| f.at.at.family()),
        affinity: None,
        carrier: Carrier::default(),
        balanced: Balanced::default(),
        cluster: Default::default(),
        local: Default::default(),
        serving: serving.into(),
        frontends,
    };
    let key = ServiceKey::new("default", name);
    Arc::new(ServicePlan { key, ports: Box::new([port]), idle: Box::default(), health: None })
}

/// The same service, carried by the relay.
pub fn relayed(plan: &ServicePlan) -> Arc<ServicePlan> {
    let mut plan = plan.clone();
    let pods_told_by = PodsToldBy::Address;
    let relay = Relay {
        balancer: Default::default(),
        proxy_protocol: None,
        pods_told_by,
        limits: Default::default(),
    };
    let forward = Forward { reach: Reach::Cluster, masquerade: Masquerade::Never };
    for port in &mut plan.ports {
        port.carrier = Carrier::Relay(relay);
        for frontend in &mut port.frontends {
            frontend.action = Action::Forward(forward);
        }
    }
    Arc::new(plan)
}

/// The same service, that not everybody may ask.
pub fn guarded(plan: &ServicePlan) -> Arc<ServicePlan> {
    let mut plan = plan.clone();
    let clients: ipnet::IpNet = "10.2.0.0/16".parse().expect("a CIDR");
    for frontend in plan.ports.iter_mut().flat_map(|port| &mut port.frontends) {
        frontend.allow = Some([clients].into());
    }
    Arc::new(plan)
}

/// The same service, that lost all its frontends to another.
pub fn lost(plan: &ServicePlan, to: &str) -> Arc<ServicePlan> {
    let mut plan = plan.clone();
    for port in &mut plan.ports {
        for frontend in &mut port.frontends {
            frontend.lost_to = Some(ServiceKey::new("default", to));
        }
    }
    Arc::new(plan)
}

pub fn plan(services: &[Arc<ServicePlan>]) -> Plan {
    let addresses: Vec<IpAddr> =
        [NODE, NODE6].iter().map(|text| text.parse().expect("an address")).collect();
    let policy = Policy {
        service_ranges: vec![
            "10.96.0.0/16".parse().expect("a range"),
            "fd00:96::/112".parse().expect("a range"),
        ],
        drop_invalid: true,
        ..Policy::default()
    };
    let facts = NodeFacts { interface_addresses: addresses, ..NodeFacts::default() };
    let mut plan = Plan::new(policy, facts);
    for (port, frontend) in services.iter().flat_map(|service| service.held()) {
        if port.protocol == Protocol::Udp {
            plan.udp.insert(frontend.at, Served::of(port, frontend));
        }
    }
    plan
}

/// What leads from one set of services to another.
pub fn delta(old: &[Arc<ServicePlan>], new: &[Arc<ServicePlan>]) -> PlanDelta {
    let by_key = |plans: &[Arc<ServicePlan>]| -> BTreeMap<ServiceKey, Arc<ServicePlan>> {
        plans.iter().map(|plan| (plan.key.clone(), Arc::clone(plan))).collect()
    };
    let (old, new) = (by_key(old), by_key(new));
    let mut keys: Vec<_> = old.keys().chain(new.keys()).cloned().collect();
    keys.sort();
    keys.dedup();
    let services = keys
        .into_iter()
        .map(|key| ServiceDelta { old: old.get(&key).cloned(), new: new.get(&key).cloned(), key })
        .filter(|delta| delta.old != delta.new)
        .collect();
    PlanDelta { services, node: None }
}
