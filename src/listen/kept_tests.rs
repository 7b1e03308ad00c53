//! What is told of a socket that cannot be opened, and when it is tried again.

use super::{Error, Kept, Tried};
use std::time::{Duration, Instant};

fn kept() -> Kept<u16, &'static str> {
    Kept::default()
}

#[test]
fn a_refusal_is_told_once_and_its_end_too() {
    let (mut kept, now) = (kept(), Instant::now());
    assert!(matches!(kept.offer(1, now, Err(Error::InUse)), Tried::Refused(Error::InUse)));
    assert!(matches!(kept.offer(1, now, Err(Error::InUse)), Tried::StillRefused));
    assert_eq!(kept.refused(), [1]);
    assert!(matches!(kept.offer(1, now, Ok("socket")), Tried::OpenedAtLast));
    assert_eq!((kept.get(&1), kept.refused(), kept.retry_at()), (Some(&"socket"), vec![], None));
}

#[test]
fn after_it_was_removed_a_key_begins_anew() {
    let (mut kept, now) = (kept(), Instant::now());
    kept.offer(1, now, Err(Error::InUse));
    assert_eq!(kept.remove(&1), None);
    assert_eq!(kept.retry_at(), None);
    assert!(matches!(kept.offer(1, now, Err(Error::InUse)), Tried::Refused(_)));
    kept.offer(2, now, Ok("socket"));
    assert_eq!(kept.remove(&2), Some("socket"));
    assert_eq!(kept.get(&2), None);
}

#[test]
fn an_address_that_settles_is_no_news() {
    let (mut kept, now) = (kept(), Instant::now());
    let mut after =
        |seconds| kept.offer(1, now + Duration::from_secs(seconds), Err(Error::NoSuchAddress));
    assert!(matches!(after(0), Tried::StillRefused));
    assert!(matches!(after(2), Tried::StillRefused));
    assert!(matches!(after(4), Tried::Refused(Error::NoSuchAddress)));
    assert!(matches!(after(8), Tried::StillRefused));
    assert_eq!(kept.failures(), 2, "those of an address that settles are none");
}

#[test]
fn tries_get_rarer_up_to_every_thirty_seconds() {
    let (mut kept, start) = (kept(), Instant::now());
    let (mut now, mut pauses) = (start, Vec::new());
    while now < start + Duration::from_secs(200) {
        kept.offer(1, now, Err(Error::InUse));
        let next = kept.retry_at().unwrap();
        pauses.push((next - now).as_millis());
        now = next;
    }
    assert_eq!(pauses[..5], [500, 500, 1000, 2000, 4000]);
    assert_eq!(pauses.last(), Some(&30_000));
}
