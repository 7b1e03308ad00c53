//! A configuration file in place of the flags that say the same: as upstream, the file alone counts
//! then, but for the node's name and the server's address.

use super::conntrack::ConntrackFlags;
use super::detect::Mode;
use super::file::{self, File, GoDuration, KubeProxyConfiguration};
use super::flags::RunFlags;
use super::mode::AskedMode;
use super::{LogFormat, Warning, node_ports, value};
use std::time::Duration;

/// The text of a field that says something.
fn text(field: Option<String>) -> Option<String> {
    field.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
}

fn duration(field: Option<GoDuration>) -> Option<Duration> {
    field.and_then(GoDuration::get)
}

/// What is checked already, and too large for nothing.
fn count(field: Option<i64>) -> Option<u32> {
    field.and_then(|count| u32::try_from(count).ok())
}

impl RunFlags {
    /// What the file says, and the flags where it has no word for it; with what was given in vain.
    pub(super) fn over(mut self, file: File) -> (Self, Vec<Warning>) {
        let mut warnings = file.warnings;
        let nowhere =
            |address: &Option<String>, port| address.as_deref() == Some("") || port == Some(0);
        // The file has no word for it: what is empty there is the default, as upstream.
        let no_healthz = nowhere(&self.healthz_bind_address, self.healthz_port);
        let no_metrics = nowhere(&self.metrics_bind_address, self.metrics_port);
        let counts = |flag: &str| {
            no_healthz && flag.starts_with("--healthz-")
                || no_metrics && flag.starts_with("--metrics-")
        };
        let replaced = self.given.replaced().filter(|flag| !counts(flag));
        warnings.extend(replaced.map(|flag| Warning::FileInstead { flag }));
        let config = file.config;
        let mode = AskedMode::parse(config.mode.as_deref().unwrap_or_default());
        let mode = mode.unwrap_or(AskedMode::Unset);
        self.take_node(&config, mode);
        warnings.extend(file::in_vain(&config, mode));
        warnings.extend(self.without_effect(&config));
        self.take_conntrack(&config);
        let client = config.client_connection.unwrap_or_default();
        self.kubeconfig = text(client.kubeconfig).map(Into::into);
        self.node.proxy_mode = mode;
        let at = |nowhere, field| if nowhere { Some(String::new()) } else { text(field) };
        self.healthz_bind_address = at(no_healthz, config.healthz_bind_address);
        self.metrics_bind_address = at(no_metrics, config.metrics_bind_address);
        (self.healthz_port, self.metrics_port) = (None, None);
        self.oom_score_adj = config.oom_score_adj.and_then(|score| i32::try_from(score).ok());
        if let Some(logging) = config.logging {
            if text(logging.format).as_deref() == Some("json") && !self.says_log_format() {
                self.log_format = LogFormat::Json;
            }
            self.verbosity = self.verbosity.or(logging.verbosity);
        }
        (self, warnings)
    }

    pub(super) fn log_format(&self) -> LogFormat {
        self.logging_format.unwrap_or(self.log_format)
    }

    /// Whether a flag or the environment does.
    pub(super) fn says_log_format(&self) -> bool {
        self.given.has("log_format") || self.given.has("logging_format")
    }

    fn take_node(&mut self, config: &KubeProxyConfiguration, mode: AskedMode) {
        let node = &mut self.node;
        let name = text(config.hostname_override.clone()).map(|name| name.to_lowercase());
        let flag = node.hostname_override.take().filter(|name| !name.is_empty());
        node.hostname_override = flag.or(name);
        let detect = text(config.detect_local_mode.clone());
        node.detect_local_mode = detect.and_then(|word| Mode::parse(&word).ok());
        let cidrs = text(config.cluster_cidr.clone()).unwrap_or_default();
        node.cluster_cidr = cidrs.split(',').filter_map(value::net).collect();
        let section = config.detect_local.clone().unwrap_or_default();
        node.pod_bridge_interface = text(section.bridge_interface);
        node.pod_interface_name_prefix = text(section.interface_name_prefix);
        let entries = config.node_port_addresses.iter().flatten();
        let entries = entries.filter_map(|entry| node_ports::parse(entry).ok()).collect();
        node.nodeport_addresses = vec![node_ports::Entries(entries)];
        let iptables = config.iptables.clone().unwrap_or_default();
        let ipvs = config.ipvs.clone().unwrap_or_default();
        let nftables = config.nftables.clone().unwrap_or_default();
        let all = match mode.masquerade_section() {
            "nftables" => nftables.masquerade_all,
            _ => iptables.masquerade_all,
        };
        let least = match mode.section() {
            "nftables" => nftables.min_sync_period,
            "ipvs" => ipvs.min_sync_period,
            _ => iptables.min_sync_period,
        };
        node.masquerade_all = all.unwrap_or_default();
        node.localhost_nodeports = iptables.localhost_node_ports.unwrap_or(true);
        node.iptables_localhost_nodeports = None;
        self.min_sync_period = duration(least).unwrap_or_default();
    }

    /// What no flag would take, and upstream takes: ranges that nobody reads, and names that no
    /// interface can have.
    fn without_effect(&self, config: &KubeProxyConfiguration) -> Vec<Warning> {
        let mut warnings = Vec::new();
        let cidrs = text(config.cluster_cidr.clone());
        if let Some(mode) = self.node.detect_local_mode
            && mode != Mode::ClusterCidr
            && cidrs.is_some()
            && self.node.cluster_cidr.is_empty()
        {
            warnings.push(Warning::NoEffect { flag: "--cluster-cidr", mode: mode.name() });
        }
        let names = [
            ("detectLocal.bridgeInterface", &self.node.pod_bridge_interface),
            ("detectLocal.interfaceNamePrefix", &self.node.pod_interface_name_prefix),
        ];
        for (field, name) in names {
            if let Some(name) = name.as_deref().filter(|name| value::interface(name).is_err()) {
                warnings.push(Warning::NoSuchInterface { field, name: name.to_owned() });
            }
        }
        warnings
    }

    fn take_conntrack(&mut self, config: &KubeProxyConfiguration) {
        let given = config.conntrack.clone().unwrap_or_default();
        let reset_gone_after = self.conntrack.reset_gone_after;
        self.conntrack = ConntrackFlags {
            conntrack_max_per_core: count(given.max_per_core),
            conntrack_min: count(given.min),
            conntrack_tcp_timeout_established: duration(given.tcp_established_timeout),
            conntrack_tcp_timeout_close_wait: duration(given.tcp_close_wait_timeout),
            conntrack_tcp_be_liberal: given.tcp_be_liberal.filter(|liberal| *liberal),
            conntrack_udp_timeout: duration(given.udp_timeout),
            conntrack_udp_timeout_stream: duration(given.udp_stream_timeout),
            reset_gone_after,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::super::LogLevel;
    use super::super::{Config, Source};
    use super::*;
    use crate::planner::{DetectLocal, ExternalIps, NodePortAddresses};
    use std::path::PathBuf;

    const HEAD: &str = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n\
                        clientConnection: {kubeconfig: /k}\n";

    fn config(text: &str, flags: &str) -> Config {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.conf");
        std::fs::write(&path, format!("{HEAD}{text}")).unwrap();
        let file = format!("--config={}", path.display());
        let words = [file.as_str()].into_iter().chain(flags.split_whitespace());
        RunFlags::parsed(words).unwrap().check().unwrap()
    }

    #[test]
    fn the_file_says_what_the_flags_would() {
        let full = config(
            "mode: nftables\nclusterCIDR: 10.1.0.0/16\nhostnameOverride: ' Node-A '\n\
             nodePortAddresses: [10.0.0.0/8]\nhealthzBindAddress: 127.0.0.1\n\
             metricsBindAddress: 0.0.0.0:9\noomScoreAdj: -5\n\
             nftables: {masqueradeAll: true, minSyncPeriod: 2s}\n\
             conntrack: {maxPerCore: 0, min: 7, udpTimeout: 9s}\n\
             iptables: {localhostNodePorts: false, minSyncPeriod: 9s}\n",
            "",
        );
        let source = Source::ApiServer { kubeconfig: Some(PathBuf::from("/k")), master: None };
        assert_eq!(full.source, source);
        assert_eq!(&*full.node_name, "node-a");
        let cidrs = vec!["10.1.0.0/16".parse().unwrap()];
        assert_eq!(full.policy.detect, DetectLocal::ClusterCidr(cidrs));
        assert!(full.policy.masquerade_all && !full.policy.localhost_node_ports);
        let at = NodePortAddresses::Within("10.0.0.0/8".parse().unwrap());
        assert_eq!(full.policy.node_ports_at, [at]);
        assert_eq!(full.min_sync_period, Duration::from_secs(2));
        assert_eq!(full.healthz_at, ["127.0.0.1:10256".parse().unwrap()]);
        assert_eq!(full.metrics_at, ["0.0.0.0:9", "[::]:9"].map(|at| at.parse().unwrap()));
        assert_eq!(full.oom_score_adj, Some(-5));
        let sysctls = full.sysctls;
        assert_eq!((sysctls.max_per_core, sysctls.min), (Some(0), Some(7)));
        assert_eq!(sysctls.udp, Some(Duration::from_secs(9)));
        assert_eq!(sysctls.tcp_close_wait, Some(Duration::from_secs(3600)));
        let (field, section) = ("iptables.minSyncPeriod", "nftables");
        let other = Warning::OtherSection { field, mode: section, counts: section };
        assert_eq!(full.warnings, [other]);
        assert!(full.file.is_some());
    }

    #[test]
    fn only_name_and_server_come_from_flags() {
        let flags = "--hostname-override=other --master=https://10.0.0.1:6443 \
                     --cluster-cidr=10.9.0.0/16 --min-sync-period=7s --takeover";
        let both = config("clusterCIDR: 10.1.0.0/16\n", flags);
        assert_eq!(&*both.node_name, "other");
        let (kubeconfig, master) = (Some("/k".into()), Some("https://10.0.0.1:6443".into()));
        assert_eq!(both.source, Source::ApiServer { kubeconfig, master });
        assert_eq!(both.min_sync_period, Duration::ZERO);
        assert!(both.takeover, "the file has no word for it");
        let told: Vec<String> = both.warnings.iter().map(ToString::to_string).collect();
        for flag in ["--cluster-cidr", "--min-sync-period", "no mode"] {
            assert!(told.iter().any(|line| line.contains(flag)), "{flag}: {told:?}");
        }
        assert_eq!(told.len(), 3, "{told:?}");
    }

    #[test]
    fn other_modes_are_told_and_keep_their_node_ports() {
        for (mode, all) in [("iptables", true), ("ipvs", true), ("nftables", false), ("''", false)]
        {
            let sections = "iptables: {masqueradeAll: true}\nclusterCIDR: 10.1.0.0/16\n";
            let given = config(&format!("mode: {mode}\n{sections}"), "");
            let at: &[NodePortAddresses] = if all { &[NodePortAddresses::All] } else { &[] };
            assert_eq!(given.policy.node_ports_at, at, "{mode}");
            assert_eq!(given.policy.masquerade_all, mode != "nftables", "{mode}");
            let other = |warning: &Warning| matches!(warning, Warning::OtherMode { asked } if *asked == mode);
            let told = given.warnings.iter().any(other);
            assert_eq!(told, all, "{mode}: {:?}", given.warnings);
            let unset = given.warnings.contains(&Warning::DefaultMode);
            assert_eq!(unset, mode == "''", "{mode}: {:?}", given.warnings);
        }
    }

    #[test]
    fn flags_of_the_log_come_before_the_file_and_the_gate_of_external_ips_counts() {
        let text = "logging: {format: json, verbosity: 6}\nclusterCIDR: 10.1.0.0/16\n\
                    featureGates: {AllowServiceExternalIPs: false, KubeProxyIPVS: true}\n\
                    mode: nftables\n";
        let alone = config(text, "");
        assert_eq!((alone.log.level, alone.log.format), (LogLevel::Trace, LogFormat::Json));
        assert_eq!(alone.policy.external_ips, ExternalIps::Ignored);
        let names = "KubeProxyIPVS".to_owned();
        assert_eq!(alone.warnings, [Warning::GatesWithoutMeaning { names }]);
        let beside = config(text, "-v=2 --logging-format=text --external-ips");
        assert_eq!((beside.log.level, beside.log.format), (LogLevel::Info, LogFormat::Text));
        assert_eq!(beside.policy.external_ips, ExternalIps::Served);
    }

    #[test]
    fn a_file_is_read_again_beside_the_same_flags() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.conf");
        let write = |text: &str| std::fs::write(&path, format!("{HEAD}{text}")).unwrap();
        write("mode: nftables\n");
        let file = format!("--config={}", path.display());
        let words = [file.as_str(), "--hostname-override=node-a", "--drop-invalid=false"];
        let first = RunFlags::parsed(words.into_iter()).unwrap().check().unwrap();
        let kept = first.file.clone().unwrap();
        assert!(kept.reread().unwrap().is_none(), "it is as it was");
        write("mode: nftables\nnftables: {masqueradeAll: true}\n");
        let second = kept.reread().unwrap().unwrap();
        assert!(second.policy.masquerade_all && !second.policy.drop_invalid);
        assert_eq!(first.needs_restart(&second), [] as [&str; 0]);
        assert!(second.file.clone().unwrap().reread().unwrap().is_none());
        write("mode: nftables\nhostnameOverride: node-b\nlogging: {format: json}\n");
        let third = kept.reread().unwrap().unwrap();
        assert_eq!(&*third.node_name, "node-a", "the flag stays");
        assert_eq!(first.needs_restart(&third), ["logging.format"]);
        std::fs::write(&path, HEAD.replace("/k}", "/other}")).unwrap();
        let fourth = kept.reread().unwrap().unwrap();
        assert_eq!(first.needs_restart(&fourth), ["clientConnection.kubeconfig"]);
        write("mode: ebpf\n");
        let error = kept.reread().unwrap_err().to_string();
        assert!(error.contains("ebpf") && error.contains("nftables"), "{error}");
        write("oomScoreAdj: 1001\n");
        assert!(kept.reread().unwrap_err().to_string().contains("oomScoreAdj"));
        std::fs::remove_file(&path).unwrap();
        assert!(kept.reread().unwrap_err().to_string().contains("cannot be read"));
    }
}
