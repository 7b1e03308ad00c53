//! vipd: a Kubernetes service proxy for one node.

pub mod admin;
pub mod app;
pub mod cli;
pub mod config;
pub mod conntrack;
pub mod dataplane;
pub mod model;
pub mod netlink;
pub mod node;
pub mod planner;
pub mod sources;
pub mod store;
pub mod sync;
