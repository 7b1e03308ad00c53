//! The flags, and how they become a checked configuration.

use super::{
    ClusterIpOutsiders, DEFAULT_ADMIN_SOCKET, DetectLocalMode, Error, Feature, LogFormat, LogLevel,
    NodeConfig, cidr, conntrack::ConntrackFlags, detect, limits::LimitFlags, mode::AskedMode,
    names::Given, node_ports, upstream::UpstreamFlags, value,
};
use crate::model::duration;
use crate::planner::{ExternalIps, NodePortAddresses, Policy};
use clap::{ArgAction, Args};
use ipnet::IpNet;
use std::path::PathBuf;
use std::time::Duration;

/// What decides what this node does.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Node")]
pub struct NodeFlags {
    /// Name of this machine's Node object, if not its host name
    #[arg(long, env = "VIPD_HOSTNAME_OVERRIDE", value_name = "NAME")]
    #[arg(value_parser = value::node_name)]
    pub(super) hostname_override: Option<String>,

    /// What serves Services whose annotation vipd.io/dataplane does not say: nftables, which iptables
    /// and ipvs stand for too, or userspace [default: nftables]
    #[arg(long, env = "VIPD_PROXY_MODE", value_name = "MODE")]
    #[arg(default_value = "", hide_default_value = true, value_parser = AskedMode::parse)]
    pub(super) proxy_mode: AskedMode,

    /// How packets of local pods are told from others: ClusterCIDR, NodeCIDR, BridgeInterface or
    /// InterfaceNamePrefix [default: ClusterCIDR]
    #[arg(long, env = "VIPD_DETECT_LOCAL_MODE", value_name = "MODE")]
    #[arg(value_parser = detect::Mode::parse)]
    pub(super) detect_local_mode: Option<DetectLocalMode>,

    /// Source addresses of pods: one CIDR, or one of each family
    #[arg(long, env = "VIPD_CLUSTER_CIDR", value_name = "CIDR[,CIDR]")]
    #[arg(value_delimiter = ',', value_parser = value::cidr, overrides_with = "cluster_cidr")]
    pub(super) cluster_cidr: Vec<IpNet>,

    /// The bridge that all local pods are attached to (mode BridgeInterface)
    #[arg(long, env = "VIPD_POD_BRIDGE_INTERFACE", value_name = "IF")]
    #[arg(value_parser = value::interface)]
    pub(super) pod_bridge_interface: Option<String>,

    /// How the names of local pods' interfaces begin (mode InterfaceNamePrefix)
    #[arg(long, env = "VIPD_POD_INTERFACE_NAME_PREFIX", value_name = "PREFIX")]
    #[arg(value_parser = value::interface)]
    pub(super) pod_interface_name_prefix: Option<String>,

    /// Masquerade all traffic to cluster IPs
    #[arg(long, env = "VIPD_MASQUERADE_ALL", value_name = "true|false")]
    #[arg(action = ArgAction::Set, value_parser = value::boolean)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[arg(default_value = "false", hide_default_value = true)]
    pub(super) masquerade_all: bool,

    /// Ranges of cluster IPs, in which unallocated addresses are dropped: one CIDR, or one of
    /// each family
    #[arg(long, env = "VIPD_SERVICE_CLUSTER_IP_RANGE", value_name = "CIDR[,CIDR]")]
    #[arg(value_delimiter = ',', value_parser = value::cidr)]
    pub(super) service_cluster_ip_range: Vec<IpNet>,

    /// Where node ports answer: CIDRs (addresses of interfaces within them), `primary` (the Node
    /// object's), `localhost`, `all`; a family without an entry: all its addresses
    /// [default: primary,localhost]
    #[arg(long, env = "VIPD_NODEPORT_ADDRESSES", value_name = "CIDR|KEYWORD[,…]")]
    #[arg(value_parser = node_ports::Entries::parse, action = ArgAction::Append)]
    pub(super) nodeport_addresses: Vec<node_ports::Entries>,

    /// Answer at node ports of 127.0.0.1 and ::1 too, where --nodeport-addresses has them: by
    /// endpoints of the whole cluster, also under externalTrafficPolicy Local. No other process of
    /// the node can then listen at the number of a node port on these addresses, or on all
    #[arg(long, env = "VIPD_LOCALHOST_NODEPORTS", value_name = "true|false")]
    #[arg(action = ArgAction::Set, value_parser = value::boolean)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[arg(default_value = "true")]
    pub(super) localhost_nodeports: bool,

    /// kube-proxy's name of it
    #[arg(long, value_name = "true|false", hide = true, overrides_with = "localhost_nodeports")]
    #[arg(action = ArgAction::Set, value_parser = value::boolean)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(super) iptables_localhost_nodeports: Option<bool>,

    /// What becomes of clients at cluster IPs that are neither this node nor local pods: `serve`
    /// them, or `drop` what they send (needs a way to tell local pods)
    #[arg(long, env = "VIPD_CLUSTER_IP_OUTSIDERS", value_name = "serve|drop")]
    #[arg(default_value = "serve")]
    pub(super) cluster_ip_outsiders: ClusterIpOutsiders,

    /// Serve the externalIPs of Services; false: none of any, because who may create a Service could
    /// draw traffic to any address to its pods
    #[arg(long, env = "VIPD_EXTERNAL_IPS", value_name = "true|false")]
    #[arg(action = ArgAction::Set, value_parser = value::boolean)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[arg(default_value = "true")]
    pub(super) external_ips: bool,

    /// Drop packets of services and their endpoints, also of those that went within an hour, that
    /// conntrack calls INVALID
    #[arg(long, env = "VIPD_DROP_INVALID", value_name = "true|false")]
    #[arg(action = ArgAction::Set, value_parser = value::boolean)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[arg(default_value = "true")]
    pub(super) drop_invalid: bool,

    #[command(flatten)]
    pub(super) limits: LimitFlags,
}

impl NodeFlags {
    pub(super) fn localhost_node_ports(&self) -> bool {
        self.iptables_localhost_nodeports.unwrap_or(self.localhost_nodeports)
    }

    pub fn check(self) -> Result<NodeConfig, Error> {
        let mut warnings = Vec::new();
        let node_ports_at = self.node_ports_at();
        if let Some(value) = node_ports::repeated(&node_ports_at) {
            let (flag, reason) = ("--nodeport-addresses", "is there twice");
            return Err(Error::Value { flag, value, reason });
        }
        let given = detect::Given {
            mode: self.detect_local_mode,
            cluster_cidr: &self.cluster_cidr,
            bridge: self.pod_bridge_interface.as_deref().filter(|name| !name.is_empty()),
            prefix: self.pod_interface_name_prefix.as_deref().filter(|name| !name.is_empty()),
        };
        let policy = Policy {
            mode: self.proxy_mode.runs()?,
            masquerade_all: self.masquerade_all,
            detect: detect::resolve(&given, &mut warnings)?,
            service_ranges: cidr::pair(
                "--service-cluster-ip-range",
                &self.service_cluster_ip_range,
                &mut warnings,
            )?,
            drop_invalid: self.drop_invalid,
            node_ports_at: node_ports::distinct(node_ports_at),
            localhost_node_ports: self.localhost_node_ports(),
            outsiders: self.cluster_ip_outsiders.into(),
            external_ips: match self.external_ips {
                true => ExternalIps::Served,
                false => ExternalIps::Ignored,
            },
            limits: self.limits.limits(),
        };
        detect::check_outsiders(&policy, &mut warnings)?;
        let given = self.hostname_override.filter(|name| !name.is_empty());
        let node_name = given.map_or_else(host_name, Ok)?.into();
        Ok(NodeConfig { node_name, policy, warnings })
    }

    /// What all flags of the name say together.
    pub(super) fn node_ports_at(&self) -> Vec<NodePortAddresses> {
        self.nodeport_addresses.iter().flat_map(|entries| entries.0.iter().copied()).collect()
    }

    pub(super) fn leaves_detection_open(&self) -> bool {
        self.detect_local_mode.is_none() && self.cluster_cidr.is_empty()
    }
}

/// The flags of `vipd run`.
#[derive(Debug, Clone, Args)]
pub struct RunFlags {
    #[command(flatten)]
    pub(super) given: Given,

    /// Directory of Services, EndpointSlices, Endpoints, Nodes and ServiceCIDRs as YAML or JSON;
    /// read recursively and followed
    #[arg(long, env = "VIPD_MANIFESTS", value_name = "DIR")]
    pub(super) manifests: Option<PathBuf>,

    /// File that says where the API server is and who asks it; instead of --manifests
    #[arg(long, env = "VIPD_KUBECONFIG", value_name = "FILE", value_parser = value::path)]
    pub(super) kubeconfig: Option<PathBuf>,

    /// URL of the API server, before the kubeconfig's; without a kubeconfig it is asked as the pod's
    /// service account
    #[arg(long, env = "VIPD_MASTER", value_name = "URL")]
    pub(super) master: Option<String>,

    /// KubeProxyConfiguration, in place of the flags that say the same; followed
    #[arg(long, env = "VIPD_CONFIG", value_name = "FILE", value_parser = value::path)]
    pub(super) config: Option<PathBuf>,

    /// Write the configuration that the defaults and the other flags make, as
    /// KubeProxyConfiguration, and end
    #[arg(long, value_name = "FILE", value_parser = value::path)]
    pub write_config_to: Option<PathBuf>,

    #[command(flatten)]
    pub(super) node: NodeFlags,

    #[command(flatten)]
    pub(super) conntrack: ConntrackFlags,

    #[command(flatten)]
    pub(super) upstream: UpstreamFlags,

    /// For the kernel when memory is short, from -1000 (never end this process) to 1000
    /// [default: -999 where an API server is followed, else left alone]
    #[arg(long, env = "VIPD_OOM_SCORE_ADJ", value_name = "SCORE", allow_negative_numbers = true)]
    #[arg(value_parser = clap::value_parser!(i32).range(-1000..=1000))]
    pub(super) oom_score_adj: Option<i32>,

    /// Least time between two commits, as Go writes durations (500ms, 1m30s); 0: at once
    #[arg(long, env = "VIPD_MIN_SYNC_PERIOD", value_name = "DUR", default_value = "0")]
    #[arg(value_parser = duration::parse)]
    pub(super) min_sync_period: Duration,

    /// How long open connections go on at most where no new ones are taken: in a process that another
    /// one has replaced, and of those that vipd carries itself, to an endpoint that serves no more or
    /// is listed no more. As Go writes durations; 0: they end at once
    #[arg(long, env = "VIPD_DRAIN_TIMEOUT", value_name = "DUR", default_value = "10m")]
    #[arg(value_parser = duration::parse)]
    pub(super) drain_timeout: Duration,

    /// Take over from the vipd that runs here, without a gap: it hands its listeners over, lets its
    /// connections end (--drain-timeout), and ends. Without one this is a start like any other
    #[arg(long, value_name = "true|false")]
    #[arg(action = ArgAction::Set, value_parser = value::boolean)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[arg(default_value = "false", hide_default_value = true)]
    pub replace: bool,

    /// Unix socket on which `vipd get`, `describe` and `trace` are answered
    #[arg(long, env = "VIPD_ADMIN_SOCKET", value_name = "PATH")]
    #[arg(default_value = DEFAULT_ADMIN_SOCKET, value_parser = value::socket)]
    pub(super) admin_socket: PathBuf,

    /// Where /healthz and /livez are answered: an address, with a port or 10256; empty: nowhere
    /// [default: all addresses]
    #[arg(long, env = "VIPD_HEALTHZ_BIND_ADDRESS", value_name = "IP[:PORT]")]
    pub(super) healthz_bind_address: Option<String>,

    /// Where /metrics is answered: an address, with a port or 10249; empty: nowhere
    /// [default: the loopback addresses]
    #[arg(long, env = "VIPD_METRICS_BIND_ADDRESS", value_name = "IP[:PORT]")]
    pub(super) metrics_bind_address: Option<String>,

    /// The port of --healthz-bind-address where that has none; 0: nowhere
    #[arg(long, value_name = "PORT", hide = true, value_parser = value::port)]
    pub(super) healthz_port: Option<u16>,

    /// The port of --metrics-bind-address where that has none; 0: nowhere
    #[arg(long, value_name = "PORT", hide = true, value_parser = value::port)]
    pub(super) metrics_port: Option<u16>,

    /// Remove everything of vipd's from the kernel, and end: the command `cleanup`
    #[arg(long, value_name = "true|false", hide = true)]
    #[arg(action = ArgAction::Set, value_parser = value::boolean)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[arg(default_value = "false")]
    pub cleanup: bool,

    /// Set the kernel's parameters, and end: the rest needs no more than CAP_NET_ADMIN
    #[arg(long, env = "VIPD_INIT_ONLY", value_name = "true|false")]
    #[arg(action = ArgAction::Set, value_parser = value::boolean)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[arg(default_value = "false", hide_default_value = true)]
    pub init_only: bool,

    /// Kernel features to do without, although the kernel has them
    #[arg(long, env = "VIPD_WITHOUT", value_name = "FEATURE[,FEATURE]", value_delimiter = ',')]
    pub(super) without: Vec<Feature>,

    /// Remove what kube-proxy left in the kernel, once vipd's own rules are there
    #[arg(long, env = "VIPD_TAKEOVER", value_name = "true|false")]
    #[arg(action = ArgAction::Set, value_parser = value::boolean)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[arg(default_value = "false", hide_default_value = true)]
    pub(super) takeover: bool,

    /// How much is logged
    #[arg(long, env = "VIPD_LOG_LEVEL", value_name = "LEVEL", default_value = "info")]
    pub(super) log_level: LogLevel,

    /// kube-proxy's log level: from 4 on debug, from 6 on trace
    #[arg(short = 'v', long = "v", value_name = "LEVEL", hide = true)]
    #[arg(value_parser = value::count)]
    pub(super) verbosity: Option<u32>,

    /// How it is logged
    #[arg(long, env = "VIPD_LOG_FORMAT", value_name = "FORMAT", default_value = "text")]
    pub(super) log_format: LogFormat,

    /// kube-proxy's name of it
    #[arg(long, value_name = "FORMAT", hide = true, overrides_with = "log_format")]
    pub(super) logging_format: Option<LogFormat>,

    /// Print the version, and end
    #[arg(long = "version", value_name = "true|false|raw", hide = true)]
    #[arg(action = ArgAction::Set, value_parser = version)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[arg(default_value = "false")]
    pub show_version: bool,
}

fn version(text: &str) -> Result<bool, String> {
    let expected = "expected true, false or raw";
    if text == "raw" { Ok(true) } else { value::boolean(text).map_err(|_| expected.to_owned()) }
}

fn host_name() -> Result<String, Error> {
    let host = rustix::system::uname();
    let name = host.nodename().to_string_lossy().trim().to_lowercase();
    if name.is_empty() { Err(Error::NoHostname) } else { Ok(name) }
}

/// Path of the admin socket, as `run` and every command that asks the daemon take it.
#[derive(Debug, Clone, Args)]
pub struct SocketFlag {
    /// Unix socket of the daemon
    #[arg(long, env = "VIPD_ADMIN_SOCKET", value_name = "PATH")]
    #[arg(default_value = DEFAULT_ADMIN_SOCKET, value_parser = value::socket)]
    pub admin_socket: PathBuf,
}

#[cfg(test)]
impl RunFlags {
    /// The flags of a command line, for tests.
    pub(super) fn parsed<'a>(words: impl Iterator<Item = &'a str>) -> Result<Self, clap::Error> {
        #[derive(clap::Parser)]
        struct Command {
            #[command(flatten)]
            run: RunFlags,
        }
        let words = std::iter::once("vipd").chain(words);
        <Command as clap::Parser>::try_parse_from(words).map(|command| command.run)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Config, Source, Warning, conntrack};
    use super::*;
    use crate::conntrack::Sysctls;
    use crate::planner::DetectLocal;

    fn config(flags: &str) -> Config {
        let words = ["--manifests", "/m"].into_iter().chain(flags.split_whitespace());
        RunFlags::parsed(words).unwrap().check().unwrap()
    }

    fn refusal(flags: &str) -> String {
        let words = ["--manifests", "/m"].into_iter().chain(flags.split_whitespace());
        match RunFlags::parsed(words) {
            Ok(flags) => flags.check().unwrap_err().to_string(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn defaults() {
        let config = config("");
        assert_eq!(config.admin_socket.to_str(), Some(DEFAULT_ADMIN_SOCKET));
        assert_eq!(config.min_sync_period, Duration::ZERO);
        assert!(config.policy.drop_invalid && !config.policy.masquerade_all);
        assert_eq!(config.policy.detect, DetectLocal::None);
        assert_eq!(config.policy.service_ranges, []);
        assert_eq!(config.warnings, [Warning::NoClusterCidr]);
        assert!(!config.node_name.is_empty());
        assert!(!config.takeover);
    }

    #[test]
    fn objects_come_from_one_place() {
        let read = |flags: &str| RunFlags::parsed(flags.split_whitespace()).unwrap().check();
        let (file, url) = (PathBuf::from("/k"), "https://10.0.0.1:6443");
        for (flags, kubeconfig, master) in [
            ("--kubeconfig /k", Some(&file), None),
            ("--master https://10.0.0.1:6443", None, Some(url)),
            ("--kubeconfig=/k --master=https://10.0.0.1:6443", Some(&file), Some(url)),
        ] {
            let (kubeconfig, master) = (kubeconfig.cloned(), master.map(str::to_owned));
            let wanted = Source::ApiServer { kubeconfig, master };
            assert_eq!(read(flags).unwrap().source, wanted, "{flags}");
        }
        assert_eq!(config("").source, Source::Manifests("/m".into()));
        for (flags, parts) in [
            ("", ["--kubeconfig", "--master", "--manifests", "KUBERNETES_SERVICE_HOST"].as_slice()),
            ("--manifests /m --kubeconfig /k", &["--manifests", "--kubeconfig"]),
            ("--manifests /m --master https://x", &["--manifests", "--master"]),
        ] {
            let error = read(flags).unwrap_err().to_string();
            assert!(parts.iter().all(|part| error.contains(part)), "{flags}: {error}");
        }
    }

    #[test]
    fn the_kernel_is_set_as_upstream_does_only_for_a_cluster() {
        let sysctls = |flags: &str| {
            RunFlags::parsed(flags.split_whitespace()).unwrap().check().unwrap().sysctls
        };
        assert_eq!(sysctls("--manifests /m"), Sysctls::default());
        assert_eq!(sysctls("--kubeconfig /k"), conntrack::upstream());
        let given = sysctls("--kubeconfig /k --conntrack-min 7 --conntrack-max-per-core 0");
        assert_eq!((given.min, given.max_per_core), (Some(7), Some(0)));
        assert_eq!(given.tcp_established, conntrack::upstream().tcp_established);
    }

    #[test]
    fn the_node_name_is_trimmed_and_lower_cased() {
        let words = ["--manifests", "/m", "--hostname-override", " Node-A "];
        let config = RunFlags::parsed(words.into_iter()).unwrap().check().unwrap();
        assert_eq!(&*config.node_name, "node-a");
    }

    #[test]
    fn booleans_as_pflag_reads_them() {
        assert!(config("--masquerade-all").policy.masquerade_all);
        assert!(config("--masquerade-all=T").policy.masquerade_all);
        assert!(!config("--masquerade-all=false").policy.masquerade_all);
        assert!(!config("--drop-invalid=0").policy.drop_invalid);
        for (flags, expected) in [
            ("", ExternalIps::Served),
            ("--external-ips", ExternalIps::Served),
            ("--external-ips=false", ExternalIps::Ignored),
        ] {
            assert_eq!(config(flags).policy.external_ips, expected, "{flags}");
        }
        assert!(config("--takeover").takeover && !config("--takeover=false").takeover);
        assert!(refusal("--masquerade-all=maybe").contains("expected true or false"));
    }

    #[test]
    fn a_bad_value_is_named_with_its_flag_and_what_is_right() {
        for (flags, parts) in [
            ("--min-sync-period 5", ["--min-sync-period", "'5'", "1m30s"]),
            ("--cluster-cidr 10.0.0.1", ["--cluster-cidr", "'10.0.0.1'", "10.254.0.0/16"]),
            ("--proxy-mode ebtables", ["--proxy-mode", "'ebtables'", "nftables"]),
            ("--detect-local-mode Bridge", ["--detect-local-mode", "'Bridge'", "NodeCIDR"]),
            ("--without cake", ["--without", "'cake'", "conntrack-filter"]),
            ("--admin-socket here.sock", ["--admin-socket", "'here.sock'", "absolute path"]),
            ("--pod-bridge-interface a/b", ["--pod-bridge-interface", "'a/b'", "15 bytes"]),
            ("--cluster-ip-outsiders drop", ["--cluster-ip-outsiders", "drop", "--cluster-cidr"]),
            (
                "--service-cluster-ip-range 10.0.0.0/8,11.0.0.0/8",
                ["--service-cluster-ip-range", "10.0.0.0/8,11.0.0.0/8", "one of IPv4"],
            ),
        ] {
            let text = refusal(flags);
            for part in parts {
                assert!(text.contains(part), "{flags}: {part} is missing in: {text}");
            }
        }
    }

    #[test]
    fn features_can_be_forced_off() {
        let config = config("--without conntrack-filter,element-count");
        assert_eq!(
            Vec::from_iter(config.without),
            [Feature::ConntrackFilter, Feature::ElementCount]
        );
    }
}
