//! What is measured of the way from a change to the kernel, and who is woken by what went wrong.

use crate::bench::Bench;
use crate::fake::{Fake, Op};
use crate::{dns, web};
use std::time::{Duration, Instant, SystemTime};
use vipd::model::{Kind, ObjectRef, Origin, Problem, Severity};
use vipd::sources::{Batch, Change, Scope, Trigger};

/// The changes, with this annotation on each slice.
fn triggered(changes: Vec<Change>, at: SystemTime) -> Batch {
    let slices = changes.iter().enumerate().filter(|(_, change)| match change {
        Change::Upsert(object) => object.kind() == Kind::EndpointSlice,
        _ => false,
    });
    let triggers = slices.map(|(change, _)| Trigger { change, at }).collect();
    Batch { triggers, ..Batch::new(changes, Instant::now()) }
}

/// Samples of IPv4 and IPv6.
fn samples(bench: &Bench) -> [u64; 2] {
    let durations = bench.status().durations;
    durations.programming.map(|of| of.cumulative().last().map_or(0, |(_, count)| count))
}

#[test]
fn a_change_has_one_sample_when_the_kernel_has_it() {
    let mut bench = Bench::started(Fake::default(), &[web(), dns()]);
    let changed = web().endpoints(&[1, 2, 3]);
    bench.writer.take(triggered(changed.upserts(), SystemTime::now()));
    assert_eq!(samples(&bench), [0, 0], "nothing is written yet");
    bench.work();
    assert_eq!(samples(&bench), [1, 0]);
    // Only the annotation is another one.
    bench.writer.take(triggered(changed.upserts(), SystemTime::now()));
    bench.work();
    assert_eq!(samples(&bench), [1, 0]);
    assert_eq!(bench.ops(), [Op::Apply]);
    let both = dns().dual_stack().endpoints(&[4]);
    bench.writer.take(triggered(both.upserts(), SystemTime::now()));
    bench.work();
    assert_eq!(samples(&bench), [2, 1]);
}

#[test]
fn deletions_and_what_lies_before_the_start_have_none() {
    let mut bench = Bench::started(Fake::default(), &[web()]);
    let past = SystemTime::now() - Duration::from_secs(60);
    bench.writer.take(triggered(web().endpoints(&[3]).upserts(), past));
    bench.work();
    let slice = web().objects().pop().expect("a slice").object_ref();
    bench.take(vec![Change::Delete(slice.clone())]);
    bench.work();
    assert_eq!(samples(&bench), [0, 0]);
    // It came and went before the kernel had it.
    bench.writer.take(triggered(web().upserts(), SystemTime::now()));
    bench.take(vec![Change::Delete(slice)]);
    bench.work();
    assert_eq!(samples(&bench), [0, 0]);
}

#[test]
fn a_failure_puts_the_sample_off_to_the_next_success() {
    let fake = Fake::default();
    let mut bench = Bench::started(fake.clone(), &[web()]);
    fake.kernel().fail(Op::Apply, [0]);
    bench.writer.take(triggered(web().endpoints(&[3]).upserts(), SystemTime::now()));
    bench.work();
    let status = bench.status();
    assert!(status.last_error.is_some());
    // The Service came with its slice.
    assert_eq!(
        (samples(&bench), status.pending_services, status.pending_endpoints),
        ([0, 0], 1, 1)
    );
    bench.converge();
    let status = bench.status();
    assert_eq!(
        (samples(&bench), status.pending_services, status.pending_endpoints),
        ([1, 0], 0, 0)
    );
    let count = |of: &vipd::histogram::Histogram| of.cumulative().last().map(|(_, count)| count);
    let durations = &status.durations;
    assert_eq!((count(&durations.full), count(&durations.partial)), (Some(2), Some(1)));
    assert_eq!(count(&durations.syncs), Some(3));
}

#[test]
fn who_looks_for_findings_is_woken_by_them_only() {
    let mut bench = Bench::started(Fake::default(), &[web()]);
    let mut findings = bench.writer.findings();
    let mut woken = || {
        let changed = findings.has_changed().expect("the writer is there");
        findings.mark_unchanged();
        changed
    };
    assert!(!woken());
    bench.take(web().endpoints(&[5]).upserts());
    bench.work();
    assert!(!woken(), "a change of endpoints");
    let object = ObjectRef::new(Kind::Service, "default/bad");
    let problem = Problem {
        severity: Severity::Rejected,
        origin: Origin::Cluster,
        object: Some(object.clone()),
        field: "".into(),
        reason: "bad".into(),
    };
    let scope = Scope::Object(object);
    bench.take(vec![Change::Problems { scope: scope.clone(), problems: vec![problem] }]);
    bench.work();
    assert!(woken(), "a problem");
    bench.take(vec![Change::Problems { scope, problems: Vec::new() }]);
    bench.work();
    assert!(woken(), "it went");
    // dns's number, so that both want one frontend.
    bench.take(crate::service("first", 9).upserts());
    bench.take(crate::service("second", 9).upserts());
    bench.work();
    assert!(woken(), "a frontend that two want");
    bench.writer.repair();
    assert!(!woken(), "nothing was edited");
}
