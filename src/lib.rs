//! vipd: a Kubernetes service proxy for one node.

#![forbid(unsafe_code)]

pub mod dataplane;
pub mod model;
pub mod netlink;
pub mod planner;
pub mod sources;
pub mod store;
pub mod sync;
