//! The writer against a dataplane that fails on purpose.

#[path = "faults/fake.rs"]
mod fake;
mod objects;

use fake::{Fake, FlowCall, Flows, Op};
use objects::{Example, policy, service};
use std::time::{Duration, Instant};
use vipd::model::{Family, Kind, Protocol};
use vipd::planner::{FrontendAddress, FrontendKey};
use vipd::sources::{Batch, Change};
use vipd::sync::{Settings, Snapshot, Writer};

const KINDS: [Kind; 5] =
    [Kind::Service, Kind::EndpointSlice, Kind::Endpoints, Kind::Node, Kind::ServiceCidr];
/// More tries than any script here lets fail.
const PATIENCE: usize = 64;

struct Bench {
    writer: Writer<Fake, Flows>,
    flows: Flows,
}

impl Bench {
    fn new(fake: Fake) -> Self {
        let settings = Settings {
            node_name: "node-a".into(),
            policy: policy(),
            min_sync_period: Duration::ZERO,
        };
        let flows = Flows::default();
        Self { writer: Writer::new(settings, fake, flows.clone()), flows }
    }

    /// With these services programmed by the first resync, and an empty log.
    fn started(fake: Fake, services: &[Example]) -> Self {
        let mut bench = Self::new(fake);
        for service in services {
            bench.take(service.upserts());
        }
        bench.ready();
        bench.work();
        bench.converge();
        bench.fake().calls.clear();
        bench.flows.take();
        bench
    }

    fn take(&mut self, changes: Vec<Change>) {
        self.writer.take(Batch { changes, seen: Instant::now() });
    }

    fn ready(&mut self) {
        self.take(KINDS.map(Change::Synced).into());
        self.writer.take_addresses(vec!["192.168.0.2".parse().unwrap()]);
    }

    fn work(&mut self) {
        self.writer.work(Instant::now());
    }

    /// Works at the moment that the schedule names, without waiting for it.
    fn work_when_due(&mut self) {
        let due = self.writer.schedule().wake_at().expect("something is to be done");
        self.writer.work(due);
    }

    /// Works until nothing is wrong any more.
    fn converge(&mut self) {
        let mut tries = 0;
        while self.status().last_error.is_some() {
            tries += 1;
            assert!(tries < PATIENCE, "no success: {:?}", self.status());
            self.work_when_due();
        }
        self.assert_converged();
    }

    /// The fake holds what is planned, and what is planned is what is known.
    fn assert_converged(&mut self) {
        let snapshot = self.snapshot();
        assert_eq!(snapshot.status.last_error, None);
        assert_eq!(self.fake().services, snapshot.plan.services);
        assert_eq!(self.fake().node.as_ref(), Some(&snapshot.plan.node));
        let planned: Vec<_> = snapshot.plan.services.keys().collect();
        let known = snapshot.known.iter().filter(|(_, known)| known.service.is_some());
        assert_eq!(planned, known.map(|(key, _)| key).collect::<Vec<_>>());
    }

    fn fake(&mut self) -> &mut Fake {
        self.writer.dataplane()
    }

    fn ops(&mut self) -> Vec<Op> {
        self.fake().calls.iter().map(|call| call.op).collect()
    }

    fn snapshot(&self) -> Snapshot {
        Snapshot::clone(&self.writer.published().load())
    }

    fn status(&self) -> vipd::sync::SyncStatus {
        self.snapshot().status
    }
}

fn web() -> Example {
    service("web", 1).endpoints(&[1, 2])
}

fn dns() -> Example {
    service("dns", 2).udp().port(53).endpoints(&[1, 2])
}

fn frontend(example: &Example, port: u16) -> FrontendKey {
    let at = FrontendAddress::Address(example.cluster_ip(Family::V4));
    FrontendKey { at, protocol: Protocol::Udp, port }
}

#[test]
fn nothing_is_written_before_every_kind_and_the_addresses_are_known() {
    for missing in KINDS {
        let mut bench = Bench::new(Fake::default());
        bench.take(web().upserts());
        for kind in KINDS.into_iter().filter(|kind| *kind != missing) {
            bench.take(vec![Change::Synced(kind)]);
            bench.work();
        }
        bench.writer.take_addresses(vec![]);
        bench.work();
        assert_eq!(bench.ops(), [], "{missing:?} is not complete");
        assert!(!bench.status().synced);
        bench.take(vec![Change::Synced(missing)]);
        bench.work();
        assert_eq!(bench.ops(), [Op::Resync, Op::Subscribe], "{missing:?} is complete");
        assert!(bench.status().synced);
        bench.assert_converged();
    }
}

#[test]
fn nothing_is_written_before_the_addresses_are_known() {
    let mut bench = Bench::new(Fake::default());
    bench.take(web().upserts());
    bench.take(KINDS.map(Change::Synced).into());
    bench.work();
    assert_eq!(bench.ops(), []);
    bench.writer.take_addresses(vec!["192.168.0.2".parse().unwrap()]);
    bench.work();
    assert_eq!(bench.ops(), [Op::Resync, Op::Subscribe]);
    bench.assert_converged();
}

#[test]
fn an_equal_object_leads_to_no_apply() {
    let mut bench = Bench::started(Fake::default(), &[web(), dns()]);
    bench.take(web().upserts());
    bench.take(vec![Change::Delete(service("never", 9).objects()[0].object_ref())]);
    bench.work();
    assert_eq!(bench.ops(), []);
    bench.take(web().endpoints(&[1, 2, 3]).upserts());
    bench.work();
    assert_eq!(bench.ops(), [Op::Apply]);
    assert_eq!(bench.fake().calls[0].services, [web().key()]);
    bench.assert_converged();
}

#[test]
fn a_failed_apply_is_followed_by_a_resync() {
    for nth in 0..3 {
        let mut bench = Bench::started(Fake::failing(Op::Apply, [nth]), &[web(), dns()]);
        for step in 0..3u8 {
            bench.take(web().endpoints(&[10 + step]).upserts());
            bench.take(service("more", 10 + step).endpoints(&[1]).upserts());
            bench.work();
            let failed = bench.status().last_error.is_some();
            assert_eq!(failed, usize::from(step) == nth);
            bench.converge();
        }
        let mut expected = vec![Op::Apply; 3];
        expected.splice(nth + 1..nth + 1, [Op::Resync, Op::Subscribe]);
        assert_eq!(bench.ops(), expected, "apply {nth} fails");
    }
}

#[test]
fn resyncs_that_fail_are_tried_again() {
    let mut bench = Bench::started(Fake::failing(Op::Apply, [0]), &[web(), dns()]);
    bench.fake().fail(Op::Resync, 1..4);
    bench.take(dns().deletes());
    bench.work();
    bench.converge();
    let mut expected = vec![Op::Apply];
    expected.extend([Op::Resync; 4]);
    expected.push(Op::Subscribe);
    assert_eq!(bench.ops(), expected);
    assert_eq!(bench.status().failures, 4);
}

#[test]
fn the_first_resync_may_fail() {
    let mut bench = Bench::started(Fake::failing(Op::Resync, 0..5), &[web(), dns()]);
    assert_eq!(bench.status().failures, 5);
    assert_eq!(bench.fake().services.len(), 2);
}

#[test]
fn a_failed_subscription_is_followed_by_a_resync() {
    let mut bench = Bench::new(Fake::failing(Op::Subscribe, [0]));
    bench.take(web().upserts());
    bench.ready();
    bench.work();
    bench.converge();
    assert_eq!(bench.ops(), [Op::Resync, Op::Subscribe, Op::Resync, Op::Subscribe]);
}

#[test]
fn a_failed_settle_is_followed_by_a_resync() {
    let mut bench = Bench::started(Fake::failing(Op::Settle, [0]), &[web(), dns()]);
    bench.take(web().endpoints(&[3]).upserts());
    bench.fake().deferred = true;
    bench.work();
    bench.work_when_due();
    assert!(bench.status().last_error.is_some());
    bench.converge();
    assert_eq!(bench.ops(), [Op::Apply, Op::Settle, Op::Resync, Op::Subscribe]);
}

#[test]
fn foreign_edits_are_repaired_and_counted() {
    let mut bench = Bench::started(Fake::default(), &[web(), dns()]);
    bench.fake().edit();
    bench.writer.repair();
    bench.assert_converged();
    assert_eq!((bench.status().repairs, bench.status().failures), (1, 0));
    bench.writer.repair();
    assert_eq!(bench.status().repairs, 1, "nothing was edited");
}

#[test]
fn a_failed_repair_is_followed_by_a_resync() {
    let mut bench = Bench::started(Fake::failing(Op::Repair, [0]), &[web(), dns()]);
    bench.fake().edit();
    bench.writer.repair();
    assert_eq!((bench.status().repairs, bench.status().failures), (0, 1));
    bench.take(web().endpoints(&[3]).upserts());
    bench.work();
    assert_eq!(bench.ops(), [Op::Repair, Op::Resync, Op::Subscribe]);
    bench.assert_converged();
}

#[test]
fn foreign_edits_wait_while_the_kernels_state_is_unknown() {
    let mut bench = Bench::started(Fake::failing(Op::Apply, [0]), &[web(), dns()]);
    bench.take(web().endpoints(&[3]).upserts());
    bench.work();
    bench.fake().edit();
    bench.writer.repair();
    bench.converge();
    assert_eq!(bench.ops().into_iter().filter(|op| *op == Op::Repair).count(), 0);
}

#[test]
fn readers_see_the_error_until_it_is_over() {
    let mut bench = Bench::started(Fake::failing(Op::Apply, [0]), &[web()]);
    let before = bench.status();
    bench.take(dns().upserts());
    bench.work();
    let during = bench.status();
    assert_eq!(during.last_error.as_deref(), Some("Apply 0 fails on purpose"));
    assert_eq!(during.failures, before.failures + 1);
    assert_eq!(during.last_success, before.last_success);
    assert!(during.generation > before.generation);
    bench.converge();
    let after = bench.status();
    assert_eq!((after.last_error, after.failures), (None, during.failures));
    assert!(after.last_success > before.last_success);
}

#[test]
fn pauses_grow_up_to_half_a_minute() {
    let mut bench = Bench::started(Fake::default(), &[web()]);
    bench.fake().fail(Op::Apply, [0]);
    bench.fake().fail(Op::Resync, 0..PATIENCE);
    bench.take(dns().upserts());
    let mut pauses = Vec::new();
    for _ in 0..20 {
        let due = bench.writer.schedule().wake_at().unwrap_or_else(Instant::now);
        let before = Instant::now();
        bench.writer.work(due.max(before));
        let after = Instant::now();
        let wake = bench.writer.schedule().wake_at().expect("another try");
        // The writer's clock was read in between.
        pauses.push((wake.saturating_duration_since(after), wake - before));
        assert_eq!(bench.status().failures, pauses.len() as u64);
        bench.work();
        assert_eq!(bench.status().failures, pauses.len() as u64, "tried during the pause");
    }
    assert!(pauses[0].0 < Duration::from_secs(1), "{pauses:?}");
    for (short, long) in pauses.iter().zip(&pauses[3..8]) {
        assert!(short.1 < long.0, "{pauses:?}");
    }
    let longest = Duration::from_secs(30);
    assert!(pauses.iter().all(|(least, _)| *least <= longest), "{pauses:?}");
    assert!(pauses[19].1 >= longest, "{pauses:?}");
    bench.fake().recover();
    bench.converge();
    assert!(bench.fake().services.contains_key(&dns().key()));
}

#[test]
fn a_change_during_the_pause_is_not_lost() {
    let mut bench = Bench::started(Fake::default(), &[web(), dns()]);
    bench.fake().fail(Op::Apply, [0]);
    bench.fake().fail(Op::Resync, 0..6);
    bench.take(web().endpoints(&[3]).upserts());
    bench.work();
    for number in 20..26 {
        bench.take(service(&format!("late-{number}"), number).endpoints(&[1]).upserts());
        bench.work_when_due();
    }
    bench.take(dns().deletes());
    bench.converge();
    assert_eq!(bench.fake().services.len(), 7);
    assert_eq!(bench.status().failures, 7);
}

#[test]
fn flows_are_cleaned_after_each_commit_and_audited_after_a_resync() {
    let mut bench = Bench::new(Fake::default());
    bench.take(dns().upserts());
    bench.take(web().upserts());
    bench.ready();
    bench.work();
    assert_eq!(bench.flows.take(), [FlowCall::Audit { services: 2 }]);

    bench.take(dns().endpoints(&[1]).upserts());
    bench.take(web().endpoints(&[1]).upserts());
    bench.work();
    let stale = vec![frontend(&dns(), 53)];
    assert_eq!(bench.flows.take(), [FlowCall::Clean { stale, services: 2 }]);

    bench.take(dns().endpoints(&[1, 2, 3]).upserts());
    bench.work();
    assert_eq!(bench.flows.take(), [FlowCall::Clean { stale: vec![], services: 2 }]);

    bench.take(dns().deletes());
    bench.work();
    let stale = vec![frontend(&dns(), 53)];
    assert_eq!(bench.flows.take(), [FlowCall::Clean { stale, services: 1 }]);
}

/// An audit does not know a former node port from somebody else's: what a failed commit left must
/// be remembered.
#[test]
fn frontends_of_a_failed_commit_are_cleaned_after_the_next() {
    let doomed = dns().node_port(30053);
    let mut bench = Bench::started(Fake::failing(Op::Apply, [0]), &[web(), doomed.clone()]);
    bench.fake().fail(Op::Resync, 1..3);
    bench.take(doomed.deletes());
    bench.work();
    assert_eq!(bench.flows.take(), [], "nothing was committed");
    let second = service("more", 3).udp().endpoints(&[1]);
    bench.take(second.upserts());
    bench.converge();
    let calls = bench.flows.take();
    assert!(calls.contains(&FlowCall::Audit { services: 2 }), "{calls:?}");
    let cleaned: Vec<FrontendKey> = calls
        .into_iter()
        .filter_map(|call| match call {
            FlowCall::Clean { stale, .. } => Some(stale),
            FlowCall::Audit { .. } => None,
        })
        .flatten()
        .collect();
    let port = FrontendKey {
        at: FrontendAddress::NodePort(Family::V4),
        ..frontend(&doomed, 30053)
    };
    for at in [frontend(&doomed, 53), port, frontend(&second, 80)] {
        assert!(cleaned.contains(&at), "{at} is not in {cleaned:?}");
    }
    bench.take(web().endpoints(&[1]).upserts());
    bench.work();
    assert_eq!(bench.flows.take(), [FlowCall::Clean { stale: vec![], services: 2 }]);
}

/// Every script of failures ends with the wanted plans, whatever is changed meanwhile.
#[test]
fn every_script_of_failures_converges() {
    for script in 0u32..64 {
        let mut bench = Bench::started(Fake::default(), &[web(), dns()]);
        let bits = |shift: u32| (0..3).filter(move |bit| script >> (shift + bit) & 1 == 1);
        bench.fake().fail(Op::Apply, bits(0).map(|bit| bit as usize));
        bench.fake().fail(Op::Resync, bits(3).map(|bit| bit as usize));
        for step in 0..8u8 {
            bench.take(web().endpoints(&[step + 1]).upserts());
            match step % 2 {
                0 => bench.take(dns().deletes()),
                _ => bench.take(dns().endpoints(&[step]).upserts()),
            }
            match bench.writer.schedule().wake_at() {
                Some(due) => bench.writer.work(due.max(Instant::now())),
                None => bench.work(),
            }
        }
        bench.converge();
        assert_eq!(bench.fake().services.len(), 2, "script {script:06b}");
    }
}
