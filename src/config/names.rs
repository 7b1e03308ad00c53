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

const IPVS: &str = "vipd programs nf_tables";
const LOG: &str = "the log goes to stderr, unbuffered";
const CLIENT: &str = "four watches ask the server for all";

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
    both("verbosity", "-v", "logging.verbosity"),
    both("log_format", "--logging-format", "logging.format"),
    both("feature_gates", "--feature-gates", "featureGates"),
    void(
        "bind_address",
        "--bind-address",
        Some("bindAddress"),
        "the node's addresses are its interfaces' and its Node object's",
    ),
    void(
        "bind_address_hard_fail",
        "--bind-address-hard-fail",
        Some("bindAddressHardFail"),
        "a socket that cannot be opened is tried again, and services are served meanwhile",
    ),
    void(
        "config_sync_period",
        "--config-sync-period",
        Some("configSyncPeriod"),
        "objects are watched, not polled",
    ),
    void(
        "iptables_masquerade_bit",
        "--iptables-masquerade-bit",
        Some("iptables.masqueradeBit"),
        "no packet is marked",
    ),
    void(
        "iptables_sync_period",
        "--iptables-sync-period",
        Some("syncPeriod"),
        "what failed is tried again at once, then at growing intervals",
    ),
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
        "objects are asked for as JSON",
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
    void("profiling", "--profiling", Some("enableProfiling"), "there is no Go run time"),
    void(
        "show_hidden_metrics_for_version",
        "--show-hidden-metrics-for-version",
        Some("showHiddenMetricsForVersion"),
        "no metric is hidden",
    ),
    void("vmodule", "--vmodule", Some("logging.vmodule"), LOG),
];

/// How a flag was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
        const KEPT: [&str; 3] = ["hostname_override", "verbosity", "log_format"];
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
