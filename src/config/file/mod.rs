//! `--config`: KubeProxyConfiguration v1alpha1, read as kube-proxy 1.37 reads it.
//!
//! In: a file. Out: its fields, checked, with what they have no meaning for here.
//! Never: a field that is silently lost.

mod check;
mod schema;
#[cfg(test)]
mod tests;

pub(super) use schema::{GoDuration, KubeProxyConfiguration};

use super::{Error, Warning};
use serde_ignored::Path as Ignored;
use std::path::Path;

const API_VERSION: &str = "kubeproxy.config.k8s.io/v1alpha1";
const KIND: &str = "KubeProxyConfiguration";

/// A good file.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct File {
    pub config: KubeProxyConfiguration,
    pub warnings: Vec<Warning>,
}

pub(super) fn read(path: &Path) -> Result<File, Error> {
    let text = std::fs::read_to_string(path);
    let text = text.map_err(|error| refused(path, &[format!("cannot be read: {error}")]))?;
    parse(&text, path)
}

fn refused(path: &Path, faults: &[String]) -> Error {
    Error::File { path: path.into(), faults: faults.join("; ") }
}

/// Upstream reads strictly first, then leniently with a warning: fields that there are not are told.
fn parse(text: &str, path: &Path) -> Result<File, Error> {
    let value: serde_json::Value = serde_saphyr::from_str(text)
        .map_err(|error| refused(path, &[error.without_snippet().to_string()]))?;
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
    let mut warnings: Vec<Warning> =
        unknown.into_iter().map(|field| Warning::UnknownField { field }).collect();
    warnings.extend(without_meaning(&config));
    Ok(File { config, warnings })
}

/// Fields that say something, and nothing to vipd. Those that say what is so anyway are left out.
fn without_meaning(config: &KubeProxyConfiguration) -> Vec<Warning> {
    let mut out = Vec::new();
    let mut told = |given: bool, field: &'static str, why: &'static str| {
        if given {
            out.push(Warning::NoMeaning { what: field, why });
        }
    };
    let text = |value: &Option<String>| value.as_ref().is_some_and(|text| !text.is_empty());
    let set =
        |value: Option<GoDuration>| value.is_some_and(|v| v.get() != Some(Default::default()));
    let client = config.client_connection.clone().unwrap_or_default();
    told(
        client.qps.is_some_and(|qps| qps > 0.0) || client.burst.is_some_and(|burst| burst > 0),
        "clientConnection.qps and burst",
        "four watches ask the server for nothing else",
    );
    told(
        text(&client.content_type) || text(&client.accept_content_types),
        "clientConnection.contentType",
        "objects are asked for as JSON",
    );
    let bits = [
        config.iptables.as_ref().and_then(|section| section.masquerade_bit),
        config.nftables.as_ref().and_then(|section| section.masquerade_bit),
    ];
    told(bits.iter().flatten().any(|bit| *bit != 14), "masqueradeBit", "no packet is marked");
    told(
        set(config.iptables.as_ref().and_then(|section| section.sync_period))
            || set(config.nftables.as_ref().and_then(|section| section.sync_period)),
        "syncPeriod",
        "what failed is tried again at once, then at growing intervals",
    );
    told(set(config.config_sync_period), "configSyncPeriod", "objects are watched, not polled");
    let anywhere = ["", "0.0.0.0", "::"];
    told(
        config.bind_address.as_deref().is_some_and(|address| !anywhere.contains(&address)),
        "bindAddress",
        "the node's addresses are its interfaces' and its Node object's",
    );
    told(
        config.bind_address_hard_fail == Some(true),
        "bindAddressHardFail",
        "a socket that cannot be opened is tried again, and services are served meanwhile",
    );
    told(config.enable_profiling == Some(true), "enableProfiling", "there is no Go run time");
    told(
        text(&config.show_hidden_metrics_for_version),
        "showHiddenMetricsForVersion",
        "no metric is hidden",
    );
    told(
        config.feature_gates.as_ref().is_some_and(|gates| !gates.is_empty()),
        "featureGates",
        "vipd has flags for what can be chosen",
    );
    let ipvs = config.ipvs.clone().unwrap_or_default();
    told(
        text(&ipvs.scheduler)
            || ipvs.strict_arp == Some(true)
            || ipvs.exclude_cidrs.is_some_and(|cidrs| !cidrs.is_empty())
            || [ipvs.tcp_timeout, ipvs.tcp_fin_timeout, ipvs.udp_timeout].into_iter().any(set),
        "ipvs",
        "vipd programs nf_tables",
    );
    told(
        text(&config.port_range),
        "portRange",
        "the userspace mode that had it is gone upstream too",
    );
    out
}
