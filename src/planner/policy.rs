//! What the operator decided for all services, and what follows from it on this node.

use super::{LocalDetector, Masquerade, NodePlan};
use crate::model::{Family, Limits, NodeFacts, ProxyMode};
use ipnet::IpNet;
use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

/// From the configuration, which may change while the planner lives ([`super::Planner::set_policy`]).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// What serves the Services whose annotations do not say.
    pub mode: ProxyMode,
    pub masquerade_all: bool,
    pub detect: DetectLocal,
    /// Ranges given by flag; ServiceCIDR objects add to them.
    pub service_ranges: Vec<IpNet>,
    pub drop_invalid: bool,
    /// Which of the node's addresses answer at node ports; none given: [`NodePortAddresses::Primary`].
    pub node_ports_at: Vec<NodePortAddresses>,
    /// Loopback addresses answer at node ports, where they are asked for or nothing is.
    pub localhost_node_ports: bool,
    pub outsiders: Outsiders,
    pub external_ips: ExternalIps,
    /// Of each relayed Service whose annotations do not say.
    pub limits: Limits,
}

/// What becomes of clients at cluster IPs that are neither this node nor, by the local detector,
/// pods. (kube-proxy serves them; whoever can route to the node reaches every Service.)
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Outsiders {
    #[default]
    Served,
    Dropped,
}

/// What becomes of `spec.externalIPs`: who may create a Service can draw traffic to any address to
/// its pods by it (CVE-2020-8554). As kube-proxy's feature gate AllowServiceExternalIPs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum ExternalIps {
    #[default]
    Served,
    Ignored,
}

/// One entry of `nodePortAddresses`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NodePortAddresses {
    /// Addresses of interfaces within a range.
    Within(IpNet),
    /// The Node object's first address of each family.
    Primary,
    /// 127.0.0.0/8 and ::1
    Localhost,
    All,
}

/// Something that follows from the policy on this node, and that its author may not have meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Note {
    /// No entry is about this family, so that all its addresses count.
    AllAddresses(Family),
    /// No address of an interface lies in this range.
    NoAddress(IpNet),
    /// Nothing tells pods from others in this family, so that nobody is turned away.
    OutsidersServed(Family),
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Note::AllAddresses(family) => write!(
                f,
                "no entry of --nodeport-addresses is about an {family} address of this node (or of \
                 its Node object, for `primary`): node ports answer at all of them"
            ),
            Note::NoAddress(net) => write!(
                f,
                "no address of this node lies in {net}: that entry of --nodeport-addresses has no \
                 effect"
            ),
            Note::OutsidersServed(family) => write!(
                f,
                "the Node object has no {family} pod CIDR: --cluster-ip-outsiders drop cannot tell \
                 pods from others, and everybody is served at {family} cluster IPs"
            ),
        }
    }
}

/// How to tell a local pod by its packets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum DetectLocal {
    #[default]
    None,
    /// The first of each family counts.
    ClusterCidr(Vec<IpNet>),
    /// The first of each family in the Node's `spec.podCIDRs`.
    NodeCidr,
    BridgeInterface(Arc<str>),
    InterfaceNamePrefix(Arc<str>),
}

impl Policy {
    /// When connections to a cluster IP are masqueraded. Settled by configuration alone: a pod CIDR
    /// that comes or goes changes the node plan's detector and no service.
    pub(super) fn cluster_ip_masquerade(&self, family: Family) -> Masquerade {
        if self.masquerade_all {
            return Masquerade::Always;
        }
        let detects = match &self.detect {
            DetectLocal::None => false,
            DetectLocal::ClusterCidr(cidrs) => first_of(cidrs, family).is_some(),
            DetectLocal::NodeCidr
            | DetectLocal::BridgeInterface(_)
            | DetectLocal::InterfaceNamePrefix(_) => true,
        };
        if detects { Masquerade::UnlessLocal } else { Masquerade::Never }
    }

    pub(super) fn node_plan(&self, facts: &NodeFacts, service_cidrs: &[IpNet]) -> NodePlan {
        NodePlan {
            masquerade_all: self.masquerade_all,
            local_v4: self.detector(facts, Family::V4),
            local_v6: self.detector(facts, Family::V6),
            service_ranges: disjoint(self.service_ranges.iter().chain(service_cidrs)),
            drop_invalid: self.drop_invalid,
            outsiders: self.outsiders,
            node_port_addresses: self.node_port_addresses(facts),
            own_addresses: facts.interface_addresses.clone(),
            localhost_node_ports: Family::BOTH
                .map(|family| self.localhost_node_ports && self.names_loopback(facts, family)),
            localhost_health_checks: Family::BOTH
                .map(|family| self.names_loopback(facts, family) || self.names_all(family)),
        }
    }

    fn node_ports_at(&self) -> &[NodePortAddresses] {
        match &self.node_ports_at[..] {
            [] => &[NodePortAddresses::Primary],
            given => given,
        }
    }

    /// Whether an entry says something about this family. One that none does has all its addresses
    /// (as in kube-proxy: the service API knows no way to ask for no node ports in a family).
    fn concerns(&self, facts: &NodeFacts, family: Family) -> bool {
        self.node_ports_at().iter().any(|entry| match entry {
            NodePortAddresses::Within(net) => Family::of(net.addr()) == family,
            NodePortAddresses::Primary => facts.primary_address(family).is_some(),
            NodePortAddresses::Localhost | NodePortAddresses::All => true,
        })
    }

    fn node_port_addresses(&self, facts: &NodeFacts) -> Vec<IpAddr> {
        let mut addresses = Vec::new();
        for family in Family::BOTH {
            let of_family = |ip: &&IpAddr| Family::of(**ip) == family && !ip.is_loopback();
            let interfaces = || facts.interface_addresses.iter().filter(of_family);
            if !self.concerns(facts, family) {
                addresses.extend(interfaces());
                continue;
            }
            for entry in self.node_ports_at() {
                match entry {
                    NodePortAddresses::Within(net) => {
                        addresses.extend(interfaces().filter(|ip| net.contains(*ip)));
                    }
                    NodePortAddresses::Primary => addresses.extend(facts.primary_address(family)),
                    NodePortAddresses::Localhost => {}
                    NodePortAddresses::All => addresses.extend(interfaces()),
                }
            }
        }
        addresses.sort_unstable();
        addresses.dedup();
        addresses
    }

    /// What its author should know of it on this node.
    pub fn notes(&self, facts: &NodeFacts) -> BTreeSet<Note> {
        let interfaces = || facts.interface_addresses.iter().filter(|ip| !ip.is_loopback());
        let unnamed = Family::BOTH.into_iter().filter(|family| {
            !self.concerns(facts, *family) && interfaces().any(|ip| Family::of(*ip) == *family)
        });
        let unmatched = self.node_ports_at().iter().filter_map(|entry| match entry {
            // A range of everything means a family, which the node may do without.
            NodePortAddresses::Within(net) if net.prefix_len() > 0 => Some(*net),
            _ => None,
        });
        let unmatched = unmatched
            .filter(|net| !net.addr().is_loopback() && !interfaces().any(|ip| net.contains(ip)));
        let open = Family::BOTH.into_iter().filter(|family| {
            (self.outsiders, &self.detect) == (Outsiders::Dropped, &DetectLocal::NodeCidr)
                && facts.pod_cidr(*family).is_none()
                && interfaces().any(|ip| Family::of(*ip) == *family)
        });
        unnamed
            .map(Note::AllAddresses)
            .chain(unmatched.map(Note::NoAddress))
            .chain(open.map(Note::OutsidersServed))
            .collect()
    }

    fn names_loopback(&self, facts: &NodeFacts, family: Family) -> bool {
        self.node_ports_at.is_empty()
            || !self.concerns(facts, family)
            || self.node_ports_at.iter().any(|entry| match entry {
                NodePortAddresses::Within(IpNet::V4(net)) => {
                    family == Family::V4 && net.addr().is_loopback()
                }
                NodePortAddresses::Within(IpNet::V6(net)) => {
                    family == Family::V6 && net.addr().is_loopback()
                }
                NodePortAddresses::Primary => false,
                NodePortAddresses::Localhost | NodePortAddresses::All => true,
            })
    }

    /// Whether a range of everything is named. It is none of loopback's node ports, but there is
    /// nothing that keeps a socket from answering there (kube-proxy listens at 0.0.0.0 then).
    fn names_all(&self, family: Family) -> bool {
        self.node_ports_at.iter().any(|entry| match entry {
            NodePortAddresses::Within(net) => {
                net.prefix_len() == 0 && Family::of(net.addr()) == family
            }
            _ => false,
        })
    }

    fn detector(&self, facts: &NodeFacts, family: Family) -> LocalDetector {
        let cidr = |cidr: Option<IpNet>| {
            cidr.map_or(LocalDetector::None, |cidr| LocalDetector::Cidr(cidr.trunc()))
        };
        match &self.detect {
            DetectLocal::None => LocalDetector::None,
            DetectLocal::ClusterCidr(cidrs) => cidr(first_of(cidrs, family)),
            DetectLocal::NodeCidr => cidr(facts.pod_cidr(family)),
            DetectLocal::BridgeInterface(name) => LocalDetector::Interface(Arc::clone(name)),
            DetectLocal::InterfaceNamePrefix(prefix) => {
                LocalDetector::InterfacePrefix(Arc::clone(prefix))
            }
        }
    }
}

fn first_of(cidrs: &[IpNet], family: Family) -> Option<IpNet> {
    cidrs.iter().copied().find(|cidr| Family::of(cidr.addr()) == family)
}

/// Sorted, host bits cleared, none inside another.
pub(super) fn disjoint<'a>(ranges: impl Iterator<Item = &'a IpNet>) -> Vec<IpNet> {
    let mut ranges: Vec<IpNet> = ranges.map(IpNet::trunc).collect();
    // A range sorts before those inside it: same start or a later one, longer prefix.
    ranges.sort_unstable();
    ranges.dedup_by(|inner, outer| outer.contains(&*inner));
    ranges
}
