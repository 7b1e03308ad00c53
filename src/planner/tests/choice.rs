//! Which endpoints are used, what happens without any, and the words for it.

use super::*;
use rstest::rstest;

const L1: &str = "10.180.0.1";

#[rstest]
#[case::ready(&["10.180.0.2 ready @a", "10.180.1.1 ready @b"], "10.180.0.2:8080 10.180.1.1:8080")]
#[case::sorted(&["10.180.1.1 @b", "10.180.0.2 @a"], "10.180.0.2:8080 10.180.1.1:8080")]
#[case::not_ready(&["10.180.0.1 unready @a"], "reject")]
#[case::serving_alone_is_not_ready(&["10.180.0.1 serving @a"], "reject")]
#[case::none(&[], "reject")]
#[case::ready_though_not_serving(&["10.180.0.1 ready-not-serving @a"], "10.180.0.1:8080")]
#[case::terminating_unneeded(&["10.180.0.1 terminating @a", "10.180.1.1 @b"], "10.180.1.1:8080")]
#[case::terminating_fallback(
    &["10.180.0.1 terminating @a", "10.180.0.3 dead @a", "10.180.1.1 terminating @b"],
    "~10.180.0.1:8080 ~10.180.1.1:8080"
)]
#[case::dead(&["10.180.0.1 dead @a"], "reject")]
#[case::published_terminating(&["10.180.0.1 published-terminating @a"], "10.180.0.1:8080")]
fn cluster(#[case] endpoints: &[&str], #[case] expected: &str) {
    assert_eq!(outcome(&only_port(&web(endpoints, |_| {}))), expected);
}

#[rstest]
#[case::here(&["10.180.0.1 @a", "10.180.1.1 @b"], "10.180.0.1:8080")]
#[case::only_elsewhere(&["10.180.1.1 @b"], "drop")]
#[case::only_terminating_elsewhere(&["10.180.1.1 terminating @b"], "drop")]
#[case::not_ready_elsewhere(&["10.180.1.1 unready @b", "10.180.1.2 dead @b"], "reject")]
#[case::no_node_name_is_not_here(&["10.180.0.1"], "drop")]
#[case::terminating_here_ready_elsewhere(
    &["10.180.0.1 terminating @a", "10.180.1.1 @b"], "~10.180.0.1:8080"
)]
#[case::both_terminating_here(
    &["10.180.0.1 terminating @a", "10.180.0.2 terminating @a", "10.180.0.3 dead @a", "10.180.1.1 @b"],
    "~10.180.0.1:8080 ~10.180.0.2:8080"
)]
#[case::ready_here_first(&["10.180.0.1 terminating @a", "10.180.0.2 @a"], "10.180.0.2:8080")]
#[case::hints_do_not_apply(&["10.180.0.1 @a z:z2 n:b", "10.180.0.2 @a z:z1 n:b"], "10.180.0.1:8080 10.180.0.2:8080")]
fn policy_local(#[case] endpoints: &[&str], #[case] expected: &str) {
    assert_eq!(outcome(&only_port(&web(endpoints, local))), expected);
}

#[rstest]
#[case::zone(&["10.180.0.1 z:z1", "10.180.0.2 z:z2", "10.180.0.3 z:z2 z:z1"], "10.180.0.1:8080 10.180.0.3:8080")]
#[case::one_without(&["10.180.0.1 z:z1", "10.180.0.2 z:z2", "10.180.0.3"], "10.180.0.1:8080 10.180.0.2:8080 10.180.0.3:8080")]
#[case::none_for_us(&["10.180.0.1 z:z2", "10.180.0.2 z:z3"], "10.180.0.1:8080 10.180.0.2:8080")]
#[case::only_ready_are_asked(&["10.180.0.1 z:z1", "10.180.0.2 z:z2", "10.180.0.3 unready", "10.180.0.4 terminating"], "10.180.0.1:8080")]
#[case::ours_not_ready(&["10.180.0.1 unready z:z1", "10.180.0.2 z:z2"], "10.180.0.2:8080")]
#[case::node(&["10.180.0.1 n:a", "10.180.0.2 n:b"], "10.180.0.1:8080")]
#[case::node_before_zone(&["10.180.0.1 n:a z:z2", "10.180.0.2 n:b z:z1"], "10.180.0.1:8080")]
#[case::no_node_for_us_then_zone(&["10.180.0.1 n:c z:z2", "10.180.0.2 n:b z:z1"], "10.180.0.2:8080")]
#[case::node_hint_missing_then_zone(&["10.180.0.1 n:a z:z2", "10.180.0.2 z:z1"], "10.180.0.2:8080")]
#[case::fallback_ignores_hints(&["10.180.0.1 terminating z:z1", "10.180.0.2 terminating z:z2"], "~10.180.0.1:8080 ~10.180.0.2:8080")]
fn hints(#[case] endpoints: &[&str], #[case] expected: &str) {
    assert_eq!(outcome(&only_port(&web(endpoints, |_| {}))), expected);
}

#[test]
fn a_node_without_zone_knows_no_zone_hints() {
    let known = web(&["10.180.0.1 z:z1", "10.180.0.2 z:z2"], |_| {});
    let plan = plan_service(&known, &NodeFacts { zone: None, ..facts() }, &policy()).unwrap();
    assert_eq!(outcome(&plan.ports[0]), "10.180.0.1:8080 10.180.0.2:8080");
}

#[test]
fn hints_are_judged_per_port() {
    let mut known = web(&[], |service| {
        *service = super::service("web", &["10.254.0.41"], &["a:80/TCP", "b:81/TCP"]);
    });
    known.slices = [
        slice("web-1", set(&["a:8080/TCP", "b:8081/TCP"], &["10.180.0.1 z:z1", "10.180.0.2 z:z2"])),
        slice("web-2", set(&["b:8081/TCP"], &["10.180.0.3"])),
    ]
    .into_iter()
    .collect();
    let plan = plan_service(&known, &facts(), &policy()).unwrap();
    assert_eq!(outcome(&plan.ports[0]), "10.180.0.1:8080");
    assert_eq!(outcome(&plan.ports[1]), "10.180.0.1:8081 10.180.0.2:8081 10.180.0.3:8081");
}

#[rstest]
#[case::unready(&["10.180.0.1 unready @a"], "reject")]
#[case::dead(&["10.180.0.1 dead @a", "10.180.1.1 @b"], "10.180.1.1:8080")]
#[case::terminating(&["10.180.0.1 terminating @a", "10.180.1.1 @b"], "10.180.1.1:8080")]
fn publish_not_ready_addresses_is_for_who_writes_the_slice(
    #[case] endpoints: &[&str],
    #[case] expected: &str,
) {
    let known = web(endpoints, |service| service.publish_not_ready_addresses = true);
    assert_eq!(outcome(&only_port(&known)), expected);
}

#[rstest]
#[case::once(&["10.180.0.1 @a"], &["10.180.0.1 @a"], "10.180.0.1:8080 Here")]
#[case::non_terminating_first(&["10.180.0.1 terminating @a"], &["10.180.0.1 @b"], "10.180.0.1:8080 Elsewhere")]
#[case::unready_before_terminating(&["10.180.0.1 terminating @a"], &["10.180.0.1 unready @a"], "")]
#[case::then_local(&["10.180.0.1 @b"], &["10.180.0.1 @a"], "10.180.0.1:8080 Here")]
#[case::then_local_though_unready(&["10.180.0.1 @b"], &["10.180.0.1 unready @a"], "")]
#[case::then_slice_name(&["10.180.0.1 @b"], &["10.180.0.1 unready @b"], "10.180.0.1:8080 Elsewhere")]
#[case::then_slice_name_swapped(&["10.180.0.1 unready @b"], &["10.180.0.1 @b"], "")]
fn duplicates(#[case] first: &[&str], #[case] second: &[&str], #[case] expected: &str) {
    let mut known = web(&[], |_| {});
    let slices =
        [slice("web-1", set(&[":8080/TCP"], first)), slice("web-2", set(&[":8080/TCP"], second))];
    known.slices = slices.into_iter().collect();
    let port = only_port(&known);
    let pool =
        port.cluster.iter().map(|(target, member)| format!("{target} {:?}", member.locality));
    assert_eq!(pool.collect::<Vec<_>>().join(" "), expected);
}

#[test]
fn one_address_at_two_ports_is_two_endpoints() {
    let mut known = web(&[], |_| {});
    known.slices =
        [slice("web-1", set(&[":9443/TCP"], &[L1])), slice("web-2", set(&[":8443/TCP"], &[L1]))]
            .into_iter()
            .collect();
    assert_eq!(outcome(&only_port(&known)), "10.180.0.1:8443 10.180.0.1:9443");
}

#[test]
fn ports_match_by_name_and_protocol() {
    let ports = ["a:80/TCP", "b:81/TCP", "b:81/UDP", "c:82/SCTP"];
    let service = service("web", &["10.254.0.41"], &ports);
    let ports = ["c:8002/SCTP", "b:8001/TCP", "a:8000/TCP", "a:1/UDP", "x:2/TCP"];
    let slices = [slice("web-1", set(&ports, &[L1]))].into();
    let known = Known { service: Some(Arc::new(service)), slices, endpoints: None };
    let plan = plan_service(&known, &facts(), &policy()).unwrap();
    let outcomes = plan.ports.iter().map(|p| format!("{}/{} {}", p.port, p.protocol, outcome(p)));
    assert_eq!(
        outcomes.collect::<Vec<_>>(),
        [
            "80/TCP 10.180.0.1:8000",
            "81/TCP 10.180.0.1:8001",
            "81/UDP reject",
            "82/SCTP 10.180.0.1:8002"
        ]
    );
}

#[test]
fn each_family_has_its_own_port_plan() {
    let service = service("web", &["fd00::41", "10.254.0.41"], &[":80/TCP"]);
    let slices = [slice("web-6", set(&[":8080/TCP"], &["fd00:180::1"]))].into();
    let known = Known { service: Some(Arc::new(service)), slices, endpoints: None };
    let plan = plan_service(&known, &facts(), &policy()).unwrap();
    let ports: Vec<_> = plan.ports.iter().map(|p| (p.family, outcome(p))).collect();
    let served = "[fd00:180::1]:8080".to_owned();
    assert_eq!(ports, [(Family::V4, "reject".to_owned()), (Family::V6, served)]);
}

#[test]
fn no_service_no_plan() {
    let known = Known { service: None, ..web(&[L1], |_| {}) };
    assert_eq!(plan_service(&known, &facts(), &policy()), None);
}

#[test]
fn serving_is_told_for_udp_only_and_whatever_the_policy() {
    let endpoints = [
        "10.180.1.1 @b",
        "10.180.0.1 terminating @a",
        "10.180.0.2 dead @a",
        "10.180.0.3 serving @b",
    ];
    for (protocol, expected) in [("UDP", 3), ("TCP", 0), ("SCTP", 0)] {
        let mut service = service("web", &["10.254.0.41"], &[&format!(":80/{protocol}")]);
        service.internal_policy = TrafficPolicy::Local;
        let slices = [slice("web-1", set(&[&format!(":53/{protocol}")], &endpoints))].into();
        let known = Known { service: Some(Arc::new(service)), slices, endpoints: None };
        let port = only_port(&known);
        assert_eq!(port.serving.len(), expected, "{protocol}");
        assert!(port.serving.is_sorted());
        assert_eq!(outcome(&port), "~10.180.0.1:53");
    }
}

#[test]
fn only_the_pool_in_use_is_filled() {
    let port = only_port(&web(&["10.180.0.1 @a"], |_| {}));
    assert_eq!((port.cluster.len(), port.local.len()), (1, 0));
    let port = only_port(&web(&["10.180.0.1 @a"], local));
    assert_eq!((port.cluster.len(), port.local.len()), (0, 1));
}

#[test]
fn explain_names_the_use_of_every_mention() {
    use EndpointUse::*;
    let uses = |endpoints: &[&str], change: fn(&mut Service)| {
        let known = web(endpoints, change);
        let port = only_port(&known);
        let uses = explain(&known, &facts(), &port);
        let used: Vec<Target> = uses.iter().filter(|(_, u)| u.is_used()).map(|(t, _)| *t).collect();
        let pool = match known.service.unwrap().internal_policy {
            TrafficPolicy::Cluster => &port.cluster,
            TrafficPolicy::Local => &port.local,
        };
        assert_eq!(used, pool.keys().copied().collect::<Vec<_>>());
        uses.into_iter().map(|(_, u)| u).collect::<Vec<_>>()
    };
    let mixed = [
        "10.180.0.1 @a z:z1",
        "10.180.0.2 unready",
        "10.180.0.3 dead",
        "10.180.0.4 terminating",
        "10.180.0.5 z:z2",
        "10.180.0.5 z:z1",
    ];
    assert_eq!(
        uses(&mixed, |_| {}),
        [Used, NotReady, NotServing, TerminatingUnneeded, OtherZone, Duplicate]
    );
    assert_eq!(uses(&["10.180.0.1 n:a", "10.180.0.2 n:b"], |_| {}), [Used, OtherNode]);
    assert_eq!(
        uses(&["10.180.0.1 terminating @b", "10.180.0.2 dead"], |_| {}),
        [UsedTerminating, NotServing]
    );
    assert_eq!(
        uses(&["10.180.0.1 @a", "10.180.0.2 @b", "10.180.0.3"], local),
        [Used, NotLocal, NotLocal]
    );
    assert_eq!(
        uses(&["10.180.0.1 terminating @a", "10.180.0.2 @b"], local),
        [UsedTerminating, NotLocal]
    );
}

#[test]
fn affinity_and_masquerade_reach_the_plan() {
    let known = web(&[L1], |service| service.affinity = seconds(10));
    assert_eq!(only_port(&known).affinity, seconds(10));
    let masquerade = |policy: &Policy| {
        let plan = plan_service(&known, &facts(), policy).unwrap();
        let Action::Forward(forward) = &plan.ports[0].frontends[0].action else { panic!() };
        forward.masquerade
    };
    let v6 = DetectLocal::ClusterCidr(vec!["fd00::/16".parse().unwrap()]);
    let with = |detect| Policy { detect, ..policy() };
    assert_eq!(masquerade(&policy()), Masquerade::UnlessLocal);
    assert_eq!(masquerade(&with(DetectLocal::NodeCidr)), Masquerade::UnlessLocal);
    assert_eq!(
        masquerade(&with(DetectLocal::BridgeInterface("br0".into()))),
        Masquerade::UnlessLocal
    );
    assert_eq!(masquerade(&with(DetectLocal::None)), Masquerade::Never);
    assert_eq!(masquerade(&with(v6)), Masquerade::Never);
    assert_eq!(
        masquerade(&Policy { masquerade_all: true, ..with(DetectLocal::None) }),
        Masquerade::Always
    );
}
