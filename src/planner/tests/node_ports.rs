//! Which addresses of the node answer at node ports.

use super::*;
use rstest::rstest;
use std::net::IpAddr;

/// Two interfaces' worth of addresses; the Node object knows the first of each family.
fn node() -> NodeFacts {
    let parse = |list: &[&str]| list.iter().map(|ip| ip.parse().unwrap()).collect::<Vec<_>>();
    let mut interface_addresses = parse(&[
        "127.0.0.1",
        "192.168.0.2",
        "192.168.1.2",
        "10.0.0.9",
        "::1",
        "fd00::2",
        "fd00:1::2",
    ]);
    interface_addresses.sort_unstable();
    NodeFacts {
        addresses: parse(&["192.168.0.2", "fd00::2", "192.168.1.2"]),
        interface_addresses,
        ..facts()
    }
}

/// Entries as in the flag.
fn entries(text: &str) -> Vec<NodePortAddresses> {
    let entry = |word: &str| match word {
        "primary" => NodePortAddresses::Primary,
        "localhost" => NodePortAddresses::Localhost,
        "all" => NodePortAddresses::All,
        cidr => NodePortAddresses::Within(cidr.parse().unwrap()),
    };
    text.split_whitespace().map(entry).collect()
}

fn plan_of(text: &str, facts: &NodeFacts) -> NodePlan {
    Policy { node_ports_at: entries(text), ..policy() }.node_plan(facts, &[])
}

/// The addresses; then, after `+`, the families that loopback answers in.
fn told(plan: &NodePlan) -> String {
    assert!(plan.node_port_addresses.is_sorted());
    let mut words: Vec<String> = plan.node_port_addresses.iter().map(ToString::to_string).collect();
    let loopback = ["+4", "+6"].iter().zip(plan.localhost_node_ports).filter(|(_, on)| *on);
    words.extend(loopback.map(|(word, _)| (*word).to_owned()));
    words.join(" ")
}

const ALL4: &str = "10.0.0.9 192.168.0.2 192.168.1.2";
const ALL6: &str = "fd00::2 fd00:1::2";

#[rstest]
#[case::unset_is_primary("", "192.168.0.2 fd00::2 +4 +6".to_owned())]
#[case::primary("primary", "192.168.0.2 fd00::2".to_owned())]
#[case::all("all", format!("{ALL4} {ALL6} +4 +6"))]
#[case::localhost("localhost", "+4 +6".to_owned())]
#[case::one_family_leaves_the_other_all("192.168.0.0/24", format!("192.168.0.2 {ALL6} +6"))]
#[case::and_the_other_way_round("fd00:1::/64", format!("{ALL4} fd00:1::2 +4"))]
#[case::both("192.168.0.0/16 fd00::/64", "192.168.0.2 192.168.1.2 fd00::2".to_owned())]
#[case::no_match_is_none("172.16.0.0/12", format!("{ALL6} +6"))]
#[case::a_loopback_range("127.0.0.0/8", format!("{ALL6} +4 +6"))]
#[case::both_loopback_ranges("127.0.0.0/8 ::1/128", "+4 +6".to_owned())]
#[case::mixed("primary 10.0.0.0/8 localhost", "10.0.0.9 192.168.0.2 fd00::2 +4 +6".to_owned())]
#[case::twice("192.168.0.0/24 192.168.0.2/32 fd00::/16 primary",
    "192.168.0.2 fd00::2 fd00:1::2".to_owned())]
#[case::everything_is_no_loopback("0.0.0.0/0 ::/0", format!("{ALL4} {ALL6}"))]
fn addresses(#[case] flag: &str, #[case] expected: String) {
    assert_eq!(told(&plan_of(flag, &node())), expected);
}

#[rstest]
#[case::unset("", [true, true])]
#[case::primary("primary", [false, false])]
#[case::all("all", [true, true])]
#[case::localhost("localhost", [true, true])]
#[case::one_family_leaves_the_other_all("192.168.0.0/24", [false, true])]
#[case::everything("0.0.0.0/0 ::/0", [true, true])]
#[case::everything_of_one("0.0.0.0/0 fd00::/16", [true, false])]
fn loopback_answers_health_checks(#[case] flag: &str, #[case] expected: [bool; 2]) {
    for localhost_node_ports in [true, false] {
        let policy = Policy { node_ports_at: entries(flag), localhost_node_ports, ..policy() };
        assert_eq!(policy.node_plan(&node(), &[]).localhost_health_checks, expected);
    }
}

#[rstest]
#[case::unset("", format!("{ALL4} {ALL6} +4 +6"))]
#[case::primary("primary", format!("{ALL4} {ALL6} +4 +6"))]
#[case::range("192.168.0.0/24", format!("192.168.0.2 {ALL6} +6"))]
fn without_a_node_object(#[case] flag: &str, #[case] expected: String) {
    let facts = NodeFacts { addresses: vec![], ..node() };
    assert_eq!(told(&plan_of(flag, &facts)), expected);
}

#[test]
fn a_family_without_a_primary_address_has_all() {
    let facts = NodeFacts { addresses: vec!["192.168.0.2".parse().unwrap()], ..node() };
    assert_eq!(told(&plan_of("primary", &facts)), format!("192.168.0.2 {ALL6} +6"));
}

/// What is to be known, by family and range.
fn notes(text: &str, facts: &NodeFacts) -> String {
    let policy = Policy { node_ports_at: entries(text), ..policy() };
    let words = policy.notes(facts).into_iter().map(|note| match note {
        Note::AllAddresses(family) => format!("all {family}"),
        Note::NoAddress(net) => format!("none in {net}"),
        Note::OutsidersServed(family) => format!("outsiders at {family}"),
    });
    words.collect::<Vec<_>>().join(", ")
}

#[rstest]
#[case::unset("", "")]
#[case::both("192.168.0.0/16 fd00::/64", "")]
#[case::one("192.168.0.0/24", "all IPv6")]
#[case::the_other("fd00:1::/64", "all IPv4")]
#[case::no_match("172.16.0.0/12", "all IPv6, none in 172.16.0.0/12")]
#[case::one_of_two("10.0.0.0/8 172.16.0.0/12 fd00::/16", "none in 172.16.0.0/12")]
#[case::neither("172.16.0.0/12 fd99::/16", "none in 172.16.0.0/12, none in fd99::/16")]
#[case::loopback("127.0.0.0/8 ::1/128", "")]
#[case::all("all", "")]
fn what_the_entries_leave_open_is_told(#[case] flag: &str, #[case] expected: &str) {
    assert_eq!(notes(flag, &node()), expected);
}

#[test]
fn a_family_that_the_node_does_without_is_not_spoken_of() {
    let four = |ip: &IpAddr| ip.is_ipv4();
    let mut facts = node();
    facts.interface_addresses.retain(four);
    facts.addresses.retain(four);
    assert_eq!(notes("", &facts), "");
    assert_eq!(notes("192.168.0.0/24", &facts), "");
    assert_eq!(notes("0.0.0.0/0 ::/0", &facts), "");
    assert_eq!(notes("", &NodeFacts { addresses: vec![], ..node() }), "all IPv4, all IPv6");
}

#[test]
fn outsiders_that_nobody_can_tell_are_told_of() {
    let policy = |detect| Policy { detect, outsiders: Outsiders::Dropped, ..policy() };
    let served = |policy: Policy, facts: &NodeFacts| -> Vec<Family> {
        let of = |note| match note {
            Note::OutsidersServed(family) => Some(family),
            _ => None,
        };
        policy.notes(facts).into_iter().filter_map(of).collect()
    };
    let none = NodeFacts { pod_cidrs: vec![], ..node() };
    let one = NodeFacts { pod_cidrs: vec!["10.180.0.0/24".parse().unwrap()], ..node() };
    assert_eq!(served(policy(DetectLocal::NodeCidr), &none), [Family::V4, Family::V6]);
    assert_eq!(served(policy(DetectLocal::NodeCidr), &one), [Family::V6]);
    assert_eq!(served(policy(DetectLocal::BridgeInterface("cni0".into())), &none), []);
    let indifferent = Policy { outsiders: Outsiders::Served, ..policy(DetectLocal::NodeCidr) };
    assert_eq!(served(indifferent, &none), []);
}

#[test]
fn the_switch_turns_loopback_off() {
    for flag in ["", "all", "localhost", "192.168.0.0/24"] {
        let node_ports_at = entries(flag);
        let policy = Policy { node_ports_at, localhost_node_ports: false, ..policy() };
        assert_eq!(policy.node_plan(&node(), &[]).localhost_node_ports, [false; 2], "{flag}");
    }
}

#[test]
fn an_address_that_comes_or_goes_changes_the_node_plan_and_no_service() {
    let known = all([web(&["10.180.0.1 @a"], |service| expose(service, "node-port 30080"))]);
    let mut planner = planner(Policy { node_ports_at: entries("all"), ..policy() }, &known);
    planner.set_facts(node(), &[]);
    planner.replan(known.keys().cloned(), &known);
    let more = |facts: &mut NodeFacts| facts.interface_addresses.push("fe80::7".parse().unwrap());
    let fewer = |facts: &mut NodeFacts| facts.interface_addresses.truncate(3);
    for change in [&more as &dyn Fn(&mut NodeFacts), &fewer] {
        let mut facts = node();
        change(&mut facts);
        assert_eq!(planner.set_facts(facts, &[]), FactsChange::NodePlan);
        let delta = planner.replan([], &known);
        assert!(delta.node.is_some() && delta.services.is_empty());
    }
}
