//! What can go wrong between vipd and nf_tables.

use super::set::Set;
use crate::netlink::ExtendedError;
use std::io;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "cannot open a netfilter netlink socket: {0}; the kernel needs CONFIG_NF_TABLES, and vipd CAP_NET_ADMIN"
    )]
    Open(#[source] io::Error),
    #[error("sending to nf_tables: {0}")]
    Send(#[source] io::Error),
    #[error("receiving from nf_tables: {0}")]
    Receive(#[source] io::Error),
    #[error(
        "the kernel refused a change of table inet vipd: {error}{}; what it holds is unchanged, vipd reads it back and tries again",
        object.as_ref().map(|o| format!(" (at {o})")).unwrap_or_default()
    )]
    Refused { error: ExtendedError, object: Option<String> },
    #[error("cannot start a thread: {0}; check the limit on threads")]
    Thread(#[source] io::Error),
    /// A set of fixed size has no room for a transaction. Nothing was changed.
    #[error("set {} of table inet vipd is full", .0.name())]
    Full(Set),
    #[error(
        "set {0} is full, and too large to be made anew in one transaction; please report this with the number of services and endpoints"
    )]
    TooLarge(&'static str),
    #[error(
        "the ruleset of this namespace was changed by others {0} times while vipd tried to commit; is another program rewriting it in a loop? (nft monitor)"
    )]
    Contended(u32),
    #[error("nf_tables sent no answer to a transaction")]
    NoAnswer,
    #[error("reading {what} from nf_tables: {error}")]
    Read { what: &'static str, error: ExtendedError },
}

impl Error {
    /// Whether the object that was asked for does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Error::Read { error, .. } if error.errno == libc::ENOENT)
    }
}
