//! What kube-proxy refuses (pkg/proxy/apis/config/validation, 1.37), with the field and what would be
//! right.

use super::super::{endpoint, gates, node_ports, value};
use super::defaults::{MIN_SYNC_PERIOD, SYNC_PERIOD, programs_nftables};
use super::schema::{GoDuration, KubeProxyConfiguration, Logging, Stream};
use crate::model::Family;
use crate::planner::NodePortAddresses;

/// Modes that the file may name, kube-proxy's and vipd's own. What vipd makes of each is said
/// elsewhere.
const MODES: [&str; 3] = ["iptables", "ipvs", "nftables"];
const OWN_MODES: [&str; 2] = ["userspace", "ebpf"];
const DETECT: [&str; 4] = ["ClusterCIDR", "NodeCIDR", "BridgeInterface", "InterfaceNamePrefix"];

/// The minor version before the one whose metrics vipd has.
const HIDDEN_METRICS: &str = "1.36";

/// All that is wrong, a line each: `field: value: what would be right`.
pub fn check(config: &KubeProxyConfiguration) -> Vec<String> {
    let mut faults = Faults::default();
    let mode = config.mode.as_deref().unwrap_or_default();
    let detect = config.detect_local_mode.as_deref().unwrap_or_default();
    let given = config.feature_gates.clone().unwrap_or_default();
    for fault in gates::faults(&given) {
        faults.0.push(format!("featureGates: {fault}"));
    }
    if !OWN_MODES.contains(&mode) {
        faults.one_of("mode", mode, &MODES);
    }
    if mode == "ipvs" && !gates::on(&given, gates::IPVS) {
        faults.add("mode", mode, "another mode, or feature gate KubeProxyIPVS on");
    }
    faults.one_of("detectLocalMode", detect, &DETECT);
    sections(config, mode, &mut faults);
    detection(config, detect, &mut faults);
    addresses(config, &mut faults);
    numbers(config, &mut faults);
    if let Some(version) = &config.show_hidden_metrics_for_version
        && !["", HIDDEN_METRICS].contains(&version.as_str())
    {
        let expected = "1.36 (only the minor version before this one), or nothing";
        faults.add("showHiddenMetricsForVersion", version, expected);
    }
    if let Some(section) = &config.logging {
        logging(section, gates::on(&given, gates::LOGGING), &mut faults);
    }
    faults.0
}

#[derive(Default)]
struct Faults(Vec<String>);

impl Faults {
    fn add(&mut self, field: &str, value: &str, expected: &str) {
        self.0.push(format!("{field}: \"{value}\": expected {expected}"));
    }

    fn one_of(&mut self, field: &str, value: &str, words: &[&str]) {
        if !value.is_empty() && !words.contains(&value) {
            self.add(field, value, &format!("one of {}", words.join(", ")));
        }
    }

    fn within(&mut self, field: &str, value: Option<i64>, (low, high): (i64, i64)) {
        if let Some(value) = value.filter(|value| !(low..=high).contains(value)) {
            self.add(field, &value.to_string(), &format!("a number from {low} to {high}"));
        }
    }

    fn not_negative(&mut self, field: &str, value: Option<GoDuration>) {
        if let Some(value) = value.filter(|value| value.is_negative()) {
            self.add(field, &value.to_string(), "a duration of 0 or more");
        }
    }

    /// 0 stands for the default, which is longer.
    fn periods(&mut self, section: &str, sync: Option<GoDuration>, least: Option<GoDuration>) {
        let (sync_field, least_field) =
            (format!("{section}.syncPeriod"), format!("{section}.minSyncPeriod"));
        self.not_negative(&sync_field, sync);
        self.not_negative(&least_field, least);
        let or = |value: Option<GoDuration>, default| match value {
            None | Some(GoDuration::ZERO) => default,
            Some(value) => value,
        };
        let default = if section == "ipvs" { GoDuration::ZERO } else { MIN_SYNC_PERIOD };
        let (sync, least) = (or(sync, SYNC_PERIOD), or(least, default));
        if least.0 > sync.0 {
            let expected = format!("at most {sync_field}, {sync}");
            self.add(&least_field, &least.to_string(), &expected);
        }
    }
}

fn sections(config: &KubeProxyConfiguration, mode: &str, faults: &mut Faults) {
    let bit = (0, 31);
    if let Some(iptables) = &config.iptables {
        faults.within("iptables.masqueradeBit", iptables.masquerade_bit, bit);
        if mode != "ipvs" && !programs_nftables(mode) {
            faults.periods("iptables", iptables.sync_period, iptables.min_sync_period);
        }
    }
    if let Some(nftables) = config.nftables.as_ref().filter(|_| programs_nftables(mode)) {
        faults.within("nftables.masqueradeBit", nftables.masquerade_bit, bit);
        faults.periods("nftables", nftables.sync_period, nftables.min_sync_period);
    }
    let Some(ipvs) = config.ipvs.as_ref().filter(|_| mode == "ipvs") else { return };
    faults.periods("ipvs", ipvs.sync_period, ipvs.min_sync_period);
    faults.not_negative("ipvs.tcpTimeout", ipvs.tcp_timeout);
    faults.not_negative("ipvs.tcpFinTimeout", ipvs.tcp_fin_timeout);
    faults.not_negative("ipvs.udpTimeout", ipvs.udp_timeout);
    for (at, cidr) in ipvs.exclude_cidrs.iter().flatten().enumerate() {
        if value::net(cidr).is_none() {
            faults.add(&format!("ipvs.excludeCIDRs[{at}]"), cidr, "a CIDR such as 10.20.0.0/16");
        }
    }
}

fn detection(config: &KubeProxyConfiguration, detect: &str, faults: &mut Faults) {
    let section = config.detect_local.clone().unwrap_or_default();
    let missing = |value: Option<String>| value.is_none_or(|value| value.is_empty());
    if detect == "BridgeInterface" && missing(section.bridge_interface) {
        faults.add(
            "detectLocal.bridgeInterface",
            "",
            "the bridge of all pods, for BridgeInterface",
        );
    }
    if detect == "InterfaceNamePrefix" && missing(section.interface_name_prefix) {
        let expected = "how pods' interfaces begin, for InterfaceNamePrefix";
        faults.add("detectLocal.interfaceNamePrefix", "", expected);
    }
    let cidrs = config.cluster_cidr.as_deref().unwrap_or_default();
    if cidrs.is_empty() || !matches!(detect, "" | "ClusterCIDR") {
        return;
    }
    let nets: Vec<_> = cidrs.split(',').map(value::net).collect();
    let families: Vec<Family> = nets.iter().flatten().map(|net| Family::of(net.addr())).collect();
    let pair = families.len() == nets.len()
        && (families.len() == 1 || (families.len() == 2 && families[0] != families[1]));
    if !pair {
        faults.add("clusterCIDR", cidrs, "one CIDR, or one of each family with a comma between");
    }
}

fn addresses(config: &KubeProxyConfiguration, faults: &mut Faults) {
    let given = |value: &Option<String>| value.clone().filter(|value| !value.is_empty());
    if let Some(text) = given(&config.bind_address)
        && value::ip(&text).is_none()
    {
        faults.add("bindAddress", &text, "an address such as 0.0.0.0");
    }
    for (field, value, endpoint) in [
        ("healthzBindAddress", &config.healthz_bind_address, &endpoint::HEALTHZ),
        ("metricsBindAddress", &config.metrics_bind_address, &endpoint::METRICS),
    ] {
        if let Some(text) = given(value)
            && endpoint::addresses(endpoint, Some(text.clone())).is_err()
        {
            faults.add(field, &text, "an address, with a port or without, such as 127.0.0.1:10249");
        }
    }
    let mut seen = Vec::new();
    for (at, text) in config.node_port_addresses.iter().flatten().enumerate() {
        let field = format!("nodePortAddresses[{at}]");
        match node_ports::parse(text) {
            // A range that is there twice is said twice, no more.
            Ok(NodePortAddresses::Within(_)) => {}
            Ok(entry) if seen.contains(&entry) => faults.add(&field, text, "each keyword once"),
            Ok(entry) => seen.push(entry),
            Err(_) => faults.add(&field, text, "a CIDR, primary, localhost or all"),
        }
    }
}

fn numbers(config: &KubeProxyConfiguration, faults: &mut Faults) {
    let count = (0, i64::from(i32::MAX));
    faults.within("oomScoreAdj", config.oom_score_adj, (-1000, 1000));
    faults.not_negative("configSyncPeriod", config.config_sync_period);
    if let Some(client) = &config.client_connection {
        faults.within("clientConnection.burst", client.burst, count);
    }
    let Some(conntrack) = &config.conntrack else { return };
    faults.within("conntrack.maxPerCore", conntrack.max_per_core, count);
    faults.within("conntrack.min", conntrack.min, count);
    for (field, value) in [
        ("conntrack.tcpEstablishedTimeout", conntrack.tcp_established_timeout),
        ("conntrack.tcpCloseWaitTimeout", conntrack.tcp_close_wait_timeout),
        ("conntrack.udpTimeout", conntrack.udp_timeout),
        ("conntrack.udpStreamTimeout", conntrack.udp_stream_timeout),
    ] {
        faults.not_negative(field, value);
    }
}

/// With `unlocked` buffers may be chosen.
fn logging(section: &Logging, unlocked: bool, faults: &mut Faults) {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let format = text(&section.format);
    faults.one_of("logging.format", &format, &["text", "json"]);
    let verbosity = section.verbosity.map(i64::from);
    faults.within("logging.verbosity", verbosity, (0, i64::from(i32::MAX)));
    if let Some(flush) = section.flush_frequency.filter(|flush| flush.nanos() < 0) {
        let value = GoDuration(flush.nanos()).to_string();
        faults.add("logging.flushFrequency", &value, "a duration of more than 0");
    }
    let modules = section.vmodule.as_deref().unwrap_or_default();
    if format == "json" && !modules.is_empty() {
        faults.add("logging.vmodule", "…", "none with logging.format json");
    }
    for (at, module) in modules.iter().enumerate() {
        if module.file_pattern.is_empty() || module.file_pattern.contains(['=', ',']) {
            let field = format!("logging.vmodule[{at}].filePattern");
            faults.add(&field, &module.file_pattern, "a pattern without = and comma");
        }
        let field = format!("logging.vmodule[{at}].verbosity");
        faults.within(&field, Some(module.verbosity.into()), (0, i64::from(i32::MAX)));
    }
    let options = section.options.clone().unwrap_or_default();
    for (field, stream) in [("text", options.text), ("json", options.json)] {
        // Upstream asks for the gate of a stream that flags split, and not for one of the file.
        let chosen = |stream: Stream| stream.info_buffer_size.is_some_and(|size| !size.is_zero());
        if !unlocked && stream.is_some_and(chosen) {
            let field = format!("logging.options.{field}");
            faults.add(&field, "…", "nothing without feature gate LoggingAlphaOptions");
        }
    }
}
