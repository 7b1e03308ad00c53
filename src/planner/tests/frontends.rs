//! Where a service answers, who may ask there, and what becomes of it.

use super::*;
use crate::planner::allows;
use ipnet::IpNet;
use rstest::rstest;
use std::net::IpAddr;

fn plan_of(service: Service, endpoints: &[&str]) -> ServicePlan {
    plan_with(service, endpoints, &policy())
}

fn plan_with(service: Service, endpoints: &[&str], policy: &Policy) -> ServicePlan {
    let slice = slice("web-1", set(&[":8080/TCP"], endpoints));
    let known = Known { service: Some(Arc::new(service)), slices: [slice].into(), endpoints: None };
    plan_service(&known, &facts(), policy).unwrap()
}

fn exposed(cluster_ips: &[&str], text: &str) -> Service {
    let mut service = service("web", cluster_ips, &[":80/TCP"]);
    expose(&mut service, text);
    service
}

fn list(plan: &ServicePlan) -> Vec<String> {
    let frontends = plan.ports.iter().flat_map(|port| &port.frontends);
    frontends.map(|frontend| format!("{} {}", frontend.at, frontend.kind.name())).collect()
}

const V4: &[&str] = &["10.254.0.41"];
const V6: &[&str] = &["fd00::41"];
const BOTH: &[&str] = &["10.254.0.41", "fd00::41"];

#[rstest]
#[case::nothing(V4, "", &["10.254.0.41:80/TCP ClusterIP"])]
#[case::all(
    V4,
    "ip 198.51.100.7, vip 1.2.3.4, node-port 30080, vip 1.2.3.5",
    &[
        "10.254.0.41:80/TCP ClusterIP",
        "1.2.3.4:80/TCP LoadBalancer",
        "1.2.3.5:80/TCP LoadBalancer",
        "198.51.100.7:80/TCP ExternalIP",
        "IPv4 node port 30080/TCP NodePort",
    ]
)]
#[case::twice(
    V4,
    "vip 1.2.3.4, vip 1.2.3.4, ip 198.51.100.7, ip 198.51.100.7",
    &[
        "10.254.0.41:80/TCP ClusterIP",
        "1.2.3.4:80/TCP LoadBalancer",
        "198.51.100.7:80/TCP ExternalIP",
    ]
)]
#[case::source_ranges_hold_for_what_is_both(
    V4,
    "ip 1.2.3.4, vip 1.2.3.4",
    &["10.254.0.41:80/TCP ClusterIP", "1.2.3.4:80/TCP LoadBalancer"]
)]
#[case::its_own_cluster_ip(
    V4, "ip 10.254.0.41, vip 10.254.0.41", &["10.254.0.41:80/TCP ClusterIP"]
)]
#[case::no_cluster_ip_of_the_family(
    V4, "vip 2001:db8::4, ip 2001:db8::7", &["10.254.0.41:80/TCP ClusterIP"]
)]
#[case::the_other_way_round(
    V6,
    "vip 1.2.3.4, ip 198.51.100.7, node-port 30080",
    &["[fd00::41]:80/TCP ClusterIP", "IPv6 node port 30080/TCP NodePort"]
)]
#[case::dual_stack(
    BOTH,
    "vip 2001:db8::4, ip 198.51.100.7, node-port 30080",
    &[
        "10.254.0.41:80/TCP ClusterIP",
        "198.51.100.7:80/TCP ExternalIP",
        "IPv4 node port 30080/TCP NodePort",
        "[fd00::41]:80/TCP ClusterIP",
        "[2001:db8::4]:80/TCP LoadBalancer",
        "IPv6 node port 30080/TCP NodePort",
    ]
)]
#[case::whatever_the_type(
    V4,
    "type ClusterIP, vip 1.2.3.4, node-port 30080",
    &[
        "10.254.0.41:80/TCP ClusterIP",
        "1.2.3.4:80/TCP LoadBalancer",
        "IPv4 node port 30080/TCP NodePort",
    ]
)]
fn frontends(#[case] cluster_ips: &[&str], #[case] text: &str, #[case] expected: &[&str]) {
    let plan = plan_of(exposed(cluster_ips, text), &[]);
    assert_eq!(list(&plan), expected);
}

#[test]
fn every_port_answers_at_every_address() {
    let mut service = service("web", V4, &["a:80/TCP", "b:443/TCP", "c:443/UDP"]);
    expose(&mut service, "vip 1.2.3.4, node-port 30080");
    assert_eq!(
        list(&plan_of(service, &[])),
        [
            "10.254.0.41:80/TCP ClusterIP",
            "1.2.3.4:80/TCP LoadBalancer",
            "IPv4 node port 30080/TCP NodePort",
            "10.254.0.41:443/TCP ClusterIP",
            "1.2.3.4:443/TCP LoadBalancer",
            "10.254.0.41:443/UDP ClusterIP",
            "1.2.3.4:443/UDP LoadBalancer",
        ]
    );
}

/// The API server refuses it; a manifest may say it all the same.
#[test]
fn a_node_port_that_two_ports_name_is_the_first_ones() {
    let mut service = service("web", BOTH, &["a:80/TCP", "b:81/TCP", "c:82/UDP"]);
    let mut ports: Vec<ServicePort> = service.ports.iter().cloned().collect();
    ports.iter_mut().for_each(|port| port.node_port = Some(30080.try_into().unwrap()));
    service.ports = ports.into_iter().rev().collect();
    let plan = plan_of(service, &[]);
    let at = |port: &PortPlan, frontend: &Frontend| {
        (port.port, port.family, frontend.kind == FrontendKind::NodePort)
    };
    let node_ports: Vec<_> = plan.held().map(|(port, f)| at(port, f)).filter(|at| at.2).collect();
    let expected = [(80, Family::V4), (80, Family::V6), (82, Family::V4), (82, Family::V6)];
    assert_eq!(node_ports, expected.map(|(port, family)| (port, family, true)));
}

const HERE_AND_THERE: &[&str] = &["10.180.0.1 @a", "10.180.1.1 @b"];
const ALL: &str = "10.180.0.1:8080 10.180.1.1:8080";

#[rstest]
#[case::cluster("", HERE_AND_THERE, ALL, ALL)]
#[case::local("local", HERE_AND_THERE, ALL, "10.180.0.1:8080 10.180.1.1:8080 | 10.180.0.1:8080")]
#[case::none_here("local", &["10.180.1.1 @b"], "10.180.1.1:8080", "10.180.1.1:8080 | ")]
#[case::without_node_name("local", &["10.180.0.1"], "10.180.0.1:8080", "10.180.0.1:8080 | ")]
#[case::none("local", &["10.180.0.1 unready @a"], "reject", "reject")]
#[case::draining_here(
    "local",
    &["10.180.0.1 terminating @a", "10.180.1.1 @b"],
    "10.180.1.1:8080",
    "10.180.1.1:8080 | ~10.180.0.1:8080"
)]
#[case::draining_everywhere(
    "",
    &["10.180.0.1 terminating @a", "10.180.0.3 dead @a", "10.180.1.1 terminating @b"],
    "~10.180.0.1:8080 ~10.180.1.1:8080",
    "~10.180.0.1:8080 ~10.180.1.1:8080"
)]
#[case::hints_are_for_those_inside(
    "local",
    &["10.180.0.1 @a z:z2", "10.180.1.1 @b z:z1"],
    "10.180.1.1:8080",
    "10.180.1.1:8080 | 10.180.0.1:8080"
)]
fn external_policies(
    #[case] policy: &str,
    #[case] endpoints: &[&str],
    #[case] cluster_ip: &str,
    #[case] external: &str,
) {
    let text = format!("{policy}, vip 1.2.3.4, ip 198.51.100.7, node-port 30080");
    let plan = plan_of(exposed(V4, &text), endpoints);
    let port = &plan.ports[0];
    let outcomes = port.frontends.iter().map(|frontend| outcome_at(port, frontend));
    assert_eq!(outcomes.collect::<Vec<_>>(), [cluster_ip, external, external, external]);
}

#[test]
fn the_internal_policy_is_the_cluster_ips_and_the_external_one_everything_elses() {
    let mut service = exposed(V4, "vip 1.2.3.4, node-port 30080");
    service.internal_policy = TrafficPolicy::Local;
    let port = &plan_of(service.clone(), HERE_AND_THERE).ports[0];
    let outcomes =
        |port: &PortPlan| port.frontends.iter().map(|f| outcome_at(port, f)).collect::<Vec<_>>();
    assert_eq!(outcomes(port), ["10.180.0.1:8080", ALL, ALL]);
    let port = &plan_of(service, &["10.180.1.1 @b"]).ports[0];
    assert_eq!(outcomes(port), ["drop", "10.180.1.1:8080", "10.180.1.1:8080"]);
}

#[rstest]
#[case::cluster("", false, Masquerade::Always)]
#[case::cluster_all("", true, Masquerade::Always)]
#[case::local("local", false, Masquerade::NodeOnly)]
#[case::local_all("local", true, Masquerade::NodeOnly)]
fn external_masquerade(#[case] text: &str, #[case] all: bool, #[case] expected: Masquerade) {
    let service = exposed(V4, &format!("{text}, vip 1.2.3.4, ip 198.51.100.7, node-port 30080"));
    for detect in [DetectLocal::None, policy().detect] {
        let policy = Policy { masquerade_all: all, detect, ..policy() };
        let plan = plan_with(service.clone(), HERE_AND_THERE, &policy);
        for frontend in &plan.ports[0].frontends[1..] {
            let Action::Forward(forward) = frontend.action else { panic!("{frontend:?}") };
            assert_eq!(forward.masquerade, expected, "{frontend:?}");
        }
    }
}

/// `any`, or the ranges that may ask at the load balancer's addresses of a family.
fn allowed(plan: &ServicePlan, family: Family) -> String {
    let ports = plan.ports.iter().filter(|port| port.family == family);
    let mut found = Vec::new();
    for frontend in ports.flat_map(|port| &port.frontends) {
        let text = match frontend.allow.as_deref() {
            None => "any".to_owned(),
            Some(nets) => nets.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
        };
        match frontend.kind {
            FrontendKind::LoadBalancer => found.push(text),
            _ => assert_eq!(text, "any", "{frontend:?}"),
        }
    }
    found.dedup();
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

#[rstest]
#[case::none("", "any", "any")]
#[case::one_family_closes_the_other("range 203.0.113.0/25", "203.0.113.0/25", "")]
#[case::and_the_other_way_round("range 2001:db8::/32", "", "2001:db8::/32")]
#[case::both("range 203.0.113.0/25, range 2001:db8::/32", "203.0.113.0/25", "2001:db8::/32")]
#[case::everybody("range 0.0.0.0/0, range 10.0.0.0/8", "any", "")]
#[case::everybody_of_the_other("range 203.0.113.0/25, range ::/0", "203.0.113.0/25", "any")]
#[case::sorted_and_disjoint(
    "range 203.0.113.77/25, range 10.0.0.0/8, range 10.7.0.0/16, range 10.0.0.0/8",
    "10.0.0.0/8 203.0.113.0/25",
    ""
)]
#[case::this_node_so_the_vips(
    "range 192.168.0.0/24, vip 1.2.3.5",
    "1.2.3.4/32 1.2.3.5/32 192.168.0.0/24",
    ""
)]
#[case::the_nodes_second_address_is_nobodys("range 192.168.1.0/24", "192.168.1.0/24", "")]
fn source_ranges(#[case] text: &str, #[case] v4: &str, #[case] v6: &str) {
    let text = format!("vip 1.2.3.4, vip 2001:db8::4, ip 198.51.100.7, node-port 30080, {text}");
    let plan = plan_of(exposed(BOTH, &text), HERE_AND_THERE);
    assert_eq!(allowed(&plan, Family::V4), v4);
    assert_eq!(allowed(&plan, Family::V6), v6);
}

#[test]
fn addresses_in_no_pool_are_idle() {
    let endpoints = [
        "10.180.1.1 @b",
        "10.180.0.1 terminating @a",
        "10.180.0.2 terminating @a",
        "10.180.0.3 dead @a",
        "10.180.0.4 unready @a",
    ];
    let idle = |text: &str| {
        let plan = plan_of(exposed(V4, text), &endpoints);
        plan.idle.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(idle("vip 1.2.3.4"), "10.180.0.1 10.180.0.2 10.180.0.3 10.180.0.4");
    // From outside they are all that is left here.
    assert_eq!(idle("vip 1.2.3.4, local"), "10.180.0.3 10.180.0.4");
    // The policy has nobody to hold for.
    assert_eq!(idle("local"), "10.180.0.1 10.180.0.2 10.180.0.3 10.180.0.4");
}

#[test]
fn an_address_that_one_port_uses_is_not_idle() {
    let service = service("web", V4, &["a:80/TCP", "b:81/TCP"]);
    let mut known = web(&[], |_| {});
    known.service = Some(Arc::new(service));
    known.slices = [
        slice("web-1", set(&["a:8080/TCP"], &["10.180.0.1 @a", "10.180.0.2 unready @a"])),
        slice("web-2", set(&["b:8081/TCP"], &["10.180.0.1 unready @a", "10.180.0.2 unready @a"])),
    ]
    .into_iter()
    .collect();
    let idle = plan_service(&known, &facts(), &policy()).unwrap().idle;
    assert_eq!(idle.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.180.0.2"]);
}

#[test]
fn a_client_may_ask_where_one_of_the_ranges_has_it() {
    let ranges = ["10.0.0.0/8", "192.0.2.0/25", "192.0.2.192/26", "fd00::/8", "2001:db8::7/128"];
    let mut ranges = ranges.map(|range| range.parse::<IpNet>().unwrap());
    ranges.sort_unstable();
    for source in [
        "9.255.255.255",
        "10.0.0.0",
        "10.255.255.255",
        "11.0.0.0",
        "192.0.2.127",
        "192.0.2.128",
        "192.0.2.192",
        "255.255.255.255",
        "::",
        "2001:db8::7",
        "2001:db8::8",
        "fdff::1",
        "fe00::",
    ] {
        let source: IpAddr = source.parse().unwrap();
        let expected = ranges.iter().any(|range| range.contains(&source));
        assert_eq!(allows(Some(&ranges), source), expected, "{source}");
        assert!(!allows(Some(&[]), source) && allows(None, source), "{source}");
    }
}
