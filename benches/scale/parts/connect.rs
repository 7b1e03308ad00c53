//! connect() through rule sets: vipd's against one constant DNAT rule and plain conntrack.
//!
//! In: the effort. Out: p50s and per-round ratios with their interval, and an A/A pair that says
//! what a ratio of two equal things looks like on this machine.
//! Never: a comparison across runs.

use crate::connect::{Path, SERVER_PORT, SERVERS, Variant, measure};
use crate::report::Row;
use crate::stats::{median, ratio};
use crate::{Effort, Outcome, progress};
use serde_json::json;
use std::net::{Ipv4Addr, SocketAddrV4};

const CLUSTER_IP: Ipv4Addr = Ipv4Addr::new(10, 254, 0, 1);

/// The least that makes netfilter track connections: the expression alone enables it, and no
/// packet passes a chain.
const CONNTRACK: &str = "table inet peer {
    chain unhooked { ct state new accept; }
}";

/// The same with the hooks of network address translation, and no rule in them.
const CONNTRACK_NAT: &str = "table inet peer {
    chain unhooked { ct state new accept; }
    chain prerouting { type nat hook prerouting priority dstnat; }
}";

const DNAT: &str = "table inet peer {
    chain prerouting {
        type nat hook prerouting priority dstnat;
        ip daddr 10.254.0.1 tcp dport 80 dnat ip to 10.61.0.2:8080
    }
}";

pub fn run(effort: Effort) -> Outcome<Vec<Row>> {
    progress("connect: building namespaces");
    let [direct, conntrack, conntrack_nat, dnat, again] =
        [Path::new()?, Path::new()?, Path::new()?, Path::new()?, Path::new()?];
    conntrack.node.nft(CONNTRACK)?;
    conntrack_nat.node.nft(CONNTRACK_NAT)?;
    dnat.node.nft(DNAT)?;
    again.node.nft(DNAT)?;

    let pod = SocketAddrV4::new(SERVERS[0], SERVER_PORT);
    let service = SocketAddrV4::new(CLUSTER_IP, 80);
    let variant = |name: &str, path, to| Variant { name: name.to_owned(), path, to };
    let variants = [
        variant("untracked, to a plain address", &direct, pod),
        variant("conntrack, to a plain address", &conntrack, pod),
        variant("conntrack and nat hooks, to a plain address", &conntrack_nat, pod),
        variant("one DNAT rule, to the service", &dnat, service),
        variant("one DNAT rule, to the service (A/A)", &again, service),
        variant("one DNAT rule, to a plain address", &dnat, pod),
    ];
    let (rounds, connections) = effort.pick((20, 500), (40, 1_500));
    progress(&format!("connect: {rounds} rounds of {} variants", variants.len()));
    let results = measure(&variants, rounds, connections)?;
    Ok(variants
        .iter()
        .zip(&results)
        .map(|(variant, p50s)| {
            let peer = if variant.name.ends_with("(A/A)") { 3 } else { 0 };
            let floor = format!("{}: {:.1} µs", variants[peer].name, median(&results[peer]));
            Row::new(format!("connect p50: {}", variant.name), format!("{:.1} µs", median(p50s)))
                .floor(floor, ratio(p50s, &results[peer]))
                .numbers(json!({"p50_us": p50s}))
        })
        .collect())
}
