//! Pins by value.

use super::pins::{MOST, Pins, Visit};
use crate::planner::Target;
use std::net::IpAddr;
use std::time::{Duration, Instant};

const LASTS: Duration = Duration::from_secs(10);

fn target(last: u8) -> Target {
    Target { address: IpAddr::from([10, 180, 0, last]), port: 8080 }
}

fn visit(client: u32, now: Instant) -> Visit {
    Visit { client: IpAddr::V4(client.into()), now, lasts: LASTS }
}

#[test]
fn a_pin_lasts_until_nobody_connects_for_its_time() {
    let (mut pins, start) = (Pins::default(), Instant::now());
    let at = |seconds| visit(1, start + Duration::from_secs(seconds));
    pins.set(&at(0), target(1));
    for seconds in [9, 18, 27] {
        assert_eq!(pins.get(&at(seconds)), Some(target(1)), "at {seconds} s");
        pins.set(&at(seconds), target(1));
    }
    assert_eq!(pins.get(&at(37)), None);
}

#[test]
fn a_failure_resets_the_pin_of_that_endpoint_only() {
    let (mut pins, now) = (Pins::default(), Instant::now());
    pins.set(&visit(1, now), target(1));
    pins.reset(visit(1, now).client, target(2));
    assert_eq!(pins.get(&visit(1, now)), Some(target(1)));
    pins.reset(visit(1, now).client, target(1));
    assert_eq!(pins.get(&visit(1, now)), None);
    pins.set(&visit(1, now), target(3));
    assert_eq!(pins.get(&visit(1, now)), Some(target(3)));
    assert_eq!(pins.len(), 1);
}

#[test]
fn clients_that_are_gone_leave_room() {
    let (mut pins, start) = (Pins::default(), Instant::now());
    for client in 0..1000 {
        pins.set(&visit(client, start), target(1));
    }
    assert_eq!(pins.len(), 1000);
    for client in 1000..3000 {
        pins.set(&visit(client, start + LASTS), target(1));
    }
    assert_eq!(pins.len(), 2000);
}

#[test]
fn there_is_a_bound() {
    let (mut pins, now) = (Pins::default(), Instant::now());
    let most = u32::try_from(MOST).unwrap();
    for client in 0..most + 5 {
        pins.set(&visit(client, now), target(1));
    }
    assert_eq!((pins.len(), pins.unpinned()), (MOST, 5));
    assert_eq!(pins.get(&visit(most + 1, now)), None);
}

#[test]
fn another_process_goes_on_with_the_pins() {
    let (mut pins, now) = (Pins::default(), Instant::now());
    pins.set(&visit(1, now), target(1));
    pins.set(&visit(2, now + Duration::from_secs(4)), target(2));
    pins.set(&visit(3, now), target(3));
    pins.reset(visit(3, now).client, target(3));
    let later = now + Duration::from_secs(9);
    let mut next = Pins::default();
    next.set(&visit(2, later), target(9));
    next.restore(pins.ages(later), later);
    assert_eq!(next.get(&visit(1, later)), Some(target(1)));
    assert_eq!(next.get(&visit(1, now + LASTS)), None, "it lasts no longer than before");
    assert_eq!(next.get(&visit(2, later)), Some(target(9)), "what is known here is newer");
    assert_eq!(next.get(&visit(3, later)), None);
    assert_eq!(next.len(), 2);
}
