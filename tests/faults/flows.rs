//! What is asked of the conntrack cleaner: UDP flows that a commit left stale, and no others.

use crate::bench::Bench;
use crate::fake::{Fake, FlowCall, Op};
use crate::objects::{Example, service};
use crate::{dns, web};
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;
use vipd::conntrack::Cause;
use vipd::model::{Family, Object, Protocol, ServicePort};
use vipd::planner::{FrontendAddress, FrontendKey};
use vipd::sources::Change;

const NODE_PORT: u16 = 30_053;

fn frontend(example: &Example, port: u16) -> FrontendKey {
    let at = FrontendAddress::Address(example.cluster_ip(Family::V4));
    FrontendKey { at, protocol: Protocol::Udp, port }
}

/// Nobody is there any more who answered.
fn clean(changed: &[FrontendKey], services: usize) -> FlowCall {
    let stale = changed.iter().map(|at| (*at, Cause::Changed)).collect();
    FlowCall::Clean { stale, services }
}

/// They are new there.
fn clean_appeared(appeared: &[FrontendKey], services: usize) -> FlowCall {
    let stale = appeared.iter().map(|at| (*at, Cause::Appeared)).collect();
    FlowCall::Clean { stale, services }
}

/// What one commit of these examples asks for, where web and dns are there already.
fn asked(changed: &[Example]) -> Vec<FlowCall> {
    let mut bench = Bench::started(Fake::default(), &[web(), dns()]);
    for example in changed {
        bench.take(example.upserts());
    }
    bench.work();
    assert_eq!(bench.ops(), [Op::Apply]);
    bench.flows.take()
}

#[test]
fn a_start_audits_every_flow() {
    let mut bench = Bench::new(Fake::default());
    bench.take(dns().upserts());
    bench.take(web().upserts());
    bench.ready();
    bench.work();
    assert_eq!(bench.flows.take(), [FlowCall::Audit { services: 2 }]);
}

#[test]
fn an_endpoint_that_goes_leaves_stale_flows() {
    assert_eq!(asked(&[dns().endpoints(&[1])]), [clean(&[frontend(&dns(), 53)], 2)]);
    assert_eq!(asked(&[dns().endpoints(&[2, 3])]), [clean(&[frontend(&dns(), 53)], 2)]);
    assert_eq!(asked(&[dns().endpoints(&[])]), [clean(&[frontend(&dns(), 53)], 2)]);
}

#[test]
fn a_renumbered_endpoint_leaves_stale_flows() {
    assert_eq!(asked(&[dns().target_port(5353)]), [clean(&[frontend(&dns(), 53)], 2)]);
}

#[test]
fn a_renumbered_service_leaves_stale_flows_at_its_former_port() {
    let stale = [(frontend(&dns(), 53), Cause::Changed), (frontend(&dns(), 54), Cause::Appeared)];
    let stale = stale.into_iter().collect();
    assert_eq!(asked(&[dns().port(54)]), [FlowCall::Clean { stale, services: 2 }]);
}

#[test]
fn further_endpoints_leave_nothing_stale() {
    assert_eq!(asked(&[dns().endpoints(&[1, 2, 3])]), [clean(&[], 2)]);
}

#[test]
fn nothing_is_asked_for_tcp() {
    let others = [web().endpoints(&[]), service("tcp", 3).endpoints(&[1])];
    assert_eq!(asked(&others), [clean(&[], 3)]);
}

#[test]
fn unchanged_services_are_left_alone() {
    let mail = service("mail", 3).udp().endpoints(&[1]);
    let mut bench = Bench::started(Fake::default(), &[web(), dns(), mail.clone()]);
    bench.take(dns().upserts());
    bench.take(mail.endpoints(&[]).upserts());
    bench.work();
    assert_eq!(bench.flows.take(), [clean(&[frontend(&service("mail", 3), 80)], 3)]);
}

#[test]
fn a_service_that_goes_leaves_stale_flows() {
    let mut bench = Bench::started(Fake::default(), &[web(), dns()]);
    bench.take(web().deletes());
    bench.take(dns().deletes());
    bench.work();
    assert_eq!(bench.flows.take(), [clean(&[frontend(&dns(), 53)], 0)]);
}

/// The same, at a node port too.
fn exposed(example: &Example) -> Vec<Change> {
    let mut changes = example.upserts();
    for change in &mut changes {
        if let Change::Upsert(Object::Service(service)) = change {
            let service = Arc::get_mut(service).expect("nobody else has it yet");
            let ports = service.ports.iter().cloned();
            let number = NonZeroU16::new(NODE_PORT);
            service.ports = ports.map(|port| ServicePort { node_port: number, ..port }).collect();
        }
    }
    changes
}

#[test]
fn an_address_that_comes_or_goes_leaves_stale_flows_at_node_ports() {
    let mut bench = Bench::started(Fake::default(), &[web()]);
    bench.take(exposed(&dns()));
    bench.work();
    bench.flows.take();
    let mut with = |addresses: &[&str]| {
        let parsed = addresses.iter().map(|text| text.parse().unwrap()).collect();
        bench.writer.take_addresses(parsed);
        bench.work();
        bench.flows.take()
    };
    let at = |address: [u8; 4]| FrontendKey {
        at: FrontendAddress::Address(address.into()),
        ..frontend(&dns(), NODE_PORT)
    };
    let (first, second) = (at([192, 168, 0, 2]), at([192, 168, 1, 2]));
    assert_eq!(with(&["192.168.0.2", "192.168.1.2"]), [clean_appeared(&[second], 2)]);
    assert_eq!(with(&["192.168.1.2"]), [clean(&[first], 2)]);
    assert_eq!(with(&["192.168.0.2", "192.168.1.2"]), [clean_appeared(&[first], 2)]);
    assert_eq!(with(&["192.168.0.2"]), [clean(&[second], 2)]);
    assert_eq!(with(&["192.168.0.2"]), [clean(&[], 2)]);
}

/// An audit does not know an address that is not the node's any more from somebody else's.
#[test]
fn an_address_that_went_in_a_failed_commit_is_cleaned_after_the_next() {
    let mut bench = Bench::started(Fake::default(), &[web()]);
    bench.take(exposed(&dns()));
    bench.work();
    bench.flows.take();
    bench.kernel().fail(Op::Apply, [0]);
    bench.writer.take_addresses(vec!["192.168.1.2".parse().unwrap()]);
    bench.work();
    assert_eq!(bench.flows.take(), []);
    bench.converge();
    let at = [([192, 168, 0, 2], Cause::Changed), ([192, 168, 1, 2], Cause::Appeared)];
    let stale = at.into_iter().map(|(address, cause)| {
        let at = FrontendAddress::Address(IpAddr::from(address));
        (FrontendKey { at, ..frontend(&dns(), NODE_PORT) }, cause)
    });
    let clean = FlowCall::Clean { stale: stale.collect(), services: 2 };
    assert_eq!(bench.flows.take(), [FlowCall::Audit { services: 2 }, clean]);
}

#[test]
fn both_families_of_a_service_are_cleaned() {
    let dual = service("dual", 3).udp().dual_stack().endpoints(&[1, 2]);
    let mut bench = Bench::started(Fake::default(), std::slice::from_ref(&dual));
    bench.take(dual.clone().endpoints(&[1]).upserts());
    bench.work();
    let at = Family::BOTH.map(|family| FrontendKey {
        at: FrontendAddress::Address(dual.cluster_ip(family)),
        ..frontend(&dual, 80)
    });
    assert_eq!(bench.flows.take(), [clean(&at, 1)]);
}

#[test]
fn nothing_is_asked_before_the_commit() {
    let mut bench = Bench::started(Fake::failing(Op::Apply, [0]), &[web(), dns()]);
    bench.kernel().fail(Op::Resync, 0..3);
    bench.take(dns().deletes());
    bench.work();
    for _ in 0..3 {
        assert_eq!(bench.flows.take(), []);
        bench.work_when_due();
    }
    assert_eq!(bench.flows.take(), []);
    bench.work_when_due();
    bench.assert_converged();
    assert!(bench.flows.take().contains(&FlowCall::Audit { services: 1 }));
}

/// An audit does not know a former frontend outside the service ranges from somebody else's
/// address: what a failed commit was about must be remembered.
#[test]
fn frontends_of_a_failed_commit_are_cleaned_after_the_next() {
    let doomed = dns().outside();
    let mut bench = Bench::started(Fake::failing(Op::Apply, [0]), &[web(), doomed.clone()]);
    bench.kernel().fail(Op::Resync, 0..2);
    bench.flows.connect(&bench.kernel());
    assert_eq!(bench.flows.open().len(), 2);
    bench.take(doomed.deletes());
    bench.work();
    bench.take(service("more", 3).udp().endpoints(&[1]).upserts());
    bench.converge();
    let audit = FlowCall::Audit { services: 2 };
    assert_eq!(bench.flows.take(), [audit, clean(&[frontend(&doomed, 53)], 2)]);
    assert_eq!(bench.flows.open(), []);

    bench.take(web().endpoints(&[1]).upserts());
    bench.work();
    assert_eq!(bench.flows.take(), [clean(&[], 2)], "once is enough");
}

#[test]
fn who_resets_connections_learns_what_was_before() {
    let mut bench = Bench::started(Fake::failing(Op::Apply, [0]), &[web(), dns()]);
    bench.flows.take_before();
    bench.take(web().deletes());
    bench.work();
    assert_eq!(bench.flows.take_before(), [(vec![web().key()], 2)]);
    bench.take(dns().endpoints(&[]).upserts());
    bench.converge();
    assert_eq!(bench.flows.take_before(), [(vec![dns().key()], 1)]);
}
