//! Node ports on 127.0.0.1 and [::1], by listeners that pass connections and datagrams on. EDGE.
//!
//! In: published snapshots. Out: connections to endpoints, from the node's own address.
//! Never: the kernel's tables; a socket for a port without endpoints (the kernel refuses).
//!
//! What is sent to a loopback address never leaves the loopback interface, so the kernel would not
//! route a translated packet: IPv4 only with `route_localnet`, which opens the node's other
//! loopback services to its neighbours (CVE-2020-8558), IPv6 not at all.

mod follow;
mod handed;
mod pin;
mod places;
mod served;
mod tcp;
#[cfg(test)]
mod tests;
mod udp;

pub use follow::{Counts, Site, serve};
pub use handed::Handed;
