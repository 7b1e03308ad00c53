//! Listening sockets that follow a plan: opened, tried again, accepted from, asked by HTTP. EDGE.
//!
//! In: addresses that are wanted. Out: sockets, connections, and why a socket is not open.
//! Never: a word of an answer; a decision which addresses are wanted.

mod http;
mod kept;
#[cfg(test)]
mod kept_tests;
mod places;
mod socket;
mod tally;
mod wait;

pub use http::{Limits, one_request};
pub use kept::{Kept, Tried};
pub use places::Places;
pub use socket::{Acceptor, tcp, tcp_ahead, udp_ahead};
pub use tally::{Count, Tally};
pub use wait::change_or_retry;

use std::io;
use std::net::SocketAddr;

/// Why a socket does not listen.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("another process has the port; `ss -lnp` names it")]
    InUse,
    #[error("no interface has this address; `ip address` lists those that there are")]
    NoSuchAddress,
    #[error(
        "this process may not open sockets of this family (systemd: RestrictAddressFamilies must \
         name AF_INET and AF_INET6)"
    )]
    Forbidden,
    #[error("there are too many open files already; raise the limit (systemd: LimitNOFILE)")]
    Files,
    #[error("{0}")]
    Other(#[source] io::Error),
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::AddrInUse => Error::InUse,
            io::ErrorKind::AddrNotAvailable => Error::NoSuchAddress,
            _ => match error.raw_os_error() {
                Some(libc::EMFILE | libc::ENFILE) => Error::Files,
                Some(libc::EAFNOSUPPORT) => Error::Forbidden,
                _ => Error::Other(error),
            },
        }
    }
}

impl Error {
    /// Whether the kernel does without the family (`disable_ipv6`, `ipv6.disable=1`): every machine
    /// that has it has its loopback address. Nobody can miss what is not answered there.
    pub fn is_of_unused_family(&self, at: SocketAddr) -> bool {
        match self {
            Error::NoSuchAddress => at.ip().is_loopback(),
            // A kernel without IPv4 there is not.
            Error::Forbidden => at.is_ipv6() && (at.ip().is_loopback() || at.ip().is_unspecified()),
            Error::InUse | Error::Files | Error::Other(_) => false,
        }
    }
}
