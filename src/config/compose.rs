//! The flags as a configuration file would say them.
//!
//! In: flags. Out: KubeProxyConfiguration, with nothing in it that was not given.
//! Never: what only vipd knows.

use super::file::{
    ClientConnection, Conntrack, DetectLocalSection, Flush, GoDuration, Iptables, Ipvs,
    KubeProxyConfiguration, Logging, LoggingOptions, Module, NftablesSection, Quantity, Stream,
};
use super::flags::RunFlags;
use super::mode::AskedMode;
use super::{LogFormat, endpoint, node_ports};
use std::path::Path;

fn text(path: Option<&Path>) -> Option<String> {
    path.map(|path| path.display().to_string())
}

impl RunFlags {
    pub(super) fn as_file(&self) -> KubeProxyConfiguration {
        let (node, upstream) = (&self.node, &self.upstream);
        let nets = node.cluster_cidr.iter().map(ToString::to_string).collect::<Vec<_>>();
        let entries = node.node_ports_at();
        // Nothing but the mode's default is not given.
        let entries =
            if entries == self.node.proxy_mode.node_ports_at() { Vec::new() } else { entries };
        let with_port = |given: &Option<String>, port| endpoint::with_port(given.clone(), port);
        let mut config = KubeProxyConfiguration {
            feature_gates: Some(upstream.gates()),
            client_connection: Some(ClientConnection {
                kubeconfig: text(self.kubeconfig.as_deref()),
                accept_content_types: None,
                content_type: upstream.kube_api_content_type.clone(),
                qps: upstream.kube_api_qps,
                burst: upstream.kube_api_burst.map(i64::from),
            }),
            hostname_override: node.hostname_override.clone(),
            bind_address: upstream.bind_address.clone(),
            healthz_bind_address: with_port(&self.healthz_bind_address, self.healthz_port),
            metrics_bind_address: with_port(&self.metrics_bind_address, self.metrics_port),
            bind_address_hard_fail: upstream.bind_address_hard_fail,
            enable_profiling: upstream.profiling,
            show_hidden_metrics_for_version: upstream.show_hidden_metrics_for_version.clone(),
            mode: Some(self.node.proxy_mode.name().to_owned()),
            detect_local_mode: node.detect_local_mode.map(|mode| mode.name().to_owned()),
            detect_local: Some(DetectLocalSection {
                bridge_interface: node.pod_bridge_interface.clone(),
                interface_name_prefix: node.pod_interface_name_prefix.clone(),
            }),
            cluster_cidr: Some(nets.join(",")),
            node_port_addresses: Some(entries.into_iter().map(node_ports::text).collect()),
            oom_score_adj: self.oom_score_adj.map(i64::from),
            conntrack: Some(self.conntrack_section()),
            config_sync_period: upstream.config_sync_period,
            ..KubeProxyConfiguration::default()
        };
        self.add_sections(&mut config);
        config.logging = Some(self.logging_over(Logging::default()));
        config
    }

    /// What flags say of the least time between two commits: vipd's own, or kube-proxy's of the mode,
    /// of which a flag stands before the environment.
    pub(super) fn min_sync_given(&self) -> Option<GoDuration> {
        let of_mode = self.node.proxy_mode.min_sync_flag();
        let ids = ["min_sync_period", of_mode].into_iter();
        let given = ids.filter_map(|id| Some((id, self.given.place(id)?)));
        match given.min_by_key(|(_, place)| *place)?.0 {
            "iptables_min_sync_period" => self.upstream.iptables_min_sync_period,
            "ipvs_min_sync_period" => self.upstream.ipvs_min_sync_period,
            _ => Some(self.min_sync_period.into()),
        }
    }

    /// kube-proxy's flags of iptables are those of every mode but ipvs. Without a mode vipd's is
    /// meant, so that what is written means the same when it is read.
    fn add_sections(&self, config: &mut KubeProxyConfiguration) {
        let upstream = &self.upstream;
        let ipvs = self.node.proxy_mode == AskedMode::Ipvs;
        let unset = self.node.proxy_mode == AskedMode::Unset;
        let nftables = unset || self.node.proxy_mode.section() == "nftables";
        let all = self.node.masquerade_all;
        let least = self.min_sync_given();
        config.iptables = Some(Iptables {
            masquerade_bit: upstream.iptables_masquerade_bit,
            masquerade_all: Some(all && !nftables),
            localhost_node_ports: Some(self.node.localhost_node_ports()),
            sync_period: upstream.iptables_sync_period.filter(|_| !nftables && !ipvs),
            min_sync_period: least.filter(|_| !nftables && !ipvs),
        });
        config.nftables = Some(NftablesSection {
            masquerade_bit: None,
            masquerade_all: Some(all && nftables),
            sync_period: upstream.iptables_sync_period.filter(|_| nftables),
            min_sync_period: least.filter(|_| nftables),
        });
        let cidrs = upstream.ipvs_exclude_cidrs.iter().flat_map(|list| list.split(','));
        config.ipvs = Some(Ipvs {
            sync_period: upstream.ipvs_sync_period.filter(|_| ipvs),
            min_sync_period: least.filter(|_| ipvs),
            scheduler: upstream.ipvs_scheduler.clone(),
            exclude_cidrs: Some(cidrs.filter(|cidr| !cidr.is_empty()).map(str::to_owned).collect()),
            strict_arp: upstream.ipvs_strict_arp,
            tcp_timeout: upstream.ipvs_tcp_timeout,
            tcp_fin_timeout: upstream.ipvs_tcpfin_timeout,
            udp_timeout: upstream.ipvs_udp_timeout,
        });
        if unset {
            config.mode = Some("nftables".to_owned());
        }
    }

    fn conntrack_section(&self) -> Conntrack {
        let given = &self.conntrack;
        Conntrack {
            max_per_core: given.conntrack_max_per_core.map(i64::from),
            min: given.conntrack_min.map(i64::from),
            tcp_established_timeout: given.conntrack_tcp_timeout_established.map(GoDuration::from),
            tcp_close_wait_timeout: given.conntrack_tcp_timeout_close_wait.map(GoDuration::from),
            tcp_be_liberal: given.conntrack_tcp_be_liberal,
            udp_timeout: given.conntrack_udp_timeout.map(GoDuration::from),
            udp_stream_timeout: given.conntrack_udp_timeout_stream.map(GoDuration::from),
        }
    }

    /// What flags say of the log comes before a file, as upstream.
    fn logging_over(&self, mut logging: Logging) -> Logging {
        let upstream = &self.upstream;
        if self.says_log_format() {
            let word = if self.log_format() == LogFormat::Json { "json" } else { "text" };
            logging.format = Some(word.to_owned());
        }
        logging.verbosity = self.verbosity.or(logging.verbosity);
        logging.flush_frequency =
            upstream.log_flush_frequency.map(Flush::Text).or(logging.flush_frequency);
        if let Some(list) = &upstream.vmodule {
            let modules = list.split(',').filter_map(|module| {
                let (pattern, level) = module.split_once('=')?;
                let verbosity = level.parse().ok()?;
                Some(Module { file_pattern: pattern.to_owned(), verbosity })
            });
            logging.vmodule = Some(modules.collect());
        }
        let options = logging.options.get_or_insert_with(LoggingOptions::default);
        for (stream, split, size) in [
            (
                &mut options.text,
                upstream.log_text_split_stream,
                &upstream.log_text_info_buffer_size,
            ),
            (
                &mut options.json,
                upstream.log_json_split_stream,
                &upstream.log_json_info_buffer_size,
            ),
        ] {
            let stream = stream.get_or_insert_with(Stream::default);
            stream.split_stream = split.or(stream.split_stream);
            let size = size.clone().map(Quantity::Text);
            stream.info_buffer_size = size.or(stream.info_buffer_size.take());
        }
        logging
    }

    /// A file, with what flags may say beside it.
    pub(super) fn beside_file(&self, mut config: KubeProxyConfiguration) -> KubeProxyConfiguration {
        let name = self.node.hostname_override.clone().filter(|name| !name.is_empty());
        config.hostname_override = name.or(config.hostname_override);
        config.logging = Some(self.logging_over(config.logging.unwrap_or_default()));
        config
    }
}
