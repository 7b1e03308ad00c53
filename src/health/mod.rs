//! What load balancers ask this node about services: HTTP servers on `healthCheckNodePort`. EDGE.
//!
//! In: published snapshots. Out: 200 where this node has endpoints of the service, 503 elsewhere.
//! Never: an answer from memory of its own; a wait that the writer could feel.

mod answer;
mod follow;
mod ports;
mod server;
#[cfg(test)]
mod tests;

pub use follow::serve;
