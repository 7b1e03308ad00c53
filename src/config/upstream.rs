//! Flags of kube-proxy that are taken so that its command line works, and mean nothing here: each one
//! that is given is told, and a value that kube-proxy refuses is refused.

use super::file::GoDuration;
use super::gates::{self, Gates};
use super::value;
use clap::{ArgAction, Args};

/// `-v` and its like are the log's, not these.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Taken for kube-proxy's sake, without a meaning here")]
pub(super) struct UpstreamFlags {
    #[arg(long, hide = true, value_name = "X", value_parser = value::address_or_none)]
    pub bind_address: Option<String>,
    #[arg(long, hide = true, value_name = "X", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "true", value_parser = value::boolean, action = ArgAction::Set)]
    pub bind_address_hard_fail: Option<bool>,
    #[arg(long, hide = true, value_name = "X", value_parser = period)]
    pub config_sync_period: Option<GoDuration>,
    /// AllowServiceExternalIPs has a meaning
    #[arg(long, hide = true, value_name = "X", value_parser = gates::parse)]
    #[arg(action = ArgAction::Append)]
    pub feature_gates: Vec<Gates>,
    #[arg(long, hide = true, value_name = "X", value_parser = value::bit)]
    pub iptables_masquerade_bit: Option<i64>,
    /// Has a meaning in every mode but ipvs
    #[arg(long, hide = true, value_name = "X", value_parser = GoDuration::parse)]
    #[arg(allow_hyphen_values = true)]
    pub iptables_min_sync_period: Option<GoDuration>,
    #[arg(long, hide = true, value_name = "X", value_parser = period)]
    pub iptables_sync_period: Option<GoDuration>,
    #[arg(long, hide = true, value_name = "X")]
    pub ipvs_exclude_cidrs: Option<String>,
    #[arg(long, hide = true, value_name = "X", value_parser = GoDuration::parse)]
    #[arg(allow_hyphen_values = true)]
    pub ipvs_min_sync_period: Option<GoDuration>,
    #[arg(long, hide = true, value_name = "X")]
    pub ipvs_scheduler: Option<String>,
    #[arg(long, hide = true, value_name = "X", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "true", value_parser = value::boolean, action = ArgAction::Set)]
    pub ipvs_strict_arp: Option<bool>,
    #[arg(long, hide = true, value_name = "X", value_parser = GoDuration::parse)]
    pub ipvs_sync_period: Option<GoDuration>,
    #[arg(long, hide = true, value_name = "X", value_parser = GoDuration::parse)]
    pub ipvs_tcp_timeout: Option<GoDuration>,
    #[arg(long, hide = true, value_name = "X", value_parser = GoDuration::parse)]
    pub ipvs_tcpfin_timeout: Option<GoDuration>,
    #[arg(long, hide = true, value_name = "X", value_parser = GoDuration::parse)]
    pub ipvs_udp_timeout: Option<GoDuration>,
    #[arg(long, hide = true, value_name = "X", value_parser = value::count)]
    pub kube_api_burst: Option<u32>,
    #[arg(long, hide = true, value_name = "X")]
    pub kube_api_content_type: Option<String>,
    #[arg(long, hide = true, value_name = "X", allow_negative_numbers = true)]
    pub kube_api_qps: Option<f64>,
    #[arg(long, hide = true, value_name = "X", value_parser = period)]
    pub log_flush_frequency: Option<GoDuration>,
    #[arg(long, hide = true, value_name = "X")]
    pub log_json_info_buffer_size: Option<String>,
    #[arg(long, hide = true, value_name = "X", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "true", value_parser = value::boolean, action = ArgAction::Set)]
    pub log_json_split_stream: Option<bool>,
    #[arg(long, hide = true, value_name = "X")]
    pub log_text_info_buffer_size: Option<String>,
    #[arg(long, hide = true, value_name = "X", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "true", value_parser = value::boolean, action = ArgAction::Set)]
    pub log_text_split_stream: Option<bool>,
    #[arg(long, hide = true, value_name = "X", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "true", value_parser = value::boolean, action = ArgAction::Set)]
    pub profiling: Option<bool>,
    #[arg(long, hide = true, value_name = "X")]
    pub show_hidden_metrics_for_version: Option<String>,
    #[arg(long, hide = true, value_name = "X", value_parser = modules)]
    pub vmodule: Option<String>,
}

impl UpstreamFlags {
    /// All that were given; a later one of the same name counts.
    pub fn gates(&self) -> Gates {
        self.feature_gates.iter().flatten().map(|(name, on)| (name.clone(), *on)).collect()
    }
}

fn period(text: &str) -> Result<GoDuration, String> {
    let period = GoDuration::parse(text)?;
    match period.0 > 0 {
        true => Ok(period),
        false => Err("expected a duration of more than 0, such as 30s".into()),
    }
}

/// `pattern=level`, with commas between.
fn modules(text: &str) -> Result<String, String> {
    let right = |module: &str| {
        module.split_once('=').is_some_and(|(_, level)| level.parse::<u32>().is_ok())
    };
    match text.split(',').filter(|module| !module.is_empty()).all(right) {
        true => Ok(text.to_owned()),
        false => Err("expected PATTERN=LEVEL, with commas between".into()),
    }
}
