//! When a full affinity table is told of.

use super::unpinned::Unpinned;
use std::time::{Duration, Instant};

/// What looks at these minutes say of these counters.
#[track_caller]
fn told(since: u64, looks: &[(u64, u64, Option<u64>)]) {
    let (mut unpinned, start) = (Unpinned::since(since), Instant::now());
    for (minute, count, expected) in looks {
        let now = start + Duration::from_secs(60 * minute);
        assert_eq!(unpinned.look(*count, now), *expected, "minute {minute}");
    }
}

#[test]
fn nothing_is_said_while_there_is_room() {
    told(0, &[(1, 0, None), (2, 0, None)]);
    told(7, &[(1, 7, None), (2, 7, None)]);
}

#[test]
fn the_beginning_is_told_at_once_then_every_ten_minutes() {
    told(7, &[(1, 10, Some(3)), (2, 20, None), (10, 30, None), (11, 35, Some(25))]);
}

#[test]
fn what_ended_is_told_to_its_end_and_then_no_more() {
    told(0, &[(1, 10, Some(10)), (2, 20, None), (11, 20, Some(10)), (30, 20, None)]);
    told(0, &[(1, 10, Some(10)), (30, 10, None), (31, 12, Some(2))]);
}

#[test]
fn a_rule_that_is_written_anew_counts_from_nothing() {
    told(0, &[(1, 10, Some(10)), (20, 4, Some(4)), (40, 4, None)]);
}
