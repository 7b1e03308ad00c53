//! The node that vipd runs on.

use super::{Family, NodeName};
use arcstr::ArcStr;
use ipnet::IpNet;
use std::net::IpAddr;
use std::sync::Arc;

/// A Node object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub name: NodeName,
    /// `status.addresses` of type InternalIP, then ExternalIP, in the object's order
    pub addresses: Box<[IpAddr]>,
    /// label `topology.kubernetes.io/zone`; an empty one counts as none
    pub zone: Option<ArcStr>,
    /// `spec.podCIDRs`
    pub pod_cidrs: Box<[IpNet]>,
    /// It has a deletionTimestamp, or the cluster autoscaler's taint for nodes that it removes
    /// (`ToBeDeletedByClusterAutoscaler`, KEP-3836)
    pub going_away: bool,
}

/// A networking.k8s.io/v1 ServiceCIDR.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceCidr {
    pub name: Box<str>,
    pub cidrs: Box<[IpNet]>,
}

/// Everything that planning needs to know of this node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeFacts {
    pub name: Arc<str>,
    pub zone: Option<ArcStr>,
    /// Its Node object's addresses, the preferred one of each family first.
    pub addresses: Vec<IpAddr>,
    /// Addresses of its interfaces (rtnetlink), sorted. Offline: the Node object's.
    pub interface_addresses: Vec<IpAddr>,
    pub pod_cidrs: Vec<IpNet>,
    /// Load balancers shall send it nothing new; what it does with packets stays the same.
    pub going_away: bool,
}

impl NodeFacts {
    /// Whether a packet from or to `address` is the node's own.
    pub fn owns(&self, address: IpAddr) -> bool {
        address.is_loopback()
            || self.interface_addresses.binary_search(&address).is_ok()
            || self.addresses.contains(&address)
    }

    /// The Node object's first address of a family.
    pub fn primary_address(&self, family: Family) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|ip| Family::of(*ip) == family)
    }

    /// The first `podCIDR` of a family.
    pub fn pod_cidr(&self, family: Family) -> Option<IpNet> {
        self.pod_cidrs.iter().copied().find(|net| Family::of(net.addr()) == family)
    }
}
