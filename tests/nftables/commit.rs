//! Transactions: cut to what the socket takes, tried again when others were quicker, and mended
//! when the kernel refused one.

use crate::elements::open;
use crate::held::Held;
use crate::netns::Netns;
use crate::plans::{Cluster, policy};
use crate::runner::{Case, namespace, remove};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;
use vipd::dataplane::nftables::{Error, Nftables};
use vipd::dataplane::{Applied, Dataplane, Unheard};

pub const CASES: &[Case] = &[
    ("2,000 services through a small send buffer", small_buffer),
    ("others commit in between", others_in_between),
    ("others commit all the time", others_all_the_time),
    ("others write while the table is made anew", others_during_a_reload),
    ("others write before anybody listens", others_during_a_start),
    ("a refused commit changes nothing, and a resync mends it", refused),
    ("a long delta that is refused half-way is mended by a resync", refused_half_way),
    ("what is not vipd's stays", foreign_tables),
    ("what is written to another table of vipd's wakes nobody", own_other_table),
    ("guards go with a frontend that changes hands among thousands", guards_change_hands),
    ("what guards a former frontend goes after it", guards_go_last),
    ("and is asked until then, in the service range too", guards_are_asked_to_the_last),
    ("a first load that broke off is no table that serves", broken_off),
    ("a first load meets packets when all is there, a second one at once", hooks_in_time),
];

/// What Debian grants a process without CAP_NET_ADMIN in the first user namespace.
pub const DEBIAN: usize = 212_992;

fn many(count: usize) -> Cluster {
    let mut cluster = Cluster::new(policy());
    for n in 0..count {
        let (high, low) = (n / 200, n % 200 + 1);
        cluster.put(&format!("s{n} 10.96.{high}.{low} 80/tcp -> 10.1.{high}.{low},10.1.200.1"));
    }
    cluster
}

/// While another proxy serves, a table that knows half of the services would take its packets away;
/// once it is vipd's own services that are gone, half of them are better than none.
fn hooks_in_time() {
    let node = namespace();
    let (mut monitor, said) = notifications(&node);
    let mut nftables = open(&node);
    let mut cluster = many(2500);
    // The first sticky service makes parts of the hooked chains that were not there before it.
    cluster.put("zz 10.96.99.99 80/tcp -> 10.1.99.99 sticky=60");
    cluster.replan();
    let plan = cluster.plan();
    nftables.resync(&plan).expect("an empty namespace takes it");
    let (hook, last) = first_hook_and_last_service(&said);
    assert!(hook > last, "hooked at line {hook}, the last service came at {last}");
    assert_eq!(Held::read(&node).lines(), Held::of(&plan).lines());
    assert_eq!(open(&node).resync(&plan).expect("it can be read").operations, 0);
    node.enter(|| nftables.subscribe()).expect("notifications can be had");
    node.nft("flush ruleset");
    while nftables.repair(&plan).expect("nobody is in the way").is_none() {}
    let (hook, last) = first_hook_and_last_service(&said);
    assert!(hook < last, "hooked at line {hook}, the last service came at {last}");
    monitor.kill().and_then(|()| monitor.wait()).expect("it was running");
    remove(&node);
}

/// The one that gets it in the first transaction and the one that loses it in the last, and the
/// other way round.
fn guards_change_hands() {
    let node = namespace();
    let mut nftables = open(&node);
    let mut cluster = many(2500);
    const VIP: &str = "vips=1.2.3.4 from=203.0.113.0/25,192.0.2.7/32";
    const NARROW: &str = "vips=1.2.3.4 from=203.0.113.0/28,198.51.100.0/24";
    let mut put = |first: &str, last: &str, round: usize| {
        cluster.put(&format!("a 10.96.99.1 80/tcp -> 10.1.99.1 {first}"));
        cluster.put(&format!("z 10.96.99.2 80/tcp -> 10.1.99.2 {last}"));
        for n in 0..2500 {
            let (high, low) = (n / 200, n % 200 + 1);
            let service = format!("s{n} 10.96.{high}.{low} 80/tcp -> 10.1.{high}.{low}");
            cluster.put(&format!("{service},10.1.201.{round}"));
        }
        (cluster.replan(), cluster.plan())
    };
    let (_, plan) = put(VIP, "", 1);
    nftables.resync(&plan).expect("an empty namespace takes it");
    for (round, (first, last)) in
        [("", VIP), (NARROW, ""), ("", NARROW), ("vips=1.2.3.4", ""), ("", VIP)].iter().enumerate()
    {
        let (delta, plan) = put(first, last, round + 2);
        nftables.apply(&delta, &plan).expect("nobody is in the way");
        nftables.settle().expect("nobody is in the way");
        assert_eq!(Held::read(&node).lines(), Held::of(&plan).lines(), "round {round}");
    }
    remove(&node);
}

/// In the notifications of a start that finds a guarded Service gone.
fn guards_go_last() {
    let node = namespace();
    let mut cluster = many(10);
    cluster.put("shut 10.96.99.1 80/tcp -> 10.1.99.1 vips=1.2.3.4 from=203.0.113.0/25");
    cluster.replan();
    open(&node).resync(&cluster.plan()).expect("an empty namespace takes it");
    cluster.remove("shut");
    cluster.replan();
    let (mut monitor, said) = notifications(&node);
    open(&node).resync(&cluster.plan()).expect("nobody is in the way");
    // Of the frontend itself nft says nothing; it goes before the endpoint that it led to.
    let (endpoint, guard) = first_lines(
        &said,
        |text| text.contains("delete element inet vipd endpoints4 {"),
        |text| text.contains("delete element inet vipd allowed4"),
    );
    assert!(endpoint < guard, "the endpoint went at line {endpoint}, the guard at {guard}");
    assert_eq!(Held::read(&node).lines(), Held::of(&cluster.plan()).lines());
    monitor.kill().and_then(|()| monitor.wait()).expect("it was running");
    remove(&node);
}

/// The start rewrites the rules for what is planned before it removes what is not.
fn guards_are_asked_to_the_last() {
    let node = namespace();
    let mut cluster = many(10);
    let guarded = "from=203.0.113.0/25";
    cluster.put(&format!("out 10.96.99.2 80/tcp -> 10.1.99.2 vips=1.2.3.4 {guarded}"));
    cluster.put(&format!("in 10.96.99.1 80/tcp -> 10.1.99.1 vips=10.96.77.7 {guarded}"));
    cluster.replan();
    open(&node).resync(&cluster.plan()).expect("an empty namespace takes it");
    let asks = || node.sh("nft list chain inet vipd prerouting").contains("@guarded4");
    assert!(asks(), "a guard in the service range is asked there");
    cluster.remove("in");
    cluster.replan();
    let (mut monitor, said) = notifications(&node);
    open(&node).resync(&cluster.plan()).expect("nobody is in the way");
    let (endpoint, rewritten) = first_lines(
        &said,
        |text| text.contains("delete element inet vipd endpoints4 {"),
        |text| text.contains("add rule inet vipd prerouting"),
    );
    assert!(endpoint < rewritten, "the endpoint went at line {endpoint}, the rule at {rewritten}");
    assert!(!asks(), "nothing in the service range is guarded any more");
    assert_eq!(Held::read(&node).lines(), Held::of(&cluster.plan()).lines());
    monitor.kill().and_then(|()| monitor.wait()).expect("it was running");
    remove(&node);
}

/// Another proxy may still serve: the rest comes before the hooks, as it would have the first time.
fn broken_off() {
    let node = namespace();
    let mut cluster = many(1500);
    cluster.put("zz 10.96.99.99 80/tcp -> 10.1.99.99");
    cluster.replan();
    let plan = cluster.plan();
    open(&node).resync(&plan).expect("an empty namespace takes it");
    // What a daemon leaves that is killed in between: no hook, not all services.
    for chain in ["prerouting", "output", "postrouting", "state", "state-output"] {
        node.nft(&format!("delete chain inet vipd {chain}"));
    }
    node.nft("delete element inet vipd services4 { 10.96.99.99 . tcp . 80 }");
    let (mut monitor, said) = notifications(&node);
    open(&node).resync(&plan).expect("nobody is in the way");
    let (hook, last) = first_hook_and_last_service(&said);
    assert!(hook > last, "hooked at line {hook}, the last service came at {last}");
    assert_eq!(Held::read(&node).lines(), Held::of(&plan).lines());
    monitor.kill().and_then(|()| monitor.wait()).expect("it was running");
    remove(&node);
}

/// All that `nft monitor` says from here on.
fn notifications(node: &Netns) -> (Child, Receiver<String>) {
    let spawn = || {
        // Into a pipe nft would write block by block.
        let mut nft = Command::new("stdbuf");
        nft.args(["-oL", "nft", "monitor"]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()
    };
    let mut monitor = node.enter(spawn).expect("nft can be run");
    let lines = BufReader::new(monitor.stdout.take().expect("it is piped")).lines();
    let (say, said) = channel();
    std::thread::spawn(move || lines.map_while(Result::ok).all(|line| say.send(line).is_ok()));
    std::thread::sleep(Duration::from_millis(300));
    (monitor, said)
}

/// The lines that tell of the first hook and of the last of the services.
fn first_hook_and_last_service(said: &Receiver<String>) -> (usize, usize) {
    first_lines(
        said,
        |text| text.contains("type nat hook prerouting"),
        |text| text.contains("add element") && text.contains("10.96.99.99"),
    )
}

/// Which lines are the first of the one and of the other kind.
fn first_lines(
    said: &Receiver<String>,
    one: impl Fn(&str) -> bool,
    other: impl Fn(&str) -> bool,
) -> (usize, usize) {
    let (mut first, mut second) = (None, None);
    for line in 0.. {
        let text = said.recv_timeout(Duration::from_secs(10)).expect("nft tells of everything");
        if one(&text) {
            first.get_or_insert(line);
        } else if other(&text) {
            second.get_or_insert(line);
        }
        if let (Some(first), Some(second)) = (first, second) {
            return (first, second);
        }
    }
    unreachable!("lines come without end")
}

fn small_buffer() {
    let transactions = |limit: Option<usize>| {
        let node = namespace();
        let mut nftables = open(&node);
        if let Some(bytes) = limit {
            nftables.limit_send_buffer(bytes).expect("less is always granted");
        }
        let mut cluster = many(2000);
        let delta = cluster.replan();
        let plan = cluster.plan();
        let mut empty = Cluster::new(policy());
        empty.replan();
        nftables.resync(&empty.plan()).expect("an empty namespace takes it");
        let applied = nftables.apply(&delta, &plan).expect("it is cut to fit");
        assert_eq!(Held::read(&node).lines(), Held::of(&plan).lines());
        assert_eq!(open(&node).resync(&plan).expect("it can be read").operations, 0);
        let mut cluster = cluster;
        cluster.clear();
        let gone = cluster.replan();
        nftables.apply(&gone, &cluster.plan()).expect("it is cut to fit");
        nftables.settle().expect("it is cut to fit");
        assert_eq!(Held::read(&node).lines(), Held::of(&cluster.plan()).lines());
        remove(&node);
        applied
    };
    let largest = |applied: Applied| applied.bytes / applied.transactions;
    // The least that still holds one list of elements.
    for limit in [DEBIAN, 96 * 1024] {
        let applied = transactions(Some(limit));
        assert!(largest(applied) < limit as u64, "{applied:?}");
        assert!(applied.transactions > transactions(None).transactions || limit == DEBIAN);
    }
}

fn others_in_between() {
    let node = namespace();
    let mut nftables = open(&node);
    let mut cluster = Cluster::new(policy());
    cluster.replan();
    nftables.resync(&cluster.plan()).expect("an empty namespace takes it");
    for n in 1..10 {
        node.nft(&format!("table inet other {{ chain c{n} {{ }}; }}"));
        cluster.put(&format!("s{n} 10.96.0.{n} 80/tcp -> 10.1.0.{n}"));
        let delta = cluster.replan();
        let applied = nftables.apply(&delta, &cluster.plan()).expect("it is tried again");
        assert_eq!(applied.transactions, 1);
        assert_eq!(Held::read(&node).lines(), Held::of(&cluster.plan()).lines());
    }
}

fn others_all_the_time() {
    let node = namespace();
    let mut nftables = open(&node);
    let mut cluster = many(1500);
    cluster.replan();
    let plan = cluster.plan();
    let (done, edits) = (AtomicBool::new(false), AtomicU32::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                node.nft("add table inet other\ndelete table inet other");
                edits.fetch_add(1, Ordering::Relaxed);
            }
        });
        while edits.load(Ordering::Relaxed) == 0 {
            std::thread::yield_now();
        }
        nftables.resync(&plan).expect("it is tried again");
        for n in 0..200 {
            cluster
                .put(&format!("s{n} 10.96.0.{} 80/tcp -> 10.1.0.7,10.1.0.8,10.1.0.9", n % 200 + 1));
            let delta = cluster.replan();
            nftables.apply(&delta, &cluster.plan()).expect("it is tried again");
        }
        done.store(true, Ordering::Relaxed);
    });
    nftables.settle().expect("nobody is in the way");
    assert!(edits.load(Ordering::Relaxed) > 1);
    assert_eq!(Held::read(&node).lines(), Held::of(&cluster.plan()).lines());
}

/// Nobody listens while the table is made anew: what others did by then is found all the same.
fn others_during_a_reload() {
    let node = namespace();
    let mut nftables = open(&node);
    let mut cluster = many(1500);
    cluster.replan();
    let plan = cluster.plan();
    nftables.resync(&plan).expect("an empty namespace takes it");
    node.enter(|| nftables.subscribe()).expect("notifications can be had");
    for _ in 0..2 {
        let (done, edits) = (AtomicBool::new(false), AtomicU32::new(0));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                node.nft("flush ruleset");
                edits.fetch_add(1, Ordering::Relaxed);
                while !done.load(Ordering::Relaxed) {
                    let said = node.try_sh("nft flush map inet vipd services4");
                    edits.fetch_add(u32::from(said.code == 0), Ordering::Relaxed);
                }
            });
            while edits.load(Ordering::Relaxed) == 0 {
                std::thread::yield_now();
            }
            let outcome = nftables.repair(&plan);
            done.store(true, Ordering::Relaxed);
            assert!(!matches!(outcome, Ok(None)), "the flush was heard");
            if outcome.is_err() {
                nftables.resync(&plan).expect("nobody is in the way for long");
            }
        });
        while nftables.repair(&plan).expect("nobody is in the way").is_some() {}
        nftables.settle().expect("nobody is in the way");
        let right = Held::read(&node).lines() == Held::of(&plan).lines();
        assert!(right, "what was flushed meanwhile is there again");
    }
}

/// Nobody listens before the first resync is done: that others wrote by then is told all the same.
fn others_during_a_start() {
    let mut cluster = many(1500);
    cluster.replan();
    let plan = cluster.plan();
    let node = namespace();
    // The first start makes the table, the second one reads it.
    for start in ["first load", "adoption"] {
        let (mut nftables, others) = (open(&node), AtomicBool::new(true));
        std::thread::scope(|scope| {
            let flushes = scope.spawn(|| {
                let mut flushes = 0;
                while others.load(Ordering::Relaxed) {
                    flushes +=
                        u32::from(node.try_sh("nft flush map inet vipd services4").code == 0);
                }
                flushes
            });
            // After an error (a refused removal of what was flushed) the daemon tries again.
            while nftables.resync(&plan).is_err() {}
            node.nft("add table inet other\ndelete table inet other");
            others.store(false, Ordering::Relaxed);
            let flushes = flushes.join().expect("it only calls nft");
            assert!(flushes > 0, "{start}: nothing was flushed meanwhile");
        });
        let said = node.enter(|| nftables.subscribe()).expect("notifications can be had");
        assert_eq!(said, Unheard::Edits, "{start}");
        nftables.resync(&plan).expect("nobody is in the way");
        nftables.settle().expect("nobody is in the way");
        let right = Held::read(&node).lines() == Held::of(&plan).lines();
        assert!(right, "{start}: what was flushed meanwhile is there again");
        let said = node.enter(|| nftables.subscribe()).expect("notifications can be had");
        assert_eq!(said, Unheard::Nothing, "{start}: they are listened to");
    }
    for (edit, expected) in [("", Unheard::Nothing), ("add table inet late", Unheard::Edits)] {
        let mut nftables = open(&node);
        nftables.resync(&plan).expect("nobody is in the way");
        node.nft(edit);
        let said = node.enter(|| nftables.subscribe()).expect("notifications can be had");
        assert_eq!(said, expected, "after `{edit}`");
        let mut fresh = open(&node);
        fresh.cleanup().expect("the table goes");
        fresh.resync(&plan).expect("an empty namespace takes it");
        let said = node.enter(|| fresh.subscribe()).expect("notifications can be had");
        assert_eq!(said, Unheard::Nothing, "a load that nobody disturbs");
    }
}

/// The element that a delta removes was removed by somebody before.
fn refused() {
    let node = namespace();
    let mut nftables = open(&node);
    let web = "web 10.96.0.1 80/tcp -> 10.1.0.1,10.1.0.2";
    let mut cluster = Cluster::of(policy(), &[web, "dns 10.96.0.2 53/udp -> 10.1.0.3"]);
    nftables.resync(&cluster.plan()).expect("an empty namespace takes it");
    node.nft("delete element inet vipd services4 { 10.96.0.2 . udp . 53 }");
    let before = node.sh("nft list table inet vipd");
    cluster.remove("dns");
    cluster.put("new 10.96.0.3 80/tcp -> 10.1.0.4");
    let delta = cluster.replan();
    let error = nftables.apply(&delta, &cluster.plan()).expect_err("nothing can be removed twice");
    assert!(matches!(error, Error::Refused { .. }), "{error}");
    assert!(error.to_string().contains("services4"), "it says what was refused: {error}");
    assert_eq!(node.sh("nft list table inet vipd"), before);
    nftables.resync(&cluster.plan()).expect("everything can be mended");
    nftables.settle().expect("nobody is in the way");
    assert_eq!(Held::read(&node).lines(), Held::of(&cluster.plan()).lines());
}

/// As above, in the last of several transactions.
fn refused_half_way() {
    let node = namespace();
    let mut nftables = open(&node);
    let mut cluster = many(2500);
    cluster.replan();
    nftables.resync(&cluster.plan()).expect("an empty namespace takes it");
    // The last one in the order of names: s999.
    node.nft("delete element inet vipd services4 { 10.96.4.200 . tcp . 80 }");
    cluster.clear();
    for n in 900..1000 {
        cluster.put(&format!("s{n} 10.96.100.{} 80/tcp -> 10.1.4.1,10.1.4.2,10.1.4.3", n - 890));
    }
    let delta = cluster.replan();
    nftables.apply(&delta, &cluster.plan()).expect_err("nothing can be removed twice");
    let left = node.sh("nft list map inet vipd services4").matches(" . tcp . ").count();
    assert!((100..2000).contains(&left), "{left} frontends: some transactions were carried out");
    nftables.resync(&cluster.plan()).expect("everything can be mended");
    nftables.settle().expect("nobody is in the way");
    assert_eq!(Held::read(&node).lines(), Held::of(&cluster.plan()).lines());
}

fn foreign_tables() {
    let node = namespace();
    let foreign = "table ip nat { chain c { type nat hook prerouting priority dstnat; }; }
        table inet vipd2 { set services4 { type ipv4_addr; elements = { 10.0.0.1 }; }; }
        table ip6 vipd { chain services { }; }";
    node.nft(foreign);
    let before = node.sh("nft -a list ruleset");
    let mut nftables = open(&node);
    let plan = Cluster::of(policy(), &["web 10.96.0.1 80/tcp -> 10.1.0.1,10.1.0.2"]).plan();
    nftables.resync(&plan).expect("a namespace without the table takes it");
    nftables.resync(&plan).expect("it can be read");
    open(&node).resync(&plan).expect("it can be read");
    assert!(nftables.cleanup().expect("the table goes").operations > 0);
    assert_eq!(node.sh("nft -a list ruleset"), before);
    assert_eq!(nftables.cleanup().expect("nothing is there").operations, 0);
}

/// Notifications are there when the commit is.
fn own_other_table() {
    let node = namespace();
    let mut nftables = open(&node);
    nftables.disregard("vipd-relay");
    let plan = Cluster::of(policy(), &["web 10.96.0.1 80/tcp -> 10.1.0.1"]).plan();
    nftables.resync(&plan).expect("an empty namespace takes it");
    node.enter(|| nftables.subscribe()).expect("notifications can be had");
    let heard = |nftables: &mut Nftables| {
        let edits = nftables.foreign_edits().expect("somebody listens");
        let mut wait = [PollFd::new(&edits, PollFlags::IN)];
        let ready = poll(&mut wait, Some(&Timespec::default())).expect("it can be waited for") > 0;
        (ready, nftables.repair(&plan).expect("nobody is in the way").is_some())
    };
    node.nft("table inet vipd-relay { set s { type ipv4_addr; elements = { 10.0.0.1 }; }; }");
    node.nft("add element inet vipd-relay s { 10.0.0.2 }; delete set inet vipd-relay s");
    assert_eq!(heard(&mut nftables), (false, false));
    for other in ["inet vipd-relay2", "ip vipd-relay", "inet vipd-rela"] {
        node.nft(&format!("table {other} {{ chain c {{ }}; }}"));
        assert_eq!(heard(&mut nftables), (true, false), "{other}");
    }
    node.nft("flush map inet vipd endpoints4");
    assert_eq!(heard(&mut nftables), (true, true));
    remove(&node);
}
