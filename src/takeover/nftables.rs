//! kube-proxy's leftovers in nf_tables: its own tables, and its chains in those of iptables-nft.
//!
//! In: the tables of the namespace. Out: what of them is kube-proxy's; its removal.
//! Never: a table, chain or rule that `removal` does not name.

use super::error::Error;
use super::kernel::Kernel;
use super::messages::Change;
use super::names::{IPTABLES, OWN_TABLE};
use super::removal::{Counts, Table, family_name};
use crate::model::Family;
use crate::netlink::ExtendedError;
use std::collections::{BTreeMap, BTreeSet};

/// Removals that may be refused, because of what others hold or change, before vipd gives up.
const TRIES: u32 = 25;

/// One of kube-proxy's own tables (mode nftables).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnTable {
    pub family: Family,
    pub counts: Counts,
}

/// What nf_tables holds of kube-proxy's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holdings {
    pub own: Vec<OwnTable>,
    /// Tables of iptables-nft with chains of kube-proxy's; a rule's id is its handle.
    pub iptables: Vec<Table<u64>>,
}

/// What a removal did.
#[derive(Debug, Default)]
pub struct Removed {
    pub tables: usize,
    pub counts: Counts,
    pub left: Vec<Error>,
}

/// Chains and tables that the kernel did not let go.
#[derive(Debug, Default)]
struct Refusals {
    busy: BTreeMap<(Family, String), BTreeSet<String>>,
    closed: BTreeMap<(Family, String), ExtendedError>,
}

/// Tables first, so that a node without any costs one small answer a family.
pub fn observe(kernel: &mut Kernel) -> Result<Holdings, Error> {
    let mut found = Holdings::default();
    for family in Family::BOTH {
        let tables = kernel.tables(family)?;
        let exists = |name: &str| tables.iter().any(|table| table == name);
        let shared: Vec<&str> = IPTABLES.into_iter().filter(|name| exists(name)).collect();
        let own = exists(OWN_TABLE);
        if shared.is_empty() && !own {
            continue;
        }
        let mut chains = kernel.chains(family)?;
        let mut of_table = |name: &str| chains.remove(name).unwrap_or_default();
        if own {
            let chains = of_table(OWN_TABLE).len();
            let rules = kernel.rules(family, OWN_TABLE)?.values().map(Vec::len).sum();
            found.own.push(OwnTable { family, counts: Counts { chains, rules } });
        }
        for name in shared {
            let chains = of_table(name);
            let mut table = Table { family, name: name.to_owned(), chains };
            if table.counts().chains == 0 {
                continue;
            }
            let mut rules = kernel.rules(family, name)?;
            for chain in &mut table.chains {
                chain.rules = rules.remove(&chain.name).unwrap_or_default();
            }
            found.iptables.push(table);
        }
    }
    Ok(found)
}

/// Removes what was found, in one transaction where the socket takes it at once. What the
/// kernel does not let go is left, and the rest tried again.
pub fn remove(kernel: &mut Kernel, found: Holdings) -> Removed {
    let mut removed = Removed::default();
    let mut refusals = Refusals::default();
    let mut found = found;
    for _ in 0..TRIES {
        let changes = changes(&found, &refusals);
        match commit_all(kernel, &changes, &mut refusals, &mut removed) {
            Ok(Settled::Yes) => {
                removed.left.extend(refusals.explain(&found));
                return removed;
            }
            Ok(Settled::No) => {}
            Err(error) => {
                removed.left.push(error);
                return removed;
            }
        }
        match observe(kernel) {
            Ok(now) => found = now,
            Err(error) => {
                removed.left.push(error);
                return removed;
            }
        }
    }
    removed.left.push(Error::Contended(TRIES));
    removed
}

fn commit_all(
    kernel: &mut Kernel,
    changes: &[Change],
    refusals: &mut Refusals,
    removed: &mut Removed,
) -> Result<Settled, Error> {
    let mut rest = changes;
    while !rest.is_empty() {
        let (taken, refused) = kernel.commit(rest)?;
        if !refused.is_empty() {
            for (at, error) in refused {
                refusals.add(&rest[at], error);
            }
            return Ok(Settled::No);
        }
        rest[..taken].iter().for_each(|change| removed.count(change));
        rest = &rest[taken..];
    }
    Ok(Settled::Yes)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Settled {
    Yes,
    No,
}

/// Everything that can go, in an order that may be cut anywhere: with the jumps gone, no packet
/// comes to the chains, and each chain goes before those that it leads to.
fn changes(found: &Holdings, refusals: &Refusals) -> Vec<Change> {
    let closed = |family, table: &str| refusals.closed.contains_key(&(family, table.to_owned()));
    let own = found.own.iter().filter(|own| !closed(own.family, OWN_TABLE));
    let mut changes: Vec<Change> = own.map(|own| Change::Table(own.family)).collect();
    let mut chains = Vec::new();
    for table in found.iptables.iter().filter(|table| !closed(table.family, &table.name)) {
        let removal = table.removal(&refusals.busy_of(table));
        changes.extend(removal.jumps.into_iter().map(|(chain, handle)| Change::Rule {
            family: table.family,
            table: table.name.clone(),
            chain: chain.to_owned(),
            handle: *handle,
        }));
        chains.extend(removal.chains.into_iter().map(|chain| Change::Chain {
            family: table.family,
            table: table.name.clone(),
            chain: chain.name.clone(),
            rules: chain.rules.len(),
        }));
    }
    changes.append(&mut chains);
    changes
}

impl Refusals {
    fn add(&mut self, change: &Change, error: ExtendedError) {
        match change {
            // Gone meanwhile: the next look shows what is left.
            _ if error.errno == libc::ENOENT => {}
            Change::Chain { family, table, chain, .. } if error.errno == libc::EBUSY => {
                self.busy.entry((*family, table.clone())).or_default().insert(chain.clone());
            }
            _ => {
                self.closed.entry(change.table()).or_insert(error);
            }
        }
    }

    fn busy_of(&self, table: &Table<u64>) -> BTreeSet<String> {
        self.busy.get(&(table.family, table.name.clone())).cloned().unwrap_or_default()
    }

    /// What is left of kube-proxy's, and why.
    fn explain(&self, found: &Holdings) -> Vec<Error> {
        let mut left: Vec<Error> = Vec::new();
        for ((family, name), error) in &self.closed {
            let table = format!("{} {name}", family_name(*family));
            left.push(Error::Refused { table, error: error.clone() });
        }
        for table in &found.iptables {
            let kept = table.removal(&self.busy_of(table)).kept;
            let open = !self.closed.contains_key(&(table.family, table.name.clone()));
            if open && !kept.is_empty() {
                let chains = kept.into_iter().map(|(chain, why)| (chain.to_owned(), why));
                left.push(Error::Kept { table: table.title(), chains: chains.collect() });
            }
        }
        left
    }
}

impl Removed {
    fn count(&mut self, change: &Change) {
        match change {
            Change::Table(_) => self.tables += 1,
            Change::Rule { .. } => self.counts.rules += 1,
            Change::Chain { rules, .. } => {
                self.counts.chains += 1;
                self.counts.rules += rules;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::removal::{Because, Chain, ChainKind, Rule};
    use super::*;

    fn chain(name: &str, kind: ChainKind, rules: &[(u64, &str)]) -> Chain<u64> {
        let rule =
            |(id, target): &(u64, &str)| Rule { id: *id, target: Some((*target).to_owned()) };
        Chain { name: name.to_owned(), kind, rules: rules.iter().map(rule).collect() }
    }

    fn found() -> Holdings {
        let chains = vec![
            chain("OUTPUT", ChainKind::Base, &[(9, "KUBE-SERVICES")]),
            chain("KUBE-SEP-A", ChainKind::Regular, &[]),
            chain("KUBE-SERVICES", ChainKind::Regular, &[(3, "KUBE-SEP-A")]),
        ];
        let nat = Table { family: Family::V6, name: "nat".to_owned(), chains };
        let counts = Counts { chains: 3, rules: 4 };
        let own = vec![OwnTable { family: Family::V4, counts }];
        Holdings { own, iptables: vec![nat] }
    }

    fn refusal(errno: i32) -> ExtendedError {
        ExtendedError { errno, message: None, offset: None, seq: 0 }
    }

    #[test]
    fn jumps_go_before_chains_and_referring_chains_first() {
        let all = changes(&found(), &Refusals::default());
        let (family, table) = (Family::V6, "nat".to_owned());
        let chain = |name: &str, rules| Change::Chain {
            family,
            table: table.clone(),
            chain: name.to_owned(),
            rules,
        };
        let jump =
            Change::Rule { family, table: table.clone(), chain: "OUTPUT".to_owned(), handle: 9 };
        let expected =
            [Change::Table(Family::V4), jump, chain("KUBE-SERVICES", 1), chain("KUBE-SEP-A", 0)];
        assert_eq!(all, expected);
    }

    #[test]
    fn what_is_refused_is_left_out_and_explained() {
        let mut refusals = Refusals::default();
        let all = changes(&found(), &refusals);
        refusals.add(&all[1], refusal(libc::ENOENT));
        assert_eq!(changes(&found(), &refusals), all, "what is gone is seen by looking again");
        refusals.add(&all[3], refusal(libc::EBUSY));
        assert_eq!(changes(&found(), &refusals), all[..3]);
        refusals.add(&all[0], refusal(libc::EPERM));
        assert_eq!(changes(&found(), &refusals), all[1..3]);
        let left = refusals.explain(&found());
        assert!(matches!(&left[0], Error::Refused { table, .. } if table == "ip kube-proxy"));
        let Error::Kept { table, chains } = &left[1] else { panic!("{left:?}") };
        assert_eq!((table.as_str(), chains.len()), ("ip6 nat", 1));
        assert_eq!(chains[0], ("KUBE-SEP-A".to_owned(), Because::Busy));
    }
}
