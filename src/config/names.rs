//! Each setting's names: a flag, a field of KubeProxyConfiguration; and who has given it.

use clap::parser::ValueSource;
use clap::{ArgMatches, Args, Command, FromArgMatches};
use std::collections::BTreeMap;

/// A setting that can be said in more than one way.
pub(super) struct Name {
    /// How the parser of flags calls it.
    pub id: &'static str,
    pub flag: &'static str,
    /// With dots between; none: the file has no word for it.
    pub field: Option<&'static str>,
    /// Why it means nothing here; none: it means something.
    pub void: Option<&'static str>,
}

const fn both(id: &'static str, flag: &'static str, field: &'static str) -> Name {
    Name { id, flag, field: Some(field), void: None }
}

const fn void(
    id: &'static str,
    flag: &'static str,
    field: Option<&'static str>,
    why: &'static str,
) -> Name {
    Name { id, flag, field, void: Some(why) }
}

// Why a setting means nothing here, whether a flag or a field says it.
pub(super) const ADDRESSES: &str = "the node's addresses are its interfaces' and its Node object's";
pub(super) const CLIENT: &str = "four watches ask the API server for all there is to know";
pub(super) const FORMAT: &str = "Services and EndpointSlices are watched as protobuf, or as JSON \
                                 where the server has no other; the rest is JSON";
pub(super) const GO: &str = "there is no Go run time";
pub(super) const IPVS: &str = "vipd programs nf_tables";
pub(super) const LOG: &str = "the log goes to stderr, unbuffered";
pub(super) const MARK: &str = "no packet is marked";
pub(super) const METRICS: &str = "no metric is hidden";
pub(super) const RESYNC: &str = "objects are watched, not polled";
pub(super) const RETRY: &str = "what failed is tried again at once, then at growing intervals";
pub(super) const SOCKETS: &str =
    "a socket that cannot be opened is tried again, and services are served meanwhile";

/// All that both flags and the file say, and kube-proxy's flags that mean nothing here.
pub(super) const NAMES: &[Name] = &[
    both("kubeconfig", "--kubeconfig", "clientConnection.kubeconfig"),
    both("hostname_override", "--hostname-override", "hostnameOverride"),
    both("proxy_mode", "--proxy-mode", "mode"),
    both("detect_local_mode", "--detect-local-mode", "detectLocalMode"),
    both("cluster_cidr", "--cluster-cidr", "clusterCIDR"),
    both("pod_bridge_interface", "--pod-bridge-interface", "detectLocal.bridgeInterface"),
    both(
        "pod_interface_name_prefix",
        "--pod-interface-name-prefix",
        "detectLocal.interfaceNamePrefix",
    ),
    both("nodeport_addresses", "--nodeport-addresses", "nodePortAddresses"),
    both("localhost_nodeports", "--localhost-nodeports", "iptables.localhostNodePorts"),
    both(
        "iptables_localhost_nodeports",
        "--iptables-localhost-nodeports",
        "iptables.localhostNodePorts",
    ),
    both("healthz_bind_address", "--healthz-bind-address", "healthzBindAddress"),
    both("metrics_bind_address", "--metrics-bind-address", "metricsBindAddress"),
    both("healthz_port", "--healthz-port", "healthzBindAddress"),
    both("metrics_port", "--metrics-port", "metricsBindAddress"),
    both("oom_score_adj", "--oom-score-adj", "oomScoreAdj"),
    both("conntrack_max_per_core", "--conntrack-max-per-core", "conntrack.maxPerCore"),
    both("conntrack_min", "--conntrack-min", "conntrack.min"),
    both(
        "conntrack_tcp_timeout_established",
        "--conntrack-tcp-timeout-established",
        "conntrack.tcpEstablishedTimeout",
    ),
    both(
        "conntrack_tcp_timeout_close_wait",
        "--conntrack-tcp-timeout-close-wait",
        "conntrack.tcpCloseWaitTimeout",
    ),
    both("conntrack_tcp_be_liberal", "--conntrack-tcp-be-liberal", "conntrack.tcpBeLiberal"),
    both("conntrack_udp_timeout", "--conntrack-udp-timeout", "conntrack.udpTimeout"),
    both(
        "conntrack_udp_timeout_stream",
        "--conntrack-udp-timeout-stream",
        "conntrack.udpStreamTimeout",
    ),
    // Their field is in the section of the mode.
    both("masquerade_all", "--masquerade-all", "masqueradeAll"),
    both("min_sync_period", "--min-sync-period", "minSyncPeriod"),
    both("iptables_min_sync_period", "--iptables-min-sync-period", "minSyncPeriod"),
    both("verbosity", "-v", "logging.verbosity"),
    both("logging_format", "--logging-format", "logging.format"),
    both("log_format", "--log-format", "logging.format"),
    both("feature_gates", "--feature-gates", "featureGates"),
    void("bind_address", "--bind-address", Some("bindAddress"), ADDRESSES),
    void(
        "bind_address_hard_fail",
        "--bind-address-hard-fail",
        Some("bindAddressHardFail"),
        SOCKETS,
    ),
    void("config_sync_period", "--config-sync-period", Some("configSyncPeriod"), RESYNC),
    void(
        "iptables_masquerade_bit",
        "--iptables-masquerade-bit",
        Some("iptables.masqueradeBit"),
        MARK,
    ),
    void("iptables_sync_period", "--iptables-sync-period", Some("syncPeriod"), RETRY),
    void("ipvs_exclude_cidrs", "--ipvs-exclude-cidrs", Some("ipvs.excludeCIDRs"), IPVS),
    void("ipvs_min_sync_period", "--ipvs-min-sync-period", Some("ipvs.minSyncPeriod"), IPVS),
    void("ipvs_scheduler", "--ipvs-scheduler", Some("ipvs.scheduler"), IPVS),
    void("ipvs_strict_arp", "--ipvs-strict-arp", Some("ipvs.strictARP"), IPVS),
    void("ipvs_sync_period", "--ipvs-sync-period", Some("ipvs.syncPeriod"), IPVS),
    void("ipvs_tcp_timeout", "--ipvs-tcp-timeout", Some("ipvs.tcpTimeout"), IPVS),
    void("ipvs_tcpfin_timeout", "--ipvs-tcpfin-timeout", Some("ipvs.tcpFinTimeout"), IPVS),
    void("ipvs_udp_timeout", "--ipvs-udp-timeout", Some("ipvs.udpTimeout"), IPVS),
    void("kube_api_burst", "--kube-api-burst", Some("clientConnection.burst"), CLIENT),
    void(
        "kube_api_content_type",
        "--kube-api-content-type",
        Some("clientConnection.contentType"),
        FORMAT,
    ),
    void("kube_api_qps", "--kube-api-qps", Some("clientConnection.qps"), CLIENT),
    void("log_flush_frequency", "--log-flush-frequency", Some("logging.flushFrequency"), LOG),
    void(
        "log_json_info_buffer_size",
        "--log-json-info-buffer-size",
        Some("logging.options.json"),
        LOG,
    ),
    void("log_json_split_stream", "--log-json-split-stream", Some("logging.options.json"), LOG),
    void(
        "log_text_info_buffer_size",
        "--log-text-info-buffer-size",
        Some("logging.options.text"),
        LOG,
    ),
    void("log_text_split_stream", "--log-text-split-stream", Some("logging.options.text"), LOG),
    void("profiling", "--profiling", Some("enableProfiling"), GO),
    void(
        "show_hidden_metrics_for_version",
        "--show-hidden-metrics-for-version",
        Some("showHiddenMetricsForVersion"),
        METRICS,
    ),
    void("vmodule", "--vmodule", Some("logging.vmodule"), LOG),
];

/// How a flag was given; what stands before the other first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    Flag,
    Environment,
}

/// The flags that were given, on the command line or by environment variables.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Given(BTreeMap<String, Place>);

impl Given {
    pub(super) fn place(&self, id: &str) -> Option<Place> {
        self.0.get(id).copied()
    }

    pub(super) fn has(&self, id: &str) -> bool {
        self.0.contains_key(id)
    }

    /// Those that mean nothing here, with the reason.
    pub(super) fn in_vain(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        let void = NAMES.iter().filter(|name| self.has(name.id));
        void.filter_map(|name| Some((name.flag, name.void?)))
    }

    /// Those whose place a configuration file takes; as upstream, not the node's name and the log's.
    pub(super) fn replaced(&self) -> impl Iterator<Item = &'static str> {
        const KEPT: [&str; 4] = ["hostname_override", "verbosity", "log_format", "logging_format"];
        let means = |name: &&Name| name.field.is_some() && name.void.is_none();
        let replaced = NAMES.iter().filter(means).filter(|name| !KEPT.contains(&name.id));
        replaced.filter(|name| self.has(name.id)).map(|name| name.flag)
    }
}

/// No flag of its own: it looks at how the others came. It has to stand first among them, because each
/// takes its value away.
impl FromArgMatches for Given {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let places = matches.ids().filter_map(|id| {
            let place = match matches.value_source(id.as_str())? {
                ValueSource::CommandLine => Place::Flag,
                ValueSource::EnvVariable => Place::Environment,
                _ => return None,
            };
            Some((id.as_str().to_owned(), place))
        });
        Ok(Self(places.collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for Given {
    fn augment_args(command: Command) -> Command {
        command
    }

    fn augment_args_for_update(command: Command) -> Command {
        command
    }
}

#[cfg(test)]
mod tests {
    use super::super::{RunFlags, Warning};
    use super::*;
    use std::collections::BTreeSet;

    fn run_flags() -> Command {
        RunFlags::augment_args(Command::new("vipd"))
    }

    #[test]
    fn each_name_is_a_flag_s() {
        let command = run_flags();
        let ids: BTreeSet<&str> =
            command.get_arguments().map(|argument| argument.get_id().as_str()).collect();
        for name in NAMES {
            assert!(ids.contains(name.id), "{}", name.id);
        }
        let names: BTreeSet<&str> = NAMES.iter().map(|name| name.id).collect();
        assert_eq!(names.len(), NAMES.len());
    }

    /// The flags of kube-proxy 1.37: none is refused, and each is honoured or told.
    #[test]
    fn none_of_kube_proxy_s_flags_is_lost() {
        const ALL: &str = "config write-config-to cleanup init-only kubeconfig master \
            kube-api-content-type kube-api-qps kube-api-burst hostname-override bind-address \
            healthz-bind-address metrics-bind-address bind-address-hard-fail profiling \
            show-hidden-metrics-for-version proxy-mode iptables-masquerade-bit masquerade-all \
            iptables-localhost-nodeports iptables-sync-period iptables-min-sync-period \
            ipvs-sync-period ipvs-min-sync-period ipvs-scheduler ipvs-exclude-cidrs ipvs-strict-arp \
            ipvs-tcp-timeout ipvs-tcpfin-timeout ipvs-udp-timeout detect-local-mode \
            pod-bridge-interface pod-interface-name-prefix cluster-cidr nodeport-addresses \
            oom-score-adj conntrack-max-per-core conntrack-min conntrack-tcp-timeout-established \
            conntrack-tcp-timeout-close-wait conntrack-tcp-be-liberal conntrack-udp-timeout \
            conntrack-udp-timeout-stream config-sync-period feature-gates v logging-format \
            healthz-port metrics-port version vmodule log-flush-frequency log-json-split-stream \
            log-json-info-buffer-size log-text-split-stream log-text-info-buffer-size";
        let command = run_flags();
        let mut known: BTreeSet<String> = BTreeSet::new();
        for argument in command.get_arguments() {
            let names = argument.get_long_and_visible_aliases().unwrap_or_default();
            known.extend(names.into_iter().map(str::to_owned));
            known.extend(
                argument.get_all_aliases().unwrap_or_default().iter().map(|a| a.to_string()),
            );
        }
        let lost: Vec<&str> =
            ALL.split_whitespace().filter(|flag| !known.contains(*flag)).collect();
        assert_eq!(lost, [] as [&str; 0]);
    }

    #[test]
    fn each_flag_without_a_meaning_is_told() {
        let void: Vec<&Name> = NAMES.iter().filter(|name| name.void.is_some()).collect();
        assert!(void.len() > 20);
        for name in void {
            let value = match name.id {
                "bind_address" => "10.0.0.1",
                "iptables_masquerade_bit" => "3",
                "kube_api_burst" | "kube_api_qps" | "log_json_info_buffer_size" => "0",
                "log_text_info_buffer_size" => "0",
                "show_hidden_metrics_for_version" => "1.36",
                "vmodule" => "a=1",
                "ipvs_scheduler" | "kube_api_content_type" => "x",
                "ipvs_exclude_cidrs" => "10.0.0.0/8",
                id if id.ends_with("period") || id.ends_with("timeout") => "40s",
                "log_flush_frequency" => "40s",
                _ => "false",
            };
            let line = format!("{}={value}", name.flag);
            let flags = ["--kubeconfig=/k", &line].into_iter();
            let config = RunFlags::parsed(flags).unwrap().check();
            let config = config.unwrap_or_else(|error| panic!("{line}: {error}"));
            let told = |warning: &Warning| matches!(warning, Warning::NoMeaning { what, .. } if *what == name.flag);
            assert!(config.warnings.iter().any(told), "{line}: {:?}", config.warnings);
        }
    }
}
