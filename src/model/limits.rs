//! What relayed connections of one Service may take, and how long they may last.

use super::duration;
use std::fmt;
use std::num::NonZeroU64;
use std::time::Duration;

/// Of the flags `--max-connections`, `--idle-timeout`, … for all Services, of the annotations of the
/// same names (`vipd.io/…`) for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Limits {
    pub connections: MaxConnections,
    /// How long nothing may pass on a connection. Who is gone is found by keepalive; this is for ends
    /// that are there and forgot it. By default as long as conntrack keeps one where Kubernetes sets it.
    pub idle: Duration,
    /// How long nothing may come from one end of a connection when the other is done (RFC 9293 3.6).
    pub half_closed: Duration,
    /// How long a client waits for an endpoint to take its connection, all tries together.
    pub connect: Duration,
    /// How long a UDP client may say and be told nothing before its session ends.
    pub session: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl Limits {
    pub const DEFAULT: Self = Self {
        connections: MaxConnections(None),
        idle: Duration::from_secs(24 * 60 * 60),
        half_closed: Duration::from_secs(5 * 60),
        connect: Duration::from_millis(3750),
        session: Duration::from_secs(60),
    };

    /// With what a Service asks for in their place.
    pub fn with(self, own: OwnLimits) -> Self {
        Self {
            connections: own.connections.unwrap_or(self.connections),
            idle: own.idle.unwrap_or(self.idle),
            half_closed: own.half_closed.unwrap_or(self.half_closed),
            connect: own.connect.unwrap_or(self.connect),
            session: own.session.unwrap_or(self.session),
        }
    }
}

/// What the annotations of one Service ask for; `None`: what holds for all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct OwnLimits {
    pub connections: Option<MaxConnections>,
    pub idle: Option<Duration>,
    pub half_closed: Option<Duration>,
    pub connect: Option<Duration>,
    pub session: Option<Duration>,
}

impl OwnLimits {
    /// What is asked for, with the flag's or annotation's name.
    pub fn asked(&self) -> impl Iterator<Item = (&'static str, String)> {
        let time = |value: Option<Duration>| value.map(duration::text);
        let all = [
            ("max-connections", self.connections.map(|most| most.to_string())),
            ("idle-timeout", time(self.idle)),
            ("half-closed-timeout", time(self.half_closed)),
            ("connect-timeout", time(self.connect)),
            ("session-timeout", time(self.session)),
        ];
        all.into_iter().filter_map(|(name, value)| Some((name, value?)))
    }
}

/// TCP connections and UDP sessions that a Service may have at a time on this node, those of all its
/// ports together. By default only the files that the process may open bound them, with those of all
/// other Services.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct MaxConnections(Option<NonZeroU64>);

impl MaxConnections {
    pub fn new(most: u64) -> Self {
        Self(NonZeroU64::new(most))
    }

    /// Digits; 0: as many as there can be.
    pub fn parse(text: &str) -> Result<Self, String> {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let most = digits.then(|| text.parse().ok()).flatten();
        most.map(Self::new).ok_or_else(|| "expected a number, 0 for as many as there can be".into())
    }

    pub fn get(self) -> u64 {
        self.0.map_or(u64::MAX, NonZeroU64::get)
    }
}

impl fmt::Display for MaxConnections {
    /// As it is parsed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(0, NonZeroU64::get).fmt(f)
    }
}

/// A time after which something ends: nothing would live for one of 0.
pub fn parse_timeout(text: &str) -> Result<Duration, String> {
    match duration::parse(text) {
        Ok(timeout) if !timeout.is_zero() => Ok(timeout),
        _ => Err("expected a duration of more than 0 such as 500ms, 30s or 1h".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_service_asks_for_stands_in_place_of_what_holds_for_all() {
        let all = Limits { connections: MaxConnections::new(5), ..Limits::default() };
        assert_eq!(all.with(OwnLimits::default()), all);
        let seconds = |count| Some(Duration::from_secs(count));
        let own = OwnLimits {
            connections: Some(MaxConnections::default()),
            idle: seconds(1),
            half_closed: seconds(2),
            connect: seconds(3),
            session: seconds(4),
        };
        let both = all.with(own);
        assert_eq!(both.connections.get(), u64::MAX);
        let times = [both.idle, both.half_closed, both.connect, both.session];
        assert_eq!(times.map(|time| time.as_secs()), [1, 2, 3, 4]);
        let asked: Vec<String> =
            own.asked().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(
            asked,
            [
                "max-connections=0",
                "idle-timeout=1s",
                "half-closed-timeout=2s",
                "connect-timeout=3s",
                "session-timeout=4s",
            ]
        );
    }

    #[test]
    fn numbers_and_times_are_read_strictly() {
        for (text, most) in [("0", u64::MAX), ("1", 1), ("0100", 100)] {
            assert_eq!(MaxConnections::parse(text).map(MaxConnections::get), Ok(most), "{text}");
        }
        for text in ["", "-1", "+1", "1.5", "1e3", "many", "99999999999999999999"] {
            assert!(MaxConnections::parse(text).is_err(), "{text}");
        }
        assert_eq!(parse_timeout("1m30s"), Ok(Duration::from_secs(90)));
        for text in ["0", "0s", "", "30", "-1s", "never"] {
            assert!(parse_timeout(text).is_err(), "{text}");
        }
    }
}
