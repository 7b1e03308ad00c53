//! Connections and datagrams that pass through this process, for what the kernel cannot do. EDGE.
//!
//! In: plan deltas; packets that interception leads to one port, and what comes to node ports of loopback
//! addresses. Out: connections to endpoints, from the node's own address; a table that leads packets
//! here, and local routes; counts.
//! Never: another table or route; a port for what is led here, a mark or a policy route for a service; a
//! buffer that grows with what a slow reader leaves.
//!
//! ```text
//! control: lower ─► what changes ─► intercept (table, batch), routes (arp), the engine's frontends
//! loopback: node ports of what the kernel carries ─► a socket each ─► tcp, udp
//! tcp: accept ─► frontends: whose? ─► choose ─► dial, next ─► header ─► relay: copy, splice
//!                                            └► requests: each one ─► choose ─► pooled connection, or dial
//! udp: receive ─► session of (client, frontend) ─► choose ─► socket to the endpoint
//! choose: pins (affinity) ─► eject (outliers out) ─► balancer
//! ```

mod abort;
mod acks;
mod arp;
mod batch;
mod bridged;
mod budget;
mod bursts;
mod checksum;
mod choose;
#[cfg(test)]
mod choose_tests;
mod congestion;
mod connecting;
mod control;
mod counts;
mod deadline;
mod departures;
mod dials;
mod eject;
#[cfg(test)]
mod eject_tests;
mod engine;
mod error;
mod frontends;
mod handed;
mod handover;
#[cfg(test)]
mod handover_tests;
mod header;
mod intercept;
mod late;
mod listeners;
mod loopback;
pub mod lower;
mod maglev;
mod original;
mod outgoing;
mod passing;
mod pins;
#[cfg(test)]
mod pins_tests;
mod pipes;
mod ports;
mod quoted;
#[cfg(test)]
mod quoted_tests;
mod raw;
mod redirect;
mod refusal;
mod refusals;
mod relay;
#[cfg(test)]
mod relay_tests;
mod relayed;
mod replies;
mod requests;
mod round_trip;
mod route;
mod routes;
mod served;
mod session;
pub mod sets;
mod shared;
pub mod table;
mod tcp;
#[cfg(test)]
mod tests;
mod udp;
mod udp_header;
#[cfg(test)]
mod udp_tests;
mod untracked;
mod written;

pub use budget::{Budget, Files, ListenerFile};
pub use control::{Former, Inheritance, Userspace};
pub use counts::{Counts, EndpointCounts, PortCounts};
pub use dials::{Dials, Failure};
pub use engine::{Engine, EngineOptions};
pub use error::{Error, StartError};
pub use frontends::Frontends;
pub use handed::HandoverError;
pub use handover::{Handover, Part};
pub use loopback::{LoopbackCounts, PortsTurn};
pub use lower::Turn;
pub use relay::KEEPALIVE;
pub use relayed::{PortId, Relayed};
pub use served::random;
