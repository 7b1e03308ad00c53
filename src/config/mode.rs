//! `--proxy-mode`, with kube-proxy's words too.

use super::{ProxyMode, Warning};
use crate::planner::NodePortAddresses;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AskedMode {
    Nftables,
    /// kube-proxy's, for which vipd programs nf_tables.
    Iptables,
    Ipvs,
}

impl AskedMode {
    /// Empty is the default, as in kube-proxy's configuration.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            "" | "nftables" => Ok(AskedMode::Nftables),
            "iptables" => Ok(AskedMode::Iptables),
            "ipvs" => Ok(AskedMode::Ipvs),
            _ => Err("expected nftables; iptables and ipvs stand for it".into()),
        }
    }

    /// What does the work.
    pub fn runs(self) -> ProxyMode {
        ProxyMode::Nftables
    }

    /// Where node ports answer if nothing else is said: the other modes have them everywhere, and who
    /// comes from there may count on it.
    pub fn node_ports_at(self) -> Vec<NodePortAddresses> {
        match self {
            AskedMode::Nftables => Vec::new(),
            AskedMode::Iptables | AskedMode::Ipvs => vec![NodePortAddresses::All],
        }
    }

    pub fn warning(self) -> Option<Warning> {
        match self {
            AskedMode::Nftables => None,
            AskedMode::Iptables => Some(Warning::OtherMode { asked: "iptables" }),
            AskedMode::Ipvs => Some(Warning::OtherMode { asked: "ipvs" }),
        }
    }
}
