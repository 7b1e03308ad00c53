//! What becomes of each endpoint of a port on this node, in words.

use super::endpoints::{Choice, PortRef};
use super::{PortPlan, Scope, Target};
use crate::model::{Known, NodeFacts, TrafficPolicy};
use std::fmt;

/// Whether an endpoint is used, and if not, why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EndpointUse {
    Used,
    UsedTerminating,
    NotReady,
    NotServing,
    TerminatingUnneeded,
    OtherNode,
    OtherZone,
    NotLocal,
    Duplicate,
}

impl EndpointUse {
    pub fn is_used(self) -> bool {
        matches!(self, EndpointUse::Used | EndpointUse::UsedTerminating)
    }
}

impl fmt::Display for EndpointUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            EndpointUse::Used => "used",
            EndpointUse::UsedTerminating => "used while terminating: nothing ready is left",
            EndpointUse::NotReady => "not ready",
            EndpointUse::NotServing => "terminating and not serving",
            EndpointUse::TerminatingUnneeded => "terminating, not needed while others are ready",
            EndpointUse::OtherNode => "hinted for other nodes",
            EndpointUse::OtherZone => "hinted for other zones",
            EndpointUse::NotLocal => "not on this node, which policy Local asks for",
            EndpointUse::Duplicate => "mentioned again; the other mention counts",
        })
    }
}

/// Every mention of an endpoint of `port`, used or not, as connections to the cluster IP see it.
/// Sorted by target; of several mentions of one, the one that counts comes first.
pub fn explain(known: &Known, facts: &NodeFacts, port: &PortPlan) -> Vec<(Target, EndpointUse)> {
    let policy = known.service.as_ref().map(|service| service.internal_policy).unwrap_or_default();
    let scope = match policy {
        TrafficPolicy::Cluster => Scope::Cluster,
        TrafficPolicy::Local => Scope::Local,
    };
    let port = PortRef { name: &port.name, protocol: port.protocol, family: port.family };
    Choice::new(known, facts, port).uses(scope)
}
