//! Others change what is vipd's.

use crate::bench::Bench;
use crate::fake::{Fake, Op};
use crate::{dns, web};
use std::time::Duration;

#[test]
fn foreign_edits_are_repaired_and_counted() {
    let mut bench = Bench::started(Fake::default(), &[web(), dns()]);
    bench.kernel().edit();
    bench.writer.repair();
    bench.assert_converged();
    assert_eq!((bench.status().repairs, bench.status().failures), (1, 0));
    bench.writer.repair();
    assert_eq!(bench.status().repairs, 1, "nothing was edited");
}

#[test]
fn a_failed_repair_is_followed_by_a_resync() {
    let mut bench = Bench::started(Fake::failing(Op::Repair, [0]), &[web(), dns()]);
    bench.kernel().edit();
    bench.writer.repair();
    assert_eq!((bench.status().repairs, bench.status().failures), (0, 1));
    let error = bench.status().last_error.expect("readers see it");
    assert_eq!(&*error, "repairing a foreign edit: Repair 0 fails on purpose");
    bench.take(web().endpoints(&[3]).upserts());
    bench.converge();
    assert_eq!(bench.ops(), [Op::Repair, Op::Resync, Op::Subscribe]);
    assert_eq!(bench.kernel().services.len(), 2);
}

#[test]
fn foreign_edits_wait_while_the_kernels_state_is_unknown() {
    let mut bench = Bench::started(Fake::failing(Op::Apply, [0]), &[web(), dns()]);
    bench.take(web().endpoints(&[3]).upserts());
    bench.work();
    bench.kernel().edit();
    bench.writer.repair();
    bench.converge();
    assert_eq!(bench.ops().into_iter().filter(|op| *op == Op::Repair).count(), 0);
}

/// Nobody listens before the first resync is done.
#[test]
fn edits_during_the_first_resync_lead_to_another() {
    for failures in 0..3 {
        let mut bench = Bench::new(Fake::failing(Op::Resync, 1..1 + failures));
        bench.kernel().edit_behind_resync = true;
        bench.take(web().upserts());
        bench.take(dns().upserts());
        bench.ready();
        bench.work();
        bench.converge();
        let mut expected = vec![Op::Resync, Op::Subscribe, Op::Resync];
        expected.extend(vec![Op::Resync; failures]);
        if failures > 0 {
            expected.push(Op::Subscribe);
        }
        assert_eq!(bench.ops(), expected);
        assert_eq!(bench.kernel().services.len(), 2);
        assert_eq!(bench.status().repairs, 0);
    }
}

/// A least period must not open a gap in which something else than the resync is tried.
#[test]
fn after_a_failed_repair_nothing_but_a_resync_is_tried() {
    let period = Duration::from_secs(20);
    let mut bench = Bench::with_period(Fake::default(), period).start(&[web(), dns()]);
    bench.take(web().endpoints(&[1]).upserts());
    bench.work_when_due();
    bench.kernel().fail(Op::Repair, [0]);
    bench.kernel().edit();
    bench.writer.repair();
    bench.kernel().edit();
    bench.writer.repair();
    bench.work_when_due();
    assert_eq!(bench.ops(), [Op::Apply, Op::Repair, Op::Resync, Op::Subscribe]);
    bench.assert_converged();
}

/// Nothing else may come to be written for long.
#[test]
fn a_relay_that_a_repair_finds_lost_is_told_and_tried_again() {
    let mut bench = Bench::started(Fake::default(), &[web()]);
    bench.kernel().relay_breaks = true;
    bench.writer.repair();
    assert_eq!(bench.status().relay_failure.as_deref(), Some("lost"));
    bench.work_when_due();
    assert_eq!(bench.status().relay_failure, None);
    assert_eq!(bench.ops(), [Op::Repair, Op::Resync, Op::Subscribe]);
}
