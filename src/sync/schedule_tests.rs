//! When the writer writes.

use super::schedule::{FIRST_REVIVAL, LONGEST_PAUSE, SETTLE, Schedule, TRIM, Work};
use std::time::{Duration, Instant};

#[test]
fn a_change_after_quiet_is_written_at_once() {
    let now = Instant::now();
    let mut schedule = Schedule::new(Duration::ZERO);
    assert_eq!(schedule.due(now), Work::Nothing);
    schedule.request(Work::Apply);
    assert_eq!(schedule.due(now), Work::Apply);
    schedule.succeeded(now, Work::Apply, false);
    assert_eq!(schedule.due(now), Work::Nothing);
}

#[test]
fn the_least_period_counts_from_the_end_of_a_write() {
    let now = Instant::now();
    let period = Duration::from_secs(1);
    let mut schedule = Schedule::new(period);
    schedule.request(Work::Apply);
    schedule.succeeded(now, Work::Apply, false);
    schedule.request(Work::Apply);
    assert_eq!(schedule.due(now), Work::Nothing);
    assert_eq!(schedule.wake_at(), Some(now + period));
    assert_eq!(schedule.due(now + period), Work::Apply);
}

#[test]
fn failures_lead_to_resyncs_with_growing_pauses() {
    let mut now = Instant::now();
    let mut schedule = Schedule::new(Duration::ZERO);
    schedule.request(Work::Apply);
    let mut last = Duration::ZERO;
    for _ in 0..20 {
        schedule.failed(now);
        assert_eq!(schedule.due(now), Work::Nothing);
        let next = schedule.wake_at().expect("a retry is planned");
        assert!(next - now >= last && next - now <= LONGEST_PAUSE);
        last = next - now;
        now = next;
        assert_eq!(schedule.due(now), Work::Resync);
    }
    assert_eq!(last, LONGEST_PAUSE);
    schedule.succeeded(now, Work::Resync, true);
    assert_eq!(schedule.due(now), Work::Nothing);
    assert_eq!(schedule.due(now + SETTLE), Work::Settle);
    schedule.succeeded(now + SETTLE, Work::Settle, false);
    assert_eq!(schedule.due(now + SETTLE), Work::Nothing);
    assert_eq!(schedule.due(now + TRIM), Work::Trim);
}

#[test]
fn another_least_period_counts_from_the_next_write_on() {
    let now = Instant::now();
    let period = Duration::from_secs(1);
    let mut schedule = Schedule::new(Duration::ZERO);
    schedule.succeeded(now, Work::Apply, false);
    schedule.set_min_period(period);
    schedule.request(Work::Apply);
    assert_eq!(schedule.due(now), Work::Apply, "the last write has set no limit");
    schedule.succeeded(now, Work::Apply, false);
    schedule.request(Work::Apply);
    assert_eq!(schedule.due(now), Work::Nothing);
    assert_eq!(schedule.due(now + period), Work::Apply);
}

#[test]
fn what_cannot_be_started_is_tried_again_ever_less_often() {
    let mut now = Instant::now();
    let mut schedule = Schedule::new(Duration::ZERO);
    let mut last = Duration::ZERO;
    for _ in 0..12 {
        schedule.succeeded(now, Work::Revive, false);
        schedule.set_lacking(now, true);
        // Other writes do not put it off.
        schedule.set_lacking(now + FIRST_REVIVAL / 2, true);
        let pause = schedule.wake_at().expect("a try is planned") - now;
        assert!(pause >= last && pause <= LONGEST_PAUSE);
        last = pause;
        now += pause;
        assert_eq!(schedule.due(now), Work::Revive);
    }
    assert_eq!(last, LONGEST_PAUSE);
    schedule.request(Work::Apply);
    assert_eq!(schedule.due(now), Work::Apply, "what changed is written first");
    schedule.failed(now);
    assert_eq!(schedule.wake_at().map(|at| schedule.due(at)), Some(Work::Resync));
    schedule.succeeded(now, Work::Resync, false);
    schedule.set_lacking(now, false);
    assert_eq!(schedule.due(now), Work::Nothing);
    schedule.set_lacking(now, true);
    assert_eq!(schedule.wake_at(), Some(now + FIRST_REVIVAL));
}

#[test]
fn a_resync_that_does_not_bring_it_back_is_a_try_like_others() {
    let mut now = Instant::now();
    let mut schedule = Schedule::new(Duration::ZERO);
    schedule.set_lacking(now, true);
    let mut last = Duration::ZERO;
    for _ in 0..12 {
        let pause = schedule.wake_at().expect("a try is planned") - now;
        assert!(pause > last || pause == LONGEST_PAUSE);
        last = pause;
        now += pause;
        assert_eq!(schedule.due(now), Work::Revive);
        schedule.succeeded(now, Work::Resync, false);
        schedule.set_lacking(now, true);
        // What has not been used for long goes meanwhile.
        schedule.succeeded(now, Work::Trim, false);
    }
    assert_eq!(last, LONGEST_PAUSE);
}
