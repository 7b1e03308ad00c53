//! Flags of kube-proxy that are taken so that its command line works, and mean nothing here: each one
//! that is given is told.

use super::Warning;
use clap::Args;

/// Values are not looked at. `-v` and its like are the log's, not these.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Taken for kube-proxy's sake, without a meaning here")]
pub(super) struct UpstreamFlags {
    #[arg(long, hide = true, value_name = "X")]
    bind_address: Option<String>,
    #[arg(long, hide = true, value_name = "X", num_args = 0..=1, require_equals = true)]
    bind_address_hard_fail: Option<Option<String>>,
    #[arg(long, hide = true, value_name = "X")]
    config_sync_period: Option<String>,
    #[arg(long, hide = true, value_name = "X")]
    feature_gates: Option<String>,
    #[arg(long, hide = true, value_name = "X")]
    iptables_masquerade_bit: Option<String>,
    #[arg(long, hide = true, value_name = "X")]
    iptables_sync_period: Option<String>,
    #[arg(long, hide = true, value_name = "X")]
    ipvs_exclude_cidrs: Option<String>,
    #[arg(long, hide = true, value_name = "X")]
    ipvs_min_sync_period: Option<String>,
    #[arg(long, hide = true, value_name = "X")]
    ipvs_scheduler: Option<String>,
    #[arg(long, hide = true, value_name = "X", num_args = 0..=1, require_equals = true)]
    ipvs_strict_arp: Option<Option<String>>,
    #[arg(long, hide = true, value_name = "X")]
    ipvs_sync_period: Option<String>,
    #[arg(long, hide = true, value_name = "X")]
    ipvs_tcp_timeout: Option<String>,
    #[arg(long, hide = true, value_name = "X")]
    ipvs_tcpfin_timeout: Option<String>,
    #[arg(long, hide = true, value_name = "X")]
    ipvs_udp_timeout: Option<String>,
    #[arg(long, hide = true, value_name = "X")]
    kube_api_burst: Option<String>,
    #[arg(long, hide = true, value_name = "X")]
    kube_api_content_type: Option<String>,
    #[arg(long, hide = true, value_name = "X")]
    kube_api_qps: Option<String>,
    #[arg(long, hide = true, value_name = "X")]
    log_flush_frequency: Option<String>,
    #[arg(long, hide = true, value_name = "X")]
    log_json_info_buffer_size: Option<String>,
    #[arg(long, hide = true, value_name = "X", num_args = 0..=1, require_equals = true)]
    log_json_split_stream: Option<Option<String>>,
    #[arg(long, hide = true, value_name = "X")]
    log_text_info_buffer_size: Option<String>,
    #[arg(long, hide = true, value_name = "X", num_args = 0..=1, require_equals = true)]
    log_text_split_stream: Option<Option<String>>,
    #[arg(long, hide = true, value_name = "X", num_args = 0..=1, require_equals = true)]
    profiling: Option<Option<String>>,
    #[arg(long, hide = true, value_name = "X")]
    show_hidden_metrics_for_version: Option<String>,
    #[arg(long, hide = true, value_name = "X")]
    vmodule: Option<String>,
}

impl UpstreamFlags {
    /// One for each flag that was given.
    pub(super) fn warnings(&self) -> Vec<Warning> {
        let Self {
            bind_address,
            bind_address_hard_fail,
            config_sync_period,
            feature_gates,
            iptables_masquerade_bit,
            iptables_sync_period,
            ipvs_exclude_cidrs,
            ipvs_min_sync_period,
            ipvs_scheduler,
            ipvs_strict_arp,
            ipvs_sync_period,
            ipvs_tcp_timeout,
            ipvs_tcpfin_timeout,
            ipvs_udp_timeout,
            kube_api_burst,
            kube_api_content_type,
            kube_api_qps,
            log_flush_frequency,
            log_json_info_buffer_size,
            log_json_split_stream,
            log_text_info_buffer_size,
            log_text_split_stream,
            profiling,
            show_hidden_metrics_for_version,
            vmodule,
        } = self;
        const IPVS: &str = "vipd programs nf_tables";
        const LOG: &str = "the log goes to stderr, unbuffered";
        let given = [
            (
                "--bind-address",
                bind_address.is_some(),
                "node ports answer as --nodeport-addresses says",
            ),
            (
                "--bind-address-hard-fail",
                bind_address_hard_fail.is_some(),
                "a socket that cannot be opened is tried again",
            ),
            (
                "--config-sync-period",
                config_sync_period.is_some(),
                "objects are watched, not polled",
            ),
            ("--feature-gates", feature_gates.is_some(), "vipd has flags for what can be chosen"),
            ("--iptables-masquerade-bit", iptables_masquerade_bit.is_some(), "no packet is marked"),
            (
                "--iptables-sync-period",
                iptables_sync_period.is_some(),
                "what failed is tried again at once, then at growing intervals",
            ),
            ("--ipvs-exclude-cidrs", ipvs_exclude_cidrs.is_some(), IPVS),
            ("--ipvs-min-sync-period", ipvs_min_sync_period.is_some(), IPVS),
            ("--ipvs-scheduler", ipvs_scheduler.is_some(), IPVS),
            ("--ipvs-strict-arp", ipvs_strict_arp.is_some(), IPVS),
            ("--ipvs-sync-period", ipvs_sync_period.is_some(), IPVS),
            ("--ipvs-tcp-timeout", ipvs_tcp_timeout.is_some(), IPVS),
            ("--ipvs-tcpfin-timeout", ipvs_tcpfin_timeout.is_some(), IPVS),
            ("--ipvs-udp-timeout", ipvs_udp_timeout.is_some(), IPVS),
            ("--kube-api-burst", kube_api_burst.is_some(), "four watches ask the server for all"),
            (
                "--kube-api-content-type",
                kube_api_content_type.is_some(),
                "objects are asked for as JSON",
            ),
            ("--kube-api-qps", kube_api_qps.is_some(), "four watches ask the server for all"),
            ("--log-flush-frequency", log_flush_frequency.is_some(), LOG),
            ("--log-json-info-buffer-size", log_json_info_buffer_size.is_some(), LOG),
            ("--log-json-split-stream", log_json_split_stream.is_some(), LOG),
            ("--log-text-info-buffer-size", log_text_info_buffer_size.is_some(), LOG),
            ("--log-text-split-stream", log_text_split_stream.is_some(), LOG),
            ("--profiling", profiling.is_some(), "there is no Go run time"),
            (
                "--show-hidden-metrics-for-version",
                show_hidden_metrics_for_version.is_some(),
                "no metric is hidden",
            ),
            ("--vmodule", vmodule.is_some(), LOG),
        ];
        let given = given.into_iter().filter(|(_, given, _)| *given);
        given.map(|(what, _, why)| Warning::NoMeaning { what, why }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        upstream: UpstreamFlags,
    }

    #[test]
    fn each_is_told_once() {
        let words = "vipd --bind-address=0.0.0.0 --kube-api-qps 50 --profiling --feature-gates=A=true \
                     --ipvs-strict-arp=true --bind-address-hard-fail --vmodule=x=1";
        let command = Command::try_parse_from(words.split_whitespace()).unwrap();
        let told: Vec<String> =
            command.upstream.warnings().iter().map(ToString::to_string).collect();
        assert_eq!(told.len(), 7, "{told:?}");
        for flag in ["--bind-address ", "--kube-api-qps", "--profiling", "--ipvs-strict-arp"] {
            assert!(told.iter().any(|line| line.contains(flag)), "{flag}: {told:?}");
        }
        let nothing = Command::try_parse_from(["vipd"]).unwrap();
        assert_eq!(nothing.upstream.warnings(), []);
    }
}
