//! connect() through rule sets: vipd's against one constant DNAT rule and plain conntrack.
//!
//! In: the effort. Out: p50s and per-round ratios with their interval, and an A/A pair that says
//! what a ratio of two equal things looks like on this machine.
//! Never: a comparison across runs.

use crate::connect::{Course, Path, SERVER_PORT, SERVERS, Variant, measure};
use crate::report::Row;
use crate::stats::{median, ratio};
use crate::{Effort, Outcome, progress};
use serde_json::json;
use std::net::{Ipv4Addr, SocketAddrV4};

const CLUSTER_IP: Ipv4Addr = Ipv4Addr::new(10, 254, 0, 1);

/// What stands beside vipd's table. `tracking` is the least that makes netfilter track
/// connections: the expression alone enables it, and no packet passes a chain. `empty_nat` adds the hooks
/// of address translation with no rule in them; `one_rule` a rule; `same_rule` is its twin.
const PEERS: &str = "
table inet tracking {
    chain unhooked { ct state new accept; }
}
table inet empty_nat {
    chain prerouting { type nat hook prerouting priority dstnat; }
}
table inet one_rule {
    chain prerouting {
        type nat hook prerouting priority dstnat;
        ip daddr 10.254.0.1 tcp dport 80 dnat ip to 10.61.0.2:8080
    }
}
table inet same_rule {
    chain prerouting {
        type nat hook prerouting priority dstnat;
        ip daddr 10.254.0.1 tcp dport 80 dnat ip to 10.61.0.2:8080
    }
}
";

/// No service leads here. Were it an endpoint, a plain connection could have the reply tuple of a
/// translated one that conntrack still remembers, and lose its first packet to the clash.
const POD: SocketAddrV4 = SocketAddrV4::new(SERVERS[2], SERVER_PORT);
const SERVICE: SocketAddrV4 = SocketAddrV4::new(CLUSTER_IP, 80);

fn variant(name: &str, table: Option<&'static str>, to: SocketAddrV4) -> Variant {
    Variant { name: name.to_owned(), table, to }
}

/// The peers alone.
fn floors() -> Outcome<[Course; 2]> {
    let direct = Course {
        path: Path::new()?,
        tables: vec![],
        variants: vec![variant("untracked, to a plain address", None, POD)],
    };
    let path = Path::new()?;
    path.node.nft(PEERS)?;
    let netfilter = Course {
        path,
        tables: vec!["empty_nat", "one_rule", "same_rule"],
        variants: vec![
            variant("plain conntrack, to a plain address", None, POD),
            variant("conntrack and empty nat hooks, to a plain address", Some("empty_nat"), POD),
            variant("one DNAT rule, to a plain address", Some("one_rule"), POD),
            variant("one DNAT rule, to the service", Some("one_rule"), SERVICE),
            variant("the same rule again (A/A)", Some("same_rule"), SERVICE),
        ],
    };
    Ok([direct, netfilter])
}

pub fn run(effort: Effort) -> Outcome<Vec<Row>> {
    progress("connect: building namespaces");
    let courses = floors()?;
    let (rounds, connections) = effort.pick((20, 500), (40, 1_000));
    progress(&format!("connect: {rounds} rounds"));
    let results = measure(&courses, rounds, connections)?;
    let untracked = &results[0][0];
    let row = |course: usize, index: usize, floor: &[f64]| {
        let p50s = &results[course][index];
        let name = &courses[course].variants[index].name;
        Row::new(format!("connect p50: {name}"), format!("{:.2} µs", median(p50s)))
            .floor(format!("{:.2} µs", median(floor)), ratio(p50s, floor))
            .numbers(json!({"p50_us": p50s}))
    };
    let netfilter = &results[1];
    Ok(vec![
        row(0, 0, untracked),
        row(1, 0, untracked),
        row(1, 1, &netfilter[0]),
        row(1, 2, &netfilter[0]),
        row(1, 3, &netfilter[0]),
        row(1, 4, &netfilter[3]),
    ])
}
