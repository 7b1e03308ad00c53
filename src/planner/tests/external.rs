//! What must happen to packets that come by node ports, load balancers' addresses and external IPs.

use super::trace::run;
use super::*;
use crate::planner::{Packet, trace};
use rstest::rstest;

const BOTH: &[&str] = &["10.180.0.1 @a", "10.180.1.1 @b"];
const THERE: &[&str] = &["10.180.1.1 @b"];

fn world(policy: Policy) -> Plan {
    let of = |(name, number, port): (&str, u8, &str), text: &str, endpoints: &[&str]| {
        let mut service = service(name, &[&format!("10.254.0.{number}")], &[port]);
        expose(&mut service, text);
        let slices = [slice(&format!("{name}-1"), set(&[":8080/TCP"], endpoints))].into();
        Known { service: Some(Arc::new(service)), slices, endpoints: None }
    };
    let known = all([
        of(("all", 1, ":80/TCP"), "vip 1.2.3.1, ip 198.51.100.1, node-port 30081", BOTH),
        of(("own", 2, ":80/TCP"), "local, vip 1.2.3.2, ip 198.51.100.2, node-port 30082", BOTH),
        of(("far", 3, ":80/TCP"), "local, vip 1.2.3.3, node-port 30083", THERE),
        of(("empty", 4, ":80/TCP"), "local, vip 1.2.3.4, node-port 30084", &[]),
        of(
            ("guarded", 5, ":80/TCP"),
            "vip 1.2.3.5, ip 198.51.100.5, node-port 30085, range 203.0.113.0/25",
            BOTH,
        ),
        of(("onnode", 6, ":30081/TCP"), "vip 192.168.0.2", THERE),
        of(("shut", 7, ":80/TCP"), "vip 1.2.3.7, range 2001:db8::/32", &[]),
    ]);
    planner(policy, &known).plan().clone()
}

const POD: &str = "10.180.0.9";
const ENDPOINT: &str = "10.180.0.1";
const NODE: &str = "192.168.0.2";
const SECOND: &str = "192.168.1.2";
const OUTSIDE: &str = "203.0.113.2";
const FARTHER: &str = "203.0.113.130";

const MASQUERADED: &str = "forward 10.180.0.1:8080~ 10.180.1.1:8080~";
const KEPT: &str = "forward 10.180.0.1:8080 10.180.1.1:8080";

#[rstest]
#[case::vip("1.2.3.1:80/TCP")]
#[case::external_ip("198.51.100.1:80/TCP")]
#[case::node_port("192.168.1.2:30081/TCP")]
fn policy_cluster_masquerades_everybody(#[case] to: &str) {
    let plan = world(Policy { node_ports_at: vec![NodePortAddresses::All], ..policy() });
    for from in [POD, ENDPOINT, NODE, SECOND, OUTSIDE] {
        assert_eq!(run(&plan, from, to), MASQUERADED, "{from}");
    }
}

#[rstest]
#[case::pod(POD, KEPT)]
#[case::remote_pod("10.180.1.9", KEPT)]
#[case::hairpin(ENDPOINT, "forward 10.180.0.1:8080~ 10.180.1.1:8080")]
#[case::node(NODE, MASQUERADED)]
#[case::second_address(SECOND, MASQUERADED)]
#[case::outside(OUTSIDE, "forward 10.180.0.1:8080")]
fn policy_local_is_for_those_outside(#[case] from: &str, #[case] expected: &str) {
    for masquerade_all in [false, true] {
        let plan = world(Policy { masquerade_all, ..policy() });
        for to in ["1.2.3.2:80/TCP", "198.51.100.2:80/TCP", "192.168.0.2:30082/TCP"] {
            assert_eq!(run(&plan, from, to), expected, "{to}");
        }
    }
}

#[rstest]
#[case::pod(POD, "forward 10.180.1.1:8080")]
#[case::node(NODE, "forward 10.180.1.1:8080~")]
#[case::outside(OUTSIDE, "drop")]
fn policy_local_without_endpoints_here(#[case] from: &str, #[case] expected: &str) {
    for to in ["1.2.3.3:80/TCP", "192.168.0.2:30083/TCP"] {
        assert_eq!(run(&world(policy()), from, to), expected, "{to}");
    }
}

#[test]
fn without_a_detector_pods_are_outside() {
    let plan = world(Policy { detect: DetectLocal::None, ..policy() });
    assert_eq!(run(&plan, POD, "1.2.3.2:80/TCP"), "forward 10.180.0.1:8080");
    assert_eq!(run(&plan, POD, "1.2.3.3:80/TCP"), "drop");
    assert_eq!(run(&plan, NODE, "1.2.3.3:80/TCP"), "forward 10.180.1.1:8080~");
    assert_eq!(run(&plan, POD, "1.2.3.1:80/TCP"), MASQUERADED);
}

#[rstest]
#[case::none("1.2.3.4:80/TCP", "reject")]
#[case::none_at_the_node_port("192.168.0.2:30084/TCP", "reject")]
#[case::other_protocol("192.168.0.2:30081/UDP", "pass")]
#[case::other_port_of_the_vip("1.2.3.1:81/TCP", "pass")]
#[case::no_node_port("192.168.0.2:30080/TCP", "pass")]
#[case::address_without_node_ports("192.168.1.2:30081/TCP", "pass")]
#[case::loopback("127.0.0.1:30081/TCP", "pass")]
#[case::node_port_of_another_node("192.168.0.3:30081/TCP", "pass")]
#[case::node_port_at_a_cluster_ip("10.254.0.1:30081/TCP", "reject")]
#[case::node_port_at_a_vip("1.2.3.1:30081/TCP", "pass")]
fn where_nothing_answers(#[case] to: &str, #[case] expected: &str) {
    for from in [POD, NODE, OUTSIDE] {
        assert_eq!(run(&world(policy()), from, to), expected, "{from}");
    }
}

#[test]
fn an_address_with_its_port_comes_before_a_node_port() {
    assert_eq!(run(&world(policy()), OUTSIDE, "192.168.0.2:30081/TCP"), "forward 10.180.1.1:8080~");
    assert_eq!(
        run(&world(policy()), OUTSIDE, "192.168.0.2:30082/TCP"),
        "forward 10.180.0.1:8080",
        "its other ports are node ports"
    );
}

#[rstest]
#[case::allowed(OUTSIDE, MASQUERADED)]
#[case::farther(FARTHER, "drop")]
#[case::pod(POD, "drop")]
#[case::node(NODE, "drop")]
fn source_ranges_guard_the_vip(#[case] from: &str, #[case] expected: &str) {
    let plan = world(policy());
    assert_eq!(run(&plan, from, "1.2.3.5:80/TCP"), expected);
    for to in ["198.51.100.5:80/TCP", "192.168.0.2:30085/TCP"] {
        assert_eq!(run(&plan, from, to), MASQUERADED, "{to}");
    }
    assert!(run(&plan, from, "10.254.0.5:80/TCP").starts_with("forward"));
}

#[test]
fn closed_by_the_other_familys_ranges_even_where_nobody_would_answer() {
    assert_eq!(run(&world(policy()), OUTSIDE, "1.2.3.7:80/TCP"), "drop");
    assert_eq!(run(&world(policy()), OUTSIDE, "10.254.0.7:80/TCP"), "reject");
}

/// The packet passes no postrouting hook.
#[test]
fn what_is_delivered_on_this_node_keeps_its_source() {
    let mut service = service("hostnet", &["10.254.0.9"], &[":80/TCP"]);
    expose(&mut service, "vip 1.2.3.9");
    let endpoints = set(&[":8080/TCP"], &["192.168.0.2 @a", "192.168.0.3 @b"]);
    let slices = [slice("hostnet-1", endpoints)].into();
    let known = all([Known { service: Some(Arc::new(service)), slices, endpoints: None }]);
    let plan = planner(policy(), &known).plan().clone();
    for to in ["10.254.0.9:80/TCP", "1.2.3.9:80/TCP"] {
        let mixed = "forward 192.168.0.2:8080 192.168.0.3:8080~";
        assert_eq!(run(&plan, OUTSIDE, to), mixed, "{to}");
        let both = "forward 192.168.0.2:8080~ 192.168.0.3:8080~";
        assert_eq!(run(&plan, SECOND, to), both, "{to}: what it sends itself leaves it first");
    }
    assert_eq!(run(&plan, POD, "10.254.0.9:80/TCP"), "forward 192.168.0.2:8080 192.168.0.3:8080");
}

/// By a listener, which the packet path does not see.
#[test]
fn loopback_addresses_are_left_to_the_listener() {
    let steps = |policy: Policy| {
        let (source, destination) = ("127.0.0.1".parse().unwrap(), "127.0.0.1".parse().unwrap());
        let protocol = Protocol::Tcp;
        let packet = Packet { source, destination, protocol, port: 30081, in_interface: None };
        let traced = trace(&world(policy), &packet).unwrap();
        assert_eq!(traced.verdict.name(), "pass");
        traced.steps.iter().map(|step| step.what.clone()).collect::<Vec<_>>().join("; ")
    };
    let on = Policy { localhost_node_ports: true, ..policy() };
    assert!(steps(on).contains("port 30081 is a node port of Service ns/all"));
    let off = Policy { localhost_node_ports: false, ..policy() };
    assert!(steps(off).contains("belongs to no service"));
}

#[test]
fn steps_tell_of_policies_and_ranges() {
    let told = |from: &str, to: &str, port: u16| {
        let (source, destination) = (from.parse().unwrap(), to.parse().unwrap());
        let packet =
            Packet { source, in_interface: None, protocol: Protocol::Tcp, destination, port };
        let steps = trace(&world(policy()), &packet).unwrap().steps;
        steps.iter().map(|s| format!("{}: {}", s.what, s.why)).collect::<Vec<_>>()
    };
    let within = |told: Vec<String>, words: &[&str]| {
        for word in words {
            assert!(told.iter().any(|step| step.contains(word)), "{word:?} is missing: {told:#?}");
        }
    };
    within(
        told(FARTHER, "1.2.3.5", 80),
        &["1.2.3.5:80/TCP is Service ns/guarded", "LoadBalancer", "loadBalancerSourceRanges"],
    );
    within(
        told(POD, "192.168.0.2", 30082),
        &["IPv4 node port 30082/TCP is Service ns/own", "NodePort", "a local pod", "is kept"],
    );
    within(told(NODE, "1.2.3.2", 80), &["this node itself", "the source becomes this node's"]);
    within(told(OUTSIDE, "1.2.3.3", 80), &["the packet is dropped", "all elsewhere"]);
    within(told(OUTSIDE, "198.51.100.1", 80), &["ExternalIP", "the source becomes this node's"]);
}
