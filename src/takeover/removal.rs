//! What goes from a table that kube-proxy shares with others, and in which order. PURE.
//!
//! In: a table's chains with the jumps of their rules. Out: the rules and chains to remove.
//! Never: a rule of a chain that is not kube-proxy's, but for its jumps out of base chains.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use super::names::{MARK_FOR_MASQUERADE, MASQUERADES, is_entry, is_kube_proxys};
use crate::model::Family;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;

/// One table of the iptables kind; `R` is what names a rule where the table lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table<R> {
    pub family: Family,
    pub name: String,
    pub chains: Vec<Chain<R>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain<R> {
    pub name: String,
    pub kind: ChainKind,
    pub rules: Vec<Rule<R>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChainKind {
    /// Hooked: packets enter here.
    Base,
    /// Entered by a jump only.
    Regular,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule<R> {
    pub id: R,
    /// The chain that it jumps or goes to.
    pub target: Option<String>,
}

/// How much of a table is kube-proxy's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub chains: usize,
    /// Its chains' rules, and those of base chains that lead to them.
    pub rules: usize,
}

/// In the order of removal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removal<'a, R> {
    /// Rules of base chains, each with its chain. Without them no packet comes to the chains below.
    pub jumps: Vec<(&'a str, &'a R)>,
    /// Each before those that its rules jump to: a chain can go once nothing leads to it.
    pub chains: Vec<&'a Chain<R>>,
    /// kube-proxy's, but in use by somebody else.
    pub kept: Vec<(&'a str, Because)>,
}

/// Why a chain is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Because {
    /// A rule of this chain, which is not kube-proxy's, jumps there.
    JumpFrom(String),
    /// The kernel says that it is in use: a verdict map may lead there.
    Busy,
    /// A chain that is kept leads there.
    KeptWith(String),
    /// It masquerades what a kept chain marks.
    Masquerades,
}

impl fmt::Display for Because {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Because::JumpFrom(chain) => write!(f, "a rule of chain {chain} jumps to it"),
            Because::Busy => f.write_str("something else than a rule, such as a map, leads to it"),
            Because::KeptWith(chain) => write!(f, "{chain} leads to it"),
            Because::Masquerades => {
                write!(f, "it masquerades what {MARK_FOR_MASQUERADE} marks")
            }
        }
    }
}

impl<R> Table<R> {
    /// `ip nat`
    pub fn title(&self) -> String {
        format!("{} {}", family_name(self.family), self.name)
    }

    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for chain in &self.chains {
            if chain.is_kube_proxys() {
                counts.chains += 1;
                counts.rules += chain.rules.len();
            } else if chain.kind == ChainKind::Base {
                let ours = |rule: &&Rule<R>| rule.target.as_deref().is_some_and(is_entry);
                counts.rules += chain.rules.iter().filter(ours).count();
            }
        }
        counts
    }

    /// What can go. `busy`: chains that the kernel would not let go.
    pub fn removal(&self, busy: &BTreeSet<String>) -> Removal<'_, R> {
        let (ours, others): (Vec<_>, Vec<_>) =
            self.chains.iter().partition(|chain| chain.is_kube_proxys());
        let ours: BTreeMap<&str, &Chain<R>> =
            ours.into_iter().map(|chain| (chain.name.as_str(), chain)).collect();
        let mut jumps = Vec::new();
        let mut in_use = VecDeque::new();
        for chain in others {
            for rule in &chain.rules {
                let Some(target) = rule.target.as_deref() else { continue };
                if chain.kind == ChainKind::Base && is_entry(target) {
                    jumps.push((chain, rule, target));
                } else {
                    in_use.push_back((target, Because::JumpFrom(chain.name.clone())));
                }
            }
        }
        in_use.extend(busy.iter().map(|name| (name.as_str(), Because::Busy)));
        let kept = kept(&ours, in_use);
        let goes = |name: &str| ours.contains_key(name) && !kept.contains_key(name);
        jumps.retain(|(_, _, target)| goes(target));
        Removal {
            jumps: jumps.iter().map(|(chain, rule, _)| (chain.name.as_str(), &rule.id)).collect(),
            chains: referrers_first(ours.values().copied().filter(|chain| goes(&chain.name))),
            kept: kept.into_iter().collect(),
        }
    }
}

impl<R> Chain<R> {
    fn is_kube_proxys(&self) -> bool {
        self.kind == ChainKind::Regular && is_kube_proxys(&self.name)
    }
}

/// As nft and `ip` spell it.
pub fn family_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}

/// The chains in use by others, and with each all that it needs to go on as it does.
fn kept<'a: 'n, 'n, R>(
    ours: &BTreeMap<&'a str, &'a Chain<R>>,
    mut in_use: VecDeque<(&'n str, Because)>,
) -> BTreeMap<&'a str, Because> {
    let mut kept = BTreeMap::new();
    while let Some((name, because)) = in_use.pop_front() {
        let Some((&name, &chain)) = ours.get_key_value(name) else { continue };
        if kept.contains_key(name) {
            continue;
        }
        kept.insert(name, because);
        if name == MARK_FOR_MASQUERADE {
            in_use.push_back((MASQUERADES, Because::Masquerades));
        }
        let targets = chain.rules.iter().filter_map(|rule| rule.target.as_deref());
        in_use.extend(targets.map(|target| (target, Because::KeptWith(name.to_owned()))));
    }
    kept
}

/// Jumps cannot go in circles: neither iptables nor nf_tables takes such a rule.
fn referrers_first<'a, R: 'a>(chains: impl Iterator<Item = &'a Chain<R>>) -> Vec<&'a Chain<R>> {
    let chains: Vec<_> = chains.collect();
    let index: BTreeMap<&str, usize> =
        chains.iter().enumerate().map(|(at, chain)| (chain.name.as_str(), at)).collect();
    let targets = |at: usize| {
        let targets = chains[at].rules.iter().filter_map(|rule| rule.target.as_deref());
        targets.filter_map(|target| index.get(target).copied())
    };
    let mut referrers = vec![0; chains.len()];
    for at in 0..chains.len() {
        targets(at).for_each(|target| referrers[target] += 1);
    }
    let mut order: Vec<usize> = (0..chains.len()).filter(|at| referrers[*at] == 0).collect();
    let mut next = 0;
    while let Some(&at) = order.get(next) {
        next += 1;
        for target in targets(at) {
            referrers[target] -= 1;
            if referrers[target] == 0 {
                order.push(target);
            }
        }
    }
    order.into_iter().map(|at| chains[at]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `CHAIN: TARGET TARGET …` a line; lower case as a target is a verdict. Base chains are those
    /// of iptables.
    fn table(text: &str) -> Table<u32> {
        let mut id = 0;
        let chains = text.lines().map(str::trim).filter(|line| !line.is_empty()).map(|line| {
            let (name, targets) = line.split_once(':').unwrap();
            let rules = targets.split_whitespace().map(|target| {
                id += 1;
                let jump = target.chars().all(|c| !c.is_lowercase());
                Rule { id, target: jump.then(|| target.to_owned()) }
            });
            let kind = match name {
                "PREROUTING" | "OUTPUT" | "POSTROUTING" | "FORWARD" => ChainKind::Base,
                _ => ChainKind::Regular,
            };
            Chain { name: name.to_owned(), kind, rules: rules.collect() }
        });
        let chains = chains.collect();
        Table { family: Family::V4, name: "nat".to_owned(), chains }
    }

    fn names<'a>(removal: &Removal<'a, u32>) -> Vec<&'a str> {
        removal.chains.iter().map(|chain| chain.name.as_str()).collect()
    }

    const FULL: &str = "
        PREROUTING: accept KUBE-SERVICES MINE
        OUTPUT: KUBE-SERVICES
        POSTROUTING: KUBE-POSTROUTING masquerade
        MINE: accept
        KUBE-KUBELET-CANARY:
        KUBE-MARK-MASQ: mark
        KUBE-POSTROUTING: return masquerade
        KUBE-SEP-A: KUBE-MARK-MASQ dnat
        KUBE-SVC-A: KUBE-MARK-MASQ KUBE-SEP-A
        KUBE-SERVICES: KUBE-SVC-A KUBE-NODEPORTS
        KUBE-NODEPORTS: KUBE-SVC-A";

    #[test]
    fn all_of_kube_proxys_goes_and_nothing_else() {
        let table = table(FULL);
        let removal = table.removal(&BTreeSet::new());
        let jumps: Vec<_> = removal.jumps.iter().map(|(chain, id)| (*chain, **id)).collect();
        assert_eq!(jumps, [("PREROUTING", 2), ("OUTPUT", 4), ("POSTROUTING", 5)]);
        let mut went = names(&removal);
        let place = |name: &str| went.iter().position(|other| *other == name).unwrap();
        assert!(place("KUBE-SERVICES") < place("KUBE-NODEPORTS"));
        assert!(place("KUBE-NODEPORTS") < place("KUBE-SVC-A"));
        assert!(place("KUBE-SVC-A") < place("KUBE-SEP-A"));
        assert!(place("KUBE-SEP-A") < place("KUBE-MARK-MASQ"));
        went.sort_unstable();
        let expected = [
            "KUBE-MARK-MASQ",
            "KUBE-NODEPORTS",
            "KUBE-POSTROUTING",
            "KUBE-SEP-A",
            "KUBE-SERVICES",
            "KUBE-SVC-A",
        ];
        assert_eq!(went, expected);
        assert_eq!(removal.kept, []);
        assert_eq!(table.counts(), Counts { chains: 6, rules: 13 });
    }

    #[test]
    fn a_chain_that_others_jump_to_stays_with_what_it_needs() {
        let text = format!("{FULL}\nCNI-HOSTPORT-SETMARK: KUBE-MARK-MASQ\nPREROUTING: KUBE-SVC-A");
        let table = table(&text);
        let removal = table.removal(&BTreeSet::new());
        assert_eq!(names(&removal), ["KUBE-SERVICES", "KUBE-NODEPORTS"]);
        let jumps: Vec<_> = removal.jumps.iter().map(|(chain, _)| *chain).collect();
        assert_eq!(jumps, ["PREROUTING", "OUTPUT"], "what masquerades is still reached");
        let kept: Vec<_> = removal.kept.iter().map(|(chain, why)| (*chain, why.clone())).collect();
        let expected = [
            ("KUBE-MARK-MASQ", Because::JumpFrom("CNI-HOSTPORT-SETMARK".into())),
            ("KUBE-POSTROUTING", Because::Masquerades),
            ("KUBE-SEP-A", Because::KeptWith("KUBE-SVC-A".into())),
            ("KUBE-SVC-A", Because::JumpFrom("PREROUTING".into())),
        ];
        assert_eq!(kept, expected);
    }

    #[test]
    fn what_the_kernel_holds_on_to_stays() {
        let table = table(FULL);
        let busy = BTreeSet::from(["KUBE-SEP-A".to_owned(), "KUBE-GONE".to_owned()]);
        let removal = table.removal(&busy);
        assert_eq!(names(&removal), ["KUBE-SERVICES", "KUBE-NODEPORTS", "KUBE-SVC-A"]);
        assert_eq!(removal.kept.len(), 3, "{:?}", removal.kept);
        assert_eq!(removal.kept[1].0, "KUBE-POSTROUTING");
        assert_eq!(removal.kept[2], ("KUBE-SEP-A", Because::Busy));
    }

    #[test]
    fn a_table_without_kube_proxys_chains_has_nothing_to_remove() {
        let table =
            table("PREROUTING: KUBE-ROUTER-INPUT\nKUBE-ROUTER-INPUT: accept\nKUBE-FIREWALL: drop");
        let removal = table.removal(&BTreeSet::new());
        assert_eq!((removal.jumps.len(), removal.chains.len(), removal.kept.len()), (0, 0, 0));
        assert_eq!(table.counts(), Counts::default());
    }

    #[test]
    fn a_circle_which_no_kernel_takes_ends() {
        let table = table("KUBE-SVC-A: KUBE-SVC-B\nKUBE-SVC-B: KUBE-SVC-A\nKUBE-SVC-C: KUBE-SVC-A");
        assert_eq!(names(&table.removal(&BTreeSet::new())), ["KUBE-SVC-C"]);
    }
}
