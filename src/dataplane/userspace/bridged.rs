//! Whether packets from a bridge have passed prerouting before they come to the IP layer. EDGE: files
//! of /proc.
//!
//! They have with br_netfilter, which Kubernetes nodes usually have. The IP layer then takes away what
//! socket a packet was given there (`skb_orphan` in `ip_rcv_core`, 6.18), and asks no hook again
//! (`ip_sabotage_in`): tproxy leads no such packet anywhere.

use crate::model::Family;
use std::fs;

/// By family.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Bridged(pub [bool; 2]);

impl Bridged {
    /// In the network namespace of the calling thread. Without the module there is no such file.
    pub(super) fn read() -> Self {
        Self(Family::BOTH.map(|family| {
            let key = match family {
                Family::V4 => "bridge-nf-call-iptables",
                Family::V6 => "bridge-nf-call-ip6tables",
            };
            let value = fs::read_to_string(format!("/proc/sys/net/bridge/{key}"));
            value.is_ok_and(|value| value.trim() != "0")
        }))
    }
}
