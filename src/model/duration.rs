//! Durations as Go writes them, in flags and annotations: `1m30s`, `500ms`, `1.5h`, `0`.

use std::time::Duration;

const NANOS: [(&str, u64); 8] = [
    // "ms" stands before "m" and "s": the longest unit must be tried first.
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

const EXPECTED: &str = "expected a duration of 0 or more such as 500ms, 2s or 1m30s";

pub fn parse(text: &str) -> Result<Duration, String> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(EXPECTED.into());
    }
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let (nanos, after) = term(rest).ok_or(EXPECTED)?;
        total = total.checked_add(nanos).ok_or("expected at most 292 years")?;
        rest = after;
    }
    Ok(Duration::from_nanos(total))
}

/// One number with its unit, in nanoseconds, and what follows it.
fn term(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, rest) = text.split_at(end);
    let (unit, nanos) = NANOS.iter().find(|(unit, _)| rest.starts_with(unit))?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let mut value = whole.checked_mul(*nanos)?;
    let mut scale = *nanos;
    for digit in fraction.bytes() {
        scale /= 10;
        value = value.checked_add(u64::from(digit - b'0') * scale)?;
    }
    Some((value, &rest[unit.len()..]))
}

/// As Go writes it: `1h0m0s`, `1.5s`, `500ms`.
pub fn text(duration: Duration) -> String {
    let nanos = duration.subsec_nanos();
    let whole = duration.as_secs();
    if whole == 0 && nanos > 0 {
        let (unit, scale) = match nanos {
            1_000_000.. => ("ms", 1_000_000),
            1_000.. => ("µs", 1_000),
            _ => ("ns", 1),
        };
        return format!("{}{unit}", f64::from(nanos) / f64::from(scale));
    }
    let (hours, minutes, seconds) = (whole / 3600, whole / 60 % 60, whole % 60);
    let fraction = format!("{nanos:09}");
    let fraction = fraction.trim_end_matches('0');
    let point = if fraction.is_empty() { "" } else { "." };
    let seconds = format!("{seconds}{point}{fraction}s");
    match (hours, minutes) {
        (0, 0) => seconds,
        (0, minutes) => format!("{minutes}m{seconds}"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("0", 0)]
    #[case("0s", 0)]
    #[case("500ms", 500_000_000)]
    #[case("1m30s", 90_000_000_000)]
    #[case("1.5h", 5_400_000_000_000)]
    #[case(".5s", 500_000_000)]
    #[case("2us", 2_000)]
    #[case("2µs", 2_000)]
    #[case("7ns", 7)]
    fn go_durations(#[case] text: &str, #[case] nanos: u64) {
        assert_eq!(parse(text), Ok(Duration::from_nanos(nanos)));
    }

    #[test]
    fn written_as_go_does() {
        for (given, wanted) in [
            ("0", "0s"),
            ("24h", "24h0m0s"),
            ("90s", "1m30s"),
            ("1500ms", "1.5s"),
            ("500ms", "500ms"),
            ("1500us", "1.5ms"),
            ("7ns", "7ns"),
        ] {
            assert_eq!(text(parse(given).unwrap()), wanted, "{given}");
        }
    }

    #[rstest]
    #[case("")]
    #[case("5")]
    #[case("-1s")]
    #[case("1.2.3s")]
    #[case(".s")]
    #[case("1 s")]
    #[case("1d")]
    #[case("s")]
    #[case("99999999999h")]
    fn not_durations(#[case] text: &str) {
        assert!(parse(text).is_err(), "{text} was read");
    }
}
