//! A small world: three services, four slices, four pods, a handful of addresses; now and then many.

use proptest::prelude::*;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::{NonZeroU16, NonZeroU32};
use std::sync::Arc;
use vipd::model::*;
use vipd::planner::{DetectLocal, Policy};

pub const PODS: &str = "10.1.0.0/24";
pub const RANGE: &str = "10.254.0.0/29";

/// Where services answer besides their cluster IPs: addresses of nobody, of the node, and of other
/// services.
const OUTSIDE: [&str; 7] =
    ["1.2.3.4", "1.2.3.5", "192.168.0.2", "10.254.0.2", "2001:db8:1::4", "fd00:192::2", "fd00::1"];
const SOURCE_RANGES: [&str; 8] = [
    "203.0.113.0/25",
    "10.1.0.3/31",
    "10.1.0.0/16",
    "192.168.0.0/24",
    "0.0.0.0/0",
    "2001:db8::/32",
    "fd01::/64",
    "::/0",
];
/// The first is a service's port too, so that a load balancer's address of the node meets it.
const NODE_PORTS: [u16; 3] = [81, 30080, 30081];

#[derive(Debug, Clone)]
pub enum Change {
    Upsert(Object),
    Delete(ObjectRef),
}

impl Change {
    pub fn object(&self) -> ObjectRef {
        match self {
            Change::Upsert(object) => object.object_ref(),
            Change::Delete(object) => object.clone(),
        }
    }
}

pub type Objects = BTreeMap<ObjectRef, Object>;

/// What is there after all changes.
pub fn last_words(changes: &[Change]) -> Objects {
    let mut objects = Objects::new();
    for change in changes {
        match change {
            Change::Upsert(object) => objects.insert(object.object_ref(), object.clone()),
            Change::Delete(object) => objects.remove(object),
        };
    }
    objects
}

pub fn policy() -> Policy {
    Policy {
        mode: Default::default(),
        masquerade_all: false,
        detect: DetectLocal::ClusterCidr(vec![PODS.parse().unwrap()]),
        service_ranges: vec![RANGE.parse().unwrap()],
        drop_invalid: true,
        outsiders: Default::default(),
        external_ips: Default::default(),
        limits: Default::default(),
        node_ports_at: vec![],
        localhost_node_ports: false,
    }
}

pub fn facts() -> impl Strategy<Value = NodeFacts> {
    prop::option::of(name("z", 2)).prop_map(|zone| NodeFacts {
        name: "n0".into(),
        zone: zone.map(Into::into),
        addresses: ["192.168.0.2", "fd00:192::2"].map(|ip| ip.parse().unwrap()).to_vec(),
        interface_addresses: vec![],
        pod_cidrs: vec![],
        going_away: false,
    })
}

pub fn objects() -> impl Strategy<Value = Objects> {
    prop::collection::vec(object(), 0..10)
        .prop_map(|objects| objects.into_iter().map(|o| (o.object_ref(), o)).collect())
}

pub fn change() -> BoxedStrategy<Change> {
    prop_oneof![
        4 => object().prop_map(Change::Upsert),
        1 => object().prop_map(|object| Change::Delete(object.object_ref())),
    ]
    .boxed()
}

pub fn packet() -> impl Strategy<Value = (IpAddr, Protocol, IpAddr, u16)> {
    let address = |text: &str| text.parse::<IpAddr>().unwrap();
    let v4 = (
        prop_oneof![
            3 => pod(Family::V4),
            1 => Just(address("192.168.0.2")),
            1 => Just(address("203.0.113.9")),
            1 => Just(address("203.0.113.130")),
        ],
        prop_oneof![5 => cluster_ip(), 1 => pod(Family::V4), 4 => outside(Family::V4)],
    );
    let v6 = (
        prop_oneof![3 => pod(Family::V6), 1 => Just(address("2001:db8::9"))],
        prop_oneof![1 => Just(address("fd00::1")), 1 => outside(Family::V6)],
    );
    (prop_oneof![4 => v4.boxed(), 1 => v6.boxed()], protocol(), port_number())
        .prop_map(|((source, destination), protocol, port)| (source, protocol, destination, port))
}

/// One of the addresses that services answer at besides their cluster IPs.
pub fn outside(family: Family) -> impl Strategy<Value = IpAddr> {
    let addresses: Vec<IpAddr> = OUTSIDE.map(|ip| ip.parse().unwrap()).to_vec();
    prop::sample::select(
        addresses.into_iter().filter(|ip| Family::of(*ip) == family).collect::<Vec<_>>(),
    )
}

/// Of a service or a node port, or nobody's.
pub fn port_number() -> impl Strategy<Value = u16> {
    prop_oneof![3 => 79u16..83, 2 => prop::sample::select(&NODE_PORTS[..]), 1 => Just(30082)]
}

fn name(prefix: &'static str, count: u8) -> impl Strategy<Value = String> + Clone {
    (0..count).prop_map(move |n| format!("{prefix}{n}"))
}

/// Mostly the same one, so that services find their endpoints.
fn port_name() -> impl Strategy<Value = &'static str> {
    prop_oneof![4 => Just("p0"), 1 => Just("p1")]
}

fn service_key() -> impl Strategy<Value = ServiceKey> {
    name("s", 3).prop_map(|name| ServiceKey::new("ns", &name))
}

pub fn protocol() -> impl Strategy<Value = Protocol> {
    prop_oneof![6 => Just(Protocol::Tcp), 2 => Just(Protocol::Udp), 1 => Just(Protocol::Sctp)]
}

pub fn pod(family: Family) -> impl Strategy<Value = IpAddr> {
    (0u16..2, 1u16..4).prop_map(move |(net, host)| match family {
        Family::V4 => IpAddr::from([10, 1, net as u8, host as u8]),
        Family::V6 => IpAddr::from([0xfd01, 0, 0, net, 0, 0, 0, host]),
    })
}

pub fn cluster_ip() -> impl Strategy<Value = IpAddr> {
    let last = prop_oneof![4 => 1u8..3, 1 => 3u8..10];
    last.prop_map(|last| [10, 254, 0, last].into())
}

fn object() -> BoxedStrategy<Object> {
    prop_oneof![
        3 => service().prop_map(|service| Object::Service(Arc::new(service))),
        4 => slice().prop_map(|slice| Object::EndpointSlice(Arc::new(slice))),
        1 => (service_key(), prop::collection::vec(set(), 0..3)).prop_map(|(key, sets)| {
            let origin = EndpointsOrigin::Object;
            Object::Endpoints(Arc::new(Endpoints { key, origin, sets: sets.into() }))
        }),
        4 => any_pod().prop_map(|pod| Object::Pod(Arc::new(pod))),
    ]
    .boxed()
}

fn service() -> BoxedStrategy<Service> {
    let number = prop_oneof![8 => 80u16..82, 1 => Just(NODE_PORTS[1])];
    let node_port = prop::option::weighted(0.4, prop::sample::select(&NODE_PORTS[..]));
    let port = (port_name(), node_port, target_port());
    let ports = prop::collection::btree_map((number, protocol()), port, 1..3);
    let ips = (1u8..3, any::<bool>());
    let created = prop::option::of(0i64..3);
    let affinity = prop::option::of(Just(NonZeroU32::MIN));
    let local = (any::<bool>(), any::<bool>());
    let external = prop::option::weighted(0.5, external());
    let switches = (local, prop::bool::weighted(0.1), external, labels());
    (service_key(), ports, ips, created, affinity, switches)
        .prop_map(
            |(
                key,
                ports,
                (ip, dual),
                created,
                affinity,
                ((local, external_local), publish, external, selector),
            )| {
                let policy =
                    |local| if local { TrafficPolicy::Local } else { TrafficPolicy::Cluster };
                Service {
                    key,
                    created: Created::new(created),
                    service_type: ServiceType::LoadBalancer,
                    cluster_ips: ClusterIps {
                        v4: Some([10, 254, 0, ip].into()),
                        v6: dual.then(|| "fd00::1".parse().unwrap()),
                    },
                    ports: ports
                        .into_iter()
                        .map(|((port, protocol), (name, node_port, target_port))| ServicePort {
                            name: name.into(),
                            protocol,
                            port,
                            node_port: node_port.and_then(NonZeroU16::new),
                            app_protocol: AppProtocol::default(),
                            target_port,
                        })
                        .collect(),
                    uncommon: external
                        .and_then(|external| Uncommon::of(external, OwnLimits::default())),
                    internal_policy: policy(local),
                    external_policy: policy(external_local),
                    affinity,
                    publish_not_ready_addresses: publish,
                    annotations: Annotations::default(),
                    shown: Shown::new("", &selector),
                }
            },
        )
        .boxed()
}

/// `key=value,…` of up to two keys: a selector, or what it is compared with.
fn labels() -> impl Strategy<Value = String> {
    let value = || prop_oneof![1 => Just(None), 4 => Just(Some(0)), 1 => Just(Some(1))];
    (value(), prop_oneof![2 => Just(None), 1 => value()]).prop_map(|(a, b)| {
        let pair = |key, value: Option<u8>| value.map(|value| format!("{key}={value}"));
        [pair("a", a), pair("b", b)].into_iter().flatten().collect::<Vec<_>>().join(",")
    })
}

fn target_port() -> impl Strategy<Value = TargetPort> {
    prop_oneof![
        1 => Just(TargetPort::Unset),
        1 => Just(TargetPort::Number(8080)),
        2 => Just(TargetPort::Name("p0".into())),
    ]
}

fn any_pod() -> BoxedStrategy<Pod> {
    let key = (prop_oneof![8 => Just("ns"), 1 => Just("other")], name("pod", 4));
    let addresses = prop_oneof![
        4 => pod(Family::V4).prop_map(|v4| vec![v4]),
        1 => pod(Family::V6).prop_map(|v6| vec![v6]),
        2 => (pod(Family::V6), pod(Family::V4)).prop_map(|(v6, v4)| vec![v6, v4]),
    ];
    let port = (port_name(), protocol(), prop_oneof![2 => Just(8080u16), 1 => Just(8081)])
        .prop_map(|(name, protocol, port)| EndpointPort { name: name.into(), protocol, port });
    let ports = prop::collection::vec(port, 0..3);
    let state = (prop::bool::weighted(0.7), prop::bool::weighted(0.3));
    let node = prop::option::of(name("n", 2).prop_map(Into::into));
    (key, labels(), addresses, ports, state, node)
        .prop_map(|((namespace, name), labels, addresses, ports, (ready, terminating), node)| Pod {
            key: PodKey::new(namespace, &name),
            labels: labels.into(),
            addresses: addresses.into(),
            ready,
            terminating,
            place: Arc::new(Place { node, hints: Hints::default() }),
            ports: ports.into_iter().collect(),
        })
        .boxed()
}

fn external() -> impl Strategy<Value = External> {
    let addresses = |most| {
        let some = prop::sample::subsequence(&OUTSIDE[..], 0..most);
        some.prop_map(|ips| ips.iter().map(|ip| ip.parse().unwrap()).collect())
    };
    let ranges = prop::sample::subsequence(&SOURCE_RANGES[..], 0..4)
        .prop_map(|nets| nets.iter().map(|net| net.parse().unwrap()).collect());
    let ranges = prop_oneof![1 => Just(Box::default()), 1 => ranges];
    let health = prop::option::of(Just(NonZeroU16::MAX));
    (addresses(3), addresses(4), ranges, health).prop_map(|(ips, vips, source_ranges, health)| {
        External { ips, vips, source_ranges, health_check_node_port: health }
    })
}

/// Named after their service, after another one, or after none.
fn slice() -> BoxedStrategy<EndpointSlice> {
    let names = prop::sample::select(&["s0", "s0-a", "s1-a", "x"][..]);
    let origin = prop_oneof![3 => Just(SliceOrigin::Own), 1 => Just(SliceOrigin::Mirrored)];
    (names, service_key(), origin, set())
        .prop_map(|(name, service, origin, set)| EndpointSlice {
            key: SliceKey::new("ns", name),
            service,
            origin,
            set,
        })
        .boxed()
}

fn set() -> BoxedStrategy<EndpointSet> {
    let family = prop_oneof![4 => Just(Family::V4), 1 => Just(Family::V6)];
    let port = (port_name(), protocol(), prop_oneof![4 => Just(8080u16), 1 => Just(8081)])
        .prop_map(|(name, protocol, port)| EndpointPort { name: name.into(), protocol, port });
    (family, prop::collection::vec(port, 1..3))
        .prop_flat_map(|(family, ports)| {
            let few = prop::collection::vec(endpoint(family), 0..5);
            let endpoints = prop_oneof![8 => few, 1 => many_endpoints(family)];
            endpoints.prop_map(move |endpoints| EndpointSet {
                family,
                ports: ports.clone().into_iter().collect(),
                endpoints: endpoints.into(),
            })
        })
        .boxed()
}

/// Of the sizes at which pools change their map.
fn many_endpoints(family: Family) -> impl Strategy<Value = Vec<Endpoint>> {
    let count = prop_oneof![31u8..35, 47u8..51];
    (endpoint(family), count).prop_map(|(first, count)| {
        let next = |address: IpAddr, n: u8| match address {
            IpAddr::V4(v4) => IpAddr::V4((u32::from(v4) + u32::from(n)).into()),
            IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) + u128::from(n)).into()),
        };
        let at = |n| Endpoint { address: next(first.address, n), ..first.clone() };
        (0..count).map(at).collect()
    })
}

fn endpoint(family: Family) -> BoxedStrategy<Endpoint> {
    let ready = Just(Conditions::READY);
    let any = any::<[bool; 3]>().prop_map(|[ready, serving, terminating]| Conditions {
        ready,
        serving,
        terminating,
    });
    let names = |prefix| prop::collection::vec(name(prefix, 2).prop_map(Into::into), 0..2);
    let hints = (names("z"), names("n"))
        .prop_map(|(zones, nodes)| Hints { zones: zones.into(), nodes: nodes.into() });
    let node = prop::option::of(name("n", 2).prop_map(Into::into));
    let own = match family {
        Family::V4 => Just("192.168.0.2".parse().unwrap()),
        Family::V6 => Just("fd00:192::2".parse().unwrap()),
    };
    let address = prop_oneof![12 => pod(family), 1 => own];
    (address, prop_oneof![1 => ready, 2 => any], node, prop::option::weighted(0.7, hints))
        .prop_map(|(address, conditions, node, hints)| Endpoint {
            address,
            conditions,
            place: Arc::new(Place { node, hints: hints.unwrap_or_default() }),
        })
        .boxed()
}
