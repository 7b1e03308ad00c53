//! Resets on a real kernel: exactly the open connections to who is gone lose their entries.

use crate::namespace::{entries, insert, isolated, run};
use crate::objects::{Example, policy, service};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use vipd::conntrack::{Cleaner, DeleteBy, Options, Stale};
use vipd::planner::{Plan, Planner};
use vipd::sources::Change;
use vipd::store::Store;

const GRACE: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(10);
const GONE: &str = "tcp 10.180.9.9:40000 > 10.254.0.1:80 < 10.180.1.2:8080";
const GONE6: &str = "tcp [fd00:180::9]:40000 > [fd00:254::1]:80 < [fd00:180:0:1::2]:8080";

fn web() -> Example {
    service("web", 1).dual_stack()
}

struct Node {
    store: Store,
    planner: Planner,
    cleaner: Cleaner,
}

impl Node {
    fn start(reset_gone_after: Option<Duration>) -> Self {
        let options = Options { delete_by: DeleteBy::Entry, reset_gone_after };
        let mut node = Self {
            store: Store::new("node-a".into()),
            planner: Planner::new(policy(), "node-a".into()),
            cleaner: Cleaner::spawn(options).expect("a cleaner"),
        };
        node.commit(&web().endpoints(&[1, 2]));
        node
    }

    /// A change whose commit fails.
    fn plan(&mut self, example: &Example) -> Plan {
        for change in example.upserts() {
            if let Change::Upsert(object) = change {
                self.store.upsert(object);
            }
        }
        let changed = self.store.take_dirty().services;
        self.cleaner.before(&changed, self.planner.plan());
        self.planner.replan(changed, self.store.known());
        self.planner.plan().clone()
    }

    fn commit(&mut self, example: &Example) {
        let plan = self.plan(example);
        self.cleaner.clean(Stale::default(), &plan);
    }

    /// Waits until so many connections are reset, and a while for more.
    fn resets(&self, count: u64) {
        let start = Instant::now();
        while self.cleaner.resets().get() < count {
            assert!(start.elapsed() < PATIENCE, "{} resets", self.cleaner.resets().get());
            std::thread::sleep(Duration::from_millis(5));
        }
        std::thread::sleep(3 * GRACE);
        assert_eq!(self.cleaner.resets().get(), count);
    }
}

#[test]
fn exactly_the_connections_to_who_is_gone() {
    const OVER: &str = "tcp 10.180.9.9:40009 > 10.254.0.1:80 < 10.180.1.2:8080";
    let stays = [
        "tcp 10.180.9.9:40001 > 10.254.0.1:80 < 10.180.1.1:8080",
        "tcp 10.180.9.9:40002 > 10.254.0.1:80 < 10.180.1.2:8081",
        "tcp 10.180.9.9:40003 > 10.254.0.1:81 < 10.180.1.2:8080",
        "tcp 10.180.9.9:40004 > 10.254.0.2:80 < 10.180.1.2:8080",
        "tcp 10.180.9.9:40005 > 10.180.1.2:8080 < 10.180.1.2:8080",
        "tcp 10.180.9.9:40006 > 192.0.2.7:80 < 10.180.1.2:8080",
        "udp 10.180.9.9:40007 > 10.254.0.1:80 < 10.180.1.2:8080",
        "tcp 10.180.9.9:40008 > 10.254.0.1:80 < 10.180.1.2:8080 zone=5",
        OVER,
        "tcp [fd00:180::9]:40001 > [fd00:254::1]:80 < [fd00:180:0:1::1]:8080",
        "tcp [fd00:180::9]:40002 > [fd00:254::2]:80 < [fd00:180:0:1::2]:8080",
    ];
    isolated(move || {
        for entry in stays.into_iter().chain([GONE, GONE6]) {
            insert(entry);
        }
        let over = ["-U", "-p", "tcp", "--sport", "40009", "--dport", "80", "-s", "10.180.9.9"];
        let over = over.into_iter().chain(["-d", "10.254.0.1", "--state", "TIME_WAIT"]);
        run("conntrack", &over.collect::<Vec<_>>());
        let mut node = Node::start(Some(GRACE));
        let start = Instant::now();
        node.commit(&web().endpoints(&[1]));
        node.resets(2);
        assert!(start.elapsed() >= GRACE);
        let left: BTreeSet<String> = stays.map(str::to_owned).into();
        assert_eq!(entries(), left);
    });
}

#[test]
fn what_was_before_a_failed_commit_counts_after_the_next() {
    isolated(|| {
        insert(GONE);
        let mut node = Node::start(Some(GRACE));
        node.plan(&web().endpoints(&[1]));
        std::thread::sleep(3 * GRACE);
        assert_eq!(entries().len(), 1, "the kernel still sends connections there");
        let plan = node.plan(&web().endpoints(&[1, 3]));
        node.cleaner.audit(&plan);
        node.resets(1);
        assert_eq!(entries().len(), 0);
    });
}

#[test]
fn nothing_is_reset_unless_it_is_asked_for() {
    isolated(|| {
        insert(GONE);
        let mut node = Node::start(None);
        node.commit(&web().endpoints(&[1]));
        std::thread::sleep(3 * GRACE);
        assert_eq!((entries().len(), node.cleaner.resets().get()), (1, 0));
    });
}

/// The kernel would call the client's next segment INVALID.
#[test]
fn nothing_is_reset_where_connections_are_not_picked_up() {
    isolated(|| {
        insert(GONE);
        let loose = "/proc/sys/net/netfilter/nf_conntrack_tcp_loose";
        std::fs::write(loose, "0").expect("root of its namespace");
        let mut node = Node::start(Some(GRACE));
        node.commit(&web().endpoints(&[1]));
        std::thread::sleep(3 * GRACE);
        assert_eq!((entries().len(), node.cleaner.resets().get()), (1, 0));
        std::fs::write(loose, "1").expect("root of its namespace");
        node.commit(&web().endpoints(&[1, 2]));
        node.commit(&web().endpoints(&[1]));
        node.resets(1);
    });
}

#[test]
fn many_services_share_one_walk() {
    isolated(|| {
        let example = |number: u8| service(&format!("s{number}"), number);
        let entry = |number: u8| {
            format!("tcp 10.180.9.9:40000 > 10.254.0.{number}:80 < 10.180.{number}.1:8080")
        };
        let mut node = Node::start(Some(GRACE));
        for number in 10..40 {
            insert(&entry(number));
            node.commit(&example(number).endpoints(&[1]));
        }
        for number in 10..30 {
            node.commit(&example(number));
        }
        node.resets(20);
        assert_eq!(entries(), (30..40).map(entry).collect());
    });
}
