//! What `nft` prints of the table, without elements: the rules as an operator reads them. And that
//! the print is complete: loaded elsewhere, it is the same table.
//!
//! `INSTA_UPDATE=always cargo test --test nftables` rewrites the goldens.

use crate::commit::DEBIAN;
use crate::plans::{Cluster, EVERY_KIND, WIDE, policy};
use crate::runner::{Case, namespace};
use vipd::dataplane::Dataplane;
use vipd::dataplane::nftables::{Nftables, Without};
use vipd::planner::{DetectLocal, Plan, Policy};

pub const CASES: &[Case] = &[
    ("a few services", few),
    ("every kind of service, and of detector", every_kind),
    ("masquerade all, invalid packets left alone", the_other_flags),
    ("what the relay may have, and addresses routed to it", relayed),
    ("a listing loads elsewhere as the same table", round_trip),
];

fn of(detect: DetectLocal) -> Policy {
    Policy { detect, ..policy() }
}

/// The table as `nft` prints it, with elements or without (`-t`).
fn listing(plan: &Plan, flags: &str) -> String {
    listing_with(plan, flags, &[])
}

fn listing_with(plan: &Plan, flags: &str, routed: &[&str]) -> String {
    let node = namespace();
    let mut nftables = node.enter(|| Nftables::open(Without::default())).expect("root here");
    // With a large send buffer, which only root has, sets are made with a size.
    nftables.limit_send_buffer(DEBIAN).expect("less is always granted");
    nftables.set_routed(routed.iter().map(|ip| ip.parse().expect("an address")).collect());
    nftables.resync(plan).expect("an empty namespace takes the plan");
    node.sh(&format!("nft {flags} list table inet vipd"))
}

/// One chain of a listing.
fn chain(listing: &str, name: &str) -> String {
    let begin = format!("\tchain {name} {{\n");
    let at = listing.find(&begin).unwrap_or_else(|| panic!("no chain {name} in {listing}"));
    let (chain, _) = listing[at..].split_once("\n\t}\n").expect("a chain ends");
    format!("{chain}\n\t}}\n")
}

fn few() {
    let services = ["web 10.96.0.10 80/tcp -> 10.1.0.1,10.1.0.2", "none 10.96.0.15 80/tcp ->"];
    let policy = of(DetectLocal::None);
    insta::assert_snapshot!("few", listing(&Cluster::of(policy, &services).plan(), "-t"));
}

/// In full with a CIDR; of other detectors, the chain that differs.
fn every_kind() {
    let services = [EVERY_KIND, WIDE].concat();
    let mut text = listing(&Cluster::of(policy(), &services).plan(), "-t");
    let detectors = [
        DetectLocal::None,
        DetectLocal::ClusterCidr(vec!["10.1.0.0/20".parse().expect("a CIDR")]),
        DetectLocal::BridgeInterface("cni0".into()),
        DetectLocal::InterfaceNamePrefix("veth".into()),
    ];
    for detect in detectors {
        text += &format!("\n# {detect:?}\n");
        let listing = listing(&Cluster::of(of(detect), EVERY_KIND).plan(), "-t");
        text += &chain(&listing, "ours4");
        text += &chain(&listing, "ours6");
    }
    let inside = "inside 10.96.0.99 80/tcp -> 10.1.0.1 vips=10.96.7.7 from=203.0.113.0/25";
    let port = "port 10.96.0.98 80/tcp -> 10.1.0.1 nodeports=30098";
    let ranges = |ranges: &[&str]| {
        let ranges = ranges.iter().map(|range| range.parse().expect("a range")).collect();
        Policy { service_ranges: ranges, ..policy() }
    };
    for (name, policy) in [
        ("a guarded frontend in the service range", policy()),
        ("a cluster IP outside of it", ranges(&["10.97.0.0/16"])),
        ("two service ranges", ranges(&["10.96.0.0/17", "10.96.128.0/17"])),
        ("none", ranges(&[])),
    ] {
        text += &format!("\n# {name}\n");
        let listing = listing(&Cluster::of(policy, &[inside, port]).plan(), "-t");
        text += &chain(&listing, "prerouting");
    }
    insta::assert_snapshot!("every-kind", text);
}

fn the_other_flags() {
    let policy = Policy { masquerade_all: true, drop_invalid: false, ..policy() };
    insta::assert_snapshot!("other-flags", listing(&Cluster::of(policy, &[]).plan(), "-t"));
}

/// The chains that differ.
fn relayed() {
    let services = [
        "web 10.96.0.10,fd00:96::10 80/tcp,53/udp -> 10.1.0.1,10.1.0.2,fd01::1 relayed",
        "cart 10.96.0.12 80/tcp -> 10.1.0.1 sticky=10800 relayed",
        "kept 10.96.0.18 80/tcp -> 10.1.0.1,10.1.0.9@elsewhere external-local vips=1.2.3.5 relayed",
        "call 10.96.0.13 5060/sctp -> 10.1.0.1 relayed",
    ];
    let plan = Cluster::of(policy(), &services).plan();
    let routed = ["10.96.0.10", "fd00:96::10", "1.2.3.5"];
    let listing = listing_with(&plan, "", &routed);
    let names =
        listing.lines().filter_map(|line| line.strip_prefix("\tchain ")?.strip_suffix(" {"));
    let mut names: Vec<&str> = names.collect();
    names.retain(|name| {
        ["relayed-", "routed", "unrelayed", "local4"].iter().any(|part| name.starts_with(part))
    });
    names.sort_unstable();
    let mut text: String = names.iter().map(|name| chain(&listing, name)).collect();
    for set in ["routed4", "routed6", "inners"] {
        let begin = listing.find(&format!(" {set} {{\n")).expect("the set is there");
        let (block, _) = listing[begin..].split_once("\n\t}\n").expect("a set ends");
        text += &format!("{block}\n");
    }
    insta::assert_snapshot!("relayed", text);
}

fn round_trip() {
    for detect in [policy().detect, DetectLocal::InterfaceNamePrefix("veth".into())] {
        let relayed: &[&str] = &["relay 10.96.0.30 80/tcp -> 10.1.0.1 vips=1.2.3.9 relayed"];
        let plan = Cluster::of(of(detect), &[EVERY_KIND, WIDE, relayed].concat()).plan();
        let printed = listing_with(&plan, "", &["10.96.0.30", "1.2.3.9"]);
        let elsewhere = namespace();
        elsewhere.nft(&printed);
        assert_eq!(elsewhere.sh("nft list table inet vipd"), printed);
    }
}
