//! What can go wrong between plans and what is relayed.

use crate::netlink::ExtendedError;
use std::io;
use std::net::IpAddr;

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
