//! Removal on a real kernel: exactly what is stale goes.

use crate::namespace::{entries, insert, isolated, run};
use crate::plans::*;
use rstest::rstest;
use std::collections::BTreeSet;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::mpsc::{self, TryRecvError};
use std::time::{Duration, Instant};
use vipd::conntrack::{
    Cleaner, DeleteBy, Dump, Options, Original, Phase, Query, Stale, Stats, Table, stale,
};
use vipd::model::{Family, Protocol};
use vipd::planner::ServicePlan;

const PATIENCE: Duration = Duration::from_secs(20);

/// Entries that no change of a service may touch; but the one from 10.96.0.10:53, if that appeared.
const FOREIGN: &[&str] = &[
    "tcp 10.2.0.1:4000 > 10.96.0.10:53 < 10.1.0.1:53",
    "udp 10.2.0.1:4000 > 8.8.8.8:53 < 8.8.8.8:53",
    "udp 10.2.0.1:4001 > 203.0.113.9:53 < 10.1.0.1:53",
    "udp 10.2.0.1:4002 > 198.51.100.1:30053 < 198.51.100.1:30053",
    "udp 10.96.0.10:53 > 10.2.0.77:4000 < 10.2.0.77:4000",
    "udp 10.2.0.1:4003 > 10.96.0.10:53 < 10.1.0.1:53 zone=5",
    "udp [fd00:2::1]:4000 > [2001:db8:8::8]:53 < [2001:db8:8::8]:53",
    "tcp [fd00:2::1]:4000 > [fd00:96::10]:53 < [fd00:1::1]:53",
];

fn deleted(stats: &Stats) -> u64 {
    stats.deleted.iter().sum()
}

fn options(delete_by: DeleteBy) -> Options {
    Options { delete_by, reset_gone_after: None }
}

fn filter_or_entry() -> [DeleteBy; 2] {
    [DeleteBy::Filter, DeleteBy::Entry]
}

/// Deletion by filter would flush everything on old kernels.
fn usable(by: DeleteBy) -> bool {
    let usable = by == DeleteBy::Entry || vipd::node::kernel().at_least(6, 12);
    if !usable {
        eprintln!("SKIPPED: deletion by filter needs Linux 6.12, this is {}", vipd::node::kernel());
    }
    usable
}

struct Case {
    old: Vec<Arc<ServicePlan>>,
    new: Vec<Arc<ServicePlan>>,
    goes: Vec<String>,
    stays: Vec<String>,
}

fn texts(entries: &[&str]) -> Vec<String> {
    entries.iter().map(|entry| (*entry).to_owned()).collect()
}

impl Case {
    /// What the change of plans removes, by each way of deleting. How many deletions by filter
    /// that took, where they are possible.
    fn check(self) -> Option<u64> {
        let mut filtered = None;
        for by in filter_or_entry() {
            if !usable(by) {
                continue;
            }
            self.prepare();
            let mut cleaner = Cleaner::spawn(options(by)).expect("a cleaner");
            cleaner.clean(stale(&delta(&self.old, &self.new)), &plan(&self.new));
            self.compare(&cleaner, by);
            if by == DeleteBy::Filter {
                filtered = Some(cleaner.stats().filtered);
            }
        }
        filtered
    }

    /// What a start with the new plan removes.
    fn check_audit(self) {
        self.prepare();
        let by = DeleteBy::Entry;
        let mut cleaner = Cleaner::spawn(options(by)).expect("a cleaner");
        cleaner.audit(&plan(&self.new));
        self.compare(&cleaner, by);
    }

    fn prepare(&self) {
        let present = entries();
        let wanted: BTreeSet<String> = self.goes.iter().cloned().chain(self.left()).collect();
        for entry in wanted.difference(&present) {
            insert(entry);
        }
        assert_eq!(entries(), wanted);
    }

    fn left(&self) -> BTreeSet<String> {
        let mut left: BTreeSet<String> = self.stays.iter().cloned().collect();
        left.extend(texts(FOREIGN).into_iter().filter(|entry| !self.goes.contains(entry)));
        left
    }

    fn compare(&self, cleaner: &Cleaner, by: DeleteBy) {
        assert!(cleaner.wait(PATIENCE), "{by:?}: {:?}", cleaner.stats());
        assert_eq!(entries(), self.left(), "{by:?}");
        let stats = cleaner.stats();
        assert_eq!(stats.failures, 0);
        match by {
            DeleteBy::Entry => {
                assert_eq!((deleted(&stats), stats.filtered), (self.goes.len() as u64, 0));
            }
            DeleteBy::Filter if stats.filtered > 0 => assert_eq!(deleted(&stats), 0),
            DeleteBy::Filter => assert_eq!(deleted(&stats), self.goes.len() as u64),
        }
    }
}

#[test]
fn an_endpoint_goes() {
    isolated(|| {
        Case {
            old: vec![service("dns", &["10.96.0.10:53"], &["10.1.0.1:53", "10.1.0.2:53"])],
            new: vec![service("dns", &["10.96.0.10:53"], &["10.1.0.2:53"])],
            goes: texts(&[
                "udp 10.2.0.1:5000 > 10.96.0.10:53 < 10.1.0.1:53",
                "udp 10.2.0.2:5000 > 10.96.0.10:53 < 10.1.0.1:53",
                "udp 10.2.0.1:5001 > 10.96.0.10:53 < 10.1.0.2:5353",
                "udp 10.2.0.1:5002 > 10.96.0.10:53 < 10.96.0.10:53",
            ]),
            stays: texts(&[
                "udp 10.2.0.1:5003 > 10.96.0.10:53 < 10.1.0.2:53",
                "udp 10.2.0.1:5004 > 10.96.0.10:54 < 10.1.0.1:53",
                "udp 10.2.0.1:5005 > 10.96.0.11:53 < 10.1.0.1:53",
            ]),
        }
        .check();
    });
}

#[rstest]
#[case::scaled_to_zero(vec![service("dns", &["10.96.0.10:53"], &[])])]
#[case::deleted(vec![])]
fn nothing_answers_any_more(#[case] new: Vec<Arc<ServicePlan>>) {
    isolated(|| {
        let filtered = Case {
            old: vec![service("dns", &["10.96.0.10:53"], &["10.1.0.1:53", "10.1.0.2:53"])],
            new,
            goes: texts(&[
                "udp 10.2.0.1:5000 > 10.96.0.10:53 < 10.1.0.1:53",
                "udp 10.2.0.1:5001 > 10.96.0.10:53 < 10.1.0.2:53",
                "udp 10.2.0.1:5002 > 10.96.0.10:53 < 10.96.0.10:53",
            ]),
            stays: texts(&[
                "udp 10.2.0.1:5003 > 10.96.0.10:54 < 10.1.0.1:53",
                "udp 10.2.0.1:5004 > 10.96.0.11:53 < 10.1.0.1:53",
                "udp 10.2.0.1:53 > 10.96.0.11:5353 < 10.1.0.1:53",
            ]),
        }
        .check();
        assert!(filtered.is_none_or(|count| count == 1), "{filtered:?}");
    });
}

/// The kernel's comparison of IPv6 addresses in filters cannot be relied on.
#[rstest]
#[case::one_of_two(&["[fd00:1::2]:53"], 1)]
#[case::all(&[], 2)]
fn ipv6_is_as_exact(#[case] left: &[&str], #[case] gone: usize) {
    let at_gone = texts(&[
        "udp [fd00:2::1]:5000 > [fd00:96::10]:53 < [fd00:1::1]:53",
        "udp [fd00:2::1]:5001 > [fd00:96::10]:53 < [fd00:1::2]:53",
    ]);
    let new = vec![service("dns", &["[fd00:96::10]:53"], left)];
    let (goes, stays) = at_gone.split_at(gone);
    let (goes, mut stays) = (goes.to_vec(), stays.to_vec());
    stays.extend(texts(&[
        "udp [fd00:2::1]:5002 > [fd00:96::11]:53 < [fd00:1::1]:53",
        "udp [fd00:2::1]:5003 > [fd00:96::10]:54 < [fd00:1::1]:53",
    ]));
    isolated(move || {
        Case {
            old: vec![service("dns", &["[fd00:96::10]:53"], &["[fd00:1::1]:53", "[fd00:1::2]:53"])],
            new,
            goes,
            stays,
        }
        .check();
    });
}

#[test]
fn node_ports_count_at_the_nodes_addresses_only() {
    isolated(|| {
        Case {
            old: vec![service("dns", &["node:30053"], &["10.1.0.1:53", "10.1.0.2:53"])],
            new: vec![service("dns", &["node:30053"], &["10.1.0.2:53"])],
            goes: texts(&["udp 10.2.0.1:5000 > 192.0.2.1:30053 < 10.1.0.1:53"]),
            stays: texts(&[
                "udp 10.2.0.1:5001 > 192.0.2.1:30053 < 10.1.0.2:53",
                "udp 10.2.0.1:5002 > 192.0.2.2:30053 < 10.1.0.1:53",
                "udp [fd00:2::1]:5003 > [2001:db8::1]:30053 < [fd00:1::1]:53",
            ]),
        }
        .check();
    });
}

/// What passed untranslated before a frontend appeared goes, also where conntrack has it the other
/// way round.
#[test]
fn a_frontend_appears() {
    let goes = [
        "udp 10.2.0.1:5000 > 10.96.0.10:53 < 10.96.0.10:53",
        "udp 10.96.0.10:53 > 10.2.0.77:4000 < 10.2.0.77:4000",
        "udp 10.2.0.1:5000 > 192.0.2.1:30053 < 192.0.2.1:30053",
        "udp 192.0.2.1:30053 > 10.2.0.1:5001 < 10.2.0.1:5001",
        "udp [fd00:96::10]:53 > [fd00:2::1]:5000 < [fd00:2::1]:5000",
        "udp [2001:db8::1]:30053 > [fd00:2::1]:5001 < [fd00:2::1]:5001",
    ];
    let stays = [
        "udp 10.96.0.10:54 > 10.2.0.1:5002 < 10.2.0.1:5002",
        "udp 192.0.2.1:30054 > 10.2.0.1:5002 < 10.2.0.1:5002",
        "udp 192.0.2.2:30053 > 10.2.0.1:5002 < 10.2.0.1:5002",
        "udp 192.0.2.1:30053 > 8.8.8.8:53 < 10.1.0.1:53",
        "udp 192.0.2.77:53 > 10.2.0.1:30053 < 10.2.0.1:30053",
        "udp [fd00:96::11]:53 > [fd00:2::1]:5002 < [fd00:2::1]:5002",
        "udp [2001:db8::2]:30053 > [fd00:2::1]:5002 < [fd00:2::1]:5002",
    ];
    let kept = [service("older", &["10.96.0.11:53"], &["10.1.0.1:53"])];
    let v4 = service("dns", &["10.96.0.10:53", "node:30053"], &["10.1.0.1:53"]);
    let v6 = service("dns6", &["[fd00:96::10]:53", "node6:30053"], &["[fd00:1::1]:53"]);
    isolated(move || {
        let new = vec![kept[0].clone(), v4, v6];
        Case { old: kept.into(), new, goes: texts(&goes), stays: texts(&stays) }.check();
    });
}

/// A process of this node that sends from a frontend's address and port, unasked: its entries come
/// again and again, and the removal ends all the same.
#[test]
fn entries_that_are_made_for_ever_the_other_way_round_are_let_alone() {
    isolated(|| {
        run("ip", &["link", "set", "lo", "up"]);
        run("ip", &["addr", "add", "192.0.2.1/32", "dev", "lo"]);
        // Without a rule that asks for it nothing is tracked.
        let track = "add table inet track; add chain inet track out { type filter hook output \
                     priority 0; }; add rule inet track out ct state new accept";
        run("nft", &[track]);
        let (stop, stopped) = mpsc::channel::<()>();
        let process = std::thread::spawn(move || {
            let socket = UdpSocket::bind("192.0.2.1:30053").expect("its own address");
            while stopped.try_recv() == Err(TryRecvError::Empty) {
                // Refused by nobody listening, now and then.
                let _ = socket.send_to(b"unasked", "127.0.0.1:5001");
                std::thread::sleep(Duration::from_micros(200));
            }
        });
        let start = Instant::now();
        while entries().is_empty() {
            assert!(start.elapsed() < PATIENCE, "nothing is tracked");
        }
        let new = [service("dns", &["node:30053"], &["10.1.0.1:53"])];
        let mut cleaner = Cleaner::spawn(options(DeleteBy::Entry)).expect("a cleaner");
        cleaner.clean(stale(&delta(&[], &new)), &plan(&new));
        assert!(cleaner.wait(PATIENCE), "it goes on for ever: {:?}", cleaner.stats());
        let stats = cleaner.stats();
        assert!(deleted(&stats) >= 1 && stats.failures == 0, "{stats:?}");
        drop(stop);
        process.join().expect("it only sends");
    });
}

#[test]
fn many_frontends_go_in_one_walk() {
    let entry = |family: u8, index: u8| match family {
        4 => format!("udp 10.2.0.1:5000 > 10.96.1.{index}:53 < 10.1.0.{index}:53"),
        _ => format!("udp [fd00:2::1]:5000 > [fd00:96::1:{index:x}]:53 < [fd00:1::{index:x}]:53"),
    };
    let dns = |index: u8| {
        let v4 = format!("10.96.1.{index}:53");
        let v6 = format!("[fd00:96::1:{index:x}]:53");
        let (e4, e6) = (format!("10.1.0.{index}:53"), format!("[fd00:1::{index:x}]:53"));
        [
            service(&format!("v4-{index}"), &[&v4], &[&e4]),
            service(&format!("v6-{index}"), &[&v6], &[&e6]),
        ]
    };
    let of = |indexes: std::ops::Range<u8>| -> Vec<String> {
        indexes.flat_map(|index| [entry(4, index), entry(6, index)]).collect()
    };
    let case = Case {
        old: (1..20).flat_map(dns).collect(),
        new: (15..20).flat_map(dns).collect(),
        goes: of(1..15),
        stays: of(15..20),
    };
    isolated(|| {
        case.check();
    });
}

#[test]
fn a_start_finds_what_went_before_it() {
    isolated(|| {
        Case {
            old: vec![],
            new: vec![
                service("dns", &["10.96.0.10:53", "node:30053"], &["10.1.0.2:53"]),
                service("dns6", &["[fd00:96::10]:53"], &["[fd00:1::2]:53"]),
            ],
            goes: texts(&[
                "udp 10.96.0.10:53 > 10.2.0.77:4000 < 10.2.0.77:4000",
                "udp 192.0.2.1:30053 > 10.2.0.77:4000 < 10.2.0.77:4000",
                "udp 10.2.0.1:5000 > 10.96.0.10:53 < 10.1.0.1:53",
                "udp 10.2.0.1:5001 > 192.0.2.1:30053 < 10.1.0.1:53",
                "udp 10.2.0.1:5002 > 10.96.0.99:53 < 10.1.0.2:53",
                "udp [fd00:2::1]:5003 > [fd00:96::10]:53 < [fd00:1::1]:53",
            ]),
            stays: texts(&[
                "udp 10.2.0.1:5004 > 10.96.0.10:53 < 10.1.0.2:53",
                "udp 10.2.0.1:5005 > 192.0.2.1:30053 < 10.1.0.2:53",
                "udp 10.2.0.1:5006 > 10.96.0.99:53 < 10.96.0.99:53",
                "udp [fd00:2::1]:5007 > [fd00:96::10]:53 < [fd00:1::2]:53",
            ]),
        }
        .check_audit();
    });
}

#[test]
fn more_entries_than_one_batch() {
    isolated(|| {
        let goes = (0..300)
            .map(|port| format!("udp 10.2.0.1:{} > 10.96.0.10:53 < 10.1.0.1:53", 10_000 + port));
        Case {
            old: vec![service("dns", &["10.96.0.10:53"], &["10.1.0.1:53", "10.1.0.2:53"])],
            new: vec![service("dns", &["10.96.0.10:53"], &["10.1.0.2:53"])],
            goes: goes.collect(),
            stays: texts(&["udp 10.2.0.1:5000 > 10.96.0.10:53 < 10.1.0.2:53"]),
        }
        .check();
    });
}

/// An entry that went and came again between listing and deletion is another one.
#[test]
fn deletion_is_by_identity() {
    isolated(|| {
        insert("udp 10.2.0.1:5000 > 10.96.0.10:53 < 10.1.0.1:53");
        let mut table = Table::open().expect("a conntrack socket");
        let query = Query {
            family: Family::V4,
            protocol: Protocol::Udp,
            original: Original::Any,
            phase: Phase::Open,
        };
        let mut found = Vec::new();
        assert_eq!(table.dump(&query, |entry| found.push(entry)).expect("a listing"), Dump::Whole);
        assert_eq!(found.len(), 1);
        let mut other = found[0];
        other.id ^= 1;
        assert_eq!(table.delete(&[other]).expect("ENOENT is fine"), 0);
        assert_eq!(entries().len(), 1);
        assert_eq!(table.delete(&[other, found[0], found[0]]).expect("ENOENT is fine"), 1);
        assert_eq!(entries().len(), 0);
    });
}

/// A packet under way may enter a flow after the first walk.
#[test]
fn a_second_walk_sees_late_comers() {
    isolated(|| {
        let mut cleaner = Cleaner::spawn(options(DeleteBy::Entry)).expect("a cleaner");
        let old = [service("dns", &["10.96.0.10:53"], &["10.1.0.1:53"])];
        cleaner.clean(stale(&delta(&old, &[])), &plan(&[]));
        assert!(cleaner.wait(PATIENCE));
        assert!(cleaner.stats().runs >= 2, "{:?}", cleaner.stats());
        let runs = cleaner.stats().runs;
        cleaner.clean(Stale::default(), &plan(&[]));
        assert!(cleaner.wait(PATIENCE));
        assert_eq!(cleaner.stats().runs, runs, "nothing is stale, so nothing is walked");
    });
}

#[test]
fn failures_are_counted_and_tried_again() {
    isolated(|| {
        insert("udp 10.2.0.1:5000 > 10.96.0.10:53 < 10.1.0.1:53");
        let net_admin = caps::Capability::CAP_NET_ADMIN;
        caps::drop(None, caps::CapSet::Effective, net_admin).expect("one may drop capabilities");
        assert!(!vipd::node::has_net_admin());
        let mut cleaner = Cleaner::spawn(options(DeleteBy::Entry)).expect("a cleaner");
        let old = [service("dns", &["10.96.0.10:53"], &["10.1.0.1:53"])];
        cleaner.clean(stale(&delta(&old, &[])), &plan(&[]));
        assert!(!cleaner.wait(Duration::from_millis(200)), "it cannot have succeeded");
        assert!(cleaner.stats().failures >= 2, "{:?}", cleaner.stats());
        drop(cleaner);
        caps::raise(None, caps::CapSet::Effective, net_admin).expect("it is still permitted");
        assert!(vipd::node::has_net_admin());
        assert_eq!(entries().len(), 1);
    });
}
