//! What of the kernel's connection tracking the operator decides. Names and meaning of
//! `--conntrack-*` are kube-proxy's, and its defaults hold where an API server is the source;
//! without a cluster each leaves the kernel alone unless it is given.

use super::value;
use crate::conntrack::Sysctls;
use crate::model::duration;
use clap::{ArgAction, Args};
use std::time::Duration;

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Connection tracking")]
pub(super) struct ConntrackFlags {
    /// Tracked connections per CPU, 1048576 in all at most; 0: the kernel's limit is left alone, as
    /// without this flag
    #[arg(long, env = "VIPD_CONNTRACK_MAX_PER_CORE", value_name = "COUNT")]
    #[arg(value_parser = value::count)]
    pub(super) conntrack_max_per_core: Option<u32>,

    /// Tracked connections at least, however few CPUs there are
    #[arg(long, env = "VIPD_CONNTRACK_MIN", value_name = "COUNT", value_parser = value::count)]
    pub(super) conntrack_min: Option<u32>,

    /// How long an idle established TCP connection is known (24h); 0: left alone, as without
    #[arg(long, env = "VIPD_CONNTRACK_TCP_TIMEOUT_ESTABLISHED", value_name = "DUR")]
    #[arg(value_parser = duration::parse)]
    pub(super) conntrack_tcp_timeout_established: Option<Duration>,

    /// How long a TCP connection is known that one side has closed; 0: left alone
    #[arg(long, env = "VIPD_CONNTRACK_TCP_TIMEOUT_CLOSE_WAIT", value_name = "DUR")]
    #[arg(value_parser = duration::parse)]
    pub(super) conntrack_tcp_timeout_close_wait: Option<Duration>,

    /// Let no TCP packet but a reset be INVALID for being outside of the window; false: left alone
    #[arg(long, env = "VIPD_CONNTRACK_TCP_BE_LIBERAL", value_name = "true|false")]
    #[arg(action = ArgAction::Set, value_parser = value::boolean)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(super) conntrack_tcp_be_liberal: Option<bool>,

    /// How long a UDP flow is known that was not answered; 0: left alone
    #[arg(long, env = "VIPD_CONNTRACK_UDP_TIMEOUT", value_name = "DUR")]
    #[arg(value_parser = duration::parse)]
    pub(super) conntrack_udp_timeout: Option<Duration>,

    /// How long a UDP flow is known that was answered; 0: left alone
    #[arg(long, env = "VIPD_CONNTRACK_UDP_TIMEOUT_STREAM", value_name = "DUR")]
    #[arg(value_parser = duration::parse)]
    pub(super) conntrack_udp_timeout_stream: Option<Duration>,

    /// Reset TCP connections to an endpoint that nothing has listed for so long, also because its
    /// Service was deleted, slices and all; 0: never
    #[arg(long, env = "VIPD_RESET_GONE_AFTER", value_name = "DUR", default_value = "0")]
    #[arg(value_parser = duration::parse)]
    pub(super) reset_gone_after: Duration,
}

impl ConntrackFlags {
    /// What is given, and for the rest the defaults.
    pub(super) fn sysctls(&self, defaults: Sysctls) -> Sysctls {
        Sysctls {
            max_per_core: self.conntrack_max_per_core.or(defaults.max_per_core),
            min: self.conntrack_min.or(defaults.min),
            tcp_established: self.conntrack_tcp_timeout_established.or(defaults.tcp_established),
            tcp_close_wait: self.conntrack_tcp_timeout_close_wait.or(defaults.tcp_close_wait),
            udp: self.conntrack_udp_timeout.or(defaults.udp),
            udp_stream: self.conntrack_udp_timeout_stream.or(defaults.udp_stream),
            tcp_be_liberal: self.conntrack_tcp_be_liberal.or(defaults.tcp_be_liberal),
        }
    }

    pub(super) fn reset_gone_after(&self) -> Option<Duration> {
        (!self.reset_gone_after.is_zero()).then_some(self.reset_gone_after)
    }
}

/// kube-proxy's defaults (KubeProxyConfiguration v1alpha1, 1.37).
pub(super) fn upstream() -> Sysctls {
    Sysctls {
        max_per_core: Some(32_768),
        min: Some(131_072),
        tcp_established: Some(Duration::from_secs(24 * 3600)),
        tcp_close_wait: Some(Duration::from_secs(3600)),
        ..Sysctls::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        conntrack: ConntrackFlags,
    }

    fn read(flags: &str) -> ConntrackFlags {
        let words = ["vipd"].into_iter().chain(flags.split_whitespace());
        Command::try_parse_from(words).unwrap().conntrack
    }

    #[test]
    fn nothing_is_set_unless_it_is_asked_for() {
        assert_eq!(read("").sysctls(Sysctls::default()), Sysctls::default());
        assert_eq!(read("").reset_gone_after(), None);
        assert_eq!(read("--reset-gone-after 0s").reset_gone_after(), None);
    }

    #[test]
    fn each_flag_means_its_own_value() {
        let flags = read(
            "--conntrack-max-per-core=1000 --conntrack-min 2000 --conntrack-tcp-be-liberal \
             --conntrack-tcp-timeout-established 24h --conntrack-tcp-timeout-close-wait 1h \
             --conntrack-udp-timeout 30s --conntrack-udp-timeout-stream 3m --reset-gone-after 90s",
        );
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        let expected = Sysctls {
            max_per_core: Some(1000),
            min: Some(2000),
            tcp_established: seconds(86_400),
            tcp_close_wait: seconds(3600),
            udp: seconds(30),
            udp_stream: seconds(180),
            tcp_be_liberal: Some(true),
        };
        assert_eq!(flags.sysctls(upstream()), expected);
        assert_eq!(flags.reset_gone_after(), seconds(90));
    }

    #[test]
    fn counts_are_what_the_kernel_can_hold() {
        for (text, right) in
            [("0", true), ("2147483647", true), ("2147483648", false), ("-1", false)]
        {
            let given = format!("--conntrack-min={text}");
            assert_eq!(Command::try_parse_from(["vipd", &given]).is_ok(), right, "{text}");
        }
    }
}
