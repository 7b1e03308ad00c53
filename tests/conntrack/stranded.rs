//! Connections that met no rules, and whom nobody has answered since.

use crate::objects::{policy, service};
use std::net::IpAddr;
use vipd::conntrack::{Audit, Flow, Suspects, Verdict};
use vipd::model::{Family, NodeFacts, Protocol};
use vipd::planner::{Planner, Target};
use vipd::sources::Change;
use vipd::store::Store;

#[test]
fn an_audit_finds_what_passed_untranslated_to_a_frontend() {
    let web = service("web", 1).outside().endpoints(&[1]);
    let mut store = Store::new("node-a".into());
    let mut planner = Planner::new(policy(), "node-a".into());
    let facts = NodeFacts {
        name: "node-a".into(),
        interface_addresses: vec![IpAddr::from([192, 168, 0, 2])],
        ..NodeFacts::default()
    };
    planner.set_facts(facts, &[]);
    for change in web.upserts() {
        let Change::Upsert(object) = change else { unreachable!("it comes") };
        store.upsert(object);
    }
    planner.replan(store.take_dirty().services, store.known());
    let plan = planner.plan();

    let (served, other) = (web.cluster_ip(Family::V4), IpAddr::from([8, 8, 8, 8]));
    let at = |address, port| Target { address, port };
    let pod = at(IpAddr::from([10, 1, 0, 1]), 8080);
    let audit = Suspects { audit: Audit::Forward, ..Suspects::default() };
    for (protocol, destination, answerer, expected) in [
        (Protocol::Tcp, at(served, 80), at(served, 80), Verdict::Remove),
        (Protocol::Tcp, at(served, 80), pod, Verdict::Keep),
        (Protocol::Tcp, at(served, 81), at(served, 81), Verdict::Keep),
        (Protocol::Tcp, at(other, 80), at(other, 80), Verdict::Keep),
        (Protocol::Sctp, at(served, 80), at(served, 80), Verdict::Keep),
    ] {
        let source = at(IpAddr::from([10, 1, 0, 9]), 40_000);
        let flow = Flow { protocol, source, destination, answerer, asker: source };
        assert_eq!(audit.judge(plan, &flow), expected, "{protocol:?} to {destination}");
        assert_eq!(Suspects::default().judge(plan, &flow), Verdict::Keep);
    }
}
