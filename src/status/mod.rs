//! What is asked about this process over HTTP: does it serve, does it live, its numbers. EDGE.
//!
//! In: published snapshots. Out: `/healthz` and `/livez` for load balancers and the kubelet (10256 by
//! default), `/metrics`, `/proxyMode` and `/healthz` for monitoring (10249), as kube-proxy answers them.
//! Never: anything that changes state; an answer that the writer could feel.

mod answer;
mod server;
#[cfg(test)]
mod tests;

pub use server::{Asked, serve};
