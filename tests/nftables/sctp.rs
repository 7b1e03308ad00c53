//! SCTP by rule and by look-up, as `nft` shows them; `netns` sends packets of it where the kernel
//! tracks them.
//!
//! `INSTA_UPDATE=always cargo test --test nftables` rewrites the golden.

use crate::elements::open;
use crate::held::{Held, Source, Treatment};
use crate::netns::Netns;
use crate::plans::{Cluster, policy};
use crate::runner::{Case, namespace};
use std::net::IpAddr;
use vipd::dataplane::Dataplane;

pub const CASES: &[Case] = &[
    ("SCTP with affinity, a node port and a load balancer's address", exposed),
    ("SCTP, TCP and UDP of one number are three ports", three_ports),
];

/// The first has endpoints here and elsewhere, the second none.
const CALL: &str = "call 10.96.0.13,fd00:96::13 5060/sctp -> 10.1.0.8,10.1.0.9@elsewhere,fd01::8 \
                    external-local nodeports=30200 vips=1.2.3.9,2001:db8::9 sticky=600";
const NOBODY: &str = "nobody 10.96.0.24 5060/sctp -> nodeports=30210";

/// Fails where the kernel does not find it.
fn found(node: &Netns, map: &str, key: &str) {
    node.sh(&format!("nft get element inet vipd {map} '{{ {key} }}'"));
}

/// The chains of a listing whose names say SCTP, and where refused connections end.
fn chains(listing: &str) -> String {
    let blocks = listing.split("\n\t}\n");
    let chains = blocks.filter_map(|block| block.find("\tchain ").map(|at| &block[at..]));
    let wanted = |chain: &&str| {
        let name = chain.split_whitespace().nth(1).unwrap_or_default();
        name.contains("sctp") || name == "refuse"
    };
    chains.filter(wanted).map(|chain| format!("{chain}\n\t}}\n")).collect()
}

fn at(place: &str, port: u16) -> (String, String, u16) {
    (place.to_owned(), "sctp".to_owned(), port)
}

fn exposed() {
    let node = namespace();
    let plan = Cluster::of(policy(), &[CALL, NOBODY]).plan();
    open(&node).resync(&plan).expect("an empty namespace takes the plan");
    for (map, key) in [
        ("services4", "10.96.0.13 . sctp . 5060"),
        ("services6", "fd00:96::13 . sctp . 5060"),
        ("services4", "1.2.3.9 . sctp . 5060"),
        ("services6", "2001:db8::9 . sctp . 5060"),
        ("nodeports4", "sctp . 30200"),
        ("nodeports6", "sctp . 30200"),
        ("nodeports4", "sctp . 30210"),
    ] {
        found(&node, map, key);
    }
    let other = node.try_sh("nft get element inet vipd nodeports4 '{ tcp . 30200 }'");
    assert_ne!(other.code, 0, "a node port of TCP: {}", other.out);
    let held = Held::read(&node);
    assert_eq!(held, Held::of(&plan));
    let target = |ip: &str| (ip.parse::<IpAddr>().expect("an address"), 13_060);
    let spread = |source, outside| Treatment::Spread {
        sticky: Some(600),
        targets: ["10.1.0.8", "10.1.0.9"].map(target).to_vec(),
        source,
        outside,
    };
    let outside = || spread(Source::Kept, Some(vec![target("10.1.0.8")]));
    assert_eq!(held.frontends[&at("10.96.0.13", 5060)], spread(Source::Detected, None));
    assert_eq!(held.frontends[&at("1.2.3.9", 5060)], outside());
    assert_eq!(held.frontends[&at("node port 4", 30_200)], outside());
    assert_eq!(held.frontends[&at("10.96.0.24", 5060)], Treatment::Refuse);
    assert_eq!(held.frontends[&at("node port 4", 30_210)], Treatment::Refuse);
    insta::assert_snapshot!("sctp", chains(&node.sh("nft -t list table inet vipd")));
}

fn three_ports() {
    let node = namespace();
    let mut nftables = open(&node);
    let mut cluster = Cluster::of(policy(), &[]);
    nftables.resync(&cluster.plan()).expect("an empty namespace takes the plan");
    let ports = ["5060/sctp,5060/tcp,5060/udp", "5060/tcp,5060/udp", "5060/sctp", "5060/udp"];
    for ports in ports {
        let web = format!("web 10.96.0.10 {ports} -> 10.1.0.1,10.1.0.2 sticky=60 vips=1.2.3.4");
        cluster.put(&web);
        nftables.apply(&cluster.replan(), &cluster.plan()).expect("the kernel takes it");
        nftables.settle().expect("the kernel takes it");
        let held = Held::read(&node);
        assert_eq!(held, Held::of(&cluster.plan()), "{ports}");
        assert_eq!(held.frontends.len(), 2 * ports.split(',').count(), "{ports}");
    }
}
