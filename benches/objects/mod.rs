//! What the criterion benches plan and write: services with two endpoints each.
//!
//! In: a number of services. Out: objects, and a store and planner that know them.
//! Never: two services that share an address.
#![allow(dead_code, reason = "no bench uses all of it")]

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, LazyLock};
use vipd::model::*;
use vipd::planner::{DetectLocal, PlanDelta, Planner, Policy};
use vipd::store::Store;

const NODES: usize = 10;

fn address(net: u8, number: usize) -> Ipv4Addr {
    Ipv4Addr::from(u32::from_be_bytes([10, net, 0, 0]) + u32::try_from(number).unwrap())
}

pub fn service(number: usize) -> Object {
    Object::Service(Arc::new(Service {
        key: ServiceKey::new("default", &format!("service-{number:06}")),
        created: Created::new(Some(1_700_000_000)),
        service_type: ServiceType::ClusterIp,
        cluster_ips: ClusterIps { v4: Some(address(96, number)), v6: None },
        ports: [ServicePort {
            name: PortName::default(),
            protocol: Protocol::Tcp,
            port: 80,
            node_port: None,
            app_protocol: AppProtocol::default(),
            target_port: TargetPort::Number(8080),
        }]
        .into(),
        uncommon: None,
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Cluster,
        affinity: None,
        publish_not_ready_addresses: false,
        annotations: Annotations::default(),
        shown: Shown::new("", &format!("app=service-{number:06}")),
    }))
}

/// Two endpoints; `version` moves the first one.
pub fn slice(number: usize, version: usize) -> Object {
    static PLACES: LazyLock<Vec<Arc<Place>>> = LazyLock::new(|| {
        let place = |node| Place { node: Some(format!("node-{node}").into()), ..Place::default() };
        (0..NODES).map(|node| Arc::new(place(node))).collect()
    });
    let places = &*PLACES;
    let endpoint = |which: usize| Endpoint {
        address: IpAddr::V4(address(180, number * 4 + which)),
        conditions: Conditions::READY,
        place: Arc::clone(&places[(number + which) % NODES]),
    };
    Object::EndpointSlice(Arc::new(EndpointSlice {
        key: SliceKey::new("default", &format!("service-{number:06}-abcde")),
        service: ServiceKey::new("default", &format!("service-{number:06}")),
        origin: SliceOrigin::Own,
        set: EndpointSet {
            family: Family::V4,
            ports: [EndpointPort {
                name: PortName::default(),
                protocol: Protocol::Tcp,
                port: 8080,
            }]
            .into(),
            endpoints: Box::new([endpoint(version % 2), endpoint(2)]),
        },
    }))
}

/// Of the service of that number; ready in even versions.
pub fn pod(number: usize, which: usize, version: usize) -> Object {
    Object::Pod(Arc::new(Pod {
        key: PodKey::new("default", &format!("service-{number:06}-5d4f-{which}")),
        labels: format!("app=service-{number:06},part-of=shop").into(),
        addresses: [IpAddr::V4(address(180, number * 4 + which))].into(),
        ready: version.is_multiple_of(2),
        terminating: false,
        place: Arc::default(),
        ports: Ports::default(),
    }))
}

pub fn new() -> (Store, Planner) {
    let policy = Policy {
        masquerade_all: false,
        detect: DetectLocal::NodeCidr,
        service_ranges: vec![],
        drop_invalid: true,
        ..Policy::default()
    };
    (Store::new("node-0".into()), Planner::new(policy, "node-0".into()))
}

pub fn load((store, planner): &mut (Store, Planner), objects: Vec<Object>) -> PlanDelta {
    objects.into_iter().for_each(|object| store.upsert(object));
    let dirty = store.take_dirty();
    black_box(planner.replan(dirty.services, store.known()))
}

pub fn objects(count: usize) -> Vec<Object> {
    (0..count).flat_map(|number| [service(number), slice(number, 0)]).collect()
}

/// Which service changes in which turn: coprime to the counts in use, so that the changes wander over
/// all services.
pub fn changed(turn: usize, count: usize) -> usize {
    (turn * 7919) % count
}
