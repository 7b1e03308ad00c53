//! What relayed connections of each Service may take; a Service's annotations of the same names come
//! before these.

use crate::model::{Limits, MaxConnections, parse_timeout};
use clap::Args;
use std::time::Duration;

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Services that vipd carries itself")]
pub struct LimitFlags {
    /// TCP connections and UDP sessions of one Service on this node at most; one more is refused. 0: as
    /// many as there are files
    #[arg(long, env = "VIPD_MAX_CONNECTIONS", value_name = "COUNT", default_value = "0")]
    #[arg(value_parser = MaxConnections::parse)]
    max_connections: MaxConnections,

    /// How long nothing may pass on a connection
    #[arg(long, env = "VIPD_IDLE_TIMEOUT", value_name = "DUR", default_value = "24h")]
    #[arg(value_parser = parse_timeout)]
    idle_timeout: Duration,

    /// How long nothing may come from one end of a connection when the other is done
    #[arg(long, env = "VIPD_HALF_CLOSED_TIMEOUT", value_name = "DUR", default_value = "5m")]
    #[arg(value_parser = parse_timeout)]
    half_closed_timeout: Duration,

    /// How long a client waits for an endpoint to take its connection, all tries together: of four that
    /// are not answered the first has a fifteenth of it, and each of the others twice the time of the
    /// one before
    #[arg(long, env = "VIPD_CONNECT_TIMEOUT", value_name = "DUR", default_value = "3.75s")]
    #[arg(value_parser = parse_timeout)]
    connect_timeout: Duration,

    /// How long a UDP client may say and be told nothing before its session ends
    #[arg(long, env = "VIPD_SESSION_TIMEOUT", value_name = "DUR", default_value = "1m")]
    #[arg(value_parser = parse_timeout)]
    session_timeout: Duration,
}

impl LimitFlags {
    pub(super) fn limits(&self) -> Limits {
        Limits {
            connections: self.max_connections,
            idle: self.idle_timeout,
            half_closed: self.half_closed_timeout,
            connect: self.connect_timeout,
            session: self.session_timeout,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::RunFlags;
    use super::*;

    fn limits(flags: &str) -> Option<Limits> {
        let flags = std::iter::once("--manifests=/m").chain(flags.split_whitespace());
        Some(RunFlags::parsed(flags).ok()?.check().ok()?.policy.limits)
    }

    #[test]
    fn flags_bound_what_each_service_may_take() {
        assert_eq!(limits(""), Some(Limits::default()), "the defaults are the model's");
        let all = "--max-connections=9 --idle-timeout=1h --half-closed-timeout=2m \
                   --connect-timeout=3s --session-timeout=4s";
        let expected = Limits {
            connections: MaxConnections::new(9),
            idle: Duration::from_secs(3600),
            half_closed: Duration::from_secs(120),
            connect: Duration::from_secs(3),
            session: Duration::from_secs(4),
        };
        assert_eq!(limits(all), Some(expected));
        for refused in ["--max-connections=-1", "--idle-timeout=0", "--session-timeout=5"] {
            assert_eq!(limits(refused), None, "{refused}");
        }
    }
}
