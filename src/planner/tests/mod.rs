//! Builders that let a case of a table stand in one line.

mod choice;
mod claims;
mod external;
mod follow;
mod frontends;
mod health_checks;
mod large;
mod node_ports;
mod policy;
mod relay;
mod trace;

use super::*;
use crate::model::*;
use imbl::OrdMap;
use std::num::NonZeroU32;
use std::sync::Arc;

/// `10.180.0.1 ready @a z:z1 n:a`: address, state, node, hints.
pub(super) fn endpoint(text: &str) -> Endpoint {
    let mut words = text.split_whitespace();
    let address = words.next().unwrap().parse().unwrap();
    let place = Arc::default();
    let mut endpoint = Endpoint { address, conditions: Conditions::READY, place };
    let (mut place, mut zones, mut nodes) = (Place::default(), Vec::new(), Vec::new());
    for word in words {
        let state = |ready, serving, terminating| Conditions { ready, serving, terminating };
        match word {
            "ready" => endpoint.conditions = Conditions::READY,
            "unready" => endpoint.conditions = Conditions::NOT_READY,
            "serving" => endpoint.conditions = state(false, true, false),
            "ready-not-serving" => endpoint.conditions = state(true, false, false),
            "terminating" => endpoint.conditions = state(false, true, true),
            "published-terminating" => endpoint.conditions = state(true, true, true),
            "dead" => endpoint.conditions = state(false, false, true),
            _ => match word.split_at(word.find(['@', ':']).unwrap() + 1) {
                ("@", node) => place.node = Some(node.into()),
                ("z:", zone) => zones.push(zone.into()),
                ("n:", node) => nodes.push(node.into()),
                _ => panic!("unknown word {word}"),
            },
        }
    }
    place.hints = Hints { zones: zones.into(), nodes: nodes.into() };
    endpoint.place = Arc::new(place);
    endpoint
}

/// `http:8080/TCP`: name, number, protocol.
fn port(text: &str) -> (PortName, u16, Protocol) {
    let (name, rest) = text.split_once(':').unwrap();
    let (number, protocol) = rest.split_once('/').unwrap();
    let protocol = Protocol::ALL.into_iter().find(|p| p.name() == protocol).unwrap();
    (name.into(), number.parse().unwrap(), protocol)
}

pub(super) fn set(ports: &[&str], endpoints: &[&str]) -> EndpointSet {
    let endpoints: Box<[Endpoint]> = endpoints.iter().map(|text| endpoint(text)).collect();
    let family = endpoints.first().map_or(Family::V4, |e| Family::of(e.address));
    let ports = ports.iter().map(|text| {
        let (name, port, protocol) = self::port(text);
        EndpointPort { name, protocol, port }
    });
    EndpointSet { family, ports: ports.collect(), endpoints }
}

pub(super) fn slice(name: &str, set: EndpointSet) -> Arc<EndpointSlice> {
    let service = ServiceKey::new("ns", name.split('-').next().unwrap());
    let key = SliceKey::new("ns", name);
    Arc::new(EndpointSlice { key, service, origin: SliceOrigin::Own, set })
}

/// A Service `ns/NAME` with the cluster IPs and ports given.
pub(super) fn service(name: &str, cluster_ips: &[&str], ports: &[&str]) -> Service {
    let mut ips = ClusterIps::default();
    for ip in cluster_ips {
        match ip.parse().unwrap() {
            std::net::IpAddr::V4(ip) => ips.v4 = Some(ip),
            std::net::IpAddr::V6(ip) => ips.v6 = Some(ip),
        }
    }
    let ports = ports.iter().map(|text| {
        let (name, port, protocol) = self::port(text);
        let target_port = TargetPort::Unset;
        ServicePort {
            name,
            protocol,
            port,
            node_port: None,
            app_protocol: AppProtocol::default(),
            target_port,
        }
    });
    Service {
        key: ServiceKey::new("ns", name),
        created: Created::new(None),
        service_type: ServiceType::ClusterIp,
        cluster_ips: ips,
        ports: ports.collect(),
        uncommon: None,
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Cluster,
        affinity: None,
        publish_not_ready_addresses: false,
        annotations: Annotations::default(),
        shown: Shown::default(),
    }
}

/// `ns/web` at 10.254.0.41:80/TCP with these endpoints at port 8080, and what `change` makes of it.
pub(super) fn web(endpoints: &[&str], change: impl FnOnce(&mut Service)) -> Known {
    let mut service = service("web", &["10.254.0.41"], &[":80/TCP"]);
    change(&mut service);
    let slice = slice("web-1", set(&[":8080/TCP"], endpoints));
    Known { service: Some(Arc::new(service)), slices: [slice].into(), endpoints: None }
}

pub(super) fn local(service: &mut Service) {
    service.internal_policy = TrafficPolicy::Local;
}

/// Node `a` in zone `z1`.
pub(super) fn facts() -> NodeFacts {
    NodeFacts {
        name: "a".into(),
        zone: Some("z1".into()),
        addresses: vec!["192.168.0.2".parse().unwrap()],
        interface_addresses: vec!["192.168.0.2".parse().unwrap(), "192.168.1.2".parse().unwrap()],
        pod_cidrs: vec!["10.180.0.1/24".parse().unwrap()],
        going_away: false,
    }
}

pub(super) fn policy() -> Policy {
    Policy {
        mode: Default::default(),
        masquerade_all: false,
        detect: DetectLocal::ClusterCidr(vec!["10.180.0.0/16".parse().unwrap()]),
        service_ranges: vec!["10.254.0.0/16".parse().unwrap()],
        outsiders: Default::default(),
        external_ips: Default::default(),
        limits: Default::default(),
        drop_invalid: true,
        node_ports_at: vec![],
        localhost_node_ports: true,
    }
}

pub(super) fn all(known: impl IntoIterator<Item = Known>) -> OrdMap<ServiceKey, Arc<Known>> {
    let keyed = |known: Known| (known.service.as_ref().unwrap().key.clone(), Arc::new(known));
    known.into_iter().map(keyed).collect()
}

pub(super) fn planner(policy: Policy, known: &OrdMap<ServiceKey, Arc<Known>>) -> Planner {
    let mut planner = Planner::new(policy, "a".into());
    planner.set_facts(facts(), &[]);
    planner.replan(known.keys().cloned(), known);
    planner
}

pub(super) fn seconds(seconds: u32) -> Option<NonZeroU32> {
    NonZeroU32::new(seconds)
}

/// The only port of a plan.
pub(super) fn only_port(known: &Known) -> PortPlan {
    let plan = plan_service(known, &facts(), &policy()).unwrap();
    let [port] = &*plan.ports else { panic!("{} ports", plan.ports.len()) };
    port.clone()
}

/// The pool that the cluster IP uses, as `10.180.0.1:8080 …`; or `reject`, `drop`.
pub(super) fn outcome(port: &PortPlan) -> String {
    outcome_at(port, &port.frontends[0])
}

/// As [`outcome`]; where a client's place decides, the pool of those inside, then after `|` that of
/// those outside.
pub(super) fn outcome_at(port: &PortPlan, frontend: &Frontend) -> String {
    let pool = |scope: &Scope| {
        let pool = port.pool(*scope).iter().map(|(target, member)| {
            let terminating = if member.terminating { "~" } else { "" };
            format!("{terminating}{target}")
        });
        pool.collect::<Vec<_>>().join(" ")
    };
    match frontend.action {
        Action::Reject => "reject".into(),
        Action::Drop => "drop".into(),
        Action::Forward(forward) => {
            forward.reach.scopes().iter().map(pool).collect::<Vec<_>>().join(" | ")
        }
    }
}

/// What a service has besides its cluster IPs: `vip 1.2.3.4`, `ip 198.51.100.7`,
/// `range 10.0.0.0/8`, `node-port 30080` (of its first port), `health 30555`, `local`, separated by
/// commas. Type LoadBalancer, unless `type NodePort` or `type ClusterIP` is said.
pub(super) fn expose(service: &mut Service, text: &str) {
    let (mut ips, mut vips, mut ranges) = (Vec::new(), Vec::new(), Vec::new());
    service.service_type = ServiceType::LoadBalancer;
    let mut health_check_node_port = None;
    for words in text.split(',').map(|part| part.trim().split(' ').collect::<Vec<_>>()) {
        match words[..] {
            ["vip", ip] => vips.push(ip.parse().unwrap()),
            ["ip", ip] => ips.push(ip.parse().unwrap()),
            ["range", net] => ranges.push(net.parse().unwrap()),
            ["health", port] => health_check_node_port = Some(port.parse().unwrap()),
            ["local"] => service.external_policy = TrafficPolicy::Local,
            ["type", "NodePort"] => service.service_type = ServiceType::NodePort,
            ["type", "ClusterIP"] => service.service_type = ServiceType::ClusterIp,
            ["node-port", port] => {
                let mut ports: Vec<ServicePort> = service.ports.iter().cloned().collect();
                ports[0].node_port = Some(port.parse().unwrap());
                service.ports = ports.into_iter().collect();
            }
            [""] => {}
            _ => panic!("unknown words {words:?}"),
        }
    }
    let external = External {
        ips: ips.into(),
        vips: vips.into(),
        source_ranges: ranges.into(),
        health_check_node_port,
    };
    service.uncommon = Uncommon::of(external, service.limits());
}
