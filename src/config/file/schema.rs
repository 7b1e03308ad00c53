//! The fields of KubeProxyConfiguration (kubeproxy.config.k8s.io/v1alpha1, Kubernetes 1.37).
//!
//! `null` and a missing field are the same, as in Go. Numbers are wider than the API's, so that a
//! negative one is told as what it is.

use super::super::gates::Gates;
use crate::model::duration;
use serde::de::{Deserialize, Deserializer, Error as _};
use serde::{Serialize, Serializer};
use std::fmt;
use std::time::Duration;

#[derive(Debug, Clone, Default, PartialEq, serde::Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct KubeProxyConfiguration {
    pub api_version: Option<String>,
    pub kind: Option<String>,
    #[serde(skip_serializing_if = "none_or_empty")]
    pub feature_gates: Option<Gates>,
    pub client_connection: Option<ClientConnection>,
    pub logging: Option<Logging>,
    pub hostname_override: Option<String>,
    pub bind_address: Option<String>,
    pub healthz_bind_address: Option<String>,
    pub metrics_bind_address: Option<String>,
    pub bind_address_hard_fail: Option<bool>,
    pub enable_profiling: Option<bool>,
    pub show_hidden_metrics_for_version: Option<String>,
    pub mode: Option<String>,
    pub iptables: Option<Iptables>,
    pub ipvs: Option<Ipvs>,
    pub nftables: Option<NftablesSection>,
    pub winkernel: Option<Winkernel>,
    pub detect_local_mode: Option<String>,
    pub detect_local: Option<DetectLocalSection>,
    #[serde(rename = "clusterCIDR")]
    pub cluster_cidr: Option<String>,
    pub node_port_addresses: Option<Vec<String>>,
    pub oom_score_adj: Option<i64>,
    pub conntrack: Option<Conntrack>,
    pub config_sync_period: Option<GoDuration>,
    pub port_range: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub windows_run_as_service: Option<bool>,
}

fn none_or_empty(gates: &Option<Gates>) -> bool {
    gates.as_ref().is_none_or(Gates::is_empty)
}

#[derive(Debug, Clone, Default, PartialEq, serde::Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClientConnection {
    pub kubeconfig: Option<String>,
    pub accept_content_types: Option<String>,
    pub content_type: Option<String>,
    #[serde(serialize_with = "short")]
    pub qps: Option<f64>,
    pub burst: Option<i64>,
}

/// As Go writes a float: 5, 2.5.
fn short<S: Serializer>(value: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
    match value {
        #[expect(clippy::cast_possible_truncation, reason = "it has no fraction, and is small")]
        Some(whole) if whole.fract() == 0.0 && whole.abs() < 1e9 => {
            (*whole as i64).serialize(serializer)
        }
        other => other.serialize(serializer),
    }
}

#[derive(Debug, Clone, Default, PartialEq, serde::Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Logging {
    pub format: Option<String>,
    pub verbosity: Option<u32>,
    pub flush_frequency: Option<Flush>,
    pub options: Option<LoggingOptions>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vmodule: Option<Vec<Module>>,
}

/// Nanoseconds, or a duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize, Serialize)]
#[serde(untagged)]
pub enum Flush {
    Nanos(i64),
    Text(GoDuration),
}

impl Flush {
    pub fn nanos(self) -> i64 {
        match self {
            Flush::Nanos(nanos) | Flush::Text(GoDuration(nanos)) => nanos,
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, serde::Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LoggingOptions {
    pub text: Option<Stream>,
    pub json: Option<Stream>,
}

#[derive(Debug, Clone, Default, PartialEq, serde::Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Stream {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub split_stream: Option<bool>,
    pub info_buffer_size: Option<Quantity>,
}

/// Bytes, as resources are counted: 0, "64Ki".
#[derive(Debug, Clone, PartialEq, serde::Deserialize, Serialize)]
#[serde(untagged)]
pub enum Quantity {
    Number(i64),
    Text(String),
}

impl Quantity {
    pub fn is_zero(&self) -> bool {
        match self {
            Quantity::Number(number) => *number == 0,
            Quantity::Text(text) => {
                let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
                number.parse() == Ok(0.0)
            }
        }
    }
}

/// Of klog: more of the log for some files.
#[derive(Debug, Clone, Default, PartialEq, serde::Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Module {
    pub file_pattern: String,
    pub verbosity: u32,
}

/// For Windows.
#[derive(Debug, Clone, Default, PartialEq, serde::Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Winkernel {
    pub network_name: Option<String>,
    pub source_vip: Option<String>,
    #[serde(rename = "enableDSR")]
    pub enable_dsr: Option<bool>,
    pub root_hns_endpoint_name: Option<String>,
    pub forward_health_check_vip: Option<bool>,
}

#[derive(Debug, Clone, Default, PartialEq, serde::Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Iptables {
    pub masquerade_bit: Option<i64>,
    pub masquerade_all: Option<bool>,
    pub localhost_node_ports: Option<bool>,
    pub sync_period: Option<GoDuration>,
    pub min_sync_period: Option<GoDuration>,
}

#[derive(Debug, Clone, Default, PartialEq, serde::Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Ipvs {
    pub sync_period: Option<GoDuration>,
    pub min_sync_period: Option<GoDuration>,
    pub scheduler: Option<String>,
    #[serde(rename = "excludeCIDRs")]
    pub exclude_cidrs: Option<Vec<String>>,
    #[serde(rename = "strictARP")]
    pub strict_arp: Option<bool>,
    pub tcp_timeout: Option<GoDuration>,
    pub tcp_fin_timeout: Option<GoDuration>,
    pub udp_timeout: Option<GoDuration>,
}

#[derive(Debug, Clone, Default, PartialEq, serde::Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NftablesSection {
    pub masquerade_bit: Option<i64>,
    pub masquerade_all: Option<bool>,
    pub sync_period: Option<GoDuration>,
    pub min_sync_period: Option<GoDuration>,
}

#[derive(Debug, Clone, Default, PartialEq, serde::Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DetectLocalSection {
    pub bridge_interface: Option<String>,
    pub interface_name_prefix: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, serde::Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Conntrack {
    pub max_per_core: Option<i64>,
    pub min: Option<i64>,
    pub tcp_established_timeout: Option<GoDuration>,
    pub tcp_close_wait_timeout: Option<GoDuration>,
    pub tcp_be_liberal: Option<bool>,
    pub udp_timeout: Option<GoDuration>,
    pub udp_stream_timeout: Option<GoDuration>,
}

/// A duration as Go writes it, in nanoseconds; it may be negative, which no field may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GoDuration(pub i64);

impl GoDuration {
    pub const ZERO: Self = GoDuration(0);

    pub const fn seconds(seconds: i64) -> Self {
        GoDuration(seconds * 1_000_000_000)
    }

    /// `None` for a negative one.
    pub fn get(self) -> Option<Duration> {
        u64::try_from(self.0).ok().map(Duration::from_nanos)
    }

    pub fn is_negative(self) -> bool {
        self.0 < 0
    }

    pub fn parse(text: &str) -> Result<Self, String> {
        let (text, sign) = text.strip_prefix('-').map_or((text, 1), |rest| (rest, -1));
        let nanos = i64::try_from(duration::parse(text)?.as_nanos());
        Ok(GoDuration(sign * nanos.map_err(|_| "expected at most 292 years")?))
    }
}

impl From<Duration> for GoDuration {
    fn from(duration: Duration) -> Self {
        GoDuration(i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX))
    }
}

impl fmt::Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_negative() { "-" } else { "" })?;
        f.write_str(&duration::text(Duration::from_nanos(self.0.unsigned_abs())))
    }
}

impl<'de> Deserialize<'de> for GoDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

impl Serialize for GoDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
