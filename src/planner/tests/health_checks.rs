//! What load balancers are told of a service.

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

#[test]
fn the_plan_lists_the_few_services_that_are_asked_about() {
    let named = |name: &str, last: u8, text: &str| {
        let mut service = service(name, &["10.254.0.41"], &[":80/TCP"]);
        service.cluster_ips.v4 = Some([10, 254, 0, last].into());
        expose(&mut service, text);
        Arc::new(Known { service: Some(Arc::new(service)), ..Known::default() })
    };
    let [a, b] = ["a", "b"].map(|name| ServiceKey::new("ns", name));
    let (asked, plain) = ("health 30555, local", "node-port 30080");
    let mut known = [(a.clone(), named("a", 1, asked)), (b.clone(), named("b", 2, plain))]
        .into_iter()
        .collect();
    let mut planner = planner(policy(), &known);
    let listed = |planner: &Planner| -> Vec<String> {
        planner.plan().health_checks.keys().map(ToString::to_string).collect()
    };
    assert_eq!(listed(&planner), ["ns/a"]);
    known.insert(b.clone(), named("b", 2, asked));
    known.insert(a.clone(), named("a", 1, plain));
    planner.replan([a, b.clone()], &known);
    assert_eq!(listed(&planner), ["ns/b"]);
    known.remove(&b);
    planner.replan([b], &known);
    assert_eq!(listed(&planner), [] as [&str; 0]);
}
