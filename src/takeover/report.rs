//! What an operator is told of leftovers and their removal. PURE.
//!
//! In: what was found or done. Out: a line for each kind.
//! Never: a line about what is not there.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use super::names::OWN_TABLE;
use super::processes::{Place, Process};
use super::removal::{Counts, Table, family_name};
use super::{Found, Outcome};
use std::fmt::Write as _;

/// What one chain of nf_tables adds to each commit in its namespace, in nanoseconds: with the
/// kernel's memory of it in the cache, and after a pause. Measured on Linux 6.18, where 15,000
/// chains turned 7 µs into 180 µs, and 1.7 ms.
const CHAIN_HOT: usize = 12;
const CHAIN_COLD: usize = 110;

/// What happens to leftovers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outlook {
    /// They stay until somebody removes them.
    Stay,
    /// They are removed once the kernel holds vipd's rules.
    Go,
}

impl Outlook {
    fn hint(self) -> &'static str {
        match self {
            Outlook::Stay => {
                "remove them with `vipd run --takeover`, or with `kube-proxy --cleanup` once it is \
                 stopped"
            }
            Outlook::Go => "they are removed once vipd serves (--takeover)",
        }
    }
}

impl Found {
    /// One line for each kind of leftovers, with what they cost, and for each place that could not
    /// be looked at.
    pub fn lines(&self, outlook: Outlook) -> Vec<String> {
        let hint = outlook.hint();
        let mut lines = Vec::new();
        let own = &self.nftables.own;
        if !own.is_empty() {
            let titles = own.iter().map(|own| format!("{} {OWN_TABLE}", family_name(own.family)));
            let titles = titles.collect::<Vec<_>>().join(" and ");
            let counts = sum(own.iter().map(|own| own.counts));
            lines.push(format!(
                "kube-proxy's nf_tables tables are here: {titles}, with {}; {DOUBLE}; {}; {hint}",
                words(counts),
                commits(counts.chains),
            ));
        }
        let iptables = &self.nftables.iptables;
        if !iptables.is_empty() {
            let counts = sum(iptables.iter().map(Table::counts));
            lines.push(format!(
                "kube-proxy's iptables chains are here, in the nf_tables tables {}: {}; {DOUBLE}; \
                 {}; {hint}",
                titles(iptables),
                words(counts),
                commits(counts.chains),
            ));
        }
        if !self.legacy.is_empty() {
            let counts = sum(self.legacy.iter().map(Table::counts));
            lines.push(format!(
                "kube-proxy's iptables-legacy chains are here, in the tables {}: {}; {DOUBLE}, and \
                 new connections are compared with their rules one after the other; {hint}",
                titles(&self.legacy),
                words(counts),
            ));
        }
        if let Some(ipvs) = &self.ipvs {
            let mut line = format!(
                "kube-proxy's interface kube-ipvs0 is here, with {} service addresses, at which IPVS \
                 has {} services: the node answers at all ports of these addresses, and connections \
                 that IPVS forwards are unknown to vipd and end with it; {hint}",
                ipvs.addresses.len(),
                ipvs.services.len(),
            );
            if ipvs.others > 0 {
                let told = "a String takes all";
                write!(
                    line,
                    "; {} IPVS services at other addresses (kube-proxy's node ports, or \
                    another program's) stay: `ipvsadm -Ln`",
                    ipvs.others
                )
                .expect(told);
            }
            lines.push(line);
        }
        lines.extend(running(&self.running));
        lines.extend(self.unread.iter().map(ToString::to_string));
        lines
    }
}

/// kube-proxy's rules at work beside vipd's.
const DOUBLE: &str = "they translate, masquerade and refuse the same connections as vipd's rules, \
    and what they know goes out of date";

fn commits(chains: usize) -> String {
    let micros = |each: usize| (chains * each).div_ceil(1000);
    format!(
        "each commit of vipd's visits their chains too, and takes about {} µs longer ({} µs after a \
         pause)",
        micros(CHAIN_HOT),
        micros(CHAIN_COLD)
    )
}

fn running(processes: &[Process]) -> Option<String> {
    // Those that are surely here say all; the others count where there are no such.
    let place = processes.iter().map(|process| process.place).min()?;
    let pids = processes.iter().filter(|process| process.place == place);
    let pids: Vec<_> = pids.map(|process| process.pid.to_string()).collect();
    let place = match place {
        Place::Here => "in this network namespace",
        Place::Unknown => "in a network namespace that cannot be read, perhaps in this one",
    };
    Some(format!(
        "kube-proxy is running {place} (pid {}): two proxies write rules for the same services, and \
         what is removed of kube-proxy's comes back; stop it (kubectl -n kube-system edit its \
         DaemonSet, or systemctl stop kube-proxy), vipd does not",
        pids.join(", ")
    ))
}

impl Outcome {
    /// What was removed, if anything.
    pub fn removed(&self) -> Option<String> {
        let parts = [
            (self.tables, "tables"),
            (self.counts.chains, "chains"),
            (self.counts.rules, "rules"),
            (self.services, "IPVS services"),
            (self.links, "interfaces"),
        ];
        let parts: Vec<_> = parts
            .into_iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, name)| format!("{count} {name}"))
            .collect();
        (!parts.is_empty()).then(|| format!("removed what kube-proxy left: {}", parts.join(", ")))
    }
}

fn titles<R>(tables: &[Table<R>]) -> String {
    tables.iter().map(Table::title).collect::<Vec<_>>().join(", ")
}

fn words(counts: Counts) -> String {
    format!("{} chains and {} rules", counts.chains, counts.rules)
}

fn sum(counts: impl Iterator<Item = Counts>) -> Counts {
    counts.fold(Counts::default(), |all, one| Counts {
        chains: all.chains + one.chains,
        rules: all.rules + one.rules,
    })
}

#[cfg(test)]
mod tests {
    use super::super::removal::{Chain, ChainKind, Rule};
    use super::super::{Error, Holdings, OwnTable};
    use super::*;
    use crate::model::Family;

    fn table<R>(family: Family, id: impl Fn() -> R) -> Table<R> {
        let rule = |target: &str| Rule { id: id(), target: Some(target.to_owned()) };
        let chain = |name: &str, kind, rules| Chain { name: name.to_owned(), kind, rules };
        let chains = vec![
            chain("OUTPUT", ChainKind::Base, vec![rule("KUBE-SERVICES"), rule("MINE")]),
            chain("KUBE-SERVICES", ChainKind::Regular, vec![rule("KUBE-SVC-A")]),
            chain("KUBE-SVC-A", ChainKind::Regular, Vec::new()),
        ];
        Table { family, name: "nat".to_owned(), chains }
    }

    fn found() -> Found {
        let own =
            |family, chains| OwnTable { family, counts: Counts { chains, rules: 2 * chains } };
        Found {
            nftables: Holdings {
                own: vec![own(Family::V4, 14_990), own(Family::V6, 10)],
                iptables: vec![table(Family::V6, || 1)],
            },
            legacy: vec![table(Family::V4, String::new)],
            ..Found::default()
        }
    }

    #[test]
    fn each_kind_is_told_with_counts_cost_and_cure() {
        let lines = found().lines(Outlook::Stay);
        let expected = [
            ["ip kube-proxy and ip6 kube-proxy", "15000 chains and 30000 rules", "180 µs"],
            ["ip6 nat", "2 chains and 2 rules", "1 µs"],
            ["ip nat", "2 chains and 2 rules", "iptables-legacy"],
        ];
        assert_eq!(lines.len(), expected.len(), "{lines:#?}");
        for (line, parts) in lines.iter().zip(expected) {
            for part in parts.into_iter().chain(["vipd run --takeover", "kube-proxy --cleanup"]) {
                assert!(line.contains(part), "{part} is missing in: {line}");
            }
        }
    }

    #[test]
    fn with_takeover_it_says_that_they_go() {
        for line in found().lines(Outlook::Go) {
            assert!(line.ends_with("they are removed once vipd serves (--takeover)"), "{line}");
        }
    }

    #[test]
    fn a_clean_node_is_not_mentioned_and_what_cannot_be_read_is() {
        assert_eq!(Found::default().lines(Outlook::Stay), [""; 0]);
        let unread = vec![Error::NoProgram {
            program: "iptables-legacy-save",
            tables: "nat, filter".to_owned(),
        }];
        let lines = Found { unread, ..Found::default() }.lines(Outlook::Stay);
        assert_eq!(lines.len(), 1);
        assert!(lines[0].contains("nat, filter") && lines[0].contains("kube-proxy --cleanup"));
    }

    #[test]
    fn a_running_kube_proxy_is_named() {
        let process = |pid, place| Process { pid, place };
        let line = |running| Found { running, ..Found::default() }.lines(Outlook::Go).remove(0);
        let here = [process(7, Place::Unknown), process(8, Place::Here), process(9, Place::Here)];
        assert!(line(here.to_vec()).contains("in this network namespace (pid 8, 9)"));
        assert!(line(vec![process(7, Place::Unknown)]).contains("perhaps in this one (pid 7)"));
    }

    #[test]
    fn a_removal_tells_only_what_went() {
        assert_eq!(Outcome::default().removed(), None);
        let outcome =
            Outcome { tables: 2, counts: Counts { chains: 3, rules: 0 }, ..Outcome::default() };
        let told = outcome.removed().unwrap();
        assert!(told.ends_with(": 2 tables, 3 chains"), "{told}");
    }
}
