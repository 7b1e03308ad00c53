//! What of a service is answered by listeners: health checks, and node ports on loopback.

use super::*;
use rstest::rstest;

fn known(text: &str, endpoints: &[&str]) -> Known {
    web(endpoints, |service| expose(service, text))
}

fn health(known: &Known) -> Option<(u16, [u32; 2])> {
    let plan = plan_service(known, &facts(), &policy()).unwrap();
    plan.health.map(|health| (health.port.get(), health.local_endpoints))
}

#[rstest]
#[case::one("health 30555, local", &["10.180.0.1 @a", "10.180.1.1 @b"], Some(1))]
#[case::none_here("health 30555, local", &["10.180.1.1 @b"], Some(0))]
#[case::none("health 30555, local", &[], Some(0))]
#[case::terminating_ones_serve_but_do_not_count(
    "health 30555, local", &["10.180.0.1 terminating @a", "10.180.0.2 @a"], Some(1)
)]
#[case::published_ones_do("health 30555, local", &["10.180.0.1 published-terminating @a"], Some(1))]
#[case::unready("health 30555, local", &["10.180.0.1 unready @a"], Some(0))]
#[case::without_node_name("health 30555, local", &["10.180.0.1"], Some(0))]
#[case::policy_cluster("health 30555", &["10.180.0.1 @a"], None)]
#[case::no_load_balancer("health 30555, local, type NodePort", &["10.180.0.1 @a"], None)]
#[case::no_port("local", &["10.180.0.1 @a"], None)]
fn health_checks(#[case] text: &str, #[case] endpoints: &[&str], #[case] expected: Option<u32>) {
    assert_eq!(health(&known(text, endpoints)), expected.map(|count| (30555, [count, 0])));
}

#[test]
fn an_endpoint_counts_once_over_ports_and_each_family_counts() {
    let mut service = service("web", &["10.254.0.41", "fd00::41"], &["a:80/TCP", "b:81/UDP"]);
    expose(&mut service, "health 30555, local");
    let slices = [
        slice("web-1", set(&["a:8080/TCP", "b:8081/UDP"], &["10.180.0.1 @a", "10.180.0.2 @a"])),
        slice("web-2", set(&["a:8080/TCP"], &["fd00:180::1 @a"])),
        slice("web-3", set(&["unasked:9090/TCP"], &["10.180.0.3 @a"])),
    ]
    .into_iter()
    .collect();
    let known = Known { service: Some(Arc::new(service)), slices, endpoints: None };
    assert_eq!(health(&known), Some((30555, [2, 1])));
}

fn listening(text: &str, endpoints: &[&str]) -> Option<Listening> {
    Listening::of(&plan_service(&known(text, endpoints), &facts(), &policy()).unwrap())
}

#[test]
fn few_services_are_listened_for() {
    assert_eq!(listening("vip 1.2.3.4, ip 198.51.100.7", &["10.180.0.1 @a"]), None);
    assert!(listening("node-port 30080", &[]).is_some());
    assert!(listening("health 30555, local", &[]).is_some());
}

/// As this node itself is served at the node port: by all endpoints, whatever the policy.
#[rstest]
#[case::cluster("node-port 30080", &["10.180.0.1 @a", "10.180.1.1 @b"], 2)]
#[case::local("node-port 30080, local", &["10.180.0.1 @a", "10.180.1.1 @b"], 2)]
#[case::none_here("node-port 30080, local", &["10.180.1.1 @b"], 1)]
#[case::none("node-port 30080", &["10.180.1.1 unready @b"], 0)]
fn node_ports_lead_where_the_node_may_go(
    #[case] text: &str,
    #[case] endpoints: &[&str],
    #[case] targets: usize,
) {
    let [listener] = &*listening(text, endpoints).unwrap().node_ports else { panic!("not one") };
    assert_eq!((listener.family, listener.port), (Family::V4, 30080));
    assert_eq!((listener.protocol, listener.affinity), (Protocol::Tcp, None));
    assert_eq!(listener.targets.len(), targets);
    assert!(listener.targets.is_sorted());
}

#[test]
fn the_plan_lists_listeners_of_those_who_hold_their_node_port() {
    let named = |name: &str, created: i64| {
        let mut service = service(name, &["10.254.0.41"], &[":80/TCP"]);
        service.cluster_ips.v4 = Some([10, 254, 0, created as u8].into());
        service.created = Created::new(Some(created));
        expose(&mut service, "node-port 30080");
        Known { service: Some(Arc::new(service)), ..Known::default() }
    };
    let mut known = all([named("a", 1), named("b", 2)]);
    let mut planner = planner(policy(), &known);
    let keys = |planner: &Planner| -> Vec<String> {
        planner.plan().listening.keys().map(ToString::to_string).collect()
    };
    assert_eq!(keys(&planner), ["ns/a"]);
    known.remove(&ServiceKey::new("ns", "a"));
    planner.replan([ServiceKey::new("ns", "a")], &known);
    assert_eq!(keys(&planner), ["ns/b"]);
    let plain = known.get_mut(&ServiceKey::new("ns", "b")).unwrap();
    let mut service = service("b", &["10.254.0.2"], &[":80/TCP"]);
    service.created = Created::new(Some(2));
    *plain = Arc::new(Known { service: Some(Arc::new(service)), ..Known::default() });
    planner.replan([ServiceKey::new("ns", "b")], &known);
    assert_eq!(keys(&planner), [] as [&str; 0]);
}
