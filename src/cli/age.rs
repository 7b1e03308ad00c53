//! Ages as kubectl prints them: the older, the coarser.

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;
const YEAR: i64 = 365 * DAY;

/// Time from `created` to `now`, both in seconds since 1970.
pub(super) fn age(created: Option<i64>, now: i64) -> String {
    let Some(created) = created else { return "<unknown>".to_owned() };
    let seconds = now - created;
    // Clocks of two machines differ a little; more than that is no age.
    if seconds < -1 {
        return "<invalid>".to_owned();
    }
    let seconds = seconds.max(0);
    let two = |big: i64, big_name, small: i64, small_name| {
        let (whole, rest) = (seconds / big, seconds % big / small);
        if rest == 0 {
            format!("{whole}{big_name}")
        } else {
            format!("{whole}{big_name}{rest}{small_name}")
        }
    };
    match seconds {
        s if s < 2 * MINUTE => format!("{s}s"),
        s if s < 10 * MINUTE => two(MINUTE, 'm', 1, 's'),
        s if s < 3 * HOUR => format!("{}m", s / MINUTE),
        s if s < 8 * HOUR => two(HOUR, 'h', MINUTE, 'm'),
        s if s < 2 * DAY => format!("{}h", s / HOUR),
        s if s < 8 * DAY => two(DAY, 'd', HOUR, 'h'),
        s if s < 2 * YEAR => format!("{}d", s / DAY),
        s if s < 8 * YEAR => two(YEAR, 'y', DAY, 'd'),
        s => format!("{}y", s / YEAR),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case(0, "0s")]
    #[case(119, "119s")]
    #[case(120, "2m")]
    #[case(125, "2m5s")]
    #[case(3600, "60m")]
    #[case(3 * HOUR + 5 * MINUTE, "3h5m")]
    #[case(9 * HOUR, "9h")]
    #[case(47 * HOUR, "47h")]
    #[case(3 * DAY + 4 * HOUR, "3d4h")]
    #[case(100 * DAY, "100d")]
    #[case(3 * YEAR + DAY, "3y1d")]
    #[case(9 * YEAR, "9y")]
    #[case(-100, "<invalid>")]
    fn coarser_with_time(#[case] seconds: i64, #[case] text: &str) {
        assert_eq!(age(Some(1_700_000_000 - seconds), 1_700_000_000), text);
    }

    #[test]
    fn an_object_without_a_date() {
        assert_eq!(age(None, 5), "<unknown>");
    }
}
