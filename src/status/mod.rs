//! What is asked about this process over HTTP: does it serve, does it live, its numbers. EDGE.
//!
//! In: published snapshots, the configuration. Out: `/healthz` and `/livez` for load balancers and the
//! kubelet (10256 by default), `/metrics`, `/proxyMode`, `/configz` and `/healthz` for monitoring
//! (10249), as kube-proxy answers them.
//! Never: anything that changes state; an answer that the writer could feel.

mod answer;
mod configz;
mod server;
#[cfg(test)]
mod server_tests;
#[cfg(test)]
mod tests;

pub use configz::configz;
pub use server::{Asked, Site, serve};
