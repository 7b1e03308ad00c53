//! What could not be looked at, and what could not be removed.

use super::removal::Because;
use crate::netlink::ExtendedError;
use std::fmt;
use std::io;

/// Chains named in one line of the log; the rest is counted.
const NAMED: usize = 8;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "cannot look for kube-proxy's leftovers in nf_tables: no netfilter netlink socket ({0}); the kernel needs CONFIG_NF_TABLES"
    )]
    Open(#[source] io::Error),
    #[error("looking for kube-proxy's leftovers: sending to nf_tables: {0}")]
    Send(#[source] io::Error),
    #[error("looking for kube-proxy's leftovers: receiving from nf_tables: {0}")]
    Receive(#[source] io::Error),
    #[error("looking for kube-proxy's leftovers: nf_tables sent no answer")]
    NoAnswer,
    #[error(
        "cannot look for kube-proxy's leftovers: reading {what} from nf_tables: {error}; is CAP_NET_ADMIN missing?"
    )]
    Read { what: &'static str, error: ExtendedError },
    #[error(
        "kube-proxy's leftovers in nf_tables: other programs changed the ruleset {0} times while it was read or written; restart vipd to try again, or run `kube-proxy --cleanup`"
    )]
    Contended(u32),
    #[error(
        "kube-proxy's leftovers: the kernel refuses to change table {table}: {error}; does a running program own it (`nft list tables` shows the flag owner)?"
    )]
    Refused { table: String, error: ExtendedError },
    #[error("in table {table} these chains of kube-proxy's stay: {}", Reasons(chains))]
    Kept { table: String, chains: Vec<(String, Because)> },
    #[error(
        "iptables-legacy tables exist here ({tables}), but {program} is not installed: whether kube-proxy's chains are in them is not known; install it (often in the package iptables) and restart vipd, or run `kube-proxy --cleanup`"
    )]
    NoProgram { program: &'static str, tables: String },
    #[error(
        "{program} failed: {said}; it needs CAP_NET_RAW and internet sockets beside CAP_NET_ADMIN; kube-proxy's chains in iptables-legacy tables, if any, are removed by `kube-proxy --cleanup`"
    )]
    Program { program: &'static str, said: String },
    #[error("cannot look for kube-proxy's leftovers: {path}: {error}")]
    File { path: &'static str, error: io::Error },
    #[error(
        "kube-proxy's interface kube-ipvs0: {0}; see `ip addr show kube-ipvs0`, remove it with `ip link delete kube-ipvs0`"
    )]
    Link(String),
    #[error(
        "the interface kube-ipvs0 stays: it is no dummy interface, as kube-proxy's is; see `ip -d link show kube-ipvs0`"
    )]
    NotDummy,
    #[error(
        "{count} IPVS services of kube-proxy's stay: {reason}; see them with `ipvsadm -Ln`, remove them with `kube-proxy --cleanup`, or `ipvsadm -C` if no other program uses IPVS"
    )]
    Ipvs { count: usize, reason: String },
}

struct Reasons<'a>(&'a [(String, Because)]);

impl fmt::Display for Reasons<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (chain, because)) in self.0.iter().take(NAMED).enumerate() {
            let separator = if at == 0 { "" } else { ", " };
            write!(f, "{separator}{chain} ({because})")?;
        }
        match self.0.len().saturating_sub(NAMED) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_kept_chains_are_counted() {
        let kept = |count: usize| Error::Kept {
            table: "ip nat".into(),
            chains: (0..count).map(|n| (format!("C{n}"), Because::Busy)).collect(),
        };
        let few = kept(1).to_string();
        assert!(few.contains("ip nat") && few.ends_with("leads to it)"), "{few}");
        let many = kept(NAMED + 2).to_string();
        assert!(many.contains("C7 (") && !many.contains("C8 (") && many.ends_with("and 2 more"));
    }
}
