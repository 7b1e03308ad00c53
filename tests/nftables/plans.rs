//! Small clusters, a line of text per service, planned by the real planner.

use imbl::OrdMap;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use vipd::model::*;
use vipd::planner::{DetectLocal, Plan, PlanDelta, Planner, Policy};

pub const NODE: &str = "n0";

/// Ports, protocols, families, affinity, policies, and nothing to lead to.
pub const EVERY_KIND: &[&str] = &[
    "web 10.96.0.10,fd00:96::10 80/tcp,443/tcp -> 10.1.0.1,10.1.0.2,10.1.0.3,fd01::1,fd01::2",
    "dns 10.96.0.11,fd00:96::11 53/udp,53/tcp -> 10.1.0.4,fd01::4",
    "cart 10.96.0.12,fd00:96::12 80/tcp -> 10.1.0.1,10.1.0.2,fd01::1,fd01::2 sticky=10800",
    "call 10.96.0.13 5060/sctp -> 10.1.0.9@elsewhere,10.1.0.8",
    "here 10.96.0.14 80/tcp -> 10.1.0.9@elsewhere,10.1.0.8 local",
    "none 10.96.0.15,fd00:96::15 80/tcp ->",
    "away 10.96.0.16 80/tcp -> 10.1.0.9@elsewhere local",
];

/// Pools that have maps of their own for their size.
pub const WIDE: &[&str] = &[
    "many 10.96.0.20 80/tcp -> 10.1.1.1-33",
    "most 10.96.0.21 80/tcp,53/udp -> 10.1.1.1-49 sticky=10800",
];

pub fn policy() -> Policy {
    Policy {
        masquerade_all: false,
        detect: DetectLocal::ClusterCidr(vec![
            "10.1.0.0/16".parse().expect("a CIDR"),
            "fd01::/60".parse().expect("a CIDR"),
        ]),
        service_ranges: vec![
            "10.96.0.0/16".parse().expect("a CIDR"),
            "fd00:96::/112".parse().expect("a CIDR"),
        ],
        drop_invalid: true,
    }
}

/// Services and their plan, as they change.
pub struct Cluster {
    planner: Planner,
    known: OrdMap<ServiceKey, Arc<Known>>,
    dirty: BTreeSet<ServiceKey>,
}

impl Cluster {
    pub fn new(policy: Policy) -> Self {
        let mut planner = Planner::new(policy, NODE.into());
        planner.set_facts(NodeFacts { name: NODE.into(), ..NodeFacts::default() }, &[]);
        Self { planner, known: OrdMap::new(), dirty: BTreeSet::new() }
    }

    pub fn of(policy: Policy, services: &[&str]) -> Self {
        let mut cluster = Self::new(policy);
        services.iter().for_each(|text| cluster.put(text));
        cluster.replan();
        cluster
    }

    /// `name cluster,IPs port/protocol,… -> address[@node],… [sticky=SECONDS] [local]`; endpoints
    /// without a node are on this one, their port is the service's plus 8000. `->` alone: none;
    /// `10.1.0.1-3`: three.
    pub fn put(&mut self, text: &str) {
        let known = known(text);
        let key = known.service.as_ref().expect("made here").key.clone();
        self.known.insert(key.clone(), Arc::new(known));
        self.dirty.insert(key);
    }

    pub fn remove(&mut self, name: &str) {
        let key = ServiceKey::new("ns", name);
        self.known.remove(&key).expect("was put before");
        self.dirty.insert(key);
    }

    pub fn clear(&mut self) {
        self.dirty.extend(self.known.keys().cloned());
        self.known.clear();
    }

    /// What the changes since the last call amount to.
    pub fn replan(&mut self) -> PlanDelta {
        self.planner.replan(std::mem::take(&mut self.dirty), &self.known)
    }

    /// A copy that stays as it is.
    pub fn plan(&self) -> Plan {
        assert!(self.dirty.is_empty(), "replan first");
        self.planner.plan().clone()
    }
}

fn addresses(list: &str) -> impl Iterator<Item = IpAddr> + '_ {
    list.split(',').map(|text| text.parse().expect("an address"))
}

fn protocol(text: &str) -> Protocol {
    let named = |protocol: &Protocol| protocol.name().eq_ignore_ascii_case(text);
    Protocol::ALL.into_iter().find(named).expect("a protocol")
}

fn some_endpoints(text: &str) -> Vec<Endpoint> {
    let (text, node) = text.split_once('@').unwrap_or((text, NODE));
    let (first, last) = text.split_once('-').unwrap_or((text, ""));
    let first = first.parse().expect("an address");
    let addresses: Vec<IpAddr> = match first {
        IpAddr::V4(v4) if !last.is_empty() => {
            let [a, b, c, d] = v4.octets();
            let last: u8 = last.parse().expect("the last byte of an address");
            (d..=last).map(|d| IpAddr::from([a, b, c, d])).collect()
        }
        _ => vec![first],
    };
    let place = Arc::new(Place { node: Some(node.into()), hints: Hints::default() });
    let endpoint =
        |address| Endpoint { address, conditions: Conditions::READY, place: place.clone() };
    addresses.into_iter().map(endpoint).collect()
}

fn known(text: &str) -> Known {
    let mut words = text.split_whitespace();
    let mut word = || words.next().unwrap_or_default();
    let (name, ips, ports) = (word(), word(), word());
    assert_eq!(word(), "->", "{text}");
    let rest: Vec<&str> = words.collect();
    let key = ServiceKey::new("ns", name);
    let mut cluster_ips = ClusterIps::default();
    for ip in addresses(ips) {
        match ip {
            IpAddr::V4(v4) => cluster_ips.v4 = Some(v4),
            IpAddr::V6(v6) => cluster_ips.v6 = Some(v6),
        }
    }
    let ports: Vec<(u16, Protocol)> = ports
        .split(',')
        .map(|port| port.split_once('/').expect("port/protocol"))
        .map(|(port, name)| (port.parse().expect("a port"), protocol(name)))
        .collect();
    let flag = |name: &str| rest.iter().find_map(|word| word.strip_prefix(name));
    let endpoints = rest.iter().find(|word| word.contains(['.', ':'])).copied().unwrap_or_default();
    let port_name = |port: u16, protocol: Protocol| PortName::from(&*format!("p{port}-{protocol}"));
    let service = Service {
        key: key.clone(),
        created: Created::new(None),
        service_type: ServiceType::ClusterIp,
        cluster_ips,
        ports: ports
            .iter()
            .map(|(port, protocol)| ServicePort {
                name: port_name(*port, *protocol),
                protocol: *protocol,
                port: *port,
                node_port: None,
                target_port: TargetPort::Unset,
            })
            .collect(),
        external: None,
        internal_policy: flag("local").map_or(TrafficPolicy::Cluster, |_| TrafficPolicy::Local),
        external_policy: TrafficPolicy::Cluster,
        affinity: flag("sticky=").and_then(|seconds| NonZeroU32::new(seconds.parse().ok()?)),
        publish_not_ready_addresses: false,
        shown: Shown::default(),
    };
    let endpoints: Vec<Endpoint> =
        endpoints.split(',').filter(|text| !text.is_empty()).flat_map(some_endpoints).collect();
    let slice = |family: Family| EndpointSlice {
        key: SliceKey::new("ns", &format!("{name}-{family:?}")),
        service: key.clone(),
        origin: SliceOrigin::Own,
        set: EndpointSet {
            family,
            ports: ports
                .iter()
                .map(|(port, protocol)| EndpointPort {
                    name: port_name(*port, *protocol),
                    protocol: *protocol,
                    port: port.wrapping_add(8000),
                })
                .collect(),
            endpoints: endpoints
                .iter()
                .filter(|endpoint| Family::of(endpoint.address) == family)
                .cloned()
                .collect(),
        },
    };
    Known {
        service: Some(Arc::new(service)),
        slices: Family::BOTH.into_iter().map(|family| Arc::new(slice(family))).collect(),
        endpoints: None,
    }
}
