//! What is written when, and what follows a failure.

use crate::bench::{Bench, KINDS, PATIENCE};
use crate::fake::{Fake, Op};
use crate::objects::service;
use crate::{dns, web};
use std::time::{Duration, Instant};
use vipd::sources::Change;

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
    assert_eq!(bench.kernel().calls[0].services, [web().key()]);
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
    bench.kernel().fail(Op::Resync, 0..4);
    bench.take(dns().deletes());
    bench.work();
    bench.converge();
    let mut expected = vec![Op::Apply];
    expected.extend([Op::Resync; 5]);
    expected.push(Op::Subscribe);
    assert_eq!(bench.ops(), expected);
    assert_eq!(bench.status().failures, 5);
}

#[test]
fn the_first_resync_may_fail() {
    let bench = Bench::started(Fake::failing(Op::Resync, 0..5), &[web(), dns()]);
    assert_eq!(bench.status().failures, 5);
    assert_eq!(bench.kernel().services.len(), 2);
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
    bench.work();
    bench.work_when_due();
    assert!(bench.status().last_error.is_some());
    bench.converge();
    assert_eq!(bench.ops(), [Op::Apply, Op::Settle, Op::Resync, Op::Subscribe]);
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
    bench.kernel().fail(Op::Apply, [0]);
    bench.kernel().fail(Op::Resync, 0..PATIENCE);
    bench.take(dns().upserts());
    let mut pauses: Vec<(Duration, Duration)> = Vec::new();
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
    bench.kernel().recover();
    bench.converge();
    assert!(bench.kernel().services.contains_key(&dns().key()));

    // A success ends the growth: the next failure is retried as soon as the first one was.
    bench.kernel().fail(Op::Apply, [0]);
    bench.take(dns().deletes());
    bench.work();
    let after = Instant::now();
    let wake = bench.writer.schedule().wake_at().expect("another try");
    assert!(wake.saturating_duration_since(after) < Duration::from_secs(1));
}

#[test]
fn a_change_during_the_pause_is_not_lost() {
    let mut bench = Bench::started(Fake::default(), &[web(), dns()]);
    bench.kernel().fail(Op::Apply, [0]);
    bench.kernel().fail(Op::Resync, 0..6);
    bench.take(web().endpoints(&[3]).upserts());
    bench.work();
    for number in 20..26 {
        bench.take(service(&format!("late-{number}"), number).endpoints(&[1]).upserts());
        bench.work_when_due();
    }
    bench.take(dns().deletes());
    bench.converge();
    assert_eq!(bench.kernel().services.len(), 7);
    assert_eq!(bench.status().failures, 7);
}

#[test]
fn changes_within_the_least_period_are_written_together_at_its_end() {
    let period = Duration::from_secs(20);
    let mut bench = Bench::with_period(Fake::default(), period).start(&[web()]);
    let programmed = Instant::now();
    let keys: Vec<_> = (10..15u8)
        .map(|number| {
            let late = service(&format!("late-{number}"), number).endpoints(&[1]);
            bench.take(late.upserts());
            bench.work();
            late.key()
        })
        .collect();
    assert_eq!(bench.ops(), []);
    let due = bench.writer.schedule().wake_at().expect("the end of the period");
    assert!(due <= programmed + period);
    bench.writer.work(due - Duration::from_secs(1));
    assert_eq!(bench.ops(), []);
    bench.writer.work(due);
    assert_eq!(bench.ops(), [Op::Apply]);
    assert_eq!(bench.kernel().calls[0].services, keys);
    bench.assert_converged();
}

#[test]
fn without_a_least_period_every_change_is_written_at_once() {
    let mut bench = Bench::started(Fake::default(), &[web()]);
    for number in 10..15u8 {
        let next = service(&format!("next-{number}"), number).endpoints(&[1]);
        bench.take(next.upserts());
        bench.work();
        let last = bench.kernel().calls.last().expect("a call").clone();
        assert_eq!((last.op, last.services), (Op::Apply, vec![next.key()]));
    }
    assert_eq!(bench.ops(), [Op::Apply; 5]);
}

#[test]
fn what_comes_and_goes_between_two_commits_is_not_written() {
    let mut bench = Bench::started(Fake::default(), &[web()]);
    bench.take(dns().upserts());
    bench.take(dns().deletes());
    bench.take(web().endpoints(&[1]).upserts());
    bench.take(web().upserts());
    bench.work();
    assert_eq!(bench.ops(), []);
}

#[test]
fn deletions_left_behind_are_settled_and_unused_classes_trimmed() {
    let mut bench = Bench::started(Fake::default(), &[web(), dns()]);
    bench.take(web().endpoints(&[1]).upserts());
    bench.work();
    for expected in [Op::Settle, Op::Trim] {
        bench.work_when_due();
        assert_eq!(bench.ops().last(), Some(&expected));
    }
    assert_eq!(bench.writer.schedule().wake_at(), None, "nothing is left to do");
}

#[test]
fn nothing_is_settled_while_the_kernels_state_is_unknown() {
    let mut bench = Bench::started(Fake::default(), &[web(), dns()]);
    bench.take(web().endpoints(&[1]).upserts());
    bench.work();
    bench.kernel().fail(Op::Apply, [0]);
    bench.kernel().fail(Op::Resync, 0..3);
    bench.take(dns().deletes());
    bench.work();
    for _ in 0..4 {
        // The fake panics at anything but a resync; a minute is beyond every settling.
        bench.writer.work(Instant::now() + Duration::from_secs(60));
    }
    let tail = [Op::Resync, Op::Resync, Op::Resync, Op::Resync, Op::Subscribe];
    assert_eq!(bench.ops()[2..], tail);
    bench.assert_converged();
}

#[test]
fn failing_lasts_from_the_first_failure_to_the_next_success() {
    let mut bench = Bench::started(Fake::default(), &[web()]);
    let before = Instant::now();
    assert!(bench.status().is_healthy(before));
    bench.kernel().fail(Op::Apply, [0]);
    bench.kernel().fail(Op::Resync, [0, 1]);
    bench.take(web().endpoints(&[9]).upserts());
    bench.work();
    let since = bench.status().failing_since.expect("the apply has failed");
    assert!(since >= before);
    bench.work_when_due();
    assert_eq!(bench.status().failing_since, Some(since), "it has not ended in between");
    assert!(bench.status().is_healthy(since));
    assert!(!bench.status().is_healthy(since + Duration::from_secs(60)));
    bench.converge();
    assert_eq!(bench.status().failing_since, None);
}

#[test]
fn sticky_services_are_counted_from_the_first_resync_on() {
    let sticky = |number: u8| service(&format!("sticky-{number}"), number).sticky(60);
    let mut bench = Bench::started(Fake::default(), &[web(), sticky(3), sticky(4)]);
    assert_eq!(bench.status().sticky.get(), 2);
    bench.take(sticky(5).upserts());
    bench.work();
    assert_eq!(bench.status().sticky.get(), 3);
    bench.kernel().fail(Op::Apply, [0]);
    bench.take(sticky(3).deletes());
    bench.work();
    bench.converge();
    assert_eq!(bench.status().sticky.get(), 2);
}
