//! The node plan, and what new facts put out of date.

use super::*;
use ipnet::IpNet;

fn nets(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn detectors_take_the_first_cidr_of_each_family() {
    let cidr = |text: &str| LocalDetector::Cidr(text.parse().unwrap());
    let both = nets(&["fd00::/64", "10.1.0.0/16", "10.2.0.0/16", "fd01::/64"]);
    let plan = |detect| Policy { detect, ..policy() }.node_plan(&facts(), &[]);

    let cluster = plan(DetectLocal::ClusterCidr(both));
    assert_eq!(cluster.local_v4, cidr("10.1.0.0/16"));
    assert_eq!(cluster.local_v6, cidr("fd00::/64"));

    let node = plan(DetectLocal::NodeCidr);
    assert_eq!(node.local_v4, cidr("10.180.0.0/24"), "host bits are cleared");
    assert_eq!(node.local_v6, LocalDetector::None);

    let bridge = plan(DetectLocal::BridgeInterface("cni0".into()));
    assert_eq!(bridge.local_v4, LocalDetector::Interface("cni0".into()));
    assert_eq!(bridge.local_v6, bridge.local_v4);

    let prefix = plan(DetectLocal::InterfaceNamePrefix("veth".into()));
    assert_eq!(prefix.local_v6, LocalDetector::InterfacePrefix("veth".into()));
    assert_eq!(plan(DetectLocal::None).local_v4, LocalDetector::None);
}

#[test]
fn service_ranges_are_united() {
    let policy = Policy { service_ranges: nets(&["fd00::/108", "10.254.0.0/16"]), ..policy() };
    let objects =
        nets(&["10.254.7.9/24", "10.254.0.0/16", "10.0.0.0/24", "10.0.1.0/24", "fd00::5/112"]);
    let ranges = policy.node_plan(&facts(), &objects).service_ranges;
    assert_eq!(ranges, nets(&["10.0.0.0/24", "10.0.1.0/24", "10.254.0.0/16", "fd00::/108"]));
}

#[test]
fn facts_put_out_of_date_only_what_depends_on_them() {
    let policy = Policy { detect: DetectLocal::NodeCidr, ..policy() };
    let known = all([web(&["10.180.0.1 @a"], |_| {})]);
    let mut planner = planner(policy, &known);
    let mut set = |change: fn(&mut NodeFacts), cidrs: &[&str]| {
        let mut facts = facts();
        change(&mut facts);
        let change = planner.set_facts(facts, &nets(cidrs));
        (change, planner.replan([], &known).node.is_some())
    };
    assert_eq!(set(|_| {}, &[]), (FactsChange::Nothing, false));
    assert_eq!(set(|f| f.interface_addresses.clear(), &[]), (FactsChange::NodePlan, true));
    assert_eq!(set(|f| f.pod_cidrs.clear(), &[]), (FactsChange::NodePlan, true));
    assert_eq!(set(|f| f.pod_cidrs.clear(), &["10.9.0.0/16"]), (FactsChange::NodePlan, true));
    assert_eq!(set(|f| f.zone = None, &[]), (FactsChange::Services, true));
    assert_eq!(set(|_| {}, &[]), (FactsChange::Services, false));
    assert_eq!(set(|f| f.name = "b".into(), &[]), (FactsChange::Services, false));
}

#[test]
fn the_first_delta_carries_the_node_plan() {
    let mut planner = Planner::new(policy(), "a".into());
    let delta = planner.replan([], &all([]));
    assert_eq!(delta.node.as_ref(), Some(&planner.plan().node));
    assert!(planner.replan([], &all([])).is_empty());
}

#[test]
fn a_new_zone_is_followed_when_all_is_replanned() {
    let known = all([web(&["10.180.0.1 z:z1", "10.180.0.2 z:z2"], |_| {})]);
    let mut planner = planner(policy(), &known);
    let facts = NodeFacts { zone: Some("z2".into()), ..facts() };
    assert_eq!(planner.set_facts(facts, &[]), FactsChange::Services);
    let delta = planner.replan(known.keys().cloned(), &known);
    assert_eq!(outcome(&delta.services[0].new.as_ref().unwrap().ports[0]), "10.180.0.2:8080");
}

/// Who claims what, what is held ready of services, the plans and the node's.
fn told(planner: &Planner) -> String {
    let plan = planner.plan();
    let claims: Vec<_> = plan.claims.iter().collect();
    let services: Vec<_> = plan.services().collect();
    format!(
        "{claims:#?}\n{services:#?}\n{:#?}\n{:#?}\n{:#?}",
        plan.udp, plan.health_checks, plan.node
    )
}

#[test]
fn a_new_policy_gives_the_plan_that_it_would_have_from_nothing() {
    let exposed = |name: &str, ip: &str| {
        let mut service = service(name, &[ip], &[":80/TCP", "dns:53/UDP"]);
        expose(&mut service, "ip 198.51.100.7,vip 1.2.3.4,node-port 30080");
        let set = set(&[":8080/TCP", "dns:53/UDP"], &["10.180.0.1 @a", "10.180.1.1 @b"]);
        let slices = [slice(&format!("{name}-1"), set)].into();
        Known { service: Some(Arc::new(service)), slices, endpoints: None }
    };
    let known = all([exposed("one", "10.254.0.1"), exposed("two", "10.254.0.2")]);
    let policies = [
        policy(),
        Policy { masquerade_all: true, ..policy() },
        Policy { mode: ProxyMode::Userspace, ..policy() },
        Policy { external_ips: ExternalIps::Ignored, ..policy() },
        Policy { detect: DetectLocal::None, localhost_node_ports: false, ..policy() },
        Policy { node_ports_at: vec![NodePortAddresses::All], drop_invalid: false, ..policy() },
        Policy { outsiders: Outsiders::Dropped, service_ranges: nets(&["10.0.0.0/8"]), ..policy() },
    ];
    for (from, to) in policies.iter().flat_map(|from| policies.iter().map(move |to| (from, to))) {
        for following_from in [1, 1000] {
            let mut changing =
                Planner::new(from.clone(), "a".into()).following_from(following_from);
            changing.set_facts(facts(), &[]);
            changing.replan(known.keys().cloned(), &known);
            let before: Vec<_> = changing.plan().services().map(Arc::new).collect();
            changing.set_policy(to.clone());
            let change = changing.set_facts(facts(), &[]);
            assert_eq!(change == FactsChange::Services, from != to, "{from:?} {to:?}");
            let delta = changing.replan(known.keys().cloned(), &known);
            for one in &delta.services {
                assert!(before.contains(one.old.as_ref().unwrap()), "{from:?} {to:?}: {one:?}");
            }
            assert_eq!(delta.is_empty(), from == to, "{from:?} {to:?}");
            assert_eq!(told(&changing), told(&planner(to.clone(), &known)), "{from:?} {to:?}");
        }
    }
}
