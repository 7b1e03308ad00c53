//! What was accepted and should be looked at.

use crate::model::Family;

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
    #[error(
        "{field}: no interface can be named {name:?} (at most 15 bytes, without a slash or a space), so \
         that nobody is taken for a local pod"
    )]
    NoSuchInterface { field: &'static str, name: String },
    #[error("{what} (no meaning here): {why}")]
    NoMeaning { what: &'static str, why: &'static str },
    #[error("--config: there is no field {field}; it is ignored, check its spelling and its place")]
    UnknownField { field: String },
    #[error("{flag} is ignored: the file of --config says this, as with kube-proxy")]
    FileInstead { flag: &'static str },
    #[error(
        "{field} is not read: {} it is section {counts} that counts, as with kube-proxy; say it there",
        in_mode(mode)
    )]
    OtherSection { field: &'static str, mode: &'static str, counts: &'static str },
    #[error("feature gates {names} have no meaning here: vipd has flags for what can be chosen")]
    GatesWithoutMeaning { names: String },
    #[error(
        "mode {asked} is asked for; nf_tables are programmed, and node ports answer where that mode \
         has them unless nodePortAddresses say otherwise"
    )]
    OtherMode { asked: &'static str },
    #[error(
        "no mode is given: nf_tables are programmed, and node ports answer at the Node object's \
         addresses and loopback; kube-proxy would run iptables, with node ports at all addresses \
         (--nodeport-addresses all)"
    )]
    DefaultMode,
    #[error("--config: a key is there twice; the last one counts: {which}")]
    TwiceInFile { which: String },
}

fn in_mode(mode: &str) -> String {
    if mode.is_empty() { "without a mode".to_owned() } else { format!("in mode {mode}") }
}

impl Warning {
    /// One word for what it is about, as an Event's reason. kube-proxy's where it has one.
    pub fn reason(&self) -> &'static str {
        match self {
            Warning::DefaultMode => "KubeProxyDefaultMode",
            Warning::OtherMode { asked: "ipvs" } => "IPVSDeprecation",
            Warning::OtherMode { .. } => "OtherProxyMode",
            Warning::NoMeaning { .. } | Warning::GatesWithoutMeaning { .. } => {
                "ConfigurationWithoutMeaning"
            }
            Warning::UnknownField { .. } | Warning::TwiceInFile { .. } => "UnknownConfiguration",
            Warning::FileInstead { .. }
            | Warning::NoEffect { .. }
            | Warning::OtherSection { .. } => "ConfigurationWithoutEffect",
            Warning::HostBits { .. } => "HostBits",
            Warning::NoClusterCidr
            | Warning::OutsidersUnknown { .. }
            | Warning::NoSuchInterface { .. } => "LocalPodsUnknown",
        }
    }
}
