//! Which changes of pods mark which services, and what is left when the last pod goes.

use super::super::Store;
use super::{endpoints, key, node, service, services, slice, store};
use crate::model::*;
use std::sync::Arc;

fn selecting(name: &str, selector: &str) -> Object {
    let Object::Service(plain) = service(name, 80) else { panic!("a Service") };
    let shown = Shown::new("", selector);
    Object::Service(Arc::new(Service { shown, ..(*plain).clone() }))
}

fn pod(name: &str, labels: &str, change: impl FnOnce(&mut Pod)) -> Object {
    let mut pod = Pod {
        key: PodKey::new("ns", name),
        labels: labels.into(),
        addresses: [[10, 180, 0, 1].into()].into(),
        ready: true,
        terminating: false,
        place: Arc::default(),
        ports: Ports::default(),
    };
    change(&mut pod);
    Object::Pod(Arc::new(pod))
}

/// Where the traffic of a service goes, and who says so.
fn seen(store: &Store, name: &str) -> (Option<EndpointSource>, usize) {
    let known = store.known().get(&key(name)).expect("a known service");
    (known.source(), known.sets().map(|set| set.endpoints.len()).sum())
}

const PODS: Option<EndpointSource> = Some(EndpointSource::Pods);

#[test]
fn a_pod_marks_the_services_whose_endpoints_it_changes() {
    let mut store = store();
    for object in [selecting("a", "app=a"), selecting("b", "app=b"), service("c", 80)] {
        store.upsert(object);
    }
    store.take_dirty();
    store.upsert(pod("p", "app=a", |_| {}));
    assert_eq!(store.take_dirty(), services(&["a"]));
    assert_eq!(seen(&store, "a"), (PODS, 1));
    store.upsert(pod("p", "app=b", |_| {}));
    assert_eq!(store.take_dirty(), services(&["a", "b"]));
    assert_eq!((seen(&store, "a"), seen(&store, "b")), ((None, 0), (PODS, 1)));
    store.upsert(pod("p", "app=b", |pod| pod.ready = false));
    assert_eq!(store.take_dirty(), services(&["b"]));
    store.delete(&pod("p", "", |_| {}).object_ref());
    assert_eq!(store.take_dirty(), services(&["b"]));
    assert_eq!(seen(&store, "b"), (None, 0));
}

#[test]
fn what_makes_no_difference_marks_nothing() {
    let mut store = store();
    for object in [
        selecting("a", "app=a"),
        selecting("sliced", "app=a"),
        slice("sliced-x", "sliced"),
        selecting("by-hand", "app=a"),
        endpoints("by-hand"),
        pod("p", "app=a", |_| {}),
    ] {
        store.upsert(object);
    }
    store.take_dirty();
    let unnamed = |pod: &mut Pod| {
        pod.ports = [EndpointPort { name: "x".into(), protocol: Protocol::Tcp, port: 1 }].into();
    };
    for (what, object) in [
        ("the same again", pod("p", "app=a", |_| {})),
        ("a label that nobody selects", pod("p", "app=a,tier=b", |_| {})),
        ("a port that nobody names", pod("p", "app=a,tier=b", unnamed)),
        ("a pod that nobody selects", pod("q", "app=q", |_| {})),
    ] {
        store.upsert(object);
        assert!(store.take_dirty().is_empty(), "{what}");
    }
    store.upsert(pod("p", "app=a", |pod| pod.ready = false));
    assert_eq!(
        store.take_dirty(),
        services(&["a"]),
        "not those that a slice or a person speaks for"
    );
    // There and back again before anybody looked.
    store.upsert(pod("p", "app=a", |_| {}));
    store.upsert(pod("p", "app=a", |pod| pod.ready = false));
    store.delete(&pod("never", "", |_| {}).object_ref());
    assert!(store.take_dirty().is_empty());
}

#[test]
fn slices_and_objects_take_over_and_give_way() {
    let mirrored = || {
        let Object::EndpointSlice(slice) = slice("a-m", "a") else { panic!("a slice") };
        let origin = SliceOrigin::Mirrored;
        Object::EndpointSlice(Arc::new(EndpointSlice { origin, ..(*slice).clone() }))
    };
    let mut store = store();
    store.upsert(pod("p", "app=a", |_| {}));
    store.upsert(selecting("a", "app=a"));
    store.take_dirty();
    for (object, source) in [
        (slice("a-x", "a"), EndpointSource::Slices),
        (endpoints("a"), EndpointSource::Object),
        (mirrored(), EndpointSource::MirroredSlices),
    ] {
        assert_eq!(seen(&store, "a"), (PODS, 1));
        store.upsert(object.clone());
        assert_eq!(store.take_dirty(), services(&["a"]));
        assert_eq!(seen(&store, "a"), (Some(source), 0));
        store.delete(&object.object_ref());
        assert_eq!(store.take_dirty(), services(&["a"]));
    }
    assert_eq!(seen(&store, "a"), (PODS, 1));
    store.delete(&endpoints("a").object_ref());
    assert!(store.take_dirty().is_empty(), "there is no Endpoints object to delete");
    assert_eq!(seen(&store, "a"), (PODS, 1));
}

#[test]
fn a_service_takes_what_its_pods_made_along() {
    let mut store = store();
    store.upsert(selecting("a", "app=a"));
    store.upsert(pod("p", "app=a", |_| {}));
    store.take_dirty();
    store.delete(&selecting("a", "").object_ref());
    assert!(store.known().is_empty());
    assert_eq!(store.take_dirty(), services(&["a"]));
    store.upsert(selecting("a", "app=a"));
    assert_eq!(store.take_dirty(), services(&["a"]));
    assert_eq!(seen(&store, "a"), (PODS, 1));
    store.upsert(service("a", 80));
    assert_eq!(store.take_dirty(), services(&["a"]));
    assert_eq!(seen(&store, "a"), (None, 0), "without a selector it selects nothing");
}

/// Where there are no pods there is no index, and what pods made is gone with the last one.
#[test]
fn the_index_lives_from_the_first_pod_to_the_last() {
    let mut without = store();
    for object in [selecting("a", "app=a"), selecting("b", "app=b"), node("node-a", "z")] {
        without.upsert(object);
    }
    without.take_dirty();
    assert!(without.selectors.is_none());
    let mut store = without.clone();
    store.upsert(pod("p", "app=a", |_| {}));
    store.upsert(selecting("b", "app=a"));
    store.take_dirty();
    assert!(store.selectors.is_some());
    // One batch replaces the last pod by another.
    store.delete(&pod("p", "", |_| {}).object_ref());
    store.upsert(pod("q", "app=a", |_| {}));
    store.take_dirty();
    assert!(store.selectors.is_some());
    assert_eq!((seen(&store, "a"), seen(&store, "b")), ((PODS, 1), (PODS, 1)));
    store.delete(&pod("q", "", |_| {}).object_ref());
    store.upsert(selecting("b", "app=b"));
    store.take_dirty();
    assert!(store.selectors.is_none());
    assert_eq!(store.known(), without.known());
}
