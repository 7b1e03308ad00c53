mod pods;

use super::{Dirty, Store};
use crate::model::*;
use std::sync::Arc;

fn service(name: &str, port: u16) -> Object {
    Object::Service(Arc::new(Service {
        key: ServiceKey::new("ns", name),
        created: Created::new(None),
        service_type: ServiceType::ClusterIp,
        cluster_ips: ClusterIps { v4: Some([10, 254, 0, 1].into()), v6: None },
        ports: [ServicePort {
            name: PortName::default(),
            protocol: Protocol::Tcp,
            port,
            node_port: None,
            app_protocol: AppProtocol::default(),
            target_port: TargetPort::Unset,
        }]
        .into(),
        uncommon: None,
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Cluster,
        affinity: None,
        publish_not_ready_addresses: false,
        annotations: Annotations::default(),
        shown: Shown::default(),
    }))
}

fn slice(name: &str, service: &str) -> Object {
    Object::EndpointSlice(Arc::new(EndpointSlice {
        key: SliceKey::new("ns", name),
        service: ServiceKey::new("ns", service),
        origin: SliceOrigin::Own,
        set: EndpointSet { family: Family::V4, ports: Ports::default(), endpoints: Box::default() },
    }))
}

fn endpoints(service: &str) -> Object {
    let key = ServiceKey::new("ns", service);
    let origin = EndpointsOrigin::Object;
    Object::Endpoints(Arc::new(Endpoints { key, origin, sets: Box::default() }))
}

fn node(name: &str, zone: &str) -> Object {
    Object::Node(Arc::new(Node {
        name: name.into(),
        addresses: Box::default(),
        zone: Some(zone.into()),
        pod_cidrs: Box::default(),
        going_away: false,
    }))
}

fn range(name: &str, cidr: &str) -> Object {
    let cidrs = Box::new([cidr.parse().unwrap()]);
    Object::ServiceCidr(Arc::new(ServiceCidr { name: name.into(), cidrs }))
}

fn store() -> Store {
    Store::new("node-a".into())
}

fn key(name: &str) -> ServiceKey {
    ServiceKey::new("ns", name)
}

fn services(names: &[&str]) -> Dirty {
    Dirty { services: names.iter().map(|name| key(name)).collect(), node: false }
}

fn slice_names(store: &Store, service: &str) -> Vec<String> {
    let known = store.known().get(&key(service));
    known.map(|k| k.slices.iter().map(|s| s.key.name().to_owned()).collect()).unwrap_or_default()
}

#[test]
fn changed_keys_come_sorted_and_once() {
    let mut store = store();
    for object in [service("b", 1), service("a", 1), slice("b-x", "b"), service("a", 2)] {
        store.upsert(object);
    }
    assert_eq!(store.take_dirty(), services(&["a", "b"]));
    assert!(store.take_dirty().is_empty());
}

#[test]
fn saying_the_same_again_changes_nothing() {
    let all = || {
        let cidr = range("r", "10.254.0.0/16");
        [service("a", 1), slice("a-x", "a"), endpoints("a"), node("node-a", "z"), cidr]
    };
    let mut store = store();
    all().into_iter().for_each(|object| store.upsert(object));
    assert_eq!(store.take_dirty(), Dirty { node: true, ..services(&["a"]) });
    all().into_iter().for_each(|object| store.upsert(object));
    assert!(store.take_dirty().is_empty());
}

#[test]
fn a_slice_that_changes_its_service_leaves_the_old_one_at_once() {
    let mut store = store();
    store.upsert(slice("x", "old"));
    store.take_dirty();
    store.upsert(slice("x", "new"));
    assert_eq!(store.take_dirty(), services(&["new", "old"]));
    assert!(slice_names(&store, "old").is_empty());
    assert_eq!(slice_names(&store, "new"), ["x"]);

    store.delete(&slice("x", "whatever").object_ref());
    assert_eq!(store.take_dirty(), services(&["new"]));
    assert!(store.known().is_empty());
}

/// However a slice is named after whichever service, it is found again.
#[test]
fn a_slice_is_found_by_its_own_name_only() {
    for name in ["a", "a-x", "a-b-x", "b", "b-x", "zzz"] {
        for first in ["a", "a-b", "b"] {
            for second in ["a", "a-b", "b"] {
                let mut store = store();
                store.upsert(slice("b-other", "b"));
                store.upsert(slice(name, first));
                store.upsert(slice(name, second));
                let total: usize = store.known().values().map(|known| known.slices.len()).sum();
                assert_eq!(total, 2, "{name}: {first} -> {second}");
                store.take_dirty();
                store.delete(&slice(name, second).object_ref());
                assert_eq!(store.take_dirty(), services(&[second]), "{name}: {first} -> {second}");
                assert_eq!(slice_names(&store, "b"), ["b-other"]);
            }
        }
    }
}

#[test]
fn slices_stay_sorted_by_name_whatever_order_they_come_in() {
    let mut store = store();
    for name in ["a-3", "a-1", "a-2"] {
        store.upsert(slice(name, "a"));
    }
    assert_eq!(slice_names(&store, "a"), ["a-1", "a-2", "a-3"]);
}

#[test]
fn a_service_is_forgotten_with_its_last_part() {
    let parts = [service("a", 1), slice("a-x", "a"), endpoints("a")];
    for last in 0..parts.len() {
        let mut store = store();
        parts.iter().cloned().for_each(|part| store.upsert(part));
        for (_, part) in parts.iter().enumerate().filter(|(at, _)| *at != last) {
            store.delete(&part.object_ref());
            assert!(store.known().contains_key(&key("a")));
        }
        store.take_dirty();
        store.delete(&parts[last].object_ref());
        assert!(store.known().is_empty());
        assert_eq!(store.take_dirty(), services(&["a"]));
    }
}

#[test]
fn deleting_what_was_never_there_changes_nothing() {
    let mut store = store();
    store.upsert(service("a", 1));
    store.take_dirty();
    for object in [service("b", 1), slice("a", "a"), endpoints("a"), node("node-a", "z")] {
        store.delete(&object.object_ref());
    }
    assert!(store.take_dirty().is_empty());
}

#[test]
fn only_the_own_node_is_kept() {
    let mut store = store();
    store.upsert(node("node-b", "z1"));
    assert!(store.node().is_none() && store.take_dirty().is_empty());
    store.upsert(node("node-a", "z1"));
    store.delete(&node("node-b", "z1").object_ref());
    assert_eq!(store.node().unwrap().zone.as_deref(), Some("z1"));
    assert!(store.take_dirty().node);
    store.delete(&node("node-a", "z1").object_ref());
    assert!(store.node().is_none() && store.take_dirty().node);
}

#[test]
fn a_range_in_two_objects_survives_the_deletion_of_one() {
    let mut store = store();
    store.upsert(range("first", "10.254.0.0/16"));
    store.upsert(range("second", "10.254.0.0/16"));
    store.upsert(range("third", "10.9.0.0/16"));
    let both = ["10.9.0.0/16".parse().unwrap(), "10.254.0.0/16".parse().unwrap()];
    assert_eq!(store.service_cidrs(), both);
    store.delete(&range("first", "10.254.0.0/16").object_ref());
    assert_eq!(store.service_cidrs(), both);
    store.delete(&range("second", "10.254.0.0/16").object_ref());
    assert_eq!(store.service_cidrs(), both[..1]);
}

#[test]
fn a_copy_does_not_follow_later_changes() {
    let mut store = store();
    store.upsert(service("a", 1));
    let copy = store.known().clone();
    store.upsert(service("a", 2));
    store.delete(&service("a", 2).object_ref());
    assert_eq!(copy[&key("a")].service.as_ref().unwrap().ports[0].port, 1);
}
