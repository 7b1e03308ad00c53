//! What the operator decided for all services, and what follows from it on this node.

use super::{LocalDetector, Masquerade, NodePlan};
use crate::model::{Family, NodeFacts};
use ipnet::IpNet;
use std::sync::Arc;

/// From the configuration; constant while the planner lives.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    pub masquerade_all: bool,
    pub detect: DetectLocal,
    /// Ranges given by flag; ServiceCIDR objects add to them.
    pub service_ranges: Vec<IpNet>,
    pub drop_invalid: bool,
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
        }
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
fn disjoint<'a>(ranges: impl Iterator<Item = &'a IpNet>) -> Vec<IpNet> {
    let mut ranges: Vec<IpNet> = ranges.map(IpNet::trunc).collect();
    // A range sorts before those inside it: same start or a later one, longer prefix.
    ranges.sort_unstable();
    ranges.dedup_by(|inner, outer| outer.contains(&*inner));
    ranges
}
