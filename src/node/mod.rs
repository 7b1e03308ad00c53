//! What this machine says of itself: addresses, name, kernel, privileges. EDGE.
//!
//! In: rtnetlink, uname, the thread's capabilities. Out: plain values, addresses as they change.
//! Never: a change to the machine; rtnetlink's types outside this room.

mod addresses;
mod machine;

pub use addresses::{Error, watch};
pub use machine::{KernelVersion, has_net_admin, hostname, kernel};
