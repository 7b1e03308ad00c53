//! `--config`: KubeProxyConfiguration v1alpha1, read as kube-proxy 1.37 reads it.
//!
//! In: a file. Out: its fields, checked, with what they have no meaning for here.
//! Never: a field that is silently lost.

mod check;
mod defaults;
mod schema;
mod section;
#[cfg(test)]
mod tests;

pub(super) use check::check;
pub(super) use defaults::spelled_out;
pub(super) use schema::{
    ClientConnection, Conntrack, DetectLocalSection, Flush, GoDuration, Iptables, Ipvs,
    KubeProxyConfiguration, Logging, LoggingOptions, Module, NftablesSection, Quantity, Stream,
};
pub(super) use section::in_vain;

use super::{Error, Warning, gates, names};
use serde_ignored::Path as Ignored;
use std::collections::BTreeSet;
use std::path::Path;

const API_VERSION: &str = "kubeproxy.config.k8s.io/v1alpha1";
const KIND: &str = "KubeProxyConfiguration";

/// A good file.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct File {
    pub config: KubeProxyConfiguration,
    /// Fields that say something, with dots between (`iptables.masqueradeAll`).
    pub given: BTreeSet<String>,
    pub warnings: Vec<Warning>,
}

pub(super) fn text(path: &Path) -> Result<String, Error> {
    let text = std::fs::read_to_string(path);
    text.map_err(|error| refused(path, &[format!("cannot be read: {error}")]))
}

fn refused(path: &Path, faults: &[String]) -> Error {
    Error::File { path: path.into(), faults: faults.join("; ") }
}

/// Upstream reads strictly first, then leniently with a warning: fields that there are not are told.
pub(super) fn parse(text: &str, path: &Path) -> Result<File, Error> {
    let (value, twice) = syntax(text).map_err(|fault| refused(path, &[fault]))?;
    let mut given = BTreeSet::new();
    fields(&value, "", &mut given);
    let mut unknown = Vec::new();
    let mut track = serde_path_to_error::Track::new();
    let tracked = serde_path_to_error::Deserializer::new(value, &mut track);
    let read = serde_ignored::deserialize(tracked, |path: Ignored<'_>| {
        unknown.push(path.to_string().replace(".?", ""));
    });
    let config: KubeProxyConfiguration =
        read.map_err(|error| refused(path, &[format!("{}: {error}", track.path())]))?;
    let version = config.api_version.as_deref().unwrap_or_default();
    let kind = config.kind.as_deref().unwrap_or_default();
    if (version, kind) != (API_VERSION, KIND) {
        let fault = format!("\"{version}\", \"{kind}\" is not {API_VERSION}, {KIND}");
        return Err(refused(path, &[fault]));
    }
    let faults = check::check(&config);
    if !faults.is_empty() {
        return Err(refused(path, &faults));
    }
    let mut warnings: Vec<Warning> = twice.into_iter().collect();
    warnings.extend(unknown.into_iter().map(|field| Warning::UnknownField { field }));
    warnings.extend(without_meaning(&config));
    Ok(File { config, given, warnings })
}

/// A key that is there twice is no reason not to start, as upstream.
fn syntax(text: &str) -> Result<(serde_json::Value, Option<Warning>), String> {
    let told = |error: &serde_saphyr::Error| error.without_snippet().to_string();
    let strict = match serde_saphyr::from_str(text) {
        Ok(value) => return Ok((value, None)),
        Err(error) => told(&error),
    };
    let lenient = serde_saphyr::options! {
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::LastWins,
    };
    match serde_saphyr::from_str_with_options(text, lenient) {
        Ok(value) => Ok((value, Some(Warning::TwiceInFile { which: strict }))),
        Err(_) => Err(strict),
    }
}

/// Where 0 is a duration like others, and not the default.
const ZERO_COUNTS: [&str; 2] = ["conntrack.tcpEstablishedTimeout", "conntrack.tcpCloseWaitTimeout"];

/// What is null, empty or a duration of 0 leaves the default.
fn fields(value: &serde_json::Value, at: &str, out: &mut BTreeSet<String>) {
    use serde_json::Value;
    let says = match value {
        Value::Object(entries) => {
            for (name, value) in entries {
                let dot = if at.is_empty() { "" } else { "." };
                fields(value, &format!("{at}{dot}{name}"), out);
            }
            false
        }
        Value::Null => false,
        Value::Array(entries) => !entries.is_empty(),
        Value::String(text) => !text.is_empty() && (text != "0s" || ZERO_COUNTS.contains(&at)),
        Value::Bool(_) | Value::Number(_) => true,
    };
    if says {
        out.insert(at.to_owned());
    }
}

/// What objects are asked for as by default, here as upstream.
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// Fields that say something, and nothing to vipd. Those that say what is so anyway are left out.
fn without_meaning(config: &KubeProxyConfiguration) -> Vec<Warning> {
    let mut out = Vec::new();
    let mut told = |given: bool, field: &'static str, why: &'static str| {
        if given {
            out.push(Warning::NoMeaning { what: field, why });
        }
    };
    let text = |value: &Option<String>| value.as_ref().is_some_and(|text| !text.is_empty());
    let set = |value: Option<GoDuration>| value.is_some_and(|value| value != GoDuration::ZERO);
    let client = config.client_connection.clone().unwrap_or_default();
    told(
        client.qps.is_some_and(|qps| qps > 0.0) || client.burst.is_some_and(|burst| burst > 0),
        "clientConnection.qps and burst",
        names::CLIENT,
    );
    told(
        [&client.content_type, &client.accept_content_types]
            .into_iter()
            .any(|value| text(value) && value.as_deref() != Some(PROTOBUF)),
        "clientConnection.contentType and acceptContentTypes",
        names::FORMAT,
    );
    let bits = [
        config.iptables.as_ref().and_then(|section| section.masquerade_bit),
        config.nftables.as_ref().and_then(|section| section.masquerade_bit),
    ];
    told(bits.iter().flatten().any(|bit| *bit != 14), "masqueradeBit", names::MARK);
    told(
        set(config.iptables.as_ref().and_then(|section| section.sync_period))
            || set(config.ipvs.as_ref().and_then(|section| section.sync_period))
            || set(config.nftables.as_ref().and_then(|section| section.sync_period)),
        "syncPeriod",
        names::RETRY,
    );
    told(set(config.config_sync_period), "configSyncPeriod", names::RESYNC);
    // "::" says more than the default: upstream takes IPv6 for the first family then.
    told(
        config.bind_address.as_deref().is_some_and(|address| !["", "0.0.0.0"].contains(&address)),
        "bindAddress",
        names::ADDRESSES,
    );
    told(config.bind_address_hard_fail == Some(true), "bindAddressHardFail", names::SOCKETS);
    told(config.enable_profiling == Some(true), "enableProfiling", names::GO);
    told(
        text(&config.show_hidden_metrics_for_version),
        "showHiddenMetricsForVersion",
        names::METRICS,
    );
    let ipvs = config.ipvs.clone().unwrap_or_default();
    told(
        text(&ipvs.scheduler)
            || ipvs.strict_arp == Some(true)
            || ipvs.exclude_cidrs.is_some_and(|cidrs| !cidrs.is_empty())
            || [ipvs.tcp_timeout, ipvs.tcp_fin_timeout, ipvs.udp_timeout].into_iter().any(set),
        "ipvs",
        names::IPVS,
    );
    told(
        text(&config.port_range),
        "portRange",
        "the userspace mode that had it is gone upstream too",
    );
    let logging = config.logging.clone().unwrap_or_default();
    let options = logging.options.unwrap_or_default();
    let chosen = |stream: Option<Stream>| {
        let stream = stream.unwrap_or_default();
        stream.split_stream == Some(true)
            || stream.info_buffer_size.is_some_and(|size| !size.is_zero())
    };
    told(
        logging.vmodule.is_some_and(|modules| !modules.is_empty())
            || logging.flush_frequency.is_some_and(|flush| flush.nanos() != 0)
            || chosen(options.text)
            || chosen(options.json),
        "logging's vmodule, flushFrequency and options",
        names::LOG,
    );
    let windows = config.winkernel.clone().unwrap_or_default();
    told(
        [windows.network_name, windows.source_vip, windows.root_hns_endpoint_name].iter().any(text)
            || [
                windows.enable_dsr,
                windows.forward_health_check_vip,
                config.windows_run_as_service,
            ]
            .contains(&Some(true)),
        "winkernel and windowsRunAsService",
        "this is Linux",
    );
    out.extend(gates_without_meaning(&config.feature_gates.clone().unwrap_or_default()));
    out
}

/// All but those that vipd obeys.
pub(super) fn gates_without_meaning(given: &gates::Gates) -> Option<Warning> {
    let others = given.keys().filter(|name| *name != gates::EXTERNAL_IPS);
    let names = others.cloned().collect::<Vec<_>>().join(", ");
    (!names.is_empty()).then_some(Warning::GatesWithoutMeaning { names })
}
