//! What is true already is not written again, whoever wrote it.

use crate::elements::service;
use crate::held::Held;
use crate::netns::Netns;
use crate::plans::{Cluster, policy};
use crate::runner::{Case, namespace, random};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use vipd::dataplane::Dataplane;
use vipd::dataplane::nftables::{Nftables, Without};

pub const CASES: &[Case] = &[
    ("a resync of the same plan writes nothing", nothing_new),
    ("a restart writes what changed in between, and no more", restart),
    ("a restart over any changes ends right", restart_over_anything),
];

pub const BOTH: [Without; 2] = [Without { element_count: false }, Without { element_count: true }];

pub fn open(node: &Netns, without: Without) -> Nftables {
    node.enter(|| Nftables::open(without)).expect("root in its namespace")
}

/// `count` services of two endpoints each, every fifth of them sticky, every tenth without any.
fn many(count: usize) -> Cluster {
    let mut cluster = Cluster::new(policy());
    for n in 0..count {
        put(&mut cluster, n, &format!("10.1.{}.{},10.1.250.1", n / 200, n % 200 + 1));
    }
    cluster.replan();
    cluster
}

fn put(cluster: &mut Cluster, n: usize, endpoints: &str) {
    let endpoints = if n % 10 == 7 { "" } else { endpoints };
    let sticky = if n.is_multiple_of(5) { "sticky=60" } else { "" };
    let relayed = if n.is_multiple_of(7) { "relayed" } else { "" };
    let (high, low) = (n / 200, n % 200 + 1);
    cluster.put(&format!(
        "s{n} 10.96.{high}.{low},fd00:96::{n:x} 80/tcp,53/udp -> {endpoints} {sticky} {relayed}"
    ));
}

fn nothing_new() {
    for without in BOTH {
        let node = namespace();
        let plan = many(300).plan();
        let mut nftables = open(&node, without);
        assert!(nftables.resync(&plan).expect("an empty namespace takes it").operations > 300);
        let handles = node.sh("nft -a list table inet vipd");
        for _ in 0..2 {
            assert_eq!(
                nftables.resync(&plan).expect("it can be read").operations,
                0,
                "{without:?}"
            );
        }
        drop(nftables);
        let mut next = open(&node, without);
        assert_eq!(next.resync(&plan).expect("it can be read").operations, 0, "{without:?}");
        assert!(!next.has_deferred());
        assert_eq!(node.sh("nft -a list table inet vipd"), handles);
    }
}

/// Ten services change; how many do not, does not matter.
fn restart() {
    for without in BOTH {
        let [few, more] = [200, 600].map(|count| written_for_ten_of(count, without));
        assert_eq!(few, more, "{without:?}");
        assert!(few > 10, "{few} operations for ten services");
    }
}

fn written_for_ten_of(count: usize, without: Without) -> u64 {
    let node = namespace();
    let mut cluster = many(count);
    open(&node, without).resync(&cluster.plan()).expect("an empty namespace takes it");
    for n in 10..15 {
        put(&mut cluster, n, "10.1.240.1,10.1.240.2,10.1.240.3");
    }
    for n in 20..23 {
        cluster.remove(&format!("s{n}"));
    }
    for n in 600..602 {
        put(&mut cluster, n, "10.1.241.1");
    }
    cluster.replan();
    let plan = cluster.plan();
    let mut next = open(&node, without);
    let mut written = next.resync(&plan).expect("it can be read").operations;
    written += next.settle().expect("it can be written").operations;
    assert_eq!(Held::read(&node), Held::of(&plan), "{without:?}");
    assert_eq!(next.resync(&plan).expect("it can be read").operations, 0, "{without:?}");
    written
}

/// Two clusters that have nothing to do with each other, the second over the table of the first.
fn restart_over_anything() {
    let cluster = || prop::collection::vec(service(), 0..5);
    let node = namespace();
    let outcome = TestRunner::new(random(40)).run(
        &(cluster(), cluster(), any::<bool>()),
        |(before, after, element_count)| {
            let of = |services: &[String]| {
                let services: Vec<&str> = services.iter().map(String::as_str).collect();
                Cluster::of(policy(), &services).plan()
            };
            let (before, after) = (of(&before), of(&after));
            let without = Without { element_count };
            open(&node, without).cleanup().expect("the table goes");
            open(&node, without).resync(&before).expect("nothing is in the way");
            let mut next = open(&node, without);
            next.resync(&after).expect("it can be read");
            next.settle().expect("it can be written");
            prop_assert_eq!(Held::read(&node), Held::of(&after));
            prop_assert_eq!(next.resync(&after).expect("it can be read").operations, 0);
            Ok(())
        },
    );
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
}
