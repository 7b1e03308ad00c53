//! Node ports of Services that the kernel carries, or has to for now, on 127.0.0.1 and [::1]: a socket for each.
//!
//! In: plans and their differences. Out: frontends of the engine, and sockets bound to them.
//! Never: a rule or a route; a socket for a port without endpoints (the kernel refuses).
//!
//! What is sent to a loopback address never leaves the loopback interface, so the kernel would not
//! route a translated packet: IPv4 only with `route_localnet`, which opens the node's other
//! loopback services to its neighbours (CVE-2020-8558), IPv6 not at all. Node ports of relayed Services
//! come by tproxy, there too; while nobody is led to the relay they have sockets like the others.

mod keeper;
mod places;
#[cfg(test)]
mod tests;
mod thread;
mod turn;
mod wishes;

pub(super) use thread::Loopback;
pub use thread::LoopbackCounts;
pub use turn::PortsTurn;
pub(super) use turn::{NodePorts, all};
