//! Small clusters, a line of text per service, planned by the real planner.

use imbl::OrdMap;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::num::{NonZeroU16, NonZeroU32};
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
    "open 10.96.0.17,fd00:96::17 80/tcp,53/udp -> 10.1.0.1,10.1.0.9@elsewhere,fd01::1 nodeports=30080 vips=1.2.3.4,2001:db8::4 ips=198.51.100.7",
    "kept 10.96.0.18,fd00:96::18 80/tcp -> 10.1.0.1,10.1.0.2,10.1.0.3,10.1.0.9@elsewhere,fd01::1 external-local nodeports=30090 vips=1.2.3.5 sticky=10800",
    "shut 10.96.0.19,fd00:96::19 80/tcp,81/tcp -> 10.1.0.1,fd01::1 vips=1.2.3.6,2001:db8::6 from=203.0.113.0/25,192.0.2.7/32",
    "gone 10.96.0.22 80/tcp -> 10.1.0.9@elsewhere external-local local nodeports=30100 vips=1.2.3.7",
    "idle 10.96.0.23 80/tcp -> nodeports=30110 vips=1.2.3.8 from=192.168.0.0/24",
];

/// Pools that have maps of their own for their size.
pub const WIDE: &[&str] = &[
    "many 10.96.0.20 80/tcp -> 10.1.1.1-33",
    "most 10.96.0.21 80/tcp,53/udp -> 10.1.1.1-49 sticky=10800",
];

pub fn policy() -> Policy {
    Policy {
        mode: Default::default(),
        masquerade_all: false,
        detect: DetectLocal::ClusterCidr(vec![
            "10.1.0.0/16".parse().expect("a CIDR"),
            "fd01::/60".parse().expect("a CIDR"),
        ]),
        service_ranges: vec![
            "10.96.0.0/16".parse().expect("a CIDR"),
            "fd00:96::/112".parse().expect("a CIDR"),
        ],
        outsiders: Default::default(),
        limits: Default::default(),
        external_ips: Default::default(),
        drop_invalid: true,
        node_ports_at: Vec::new(),
        localhost_node_ports: true,
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
        let addresses: Vec<IpAddr> = addresses("192.168.0.2,fd00:192::2").collect();
        let interface_addresses = addresses.clone();
        let name = NODE.into();
        let facts = NodeFacts { name, addresses, interface_addresses, ..NodeFacts::default() };
        planner.set_facts(facts, &[]);
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
    /// `10.1.0.1-3`: three. `nodeports=N`: N for the first port, N + 1 for the next; `vips=IP,…`
    /// with `from=CIDR,…`; `ips=IP,…`; `external-local`.
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

fn policy_of(local: bool) -> TrafficPolicy {
    if local { TrafficPolicy::Local } else { TrafficPolicy::Cluster }
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
    let list = |name: &str| flag(name).into_iter().flat_map(|list| list.split(','));
    let is_endpoint = |word: &&&str| word.contains(['.', ':']) && !word.contains('=');
    let endpoints = rest.iter().find(is_endpoint).copied().unwrap_or_default();
    let node_port: u16 = flag("nodeports=").map_or(0, |number| number.parse().expect("a port"));
    let external = External {
        ips: list("ips=").map(|ip| ip.parse().expect("an address")).collect(),
        vips: list("vips=").map(|ip| ip.parse().expect("an address")).collect(),
        source_ranges: list("from=").map(|net| net.parse().expect("a CIDR")).collect(),
        health_check_node_port: None,
    };
    let port_name = |port: u16, protocol: Protocol| PortName::from(&*format!("p{port}-{protocol}"));
    let service = Service {
        key: key.clone(),
        created: Created::new(None),
        service_type: ServiceType::ClusterIp,
        cluster_ips,
        ports: ports
            .iter()
            .zip(0u16..)
            .map(|((port, protocol), nth)| ServicePort {
                name: port_name(*port, *protocol),
                protocol: *protocol,
                port: *port,
                node_port: NonZeroU16::new(node_port).map(|first| first.saturating_add(nth)),
                app_protocol: AppProtocol::default(),
                target_port: TargetPort::Unset,
            })
            .collect(),
        uncommon: Uncommon::of(external, OwnLimits::default()),
        internal_policy: policy_of(rest.contains(&"local")),
        external_policy: policy_of(rest.contains(&"external-local")),
        affinity: flag("sticky=").and_then(|seconds| NonZeroU32::new(seconds.parse().ok()?)),
        publish_not_ready_addresses: false,
        annotations: match rest.contains(&"relayed") {
            true => Annotations::new(Some(ProxyMode::Userspace), None, None),
            false => Annotations::default(),
        },
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
