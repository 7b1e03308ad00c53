//! The counts that follow changes against those that are made from nothing.

use super::{NoLocalEndpoints, StickyServices};
use crate::model::TrafficPolicy::{self, Cluster, Local};
use crate::model::{
    Annotations, AppProtocol, ClusterIps, Conditions, Created, Endpoint, EndpointPort, EndpointSet,
    EndpointSlice, Family, Hints, Kind, NodeFacts, Object, ObjectRef, Place, Protocol, Service,
    ServiceKey, ServicePort, ServiceType, Shown, SliceKey, SliceOrigin, TargetPort,
};
use crate::planner::{Planner, Policy};
use crate::store::Store;
use std::num::{NonZeroU16, NonZeroU32};
use std::sync::Arc;

/// A NodePort service with an address of each family and one port.
fn service(number: u8, internal_policy: TrafficPolicy, external_policy: TrafficPolicy) -> Object {
    Object::Service(Arc::new(Service {
        key: ServiceKey::new("default", &format!("s{number}")),
        created: Created::new(None),
        service_type: ServiceType::NodePort,
        cluster_ips: ClusterIps {
            v4: Some([10, 254, 0, number].into()),
            v6: Some([0xfd00, 0, 0, 0, 0, 0, 0, u16::from(number)].into()),
        },
        ports: [ServicePort {
            name: "".into(),
            protocol: Protocol::Tcp,
            port: 80,
            node_port: NonZeroU16::new(30_000 + u16::from(number)),
            app_protocol: AppProtocol::default(),
            target_port: TargetPort::Unset,
        }]
        .into(),
        uncommon: None,
        internal_policy,
        external_policy,
        affinity: None,
        publish_not_ready_addresses: false,
        annotations: Annotations::default(),
        shown: Shown::default(),
    }))
}

/// One ready endpoint on each of these nodes, in both families.
fn slices(number: u8, nodes: &[&str]) -> Vec<Object> {
    let slice = |family| {
        let endpoint = |(host, node): (usize, &&str)| Endpoint {
            address: match family {
                Family::V4 => [10, 180, number, host as u8].into(),
                Family::V6 => [0xfd01, 0, 0, 0, 0, 0, u16::from(number), host as u16].into(),
            },
            conditions: Conditions::READY,
            place: Arc::new(Place { node: Some((*node).into()), hints: Hints::default() }),
        };
        let set = EndpointSet {
            family,
            ports: [EndpointPort { name: "".into(), protocol: Protocol::Tcp, port: 8080 }].into(),
            endpoints: nodes.iter().enumerate().map(endpoint).collect(),
        };
        let key = SliceKey::new("default", &format!("s{number}-{family:?}"));
        let service = ServiceKey::new("default", &format!("s{number}"));
        let slice = EndpointSlice { key, service, origin: SliceOrigin::Own, set };
        Object::EndpointSlice(Arc::new(slice))
    };
    Family::BOTH.map(slice).into()
}

struct Followed {
    store: Store,
    planner: Planner,
    count: NoLocalEndpoints,
    sticky: StickyServices,
}

impl Followed {
    fn new() -> Self {
        Self {
            store: Store::new("node-a".into()),
            planner: Planner::new(Policy::default(), "node-a".into()),
            count: NoLocalEndpoints::default(),
            sticky: StickyServices::default(),
        }
    }

    /// (internal, external) of IPv4 after a change; a count from nothing must say the same.
    #[track_caller]
    fn after(&mut self, objects: impl IntoIterator<Item = Object>) -> (u64, u64) {
        objects.into_iter().for_each(|object| self.store.upsert(object));
        let changed = self.store.take_dirty().services;
        let delta = self.planner.replan(changed, self.store.known());
        self.count.follow(&delta);
        assert_eq!(self.count, NoLocalEndpoints::of(self.planner.plan()));
        self.sticky.follow(&delta);
        assert_eq!(self.sticky, StickyServices::of(self.planner.plan()));
        (self.count.internal[0], self.count.external[0])
    }

    fn delete(&mut self, number: u8) {
        self.store.delete(&ObjectRef::new(Kind::Service, &format!("default/s{number}")));
    }
}

#[test]
fn services_count_once_and_as_their_policies_say() {
    let mut followed = Followed::new();
    assert_eq!(followed.after(slices(1, &["node-b", "node-c"])), (0, 0));
    assert_eq!(followed.after([service(1, Local, Local)]), (1, 1));
    assert_eq!(followed.after([service(1, Cluster, Local)]), (0, 1));
    assert_eq!(followed.after([service(1, Local, Cluster)]), (1, 0));
    assert_eq!(followed.after(slices(1, &["node-b", "node-a"])), (0, 0));
    assert_eq!(followed.after(slices(1, &["node-b"])), (1, 0));
    followed.after([service(2, Local, Local)]);
    assert_eq!(followed.after(slices(2, &["node-b"])), (2, 1));
    followed.delete(1);
    assert_eq!(followed.after([]), (1, 1));
    followed.delete(2);
    assert_eq!(followed.after([]), (0, 0));
}

#[test]
fn a_service_without_any_endpoints_does_not_count() {
    let mut followed = Followed::new();
    assert_eq!(followed.after([service(1, Local, Local)]), (0, 0));
    followed.after(slices(1, &["node-b"]));
    assert_eq!(followed.after(slices(1, &[])), (0, 0));
}

#[test]
fn another_name_of_the_node_is_followed() {
    let mut followed = Followed::new();
    followed.after([service(1, Local, Local)]);
    followed.after([service(2, Local, Cluster)]);
    followed.after(slices(1, &["node-b"]));
    assert_eq!(followed.after(slices(2, &["node-a"])), (1, 1));
    let facts = NodeFacts { name: "node-b".into(), ..NodeFacts::default() };
    followed.planner.set_facts(facts, &[]);
    let known = followed.store.known().clone();
    let delta = followed.planner.replan(known.keys().cloned(), &known);
    followed.count.follow(&delta);
    assert_eq!(followed.count, NoLocalEndpoints { internal: [1, 1], external: [0, 0] });
    assert_eq!(followed.count, NoLocalEndpoints::of(followed.planner.plan()));
}

/// The service, sticky or not, with an address or without.
fn with(number: u8, affinity: Option<u32>, cluster_ips: ClusterIps) -> Object {
    let Object::Service(mut service) = service(number, Cluster, Cluster) else { unreachable!() };
    let changed = Arc::make_mut(&mut service);
    changed.affinity = affinity.and_then(NonZeroU32::new);
    changed.cluster_ips = cluster_ips;
    Object::Service(service)
}

#[test]
fn sticky_services_count_while_they_are_served() {
    let mut followed = Followed::new();
    let address = ClusterIps { v4: Some([10, 254, 0, 9].into()), v6: None };
    let mut after = |objects: Vec<Object>| {
        followed.after(objects);
        followed.sticky.get()
    };
    assert_eq!(after(vec![with(1, None, address)]), 0);
    assert_eq!(after(vec![with(1, Some(60), address)]), 1);
    assert_eq!(after(vec![with(1, Some(90), address)]), 1);
    assert_eq!(after(vec![with(2, Some(60), ClusterIps::default())]), 1);
    assert_eq!(after(slices(1, &["node-a"])), 1);
    assert_eq!(after(vec![with(1, None, address), with(2, Some(60), address)]), 1);
    followed.delete(2);
    followed.after([]);
    assert_eq!(followed.sticky.get(), 0);
}
