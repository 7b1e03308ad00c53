//! Which endpoints are gone for good, when that is known, and which flows end by it.

use crate::objects::{Example, policy, service};
use rstest::rstest;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::{Duration, Instant};
use vipd::conntrack::{Departures, Flow, Former, Resets, Verdict};
use vipd::model::{
    Conditions, Family, Kind, NodeFacts, Object, Protocol, ServicePort, TrafficPolicy,
};
use vipd::planner::{FrontendAddress, FrontendKey, Plan, Planner, Target};
use vipd::sources::Change;
use vipd::store::Store;

const GRACE: Duration = Duration::from_secs(30);
const TERMINATING: Conditions = Conditions { ready: false, serving: true, terminating: true };
const SHUT_DOWN: Conditions = Conditions { ready: false, serving: false, terminating: true };

/// A node whose services change, with a clock of its own.
struct Node {
    store: Store,
    planner: Planner,
    departures: Departures,
    start: Instant,
    now: Duration,
}

impl Node {
    fn with(examples: &[Example]) -> Self {
        let mut node = Self {
            store: Store::new("node-a".into()),
            planner: Planner::new(policy(), "node-a".into()),
            departures: Departures::new(GRACE),
            start: Instant::now(),
            now: Duration::ZERO,
        };
        let facts = NodeFacts {
            name: "node-a".into(),
            interface_addresses: vec![IpAddr::from([192, 168, 0, 2])],
            ..NodeFacts::default()
        };
        node.planner.set_facts(facts, &[]);
        for example in examples {
            node.change(example.upserts());
        }
        node
    }

    fn change(&mut self, changes: Vec<Change>) {
        for change in changes {
            match change {
                Change::Upsert(object) => self.store.upsert(object),
                Change::Delete(object) => self.store.delete(&object),
                _ => unreachable!("examples only come and go"),
            }
        }
        let changed = self.store.take_dirty().services;
        let before = self.plan();
        self.planner.replan(changed.clone(), self.store.known());
        for key in changed {
            let former = Former { known: before.known.get(&key).cloned().unwrap_or_default(), key };
            self.departures.note(&former, self.planner.plan(), self.start + self.now);
        }
    }

    fn plan(&self) -> Plan {
        self.planner.plan().clone()
    }

    /// What ends within the next seconds, looked at whenever that is asked for.
    fn after(&mut self, seconds: u64) -> Resets {
        let end = self.now + Duration::from_secs(seconds);
        let mut all = Resets::default();
        while let Some(next) = self.departures.next_due().filter(|at| *at <= self.start + end) {
            let plan = self.plan();
            for (at, targets) in self.departures.due(&plan, next).0 {
                all.0.entry(at).or_default().extend(targets);
            }
            assert_ne!(self.departures.next_due(), Some(next), "it would be looked at for ever");
        }
        self.now = end;
        all
    }
}

fn web() -> Example {
    service("web", 1).endpoints(&[1, 2])
}

fn frontend(example: &Example, family: Family) -> FrontendKey {
    let at = FrontendAddress::Address(example.cluster_ip(family));
    FrontendKey { at, protocol: Protocol::Tcp, port: 80 }
}

/// Pod `host` of the example with this number.
fn pod(number: u8, host: u8) -> Target {
    Target { address: IpAddr::from([10, 180, number, host]), port: 8080 }
}

fn resets<const N: usize>(all: [(FrontendKey, Target); N]) -> Resets {
    let mut resets = Resets::default();
    for (at, target) in all {
        resets.0.entry(at).or_default().insert(target);
    }
    resets
}

/// The example, its last endpoint in another condition.
fn last_is(example: &Example, conditions: Conditions) -> Vec<Change> {
    let mut objects = example.objects();
    for object in &mut objects {
        if let Object::EndpointSlice(slice) = object {
            let set = &mut Arc::make_mut(slice).set;
            set.endpoints.last_mut().expect("it has endpoints").conditions = conditions;
        }
    }
    objects.into_iter().map(Change::Upsert).collect()
}

fn with_policy(example: &Example, internal: TrafficPolicy) -> Vec<Change> {
    let mut objects = example.objects();
    for object in &mut objects {
        if let Object::Service(service) = object {
            Arc::make_mut(service).internal_policy = internal;
        }
    }
    objects.into_iter().map(Change::Upsert).collect()
}

#[rstest]
#[case::another_is_left(web().endpoints(&[1]))]
#[case::replaced(web().endpoints(&[1, 3]))]
fn an_endpoint_that_goes_is_reset_once_after_its_time(#[case] after: Example) {
    let mut node = Node::with(&[web()]);
    assert_eq!(node.after(100), Resets::default());
    node.change(after.upserts());
    assert_eq!(node.after(29), Resets::default());
    let expected = resets([(frontend(&web(), Family::V4), pod(1, 2))]);
    assert_eq!(node.after(1), expected);
    assert_eq!(node.after(1000), Resets::default());
    assert_eq!(node.departures.next_due(), None);
}

#[test]
fn none_left_refuses_who_was_connected() {
    let mut node = Node::with(&[web()]);
    node.change(web().endpoints(&[]).upserts());
    let at = frontend(&web(), Family::V4);
    assert_eq!(node.after(30), resets([(at, pod(1, 1)), (at, pod(1, 2))]));
}

#[test]
fn a_port_number_that_went_is_gone() {
    let mut node = Node::with(&[web()]);
    node.change(web().target_port(9090).upserts());
    let at = frontend(&web(), Family::V4);
    assert_eq!(node.after(30), resets([(at, pod(1, 1)), (at, pod(1, 2))]));
}

#[test]
fn who_comes_back_in_time_is_left_alone() {
    let mut node = Node::with(&[web()]);
    node.change(web().endpoints(&[1]).upserts());
    assert_eq!(node.after(29), Resets::default());
    node.change(web().upserts());
    assert_eq!(node.after(1000), Resets::default());
    // And its time begins anew.
    node.change(web().endpoints(&[1]).upserts());
    assert_eq!(node.after(29), Resets::default());
    assert_eq!(node.after(1), resets([(frontend(&web(), Family::V4), pod(1, 2))]));
}

#[rstest]
#[case::terminating(TERMINATING)]
#[case::shut_down(SHUT_DOWN)]
#[case::not_ready(Conditions::NOT_READY)]
fn who_is_listed_is_not_gone(#[case] conditions: Conditions) {
    let mut node = Node::with(&[web()]);
    node.change(last_is(&web(), conditions));
    assert_eq!(node.after(1000), Resets::default());
    node.change(web().endpoints(&[1]).upserts());
    assert_eq!(node.after(29), Resets::default(), "its time begins when it goes");
    assert_eq!(node.after(1), resets([(frontend(&web(), Family::V4), pod(1, 2))]));
}

/// The other service has the same pods.
fn other() -> Vec<Object> {
    let mut objects = service("other", 2).objects();
    for object in &mut objects {
        if let Object::EndpointSlice(slice) = object {
            let slice = Arc::make_mut(slice);
            for same in web().objects() {
                if let Object::EndpointSlice(same) = same {
                    slice.set = same.set.clone();
                }
            }
        }
    }
    objects
}

#[test]
fn who_is_listed_elsewhere_is_not_gone() {
    let mut node = Node::with(&[web()]);
    node.change(other().into_iter().map(Change::Upsert).collect());
    node.change(web().endpoints(&[1]).upserts());
    assert_eq!(node.after(1000), Resets::default());
    node.change(service("other", 2).upserts());
    let (here, there) = (frontend(&web(), Family::V4), frontend(&service("other", 2), Family::V4));
    assert_eq!(node.after(100), resets([(here, pod(1, 2)), (there, pod(1, 2))]));
    assert_eq!(node.after(1000), Resets::default());
}

/// The Service without its slices, or these without it.
fn only(kind: Kind, changes: Vec<Change>) -> Vec<Change> {
    let of_kind = |change: &Change| match change {
        Change::Delete(object) => object.kind == kind,
        _ => false,
    };
    changes.into_iter().filter(of_kind).collect()
}

fn both_pods() -> Resets {
    let at = frontend(&web(), Family::V4);
    resets([(at, pod(1, 1)), (at, pod(1, 2))])
}

#[test]
fn the_endpoints_of_a_service_that_goes_with_its_slices_are_gone() {
    let mut node = Node::with(&[web()]);
    node.change(web().deletes());
    assert_eq!(node.after(29), Resets::default());
    assert_eq!(node.after(1), both_pods());
    assert_eq!(node.departures.next_due(), None);
}

#[test]
fn slices_that_outlive_their_service_vouch_for_its_endpoints() {
    let mut node = Node::with(&[web()]);
    node.change(only(Kind::Service, web().deletes()));
    assert_eq!(node.after(1000), Resets::default());
    node.change(only(Kind::EndpointSlice, web().deletes()));
    assert_eq!(node.after(29), Resets::default(), "its time begins with them");
    assert_eq!(node.after(1), both_pods());
    assert_eq!(node.departures.next_due(), None);
}

#[test]
fn a_service_that_comes_again_with_its_endpoints_keeps_their_connections() {
    let mut node = Node::with(&[web()]);
    node.change(web().deletes());
    assert_eq!(node.after(20), Resets::default());
    node.change(web().upserts());
    assert_eq!(node.after(1000), Resets::default());
    node.change(web().deletes());
    assert_eq!(node.after(29), Resets::default(), "its time begins anew");
    assert_eq!(node.after(1), both_pods());
}

#[test]
fn who_another_service_lists_outlives_its_own() {
    let mut node = Node::with(&[web()]);
    node.change(other().into_iter().map(Change::Upsert).collect());
    node.change(web().deletes());
    assert_eq!(node.after(1000), Resets::default());
    node.change(service("other", 2).deletes());
    let (mut all, there) = (both_pods(), frontend(&service("other", 2), Family::V4));
    all.0.insert(there, [pod(1, 1), pod(1, 2)].into());
    assert_eq!(node.after(100), all);
}

#[test]
fn connections_through_a_port_that_went_end_with_their_endpoint() {
    let mut node = Node::with(&[web()]);
    node.change(web().port(81).upserts());
    assert_eq!(node.after(1000), Resets::default(), "the endpoints are still listed");
    node.change(web().port(81).endpoints(&[1]).upserts());
    let (old, new) =
        (frontend(&web(), Family::V4), FrontendKey { port: 81, ..frontend(&web(), Family::V4) });
    assert_eq!(node.after(30), resets([(old, pod(1, 2)), (new, pod(1, 2))]));
    // Back where it was: nothing is former any more.
    node.change(web().endpoints(&[1]).upserts());
    node.change(web().endpoints(&[]).upserts());
    assert_eq!(node.after(30), resets([(new, pod(1, 1)), (old, pod(1, 1))]));
}

/// The example at a node port too.
fn exposed(example: &Example) -> Vec<Change> {
    let mut objects = example.objects();
    for object in &mut objects {
        if let Object::Service(service) = object {
            let service = Arc::make_mut(service);
            let number = NonZeroU16::new(30_080);
            let ports = service.ports.iter().cloned();
            service.ports = ports.map(|port| ServicePort { node_port: number, ..port }).collect();
        }
    }
    objects.into_iter().map(Change::Upsert).collect()
}

/// A segment to a former external address leaves the node, and nobody tells the client: its entry
/// is better than none. At a node port the node itself tells it.
#[test]
fn only_where_somebody_answers_a_deleted_services_connections_end() {
    let outside = web().outside();
    let mut node = Node::with(std::slice::from_ref(&outside));
    node.change(outside.deletes());
    assert_eq!(node.after(1000), Resets::default());
    assert_eq!(node.departures.next_due(), None);
    node.change(exposed(&outside));
    node.change(outside.deletes());
    let at = FrontendAddress::NodePort(Family::V4);
    let at = FrontendKey { at, port: 30_080, ..frontend(&web(), Family::V4) };
    assert_eq!(node.after(30), resets([(at, pod(1, 1)), (at, pod(1, 2))]));
}

/// As long as the address is a cluster IP by another port, what is no port of it is refused.
#[test]
fn a_port_that_went_is_refused_where_the_cluster_ip_stays() {
    let outside = web().outside();
    let mut node = Node::with(std::slice::from_ref(&outside));
    node.change(outside.clone().port(81).endpoints(&[1]).upserts());
    let (old, new) = (
        frontend(&outside, Family::V4),
        FrontendKey { port: 81, ..frontend(&outside, Family::V4) },
    );
    assert_eq!(node.after(30), resets([(old, pod(1, 2)), (new, pod(1, 2))]));
}

#[test]
fn who_holds_the_frontend_next_decides() {
    let next = || service("next", 1).endpoints(&[7]);
    let mut node = Node::with(&[web()]);
    node.change(web().deletes());
    node.change(with_policy(&next(), TrafficPolicy::Local));
    assert_eq!(node.after(1000), Resets::default(), "it drops what comes");
    node.change(next().upserts());
    assert_eq!(node.after(60), both_pods());
}

#[test]
fn a_frontend_that_drops_is_waited_for() {
    let mut node = Node::with(&[web()]);
    // Policy Local with endpoints elsewhere only: silence.
    node.change(with_policy(&web().endpoints(&[1]), TrafficPolicy::Local));
    assert_eq!(node.after(1000), Resets::default());
    node.change(web().endpoints(&[1]).upserts());
    assert_eq!(node.after(60), resets([(frontend(&web(), Family::V4), pod(1, 2))]));
}

#[test]
fn only_tcp_is_reset() {
    let dns = web().udp();
    let mut node = Node::with(std::slice::from_ref(&dns));
    node.change(dns.endpoints(&[]).upserts());
    assert_eq!(node.departures.next_due(), None);
}

#[test]
fn each_family_has_its_own_frontend() {
    let dual = web().dual_stack();
    let mut node = Node::with(std::slice::from_ref(&dual));
    node.change(dual.endpoints(&[1]).upserts());
    let v6: IpAddr = "fd00:180:0:1::2".parse().expect("an address");
    let expected = resets([
        (frontend(&web(), Family::V4), pod(1, 2)),
        (frontend(&web(), Family::V6), Target { address: v6, port: 8080 }),
    ]);
    assert_eq!(node.after(30), expected);
}

#[test]
fn a_repeated_change_starts_no_time_again() {
    let mut node = Node::with(&[web().endpoints(&[1, 2, 3])]);
    node.change(web().endpoints(&[1, 3]).upserts());
    assert_eq!(node.after(20), Resets::default());
    node.change(web().endpoints(&[1]).upserts());
    let at = frontend(&web(), Family::V4);
    assert_eq!(node.after(10), resets([(at, pod(1, 2))]));
    assert_eq!(node.after(20), resets([(at, pod(1, 3))]));
}

#[test]
fn who_came_back_at_the_last_moment_is_taken_out() {
    let mut node = Node::with(&[web()]);
    node.change(web().endpoints(&[]).upserts());
    let mut ending = node.after(30);
    node.change(web().endpoints(&[2]).upserts());
    ending.revise(&node.plan());
    assert_eq!(ending, resets([(frontend(&web(), Family::V4), pod(1, 1))]));
    node.change(web().upserts());
    ending.revise(&node.plan());
    assert!(ending.is_empty());
}

#[test]
fn of_all_flows_only_those_through_the_frontend_end() {
    let mut node = Node::with(&[web()]);
    node.change(web().endpoints(&[1]).upserts());
    let (ending, plan) = (node.after(30), node.plan());
    let cluster_ip = web().cluster_ip(Family::V4);
    let client = Target { address: IpAddr::from([10, 180, 9, 9]), port: 40_000 };
    let flow = |address, port, answerer| Flow {
        protocol: Protocol::Tcp,
        source: client,
        destination: Target { address, port },
        answerer,
        asker: client,
    };
    let through = flow(cluster_ip, 80, pod(1, 2));
    assert_eq!(ending.judge(&plan, &through), Verdict::Remove);
    for kept in [
        flow(cluster_ip, 80, pod(1, 1)),
        flow(cluster_ip, 80, Target { port: 8081, ..pod(1, 2) }),
        flow(cluster_ip, 81, pod(1, 2)),
        flow(IpAddr::from([10, 254, 0, 2]), 80, pod(1, 2)),
        flow(IpAddr::from([192, 168, 0, 2]), 80, pod(1, 2)),
        flow(pod(1, 2).address, 8080, pod(1, 2)),
        Flow { protocol: Protocol::Udp, ..through },
    ] {
        assert_eq!(ending.judge(&plan, &kept), Verdict::Keep, "{kept:?}");
    }
    let frontends: BTreeSet<_> = ending.0.keys().collect();
    assert_eq!(frontends.len(), 1);
}
