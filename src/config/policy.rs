//! What the operator decides about traffic.

use ipnet::IpNet;
use std::sync::Arc;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    pub masquerade_all: bool,
    pub detect: Detect,
    pub service_ranges: Vec<IpNet>,
    pub drop_invalid: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Detect {
    None,
    ClusterCidr(Vec<IpNet>),
    NodeCidr,
    BridgeInterface(Arc<str>),
    InterfaceNamePrefix(Arc<str>),
}
