//! Ejections by value.

use super::dials::Failure;
use super::eject::{Ejections, FIRST, Judged, STREAK, TRIAL};
use crate::planner::Target;
use std::net::IpAddr;
use std::time::{Duration, Instant};

fn target(last: u8) -> Target {
    Target { address: IpAddr::from([10, 180, 0, last]), port: 8080 }
}

fn pool(lasts: std::ops::RangeInclusive<u8>) -> Vec<Target> {
    lasts.map(target).collect()
}

fn fail(ejections: &mut Ejections, last: u8, pool: &[Target], now: Instant) -> Judged {
    for _ in 1..STREAK {
        assert_eq!(ejections.failed(target(last), Failure::Refused, pool, now), Judged::Kept);
    }
    ejections.failed(target(last), Failure::Refused, pool, now)
}

#[test]
fn a_row_of_failures_ejects_and_a_connection_ends_the_row() {
    let (mut ejections, pool, now) = (Ejections::default(), pool(1..=4), Instant::now());
    for _ in 1..STREAK {
        ejections.failed(target(1), Failure::Refused, &pool, now);
    }
    ejections.connected(target(1));
    assert_eq!(fail(&mut ejections, 1, &pool, now), Judged::Ejected);
    assert!(ejections.is_out(target(1), now));
    let left = ejections.without_ejected(pool.clone(), &pool, now);
    assert_eq!(left, pool[1..]);
    assert!(!ejections.is_out(target(1), now + FIRST));
}

#[test]
fn never_more_than_half() {
    let (mut ejections, now) = (Ejections::default(), Instant::now());
    let five = pool(1..=5);
    assert_eq!(fail(&mut ejections, 1, &five, now), Judged::Ejected);
    assert_eq!(fail(&mut ejections, 2, &five, now), Judged::Ejected);
    assert_eq!(fail(&mut ejections, 3, &five, now), Judged::Kept);
    assert_eq!(ejections.without_ejected(five.clone(), &five, now), five[2..]);
    // Endpoints went: the two that are out are more than half now.
    let three = pool(1..=3);
    assert_eq!(ejections.without_ejected(three.clone(), &three, now), three);
    let alone = pool(1..=1);
    assert_eq!(fail(&mut Ejections::default(), 1, &alone, now), Judged::Kept);
}

#[test]
fn the_only_candidates_left_are_tried_though_they_are_out() {
    let (mut ejections, pool, now) = (Ejections::default(), pool(1..=2), Instant::now());
    fail(&mut ejections, 1, &pool, now);
    assert_eq!(ejections.without_ejected(vec![target(1)], &pool, now), [target(1)]);
}

#[test]
fn each_ejection_in_a_row_lasts_twice_as_long() {
    let (mut ejections, pool, mut now) = (Ejections::default(), pool(1..=2), Instant::now());
    fail(&mut ejections, 1, &pool, now);
    for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
        let lasts = Duration::from_secs(seconds);
        assert!(ejections.is_out(target(1), now + lasts - Duration::from_millis(1)));
        now += lasts;
        assert!(!ejections.is_out(target(1), now), "after {seconds} s");
        ejections.chosen(target(1), now);
        assert_eq!(ejections.failed(target(1), Failure::Refused, &pool, now), Judged::Ejected);
    }
    ejections.connected(target(1));
    fail(&mut ejections, 1, &pool, now);
    assert!(!ejections.is_out(target(1), now + FIRST));
}

#[test]
fn after_an_ejection_one_connection_tries() {
    let (mut ejections, pool, now) = (Ejections::default(), pool(1..=2), Instant::now());
    fail(&mut ejections, 1, &pool, now);
    let later = now + FIRST;
    ejections.chosen(target(1), later);
    assert!(ejections.is_out(target(1), later), "for others");
    assert!(!ejections.is_out(target(1), later + TRIAL), "it was never heard of");
    ejections.connected(target(1));
    assert!(!ejections.is_out(target(1), later));
}

#[test]
fn who_refuses_makes_room_for_who_says_nothing() {
    let (mut ejections, pool, now) = (Ejections::default(), pool(1..=3), Instant::now());
    let slow = |ejections: &mut Ejections, last| {
        (0..STREAK).map(|_| ejections.failed(target(last), Failure::Slow, &pool, now)).last()
    };
    assert_eq!(fail(&mut ejections, 1, &pool, now), Judged::Ejected);
    assert_eq!(slow(&mut ejections, 2), Some(Judged::Ejected));
    assert!(!ejections.is_out(target(1), now) && ejections.is_out(target(2), now));
    assert_eq!(slow(&mut ejections, 3), Some(Judged::Kept), "there is nobody to make room");
    assert_eq!(fail(&mut ejections, 1, &pool, now), Judged::Kept);
}

#[test]
fn another_process_knows_who_is_out_and_for_how_long() {
    let (mut ejections, pool, now) = (Ejections::default(), pool(1..=6), Instant::now());
    fail(&mut ejections, 1, &pool, now);
    ejections.failed(target(2), Failure::Refused, &pool, now);
    let mut next = Ejections::default();
    next.restore(ejections.out(now + FIRST / 2), now + FIRST / 2);
    assert!(next.is_out(target(1), now + FIRST / 2) && !next.is_out(target(1), now + FIRST));
    assert!(!next.is_out(target(2), now));
    // The next time in a row lasts longer.
    next.chosen(target(1), now + FIRST);
    next.failed(target(1), Failure::Refused, &pool, now + FIRST);
    assert!(next.is_out(target(1), now + FIRST * 2));
}

#[test]
fn who_takes_connections_and_breaks_them_off_is_ejected() {
    let (mut ejections, pool, mut now) = (Ejections::default(), pool(1..=2), Instant::now());
    let take_and_break = |ejections: &mut Ejections, heard, now| {
        ejections.chosen(target(1), now);
        ejections.connected(target(1));
        ejections.broke_off(target(1), heard, &pool, now)
    };
    for _ in 1..STREAK {
        assert_eq!(take_and_break(&mut ejections, 0, now), Judged::Kept);
    }
    assert_eq!(take_and_break(&mut ejections, 7, now), Judged::Kept, "one it served meanwhile");
    for _ in 2..STREAK {
        assert_eq!(take_and_break(&mut ejections, 7, now), Judged::Kept);
    }
    assert_eq!(take_and_break(&mut ejections, 7, now), Judged::Ejected);
    ejections.connected(target(1));
    assert!(ejections.is_out(target(1), now), "who was on the way says nothing");
    for seconds in [1, 2, 4] {
        now += Duration::from_secs(seconds);
        assert!(!ejections.is_out(target(1), now));
        ejections.chosen(target(1), now);
        assert!(!ejections.is_out(target(1), now), "all try");
        assert_eq!(take_and_break(&mut ejections, 7, now), Judged::Ejected);
        assert!(ejections.is_out(target(1), now + Duration::from_secs(seconds)));
    }
    now += Duration::from_secs(60);
    assert_eq!(take_and_break(&mut ejections, 8, now), Judged::Kept, "it serves again");
    assert_eq!(ejections.broke_off(target(2), 0, &pool, now), Judged::Kept);
}

#[test]
fn who_breaks_off_is_no_more_than_half_either() {
    let (mut ejections, pool, now) = (Ejections::default(), pool(1..=3), Instant::now());
    let breaks = |ejections: &mut Ejections, last| {
        (0..STREAK).map(|_| ejections.broke_off(target(last), 0, &pool, now)).last()
    };
    assert_eq!(breaks(&mut ejections, 1), Some(Judged::Ejected));
    assert_eq!(breaks(&mut ejections, 2), Some(Judged::Kept));
}
