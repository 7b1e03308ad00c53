//! `--proxy-mode`, with kube-proxy's words too.

use super::{Error, Warning};
use crate::model::ProxyMode;
use crate::planner::NodePortAddresses;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AskedMode {
    /// Nothing is said.
    Unset,
    Nftables,
    /// kube-proxy's, for which vipd programs nf_tables.
    Iptables,
    Ipvs,
    /// vipd's own.
    Userspace,
    /// The same, not there yet.
    Ebpf,
}

impl AskedMode {
    /// Empty is the default, as in kube-proxy's configuration.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            "" => Ok(AskedMode::Unset),
            "nftables" => Ok(AskedMode::Nftables),
            "iptables" => Ok(AskedMode::Iptables),
            "ipvs" => Ok(AskedMode::Ipvs),
            "userspace" => Ok(AskedMode::Userspace),
            "ebpf" => Ok(AskedMode::Ebpf),
            _ => {
                Err("expected nftables, which iptables and ipvs stand for too, or userspace".into())
            }
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            AskedMode::Unset => "",
            AskedMode::Nftables => "nftables",
            AskedMode::Iptables => "iptables",
            AskedMode::Ipvs => "ipvs",
            AskedMode::Userspace => "userspace",
            AskedMode::Ebpf => "ebpf",
        }
    }

    /// The section of the file that has the periods. Without a mode upstream runs
    /// iptables, and that section is the one that counted. Mode userspace programs nf_tables too.
    pub fn section(self) -> &'static str {
        match self {
            AskedMode::Nftables | AskedMode::Userspace => "nftables",
            AskedMode::Ipvs => "ipvs",
            AskedMode::Unset | AskedMode::Iptables | AskedMode::Ebpf => "iptables",
        }
    }

    /// The section of the file that has masqueradeAll: there is none in ipvs'.
    pub fn masquerade_section(self) -> &'static str {
        match self.section() {
            "nftables" => "nftables",
            _ => "iptables",
        }
    }

    /// How the parser of flags calls kube-proxy's flag of the least time between two syncs.
    pub fn min_sync_flag(self) -> &'static str {
        match self {
            AskedMode::Ipvs => "ipvs_min_sync_period",
            _ => "iptables_min_sync_period",
        }
    }

    /// What does the work.
    pub fn runs(self) -> Result<ProxyMode, Error> {
        match self {
            AskedMode::Unset | AskedMode::Nftables | AskedMode::Iptables | AskedMode::Ipvs => {
                Ok(ProxyMode::Nftables)
            }
            AskedMode::Userspace => Ok(ProxyMode::Userspace),
            AskedMode::Ebpf => Err(Error::NoSuchDataplane { mode: self.name() }),
        }
    }

    /// Where node ports answer if nothing else is said: kube-proxy's other modes have them everywhere,
    /// and who comes from there may count on it. Who named none gets vipd's default.
    pub fn node_ports_at(self) -> Vec<NodePortAddresses> {
        match self {
            AskedMode::Iptables | AskedMode::Ipvs => vec![NodePortAddresses::All],
            _ => Vec::new(),
        }
    }

    /// `in_cluster`: in kube-proxy's place.
    pub fn warning(self, in_cluster: bool) -> Option<Warning> {
        match self {
            AskedMode::Unset if in_cluster => Some(Warning::DefaultMode),
            AskedMode::Iptables | AskedMode::Ipvs => {
                Some(Warning::OtherMode { asked: self.name() })
            }
            _ => None,
        }
    }
}
