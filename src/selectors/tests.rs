use super::{Selectors, selects};
use crate::model::*;
use std::net::IpAddr;
use std::sync::Arc;

fn service(name: &str, selector: &str) -> Service {
    Service {
        key: ServiceKey::new("ns", name),
        created: Created::new(None),
        service_type: ServiceType::ClusterIp,
        cluster_ips: ClusterIps { v4: Some([10, 254, 0, 1].into()), v6: None },
        ports: [port("", Protocol::Tcp, TargetPort::Number(8080))].into(),
        uncommon: None,
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Cluster,
        affinity: None,
        publish_not_ready_addresses: false,
        annotations: Annotations::default(),
        shown: Shown::new("", selector),
    }
}

fn port(name: &str, protocol: Protocol, target_port: TargetPort) -> ServicePort {
    ServicePort {
        name: name.into(),
        protocol,
        port: 80,
        node_port: None,
        app_protocol: AppProtocol::default(),
        target_port,
    }
}

fn pod(name: &str, labels: &str) -> Pod {
    Pod {
        key: PodKey::new("ns", name),
        labels: labels.into(),
        addresses: [[10, 180, 0, 1].into()].into(),
        ready: true,
        terminating: false,
        place: Arc::new(Place { node: Some("node-a".into()), hints: Hints::default() }),
        ports: Ports::default(),
    }
}

fn named(name: &str, protocol: Protocol, port: u16) -> EndpointPort {
    EndpointPort { name: name.into(), protocol, port }
}

fn selectors(services: &[Service], pods: &[Pod]) -> Selectors {
    let services: Vec<_> = services.iter().cloned().map(Arc::new).collect();
    let mut selectors = Selectors::new(&services);
    for pod in pods {
        selectors.upsert_pod(Arc::new(pod.clone()));
    }
    selectors
}

/// Names, sorted, each once.
fn names(mut keys: Vec<ServiceKey>) -> Vec<String> {
    keys.sort();
    keys.dedup();
    keys.iter().map(|key| key.name().to_owned()).collect()
}

/// What is made of these pods, a line for each set: family, ports, endpoints.
fn made(service: &Service, pods: &[Pod]) -> Vec<String> {
    let selectors = selectors(std::slice::from_ref(service), pods);
    let endpoints = selectors.endpoints(service);
    let sets = endpoints.iter().flat_map(|endpoints| endpoints.sets.iter());
    sets.map(|set| {
        let ports = set.ports.iter().map(|p| format!("{}:{}/{}", p.name.0, p.port, p.protocol));
        let at = set.endpoints.iter().map(|endpoint| endpoint.address.to_string());
        let (ports, at) = (ports.collect::<Vec<_>>(), at.collect::<Vec<_>>());
        format!("{:?} {} {}", set.family, ports.join(","), at.join(","))
    })
    .collect()
}

#[test]
fn a_selector_wants_all_its_pairs() {
    let labels = "app=web,empty=,tier=front,x.io/a=b";
    for (selector, expected) in [
        ("app=web", true),
        ("app=web,tier=front", true),
        ("empty=", true),
        ("x.io/a=b", true),
        ("app=web,tier=back", false),
        ("app=we", false),
        ("app=web1", false),
        ("app=", false),
        ("", false),
    ] {
        assert_eq!(selects(selector, labels), expected, "{selector}");
    }
    assert!(!selects("app=web", ""));
}

#[test]
fn a_pod_concerns_the_services_that_select_it_before_or_after() {
    let services = [
        service("web", "app=web"),
        service("front", "app=web,tier=front"),
        service("back", "app=web,tier=back"),
        service("other", "app=other"),
        service("none", ""),
    ];
    let mut selectors = selectors(&services, &[]);
    assert!(!selectors.has_pods());
    let mut upsert = |pod: Pod| names(selectors.upsert_pod(Arc::new(pod)));
    assert_eq!(upsert(pod("p", "app=web,tier=front")), ["front", "web"]);
    assert_eq!(upsert(pod("p", "app=web,tier=front")), [] as [String; 0], "nothing new");
    let unready = Pod { ready: false, ..pod("p", "app=web,tier=front") };
    assert_eq!(upsert(unready), ["front", "web"]);
    assert_eq!(upsert(pod("p", "app=web,tier=back")), ["back", "front", "web"]);
    assert_eq!(upsert(pod("q", "app=lost")), [] as [String; 0]);
    assert!(selectors.has_pods());
    assert_eq!(names(selectors.delete_pod("ns/p")), ["back", "web"]);
    assert_eq!(selectors.delete_pod("ns/p"), [], "it is gone");
    assert_eq!(selectors.delete_pod("elsewhere/p"), []);
    selectors.delete_pod("ns/q");
    assert!(!selectors.has_pods());
}

#[test]
fn a_namespace_knows_its_own_only() {
    let mut selectors = selectors(&[service("web", "app=web")], &[]);
    let foreign = Pod { key: PodKey::new("other", "p"), ..pod("p", "app=web") };
    assert_eq!(selectors.upsert_pod(Arc::new(foreign)), []);
    assert_eq!(selectors.endpoints(&service("web", "app=web")), None);
    assert!(selectors.has_pods());
    assert_eq!(selectors.delete_pod("other/p"), []);
    assert!(!selectors.has_pods());
}

#[test]
fn a_service_is_found_by_its_newest_selector() {
    let mut selectors = selectors(&[service("web", "app=web")], &[]);
    selectors.upsert_service(&Arc::new(service("web", "app=shop,tier=front")));
    assert_eq!(selectors.upsert_pod(Arc::new(pod("p", "app=web"))), []);
    let concerned = selectors.upsert_pod(Arc::new(pod("q", "app=shop,tier=front")));
    assert_eq!(names(concerned), ["web"]);
    let filed = |selectors: &Selectors, pair| selectors.namespaces["ns"].by_selector.count(pair);
    assert_eq!(filed(&selectors, "app=web"), 0);
    assert_eq!(filed(&selectors, "app=shop") + filed(&selectors, "tier=front"), 1);
    selectors.delete_service(&ServiceKey::new("ns", "web"));
    selectors.delete_service(&ServiceKey::new("ns", "never"));
    assert_eq!(selectors.delete_pod("ns/q"), []);
    selectors.delete_pod("ns/p");
    assert!(selectors.namespaces.is_empty(), "{selectors:?}");
}

/// A pair that all have is no way to find one of them: each is filed under what sets it apart.
#[test]
fn services_that_share_a_pair_are_told_apart_by_another() {
    let services: Vec<Service> =
        (0..100).map(|n| service(&format!("s{n}"), &format!("app=s{n},part-of=shop"))).collect();
    let selectors = selectors(&services, &[]);
    let index = &selectors.namespaces["ns"].by_selector;
    assert!(index.count("part-of=shop") <= 1, "{}", index.count("part-of=shop"));
    for n in 0..100 {
        let pod = pod("p", &format!("app=s{n},part-of=shop"));
        assert_eq!(names(selectors.namespaces["ns"].selecting(&pod)), [format!("s{n}")]);
    }
}

#[test]
fn a_number_is_every_pods_and_a_name_each_ones_own() {
    let pods = [
        Pod { ports: [named("http", Protocol::Tcp, 8080)].into(), ..at("a", "10.180.0.1") },
        Pod { ports: [named("http", Protocol::Tcp, 80)].into(), ..at("b", "10.180.0.2") },
        Pod { ports: [named("http", Protocol::Udp, 8080)].into(), ..at("c", "10.180.0.3") },
        Pod { ports: [named("http", Protocol::Tcp, 8080)].into(), ..at("d", "10.180.0.4") },
    ];
    let with = |ports: Vec<ServicePort>| {
        let service = Service { ports: ports.into_iter().collect(), ..service("web", "app=web") };
        made(&service, &pods)
    };
    let http = || TargetPort::Name("http".into());
    let all = "10.180.0.1,10.180.0.2,10.180.0.3,10.180.0.4";
    let number = port("n", Protocol::Tcp, TargetPort::Number(9));
    assert_eq!(with(vec![number.clone()]), [format!("V4 n:9/TCP {all}")]);
    assert_eq!(
        with(vec![port("", Protocol::Sctp, TargetPort::Unset)]),
        [format!("V4 :80/SCTP {all}")]
    );
    assert_eq!(
        with(vec![port("h", Protocol::Tcp, http())]),
        ["V4 h:80/TCP 10.180.0.2", "V4 h:8080/TCP 10.180.0.1,10.180.0.4"]
    );
    assert_eq!(
        with(vec![number, port("h", Protocol::Udp, http())]),
        ["V4 n:9/TCP 10.180.0.1,10.180.0.2,10.180.0.4", "V4 n:9/TCP,h:8080/UDP 10.180.0.3"]
    );
    assert_eq!(with(vec![port("x", Protocol::Tcp, TargetPort::Name("x".into()))]), [] as [&str; 0]);
}

/// Of two ports of one name and protocol the first counts.
#[test]
fn the_first_port_of_a_name_counts() {
    let ports = [named("http", Protocol::Tcp, 8080), named("http", Protocol::Tcp, 1)].into();
    let ports = Pod { ports, ..at("a", "10.180.0.1") };
    let http = port("", Protocol::Tcp, TargetPort::Name("http".into()));
    let service = Service { ports: [http].into(), ..service("web", "app=web") };
    assert_eq!(made(&service, &[ports]), ["V4 :8080/TCP 10.180.0.1"]);
}

fn at(name: &str, address: &str) -> Pod {
    Pod { addresses: [address.parse::<IpAddr>().unwrap()].into(), ..pod(name, "app=web") }
}

#[test]
fn a_pod_is_an_endpoint_of_the_families_that_both_have() {
    let both = ["10.180.0.3".parse().unwrap(), "fd00:180::3".parse().unwrap()];
    let pods = [
        at("a", "10.180.0.1"),
        at("b", "fd00:180::2"),
        Pod { addresses: both.into(), ..pod("c", "app=web") },
    ];
    let families = |v4: Option<&str>, v6: Option<&str>| {
        let cluster_ips =
            ClusterIps { v4: v4.map(|a| a.parse().unwrap()), v6: v6.map(|a| a.parse().unwrap()) };
        made(&Service { cluster_ips, ..service("web", "app=web") }, &pods)
    };
    let (four, six) =
        ("V4 :8080/TCP 10.180.0.1,10.180.0.3", "V6 :8080/TCP fd00:180::2,fd00:180::3");
    assert_eq!(families(Some("10.254.0.1"), Some("fd00:254::1")), [four, six]);
    assert_eq!(families(Some("10.254.0.1"), None), [four]);
    assert_eq!(families(None, Some("fd00:254::1")), [six]);
}

#[test]
fn conditions_follow_from_ready_deletion_and_what_the_service_publishes() {
    for (is_ready, terminating, publish, ready) in [
        (true, false, false, true),
        (false, false, false, false),
        (true, true, false, false),
        (false, true, false, false),
        (true, false, true, true),
        (false, false, true, true),
        (true, true, true, true),
        (false, true, true, true),
    ] {
        let service = Service { publish_not_ready_addresses: publish, ..service("web", "app=web") };
        let pods = [Pod { ready: is_ready, terminating, ..pod("p", "app=web") }];
        let selectors = selectors(std::slice::from_ref(&service), &pods);
        let endpoints = selectors.endpoints(&service).unwrap();
        let endpoint = &endpoints.sets[0].endpoints[0];
        assert_eq!(endpoint.conditions, Conditions { ready, serving: is_ready, terminating });
        assert_eq!(endpoint.place.node.as_deref(), Some("node-a"));
        assert_eq!((&endpoints.key, endpoints.origin), (&service.key, EndpointsOrigin::Pods));
    }
}

/// Endpoints stand by the pods' names, in whatever order these came, and however often.
#[test]
fn the_order_of_arrival_does_not_matter() {
    let service = service("web", "app=web");
    let mut pods = vec![at("c", "10.180.0.1"), at("a", "10.180.0.3"), at("b", "10.180.0.3")];
    let expected = "V4 :8080/TCP 10.180.0.3,10.180.0.3,10.180.0.1";
    for _ in 0..3 {
        pods.rotate_left(1);
        let twice: Vec<Pod> = pods.iter().chain(&pods).cloned().collect();
        assert_eq!(made(&service, &twice), [expected]);
    }
}
