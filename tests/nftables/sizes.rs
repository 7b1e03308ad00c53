//! Pools that come to have so many endpoints, or so few, that they change their map.

use crate::held::Held;
use crate::idempotence::{BOTH, open};
use crate::netns::Netns;
use crate::plans::{Cluster, policy};
use crate::runner::{Case, namespace};
use crate::sandbox::is_root_asked_for;
use vipd::dataplane::Dataplane;
use vipd::dataplane::nftables::Nftables;

pub const CASES: &[Case] = &[
    ("a pool that outgrows its map leaves nothing there", there_and_back),
    ("within a map, one endpoint more or less costs little", little),
    ("meanwhile the former map leads to living endpoints", in_flight),
    ("a start after half of a change cleans up", started_in_between),
    ("a map of large pools takes more than it was made for", more_than_room),
];

/// A service whose pool is checked, among others that stay.
fn cluster(endpoints: &str) -> Cluster {
    let stays = [
        "s32 10.96.1.1 80/tcp -> 10.1.2.1-32",
        "s48 10.96.1.2 80/tcp -> 10.1.2.1-48 sticky=60",
        "s64 10.96.1.3 80/tcp -> 10.1.2.1-64",
    ];
    let mut cluster = Cluster::new(policy());
    stays.iter().for_each(|text| cluster.put(text));
    put(&mut cluster, endpoints);
    cluster
}

fn put(cluster: &mut Cluster, endpoints: &str) {
    cluster.put(&format!("web 10.96.0.1,fd00:96::1 80/tcp,53/udp -> {endpoints},fd01::1"));
    cluster.put(&format!("cart 10.96.0.2 80/tcp -> {endpoints} sticky=60"));
}

/// A namespace with the table of a cluster.
fn loaded(cluster: &mut Cluster) -> (Netns, Nftables) {
    let node = namespace();
    let mut nftables = open(&node, BOTH[0]);
    cluster.replan();
    nftables.resync(&cluster.plan()).expect("an empty namespace takes it");
    (node, nftables)
}

/// Elements of the maps for small, medium and large pools, without those that stay.
fn elements(node: &Netns) -> [usize; 3] {
    let count = |map: &str| {
        let listing = node.sh(&format!("nft list map inet vipd {map}"));
        listing.matches(" : 10.1.").count()
    };
    let [small, medium, large] = ["endpoints4", "endpoints4-33", "endpoints4-49"].map(count);
    [small - 32, medium - 48, large - 64]
}

/// Three pools of so many endpoints, in the map that they belong to.
fn in_their_map(endpoints: usize) -> [usize; 3] {
    let all = 3 * endpoints;
    match endpoints {
        ..=32 => [all, 0, 0],
        33..=48 => [0, all, 0],
        49.. => [0, 0, all],
    }
}

fn there_and_back() {
    let mut cluster = cluster("10.1.1.1-32");
    let (node, mut nftables) = loaded(&mut cluster);
    assert_eq!(elements(&node), in_their_map(32));
    let mut before = 32;
    for size in [33, 32, 33, 48, 49, 48, 50, 32, 60, 1, 40] {
        put(&mut cluster, &format!("10.1.1.1-{size}"));
        let delta = cluster.replan();
        let plan = cluster.plan();
        nftables.apply(&delta, &plan).expect("the kernel takes it");
        let [former, now] = [before, size].map(in_their_map);
        let both = [0, 1, 2].map(|map| former[map].max(now[map]));
        assert_eq!(elements(&node), both, "{before} to {size}: the former slots are kept");
        nftables.settle().expect("the kernel takes it");
        assert_eq!(elements(&node), now, "{before} to {size}");
        assert_eq!(Held::read(&node).lines(), Held::of(&plan).lines(), "{before} to {size}");
        for without in BOTH {
            let again = open(&node, without).resync(&plan).expect("it can be read");
            assert_eq!(again.operations, 0, "{without:?}");
        }
        before = size;
    }
}

/// Three slots, a hairpin and a few frontends; chains of classes are there already.
fn little() {
    let mut cluster = cluster("10.1.1.1-32");
    let (_node, mut nftables) = loaded(&mut cluster);
    let mut written = |size: u8| {
        put(&mut cluster, &format!("10.1.1.1-{size}"));
        let delta = cluster.replan();
        let applied = nftables.apply(&delta, &cluster.plan()).expect("the kernel takes it");
        applied.operations + nftables.settle().expect("the kernel takes it").operations
    };
    for size in [31, 33, 34, 48, 49, 50] {
        written(size);
    }
    let few = [(50, 49), (49, 50), (48, 47), (34, 33), (33, 34), (32, 31), (31, 32)];
    for (from, to) in few {
        written(from);
        written(to);
        written(from);
        let operations = written(to);
        assert!(operations < 20, "{from} to {to}: {operations}");
    }
    let across = written(33);
    assert!(across > 2 * 3 * 32, "32 to 33: {across}");
}

/// The first endpoint goes as the pools change their map.
fn in_flight() {
    for (before, after) in [("10.1.1.1-33", "10.1.1.2-33"), ("10.1.1.1-32", "10.1.1.2-34")] {
        let mut cluster = cluster(before);
        let (node, mut nftables) = loaded(&mut cluster);
        put(&mut cluster, after);
        let delta = cluster.replan();
        nftables.apply(&delta, &cluster.plan()).expect("the kernel takes it");
        let [small, medium, _] = elements(&node);
        assert_eq!((small, medium), (3 * 32, 3 * 33), "both maps hold their slots");
        let listing = node.sh("nft list table inet vipd");
        assert_eq!(listing.matches(" : 10.1.1.1 . ").count(), 0, "nothing leads to what is gone");
        nftables.settle().expect("the kernel takes it");
        assert_eq!(Held::read(&node).lines(), Held::of(&cluster.plan()).lines());
    }
}

fn started_in_between() {
    for without in BOTH {
        for (before, after) in [(32, 33), (33, 32), (48, 49), (49, 20)] {
            let mut cluster = cluster(&format!("10.1.1.1-{before}"));
            let (node, mut nftables) = loaded(&mut cluster);
            put(&mut cluster, &format!("10.1.1.1-{after}"));
            let delta = cluster.replan();
            let plan = cluster.plan();
            nftables.apply(&delta, &plan).expect("the kernel takes it");
            assert!(nftables.has_deferred());
            drop(nftables);
            let mut next = open(&node, without);
            let applied = next.resync(&plan).expect("it can be read");
            assert_eq!(applied.operations, 3 * before, "the former slots, and nothing else");
            assert_eq!(elements(&node), in_their_map(after));
            assert_eq!(Held::read(&node).lines(), Held::of(&plan).lines());
            assert_eq!(next.resync(&plan).expect("it can be read").operations, 0);
        }
    }
}

/// How many elements each of the growing maps of IPv4 is made for, if that is fixed.
fn rooms(node: &Netns) -> [Option<u64>; 4] {
    ["services4", "endpoints4", "endpoints4-33", "endpoints4-49"].map(|map| {
        let listing = node.sh(&format!("nft -t list map inet vipd {map}"));
        let size = listing.lines().find_map(|line| line.trim().strip_prefix("size "));
        size.map(|text| {
            let number = text.split_whitespace().next().unwrap_or_default();
            number.parse().unwrap_or_else(|_| panic!("{map}: size {text}"))
        })
    })
}

/// Where sets have a size, these are more than any is made for.
fn more_than_room() {
    let mut cluster = Cluster::new(policy());
    let (node, mut nftables) = loaded(&mut cluster);
    let before = rooms(&node);
    if is_root_asked_for() {
        assert!(before.iter().all(Option::is_some), "root's sets have a size: {before:?}");
    }
    for (range, endpoints) in [(2, 32), (3, 40), (4, 50)] {
        for n in 0..7000 / endpoints {
            let service = format!("s{range}-{n} 10.96.{range}.{n} 80/tcp");
            cluster.put(&format!("{service} -> 10.1.{range}.1-{endpoints}"));
        }
    }
    let delta = cluster.replan();
    let plan = cluster.plan();
    nftables.apply(&delta, &plan).expect("sets grow");
    let after = rooms(&node);
    for (before, after) in before.iter().zip(after).skip(1) {
        assert!(before.is_none() || after > *before, "{before:?} became {after:?}");
    }
    assert_eq!(Held::read(&node).lines(), Held::of(&plan).lines());
    assert_eq!(open(&node, BOTH[0]).resync(&plan).expect("it can be read").operations, 0);
}
