//! What the operator asked for, checked once.
//!
//! In: flags, `VIPD_*` variables. Out: one [`Config`], or one error that names the flag.
//! Never: a default that is decided anywhere else; a look at the cluster.

mod cidr;
mod conntrack;
mod detect;
mod duration;
mod endpoint;
mod file;
mod flags;
mod mode;
mod node_ports;
mod overlay;
mod upstream;
mod value;

pub use detect::{ClusterIpOutsiders, Mode as DetectLocalMode};
pub use flags::{NodeFlags, RunFlags, SocketFlag};

use crate::conntrack::Sysctls;
use crate::model::Family;
use crate::planner::Policy;
use clap::ValueEnum;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Where the daemon answers unless told otherwise.
pub const DEFAULT_ADMIN_SOCKET: &str = "/run/vipd/admin.sock";

/// Everything that `vipd run` was told.
#[derive(Debug, Clone)]
pub struct Config {
    pub source: Source,
    pub node_name: Arc<str>,
    pub policy: Policy,
    pub proxy_mode: ProxyMode,
    /// Least time between two commits; zero: at once.
    pub min_sync_period: Duration,
    pub admin_socket: PathBuf,
    /// Where `/healthz` and `/livez` are answered.
    pub healthz_at: Vec<SocketAddr>,
    /// Where `/metrics` is.
    pub metrics_at: Vec<SocketAddr>,
    pub sysctls: Sysctls,
    /// How long a TCP endpoint must be gone before its connections are reset; `None`: never.
    pub reset_gone_after: Option<Duration>,
    /// Written to `/proc/self/oom_score_adj`; `None`: left alone.
    pub oom_score_adj: Option<i32>,
    pub without: BTreeSet<Feature>,
    /// Remove what kube-proxy left, once vipd serves.
    pub takeover: bool,
    pub log: Log,
    /// What was accepted, but should be looked at.
    pub warnings: Vec<Warning>,
}

/// Who says what there is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A directory of manifests.
    Manifests(PathBuf),
    /// An API server, and how it is reached; at least one of both is given.
    ApiServer { kubeconfig: Option<PathBuf>, master: Option<String> },
}

impl Source {
    fn of(
        manifests: Option<PathBuf>,
        kubeconfig: Option<PathBuf>,
        master: Option<String>,
    ) -> Result<Self, Error> {
        match (manifests, kubeconfig, master) {
            (Some(directory), None, None) => Ok(Source::Manifests(directory)),
            (Some(_), Some(_), _) => Err(Error::TwoSources { flag: "--kubeconfig" }),
            (Some(_), None, Some(_)) => Err(Error::TwoSources { flag: "--master" }),
            (None, None, None) => Err(Error::NoSource),
            (None, kubeconfig, master) => Ok(Source::ApiServer { kubeconfig, master }),
        }
    }
}

/// The part that decides what a node does: the same for the daemon and for offline commands.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    pub node_name: Arc<str>,
    pub policy: Policy,
    pub warnings: Vec<Warning>,
}

/// Which dataplane makes the plan true.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyMode {
    Nftables,
}

/// What a kernel may lack; forced off, the fall-back is used although the kernel has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Feature {
    /// Deleting conntrack entries by a filter that the kernel applies (6.12).
    ConntrackFilter,
    /// Element counts in set listings.
    ElementCount,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Log {
    pub level: LogLevel,
    pub format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl LogLevel {
    /// What klog's `-v` comes to.
    fn of_verbosity(verbosity: i64) -> Self {
        match verbosity {
            ..=3 => LogLevel::Error,
            4..=5 => LogLevel::Debug,
            6.. => LogLevel::Trace,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

/// A value that is used in another way than it was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Warning {
    #[error("{flag}: {given} has host bits set; used as {used}")]
    HostBits { flag: &'static str, given: ipnet::IpNet, used: ipnet::IpNet },
    #[error(
        "--detect-local-mode ClusterCIDR without --cluster-cidr: local pods cannot be told from \
         others, so nobody is masqueraded for being remote"
    )]
    NoClusterCidr,
    #[error(
        "--cluster-ip-outsiders drop: no {family} range in --cluster-cidr tells pods from others, \
         so in that family everybody is served"
    )]
    OutsidersUnknown { family: Family },
    #[error("{flag} has no effect with --detect-local-mode {mode}")]
    NoEffect { flag: &'static str, mode: &'static str },
    #[error("{what} has no meaning here: {why}")]
    NoMeaning { what: &'static str, why: &'static str },
    #[error("--config: there is no field {field}; it is ignored, check its spelling and its place")]
    UnknownField { field: String },
    #[error("{flag} is ignored: the file of --config says this, as with kube-proxy")]
    FileInstead { flag: &'static str },
    #[error(
        "mode {asked} is asked for; nf_tables are programmed, and node ports answer where that mode \
         has them unless nodePortAddresses say otherwise"
    )]
    OtherMode { asked: &'static str },
}

/// A flag that cannot be used; the text names it, its value and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("--config {}: {faults}", path.display())]
    File { path: PathBuf, faults: String },
    #[error("{flag} \"{value}\": {reason}")]
    Value { flag: &'static str, value: String, reason: &'static str },
    #[error("--detect-local-mode {mode} needs {flag}: {reason}")]
    Missing { mode: &'static str, flag: &'static str, reason: &'static str },
    #[error(
        "--cluster-ip-outsiders drop: nothing tells pods from others; pass --cluster-cidr, or \
         another --detect-local-mode"
    )]
    NobodyIsLocal,
    #[error(
        "nothing says where Services are read: pass --kubeconfig FILE, --master URL (in a pod, as \
         its service account), or --manifests DIR. KUBERNETES_SERVICE_HOST is not used: it is a \
         cluster IP, which leads nowhere on this node before vipd has read the Services"
    )]
    NoSource,
    #[error("--manifests and {flag} are two sources of objects; pass one of them")]
    TwoSources { flag: &'static str },
    #[error("the host's name is empty: set it, or pass --hostname-override NAME")]
    NoHostname,
}
