//! What the operator asked for, checked once.
//!
//! In: flags, `VIPD_*` variables. Out: one [`Config`], or one error that names the flag.
//! Never: a default that is decided anywhere else; a look at the cluster.

mod cidr;
mod compose;
mod conntrack;
mod detect;
mod effective;
mod endpoint;
mod file;
mod flags;
mod gates;
mod limits;
mod mode;
mod names;
mod node_ports;
mod overlay;
mod resolve;
mod upstream;
mod value;
mod warning;

pub use crate::model::duration::text as duration_text;
pub use detect::{ClusterIpOutsiders, Mode as DetectLocalMode};
pub use effective::{Effective, From, Setting, Void};
pub use flags::{NodeFlags, RunFlags, SocketFlag};
pub use gates::{Gates, states as gate_states};
pub use names::Given;
pub use resolve::ConfigFile;
pub use warning::Warning;

use crate::conntrack::Sysctls;
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
    /// How long open connections may go on that no new ones join: in a process that was replaced, and
    /// relayed ones to an endpoint that serves no more.
    pub drain_timeout: Duration,
    pub log: Log,
    /// The feature gates that are not left at their defaults.
    pub gates: Gates,
    /// The file that much of this comes from, if there is one; it may change.
    pub file: Option<ConfigFile>,
    /// What was accepted, but should be looked at.
    pub warnings: Vec<Warning>,
}

impl Config {
    /// What of a newer configuration a running daemon cannot take over, by the names of the file.
    pub fn needs_restart(&self, newer: &Config) -> Vec<&'static str> {
        let differs = [
            ("clientConnection.kubeconfig", self.source != newer.source),
            ("hostnameOverride", self.node_name != newer.node_name),
            ("logging.format", self.log.format != newer.log.format),
        ];
        differs.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect()
    }
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
    fn of_verbosity(verbosity: u32) -> Self {
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

/// A flag that cannot be used; the text names it, its value and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("--config {}: {faults}", path.display())]
    File { path: PathBuf, faults: String },
    #[error("{faults}")]
    Flags { faults: String },
    #[error(
        "mode {mode}: that dataplane does not exist in this version of vipd; use nftables or \
         userspace (--proxy-mode, or `mode` in the file of --config)"
    )]
    NoSuchDataplane { mode: &'static str },
    #[error("the configuration cannot be written as YAML: {reason}")]
    Unwritten { reason: String },
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
