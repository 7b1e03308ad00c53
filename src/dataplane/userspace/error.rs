//! What can go wrong between plans and what is relayed.

use crate::listen;
use crate::netlink::ExtendedError;
use std::io;
use std::net::{IpAddr, SocketAddr};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("rtnetlink, for the routes of relayed addresses: {0}")]
    Route(#[source] io::Error),
    #[error(
        "the kernel refused a local route{}: {error}; until it takes them, relayed Services are \
         served by the kernel",
        address.map(|address| format!(" to {address}")).unwrap_or_default()
    )]
    Refused { address: Option<IpAddr>, error: ExtendedError },
    #[error("nf_tables, for what leads to the relay: {0}")]
    Nftables(#[source] io::Error),
    #[error(
        "the kernel refused a change of tables inet vipd-relay and arp vipd: {error}; does it have \
         nf_tables for ARP, and the modules nft_tproxy, nft_socket and nft_nat? Until then relayed \
         Services are served by the kernel"
    )]
    Table { error: ExtendedError },
    #[error("nf_tables sent no answer about what leads to the relay")]
    NoAnswer,
}

/// Why nothing is relayed.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot listen at {at} for what is relayed: {error}")]
    Listen {
        at: SocketAddr,
        #[source]
        error: listen::Error,
    },
    #[error("cannot tell where a listening socket is bound: {0}")]
    Socket(#[source] io::Error),
    #[error(
        "neither 127.0.0.1 nor ::1 is an address of this network namespace; bring its loopback \
         interface up (`ip link set lo up`)"
    )]
    NoLoopback,
    #[error("cannot make a runtime for a traffic thread: {0}")]
    Runtime(#[source] io::Error),
    #[error("cannot start a traffic thread: {0}")]
    Thread(#[source] io::Error),
}
