//! Which frontends are suspected, and which flows go.

use crate::plans::*;
use rstest::rstest;
use std::collections::BTreeSet;
use std::sync::Arc;
use vipd::conntrack::{
    Audit, Cause, DeleteBy, Flow, Original, Phase, Query, Removal, Stale, Suspects, Verdict, judge,
    plan_removals, stale, stale_node_ports,
};
use vipd::model::{Family, Protocol};
use vipd::planner::{FrontendKey, NodePlan, Plan, PlanDelta, ServicePlan};

const VIP: &str = "10.96.0.10:53";
const A: &str = "10.1.0.1:53";
const B: &str = "10.1.0.2:53";

fn dns(serving: &[&str]) -> Arc<ServicePlan> {
    service("dns", &[VIP], serving)
}

fn flow(destination: &str, answerer: &str) -> Flow {
    let client = if destination.starts_with('[') { "[fd00:2::9]:4000" } else { "10.2.0.9:4000" };
    Flow {
        protocol: Protocol::Udp,
        source: target(client),
        destination: target(destination),
        answerer: target(answerer),
        asker: target(client),
    }
}

/// An untranslated flow, made by a packet from `source`.
fn backward(source: &str) -> Flow {
    let Flow { protocol, source: client, destination, .. } = flow(source, source);
    Flow {
        protocol,
        source: destination,
        destination: client,
        answerer: client,
        asker: destination,
    }
}

/// As `stale` tells of them: those that appeared are marked `+`.
fn told(stale: &Stale) -> Vec<(FrontendKey, Cause)> {
    stale.iter().collect()
}

/// `+` before a frontend that appeared.
fn marked(text: &str) -> (FrontendKey, Cause) {
    match text.strip_prefix('+') {
        Some(text) => (frontend(text), Cause::Appeared),
        None => (frontend(text), Cause::Changed),
    }
}

#[rstest]
#[case::endpoint_added(vec![dns(&[A])], vec![dns(&[A, B])], &[])]
#[case::first_endpoint(vec![dns(&[])], vec![dns(&[A])], &[])]
#[case::endpoint_gone(vec![dns(&[A, B])], vec![dns(&[B])], &[VIP])]
#[case::endpoint_replaced(vec![dns(&[A])], vec![dns(&[B])], &[VIP])]
#[case::renumbered(vec![dns(&[A])], vec![dns(&["10.1.0.1:5353"])], &[VIP])]
#[case::scaled_to_zero(vec![dns(&[A])], vec![dns(&[])], &[VIP])]
#[case::deleted(vec![dns(&[A])], vec![], &[VIP])]
#[case::deleted_without_endpoints(vec![dns(&[])], vec![], &[VIP])]
#[case::appeared(vec![], vec![dns(&[A])], &["+10.96.0.10:53"])]
#[case::moved(vec![dns(&[A])], vec![service("dns", &["10.96.0.11:53"], &[A])], &[VIP, "+10.96.0.11:53"])]
#[case::second_frontend_gone(
    vec![service("dns", &[VIP, "node:30053"], &[A])], vec![dns(&[A])], &["node:30053"])]
#[case::endpoint_gone_for_all_frontends(
    vec![service("dns", &[VIP, "node:30053"], &[A, B])],
    vec![service("dns", &[VIP, "node:30053"], &[A])], &[VIP, "node:30053"])]
#[case::other_holder(
    vec![dns(&[A]), lost(&service("older", &[VIP], &[A]), "dns")],
    vec![lost(&dns(&[A]), "older"), service("older", &[VIP], &[A])], &[VIP])]
#[case::loser_changes(
    vec![dns(&[A]), lost(&service("z", &[VIP], &[B]), "dns")],
    vec![dns(&[A]), lost(&service("z", &[VIP], &[]), "dns")], &[])]
#[case::to_the_relay(vec![dns(&[A])], vec![relayed(&dns(&[A]))], &[VIP])]
#[case::from_the_relay(vec![relayed(&dns(&[A]))], vec![dns(&[A])], &["+10.96.0.10:53"])]
#[case::endpoint_gone_behind_the_relay(
    vec![relayed(&dns(&[A, B]))], vec![relayed(&dns(&[A]))], &[VIP])]
#[case::tcp(
    vec![of_protocol(Protocol::Tcp, "web", &["10.96.0.12:80"], &[A])], vec![], &[])]
#[case::sctp(
    vec![of_protocol(Protocol::Sctp, "web", &["10.96.0.12:80"], &[A])], vec![], &[])]
fn suspected(
    #[case] old: Vec<Arc<ServicePlan>>,
    #[case] new: Vec<Arc<ServicePlan>>,
    #[case] expected: &[&str],
) {
    let mut expected: Vec<_> = expected.iter().map(|text| marked(text)).collect();
    expected.sort();
    assert_eq!(told(&stale(&delta(&old, &new))), expected);
}

#[test]
fn what_appeared_and_changed_since_has_appeared() {
    let mut stale: Stale = [marked("+10.96.0.10:53")].into_iter().collect();
    stale.extend([marked(VIP), marked("10.96.0.11:53")]);
    assert_eq!(told(&stale), [marked("+10.96.0.10:53"), marked("10.96.0.11:53")]);
    stale.extend([marked("+10.96.0.11:53")]);
    assert_eq!(told(&stale), [marked("+10.96.0.10:53"), marked("+10.96.0.11:53")]);
}

/// The frontends suspected where node ports answered at the first addresses, and do at the second.
fn moved(
    old: &[Arc<ServicePlan>],
    new: &[Arc<ServicePlan>],
    at: [&[&str]; 2],
) -> Vec<(FrontendKey, Cause)> {
    let [former, node] = at.map(|at| {
        let addresses = at.iter().map(|text| text.parse().expect("an address")).collect();
        NodePlan { node_port_addresses: addresses, ..(*Plan::empty().node).clone() }
    });
    let plan = Plan { node: Arc::new(node), ..plan(new) };
    let node = Some(Arc::clone(&plan.node));
    told(&stale_node_ports(&former, &PlanDelta { node, ..delta(old, new) }, &plan))
}

#[test]
fn node_ports_are_suspected_at_addresses_that_left_or_came() {
    let all = [
        service("dns", &[VIP, "node:30053"], &[A]),
        service("more", &["10.96.0.11:53", "node:30054"], &[A]),
        service("dns6", &["node6:30053"], &["[fd00:1::1]:53"]),
        of_protocol(Protocol::Tcp, "web", &["node:30080"], &[A]),
        of_protocol(Protocol::Sctp, "sctp", &["node6:30080"], &[A]),
    ];
    let at = |old, new| moved(&all, &all, [old, new]);
    let here = ["192.0.2.1", "2001:db8::1"];
    assert_eq!(at(&here, &here), []);
    let both = |address: &str| [30053, 30054].map(|port| marked(&format!("{address}:{port}")));
    assert_eq!(at(&here, &["192.0.2.1", "192.0.2.9", "2001:db8::1"]), both("+192.0.2.9"));
    assert_eq!(at(&here, &here[1..]), both("192.0.2.1"));
    let replaced = at(&here, &["192.0.2.1", "2001:db8::9"]);
    assert_eq!(replaced, [marked("[2001:db8::1]:30053"), marked("+[2001:db8::9]:30053")]);
}

#[test]
fn a_node_port_that_goes_with_the_address_is_suspected_there_too() {
    let old = [service("dns", &["node:30053"], &[A])];
    assert_eq!(moved(&old, &[], [&["192.0.2.1"], &[]]), [marked("192.0.2.1:30053")]);
    let tcp = [of_protocol(Protocol::Tcp, "web", &["node:30053"], &[A])];
    assert_eq!(moved(&tcp, &[], [&["192.0.2.1"], &[]]), []);
}

/// What was translated at an address that is none for node ports any more; and what was not, where
/// it has become one.
#[test]
fn flows_at_moved_addresses_are_told_by_their_translation() {
    let dns = service("dns", &["node:30053"], &[A]);
    let suspects = Suspects {
        frontends: [marked("198.51.100.1:30053"), marked("+192.0.2.1:30053")].into(),
        audit: Audit::No,
    };
    let plan = plan(&[dns]);
    for (destination, answerer, expected) in [
        ("198.51.100.1:30053", A, Verdict::Remove),
        ("198.51.100.1:30053", "198.51.100.1:30053", Verdict::Keep),
        ("192.0.2.1:30053", A, Verdict::Keep),
        ("192.0.2.1:30053", "192.0.2.1:30053", Verdict::Remove),
    ] {
        let verdict = suspects.judge(&plan, &flow(destination, answerer));
        assert_eq!(verdict, expected, "{destination} answered by {answerer}");
    }
}

/// What every flow of a table deserves, in an audit and as a suspect.
#[rstest]
#[case::served(VIP, A, Verdict::Keep)]
#[case::gone(VIP, B, Verdict::Remove)]
#[case::other_port_of_endpoint(VIP, "10.1.0.1:54", Verdict::Remove)]
#[case::untranslated(VIP, VIP, Verdict::Remove)]
#[case::other_service_port("10.96.0.10:54", A, Verdict::Remove)]
#[case::former_service("10.96.7.7:53", A, Verdict::Remove)]
#[case::never_translated("10.96.7.7:53", "10.96.7.7:53", Verdict::Keep)]
#[case::foreign("8.8.8.8:53", "8.8.8.8:53", Verdict::Keep)]
#[case::foreign_translated("203.0.113.5:53", A, Verdict::Keep)]
#[case::node_port_served("192.0.2.1:30053", A, Verdict::Keep)]
#[case::node_port_gone("192.0.2.1:30053", B, Verdict::Remove)]
#[case::node_port_elsewhere("198.51.100.1:30053", B, Verdict::Keep)]
#[case::node_port_loopback("127.0.0.1:30053", "127.0.0.1:30053", Verdict::Keep)]
#[case::node_address_other_port("192.0.2.1:30054", B, Verdict::Keep)]
#[case::v6_served("[fd00:96::10]:53", "[fd00:1::1]:53", Verdict::Keep)]
#[case::v6_gone("[fd00:96::10]:53", "[fd00:1::2]:53", Verdict::Remove)]
#[case::v6_former("[fd00:96::77]:53", "[fd00:1::1]:53", Verdict::Remove)]
#[case::v6_node_port("[2001:db8::1]:30053", "[fd00:1::1]:53", Verdict::Keep)]
#[case::external_on_node_port("192.0.2.1:31000", B, Verdict::Keep)]
#[case::external_on_node_port_gone("192.0.2.1:31000", A, Verdict::Remove)]
fn audited(#[case] destination: &str, #[case] answerer: &str, #[case] expected: Verdict) {
    let plan = plan(&[
        service("dns", &[VIP, "node:30053", "node:31000"], &[A]),
        service("dns6", &["[fd00:96::10]:53", "node6:30053"], &["[fd00:1::1]:53"]),
        // An external address and port that is also a node port: the address is met first.
        service("external", &["192.0.2.1:31000"], &[B]),
    ]);
    let flow = flow(destination, answerer);
    assert_eq!(judge(&plan, &flow), expected);
    for protocol in [Protocol::Tcp, Protocol::Sctp] {
        assert_eq!(judge(&plan, &Flow { protocol, ..flow }), Verdict::Keep);
    }
    let audit = Suspects { audit: Audit::All, ..Suspects::default() };
    assert_eq!(audit.judge(&plan, &flow), expected);
    let tcp = Flow { protocol: Protocol::Tcp, ..flow };
    assert_eq!(audit.judge(&plan, &tcp), Verdict::Keep, "nobody serves it by TCP");
    assert_eq!(Suspects::default().judge(&plan, &flow), Verdict::Keep);
}

#[test]
fn only_suspects_go_and_the_newest_plan_decides() {
    let suspects = Suspects {
        frontends: [VIP, "203.0.113.5:53", "node:31000"].map(marked).into(),
        audit: Audit::No,
    };
    let before = plan(&[dns(&[A])]);
    assert_eq!(suspects.judge(&before, &flow(VIP, B)), Verdict::Remove);
    assert_eq!(suspects.judge(&plan(&[dns(&[A, B])]), &flow(VIP, B)), Verdict::Keep);
    assert_eq!(suspects.judge(&before, &flow("10.96.7.7:53", B)), Verdict::Keep);
    // A former external address is in no service range: only the suspicion reaches it.
    assert_eq!(suspects.judge(&before, &flow("203.0.113.5:53", A)), Verdict::Remove);
    assert_eq!(suspects.judge(&before, &flow("192.0.2.1:31000", A)), Verdict::Remove);
    // Nobody holds these any more: what passes there as it is may be a process of the node's.
    for nobodys in ["203.0.113.5:53", "192.0.2.1:31000"] {
        assert_eq!(suspects.judge(&before, &flow(nobodys, nobodys)), Verdict::Keep, "{nobodys}");
    }
    // A cluster IP can be nobody else's.
    assert_eq!(suspects.judge(&plan(&[]), &flow(VIP, VIP)), Verdict::Remove);
    let held = plan(&[service("external", &["192.0.2.1:31000"], &[A])]);
    assert_eq!(suspects.judge(&held, &flow("192.0.2.1:31000", A)), Verdict::Keep);
    let tcp = Flow { protocol: Protocol::Tcp, ..flow(VIP, B) };
    assert_eq!(suspects.judge(&before, &tcp), Verdict::Keep);
}

fn removals(frontends: &[&str], by: DeleteBy) -> Vec<Removal> {
    let plan = plan(&[
        dns(&[A]),
        service("empty", &["10.96.0.20:53"], &[]),
        service("node", &["node:30053"], &[A]),
    ]);
    let frontends = frontends.iter().map(|text| marked(text)).collect();
    let suspects = Suspects { frontends, audit: Audit::No };
    plan_removals(&suspects, &plan, by).into_iter().collect()
}

fn judged(family: Family, original: Original) -> Removal {
    Removal::Judged(Query { family, protocol: Protocol::Udp, original, phase: Phase::Open })
}

#[test]
fn the_kernel_is_asked_as_narrowly_as_it_understands() {
    let v4 = |text: &str| match target(text) {
        vipd::planner::Target { address: std::net::IpAddr::V4(address), port } => (address, port),
        _ => panic!("IPv4"),
    };
    let (address, port) = v4(VIP);
    assert_eq!(
        removals(&[VIP], DeleteBy::Filter),
        [judged(Family::V4, Original::To(address, port))]
    );
    let (address, port) = v4("10.96.0.20:53");
    assert_eq!(
        removals(&["10.96.0.20:53"], DeleteBy::Filter),
        [Removal::Everything(address, port)]
    );
    assert_eq!(
        removals(&["10.96.0.20:53"], DeleteBy::Entry),
        [judged(Family::V4, Original::To(address, port))]
    );
    let (address, port) = v4("10.96.0.99:53");
    assert_eq!(
        removals(&["10.96.0.99:53"], DeleteBy::Filter),
        [Removal::Everything(address, port)]
    );
    // An external address that went, where node port 30053 has endpoints: they keep their flows.
    let (address, port) = v4("192.0.2.1:30053");
    assert_eq!(
        removals(&["192.0.2.1:30053"], DeleteBy::Filter),
        [judged(Family::V4, Original::To(address, port))]
    );
    // One outside the service ranges that went: flows of who else has it stay.
    let (address, port) = v4("203.0.113.5:53");
    assert_eq!(
        removals(&["203.0.113.5:53"], DeleteBy::Filter),
        [judged(Family::V4, Original::To(address, port))]
    );
    assert_eq!(
        removals(&["[fd00:96::10]:53", "[fd00:96::11]:53", "node:30053"], DeleteBy::Filter),
        [judged(Family::V4, Original::ToPort(30053)), judged(Family::V6, Original::ToPort(53)),]
    );
}

/// The kernel is told one end of a flow: those that it has the other way round are another question.
#[test]
fn where_a_frontend_appeared_both_ends_are_asked_for() {
    let address = [10, 96, 0, 10].into();
    assert_eq!(
        removals(&["+10.96.0.10:53"], DeleteBy::Filter),
        [Original::To(address, 53), Original::From(address, 53)].map(|q| judged(Family::V4, q))
    );
    assert_eq!(
        removals(&["+[fd00:96::10]:53"], DeleteBy::Filter),
        [Original::ToPort(53), Original::FromPort(53)].map(|q| judged(Family::V6, q))
    );
    assert_eq!(
        removals(&["+node:30053"], DeleteBy::Filter),
        [Original::ToPort(30053), Original::FromPort(30053)].map(|q| judged(Family::V4, q))
    );
    let five = (1..=5).map(|i| format!("+10.96.1.{i}:53")).collect::<Vec<_>>();
    let five: Vec<&str> = five.iter().map(String::as_str).collect();
    assert_eq!(removals(&five, DeleteBy::Entry), [judged(Family::V4, Original::Any)]);
}

#[test]
fn a_flow_that_conntrack_has_the_other_way_round_is_no_better() {
    let node_port = "192.0.2.1:30053";
    let dns = service("dns", &[VIP, "node:30053"], &[A]);
    // One whose endpoint is a process of this node at the frontend's own address.
    let own = service("own", &["192.0.2.1:53"], &["192.0.2.1:53"]);
    let plan = plan(&[dns, own, service("empty", &["10.96.0.20:53"], &[])]);
    let snat = Flow { asker: target("192.0.2.1:61000"), ..backward(node_port) };
    let translated = Flow { answerer: target(A), ..backward(node_port) };
    let tcp = Flow { protocol: Protocol::Tcp, ..backward(VIP) };
    for (flow, expected) in [
        (backward(node_port), Verdict::Remove),
        (backward(VIP), Verdict::Remove),
        (backward("10.96.0.20:53"), Verdict::Remove),
        (backward("192.0.2.1:30054"), Verdict::Keep),
        (backward("198.51.100.1:30053"), Verdict::Keep),
        (backward("10.96.0.99:53"), Verdict::Keep),
        (backward("192.0.2.1:53"), Verdict::Keep),
        (snat, Verdict::Keep),
        (translated, Verdict::Keep),
        (tcp, Verdict::Keep),
    ] {
        let all = [VIP, "10.96.0.20:53", "10.96.0.99:53", "192.0.2.1:53", "node:30053"];
        let frontends = all.map(|text| (frontend(text), Cause::Appeared)).into();
        let appeared = Suspects { frontends, audit: Audit::No };
        assert_eq!(appeared.judge(&plan, &flow), expected, "{flow:?}");
        let audit = Suspects { audit: Audit::All, ..Suspects::default() };
        assert_eq!((audit.judge(&plan, &flow), judge(&plan, &flow)), (expected, expected));
        // Endpoints that go leave no such flow; and whoever makes them for ever is let alone.
        let changed = Suspects { frontends: all.map(marked).into(), audit: Audit::Forward };
        assert_eq!(changed.judge(&plan, &flow), Verdict::Keep, "{flow:?}");
    }
}

#[test]
fn many_suspects_share_one_walk_per_family() {
    let v4: Vec<_> = (1..=20).map(|i| format!("10.96.1.{i}:53")).collect();
    let mut all: Vec<_> = v4.iter().map(String::as_str).collect();
    assert_eq!(removals(&all, DeleteBy::Filter), [judged(Family::V4, Original::Any)]);
    all.push("[fd00:96::10]:53");
    let both: BTreeSet<_> = Family::BOTH.map(|f| judged(f, Original::Any)).into();
    assert_eq!(removals(&all, DeleteBy::Filter), both.iter().copied().collect::<Vec<_>>());
    let audit = Suspects { audit: Audit::All, ..Suspects::default() };
    let unanswered = Family::BOTH.map(|family| {
        let (original, phase) = (Original::Any, Phase::Unanswered);
        Removal::Judged(Query { family, protocol: Protocol::Tcp, original, phase })
    });
    let all: BTreeSet<_> = both.into_iter().chain(unanswered).collect();
    assert_eq!(plan_removals(&audit, &plan(&[]), DeleteBy::Filter), all);
}

/// The relay's clients are translated nowhere, and are let alone the other way round too.
#[test]
fn at_a_relayed_frontend_what_is_translated_goes() {
    let suspects = Suspects { frontends: [marked("+10.96.0.10:53")].into(), audit: Audit::No };
    let audit = Suspects { audit: Audit::All, ..Suspects::default() };
    let open = plan(&[relayed(&dns(&[A]))]);
    let own = |flow: Flow| Flow { source: target("192.0.2.1:4000"), ..flow };
    let guarded = plan(&[guarded(&relayed(&dns(&[A])))]);
    for (plan, flow, expected) in [
        (&open, flow(VIP, VIP), Verdict::Keep),
        (&open, flow(VIP, A), Verdict::Remove),
        (&open, own(flow(VIP, A)), Verdict::Remove),
        (&open, backward(VIP), Verdict::Keep),
        (&guarded, flow(VIP, VIP), Verdict::Keep),
        (&guarded, flow(VIP, A), Verdict::Remove),
        (&guarded, own(flow(VIP, A)), Verdict::Keep),
        (&guarded, own(flow(VIP, B)), Verdict::Remove),
    ] {
        for all in [&suspects, &audit] {
            assert_eq!(all.judge(plan, &flow), expected, "{flow:?}");
        }
        assert_eq!(judge(plan, &flow), expected, "{flow:?}");
    }
}

#[test]
fn flows_through_a_relay_without_endpoints_are_not_deleted_unseen() {
    let plan = plan(&[relayed(&dns(&[]))]);
    let suspects = Suspects { frontends: [marked(VIP)].into(), audit: Audit::No };
    let steps = plan_removals(&suspects, &plan, DeleteBy::Filter);
    assert!(steps.iter().all(|step| matches!(step, Removal::Judged(_))), "{steps:?}");
}
