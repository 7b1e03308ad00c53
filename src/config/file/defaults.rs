//! What a configuration says where it says nothing, and a file that spells it out.
//!
//! In: a configuration, as given. Out: the same with kube-proxy's defaults (v1alpha1, 1.37).
//! Never: a value that was given.

use super::super::endpoint;
use super::schema::{
    ClientConnection, Conntrack, DetectLocalSection, Flush, GoDuration, Iptables, Ipvs,
    KubeProxyConfiguration, Logging, LoggingOptions, NftablesSection, Quantity, Stream, Winkernel,
};
use super::{API_VERSION, KIND, PROTOBUF};

pub const SYNC_PERIOD: GoDuration = GoDuration::seconds(30);
pub const MIN_SYNC_PERIOD: GoDuration = GoDuration::seconds(1);
const CONFIG_SYNC_PERIOD: GoDuration = GoDuration::seconds(15 * 60);

/// Whether the section of nftables is the one that counts.
pub fn programs_nftables(mode: &str) -> bool {
    matches!(mode, "nftables" | "userspace")
}
const ESTABLISHED: GoDuration = GoDuration::seconds(24 * 3600);
const CLOSE_WAIT: GoDuration = GoDuration::seconds(3600);

fn text(value: &mut Option<String>, default: &str) {
    if value.as_deref().unwrap_or_default().is_empty() {
        *value = Some(default.to_owned());
    }
}

fn period(value: &mut Option<GoDuration>, default: GoDuration) {
    if value.is_none_or(|value| value == GoDuration::ZERO) {
        *value = Some(default);
    }
}

/// All fields, as `--write-config-to` writes them. As kube-proxy's internal form has one pair of
/// periods, the other modes' are 0 in the file: their defaults. Where vipd's own default is another
/// one (the mode, which addresses have node ports, the time between two commits), the field says
/// "the default" rather than kube-proxy's: read back, the file means what was asked for.
pub fn spelled_out(mut config: KubeProxyConfiguration) -> KubeProxyConfiguration {
    config.api_version = Some(API_VERSION.into());
    config.kind = Some(KIND.into());
    addresses(&mut config);
    text(&mut config.mode, "nftables");
    text(&mut config.detect_local_mode, "ClusterCIDR");
    for value in [
        &mut config.hostname_override,
        &mut config.cluster_cidr,
        &mut config.show_hidden_metrics_for_version,
    ] {
        text(value, "");
    }
    // kube-proxy's internal form has no place for it.
    config.port_range = Some(String::new());
    config.bind_address_hard_fail.get_or_insert(false);
    config.enable_profiling.get_or_insert(false);
    config.oom_score_adj.get_or_insert(-999);
    config.node_port_addresses = config.node_port_addresses.filter(|entries| !entries.is_empty());
    period(&mut config.config_sync_period, CONFIG_SYNC_PERIOD);
    let mode = config.mode.clone().unwrap_or_default();
    config.client_connection = Some(client(config.client_connection.unwrap_or_default()));
    config.conntrack = Some(conntrack(config.conntrack.unwrap_or_default()));
    config.iptables = Some(iptables(config.iptables.unwrap_or_default(), &mode));
    config.ipvs = Some(ipvs(config.ipvs.unwrap_or_default(), &mode));
    config.nftables = Some(nftables(config.nftables.unwrap_or_default(), &mode));
    config.logging = Some(logging(config.logging.unwrap_or_default()));
    let detect = config.detect_local.get_or_insert_with(DetectLocalSection::default);
    text(&mut detect.bridge_interface, "");
    text(&mut detect.interface_name_prefix, "");
    let winkernel = config.winkernel.get_or_insert_with(Winkernel::default);
    for value in [
        &mut winkernel.network_name,
        &mut winkernel.source_vip,
        &mut winkernel.root_hns_endpoint_name,
    ] {
        text(value, "");
    }
    winkernel.enable_dsr.get_or_insert(false);
    winkernel.forward_health_check_vip.get_or_insert(false);
    config
}

/// Of the family of bindAddress, and with a port.
fn addresses(config: &mut KubeProxyConfiguration) {
    text(&mut config.bind_address, "0.0.0.0");
    let v6 = config.bind_address.as_deref().is_some_and(|address| address.contains(':'));
    let (anywhere, here) = if v6 { ("[::]", "[::1]") } else { ("0.0.0.0", "127.0.0.1") };
    for (value, host, port) in [
        (&mut config.healthz_bind_address, anywhere, endpoint::HEALTHZ.port),
        (&mut config.metrics_bind_address, here, endpoint::METRICS.port),
    ] {
        let given = value.take().filter(|text| !text.is_empty());
        *value = match given {
            Some(text) => endpoint::with_port(Some(text), Some(port)),
            None => Some(format!("{host}:{port}")),
        };
    }
}

fn client(mut client: ClientConnection) -> ClientConnection {
    text(&mut client.kubeconfig, "");
    text(&mut client.accept_content_types, "");
    text(&mut client.content_type, PROTOBUF);
    client.qps = client.qps.filter(|qps| *qps != 0.0).or(Some(5.0));
    client.burst = client.burst.filter(|burst| *burst != 0).or(Some(10));
    client
}

fn conntrack(mut conntrack: Conntrack) -> Conntrack {
    conntrack.max_per_core.get_or_insert(32_768);
    conntrack.min.get_or_insert(131_072);
    conntrack.tcp_established_timeout.get_or_insert(ESTABLISHED);
    conntrack.tcp_close_wait_timeout.get_or_insert(CLOSE_WAIT);
    conntrack.tcp_be_liberal.get_or_insert(false);
    conntrack.udp_timeout.get_or_insert(GoDuration::ZERO);
    conntrack.udp_stream_timeout.get_or_insert(GoDuration::ZERO);
    conntrack
}

fn iptables(mut section: Iptables, mode: &str) -> Iptables {
    section.masquerade_bit.get_or_insert(14);
    section.localhost_node_ports.get_or_insert(true);
    let own = mode != "ipvs" && !programs_nftables(mode);
    section.masquerade_all = Some(section.masquerade_all == Some(true) && !programs_nftables(mode));
    periods((&mut section.sync_period, &mut section.min_sync_period), own);
    section
}

fn nftables(mut section: NftablesSection, mode: &str) -> NftablesSection {
    let own = programs_nftables(mode);
    section.masquerade_bit.get_or_insert(14);
    section.masquerade_all = Some(section.masquerade_all == Some(true) && own);
    periods((&mut section.sync_period, &mut section.min_sync_period), own);
    section
}

fn ipvs(mut section: Ipvs, mode: &str) -> Ipvs {
    text(&mut section.scheduler, "");
    section.exclude_cidrs = section.exclude_cidrs.filter(|cidrs| !cidrs.is_empty());
    section.strict_arp.get_or_insert(false);
    section.tcp_timeout.get_or_insert(GoDuration::ZERO);
    section.tcp_fin_timeout.get_or_insert(GoDuration::ZERO);
    section.udp_timeout.get_or_insert(GoDuration::ZERO);
    periods((&mut section.sync_period, &mut section.min_sync_period), mode == "ipvs");
    section
}

fn periods((sync, least): (&mut Option<GoDuration>, &mut Option<GoDuration>), own: bool) {
    if own {
        period(sync, SYNC_PERIOD);
        least.get_or_insert(GoDuration::ZERO);
    } else {
        (*sync, *least) = (Some(GoDuration::ZERO), Some(GoDuration::ZERO));
    }
}

fn logging(mut logging: Logging) -> Logging {
    text(&mut logging.format, "text");
    logging.verbosity.get_or_insert(0);
    logging.flush_frequency = logging
        .flush_frequency
        .filter(|flush| flush.nanos() != 0)
        .or(Some(Flush::Text(GoDuration::seconds(5))));
    let options = logging.options.get_or_insert_with(LoggingOptions::default);
    for stream in [&mut options.text, &mut options.json] {
        let stream = stream.get_or_insert_with(Stream::default);
        stream.info_buffer_size.get_or_insert(Quantity::Text("0".into()));
        stream.split_stream = stream.split_stream.filter(|split| *split);
    }
    logging
}
