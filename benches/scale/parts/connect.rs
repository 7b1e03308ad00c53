//! connect() through rule sets: vipd's against one constant DNAT rule and plain conntrack.
//!
//! In: the effort. Out: p50s and per-round ratios with their interval, and an A/A pair that says
//! what a ratio of two equal things looks like on this machine.
//! Never: a comparison across runs.

use crate::connect::{Course, Path, SERVER_PORT, SERVERS, Server, Variant, measure};
use crate::daemon::Daemon;
use crate::generate::{Cluster, EndpointSpec, NODES, Outside, ServiceSpec, Shape};
use crate::manifests::{Format, Manifests};
use crate::nft::Census;
use crate::report::Row;
use crate::stats::{median, ratio};
use crate::{Effort, Outcome, progress};
use serde_json::json;
use std::net::{Ipv4Addr, SocketAddrV4};

/// Of the service that is connected to: in the range of the others, above all of them.
const CLUSTER_IP: Ipv4Addr = Ipv4Addr::new(10, 143, 255, 254);

/// What stands beside vipd's table. `tracking` is the least that makes netfilter track
/// connections: the expression alone enables it, and no packet passes a chain. `empty_nat` adds the hooks
/// of address translation with no rule in them; `one_rule` a rule; `same_rule` is its twin. `least` is
/// what it takes to drop INVALID packets and to look at translated ones on their way out.
const PEERS: &str = "
table inet tracking {
    chain unhooked { ct state new accept; }
}
table inet empty_nat {
    chain prerouting { type nat hook prerouting priority dstnat; }
}
table inet least {
    chain prerouting { type nat hook prerouting priority dstnat; }
    chain postrouting { type nat hook postrouting priority srcnat; }
    chain state {
        type filter hook prerouting priority filter;
        ct state == invalid drop
    }
}
table inet one_rule {
    chain prerouting {
        type nat hook prerouting priority dstnat;
        ip daddr 10.143.255.254 tcp dport 80 dnat ip to 10.61.0.2:8080
    }
}
table inet same_rule {
    chain prerouting {
        type nat hook prerouting priority dstnat;
        ip daddr 10.143.255.254 tcp dport 80 dnat ip to 10.61.0.2:8080
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
        tables: vec!["empty_nat", "least", "one_rule", "same_rule"],
        variants: vec![
            variant("plain conntrack, to a plain address", None, POD),
            variant("conntrack and empty nat hooks, to a plain address", Some("empty_nat"), POD),
            variant("one DNAT rule, to a plain address", Some("one_rule"), POD),
            variant("one DNAT rule, to the service", Some("one_rule"), SERVICE),
            variant("the same rule again (A/A)", Some("same_rule"), SERVICE),
            variant("the hooks that vipd has, with one rule", Some("least"), POD),
        ],
    };
    Ok([direct, netfilter])
}

/// What else is in the rule set: its chains have parts that are only there while a service needs them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kinds {
    /// ClusterIP services alone.
    Plain,
    /// Beside them node ports, load balancers' addresses for some clients and for all, affinity, and
    /// policy Local.
    Every,
}

impl Kinds {
    fn name(self, services: u32) -> String {
        match self {
            Kinds::Plain => format!("{services} services"),
            Kinds::Every => format!("{services} services and some of every kind"),
        }
    }

    /// Nobody connects to these.
    fn others(self) -> Vec<ServiceSpec> {
        let endpoints =
            vec![EndpointSpec { address: Ipv4Addr::new(10, 61, 255, 1), node: NODES[1] }];
        let vip = |last, ranges| Outside::Vip { address: Ipv4Addr::new(198, 18, 0, last), ranges };
        let range = "64.1.0.0/16".parse().expect("a network");
        let other = |number: u8, outside, (sticky, local)| ServiceSpec {
            name: format!("other-{number}"),
            cluster_ip: Ipv4Addr::new(10, 143, 255, number),
            sticky,
            local,
            outside,
            endpoints: endpoints.clone(),
        };
        match self {
            Kinds::Plain => Vec::new(),
            Kinds::Every => vec![
                other(1, Outside::NodePort(30_001), (false, false)),
                other(2, vip(2, vec![range]), (false, false)),
                other(3, vip(3, Vec::new()), (true, false)),
                other(4, Outside::Nowhere, (false, true)),
            ],
        }
    }
}

/// What `vipd run` leaves behind for so many services, beside the peers.
fn skeleton((services, kinds): (u32, Kinds)) -> Outcome<Course> {
    progress(&format!("connect: programming {}", kinds.name(services)));
    let path = Path::new()?;
    path.node.nft(PEERS)?;
    let mut cluster = Cluster::new(Shape::new(services, 2));
    let endpoints =
        SERVERS[..2].iter().map(|&address| EndpointSpec { address, node: NODES[1] }).collect();
    cluster.services.push(ServiceSpec {
        name: "target".to_owned(),
        cluster_ip: CLUSTER_IP,
        sticky: false,
        local: false,
        outside: Outside::Nowhere,
        endpoints,
    });
    cluster.services.extend(kinds.others());
    let manifests = Manifests::write(&cluster, Format::Json, 0)?;
    let mut daemon = Daemon::start(&path.node, &manifests)?;
    daemon.settled(&mut Census::open(&path.node, "vipd")?, cluster.elements())?;
    daemon.terminate()?;
    Ok(Course {
        path,
        tables: vec!["vipd", "empty_nat", "least", "one_rule", "same_rule"],
        variants: vec![
            variant("vipd, to a service", Some("vipd"), SERVICE),
            variant("one DNAT rule, to the service", Some("one_rule"), SERVICE),
            variant("vipd, to a plain address", Some("vipd"), POD),
            variant("plain conntrack, to a plain address", None, POD),
            variant("conntrack and empty nat hooks, to a plain address", Some("empty_nat"), POD),
        ],
    })
}

pub fn run(effort: Effort) -> Outcome<Vec<Row>> {
    let every = (10_000, Kinds::Every);
    let [small, middle, large] = [1_000, 10_000, 100_000].map(|services| (services, Kinds::Plain));
    let sizes = match effort {
        Effort::Quick => vec![small, middle, every],
        Effort::Full => vec![small, middle, every, large],
    };
    let mut courses = Vec::from(floors()?);
    for &size in &sizes {
        courses.push(skeleton(size)?);
    }
    let mut rows = Vec::new();
    for server in [Server::Absent, Server::Accepting] {
        let amount = effort.pick((20, 500), (40, 1_000));
        progress(&format!("connect: {} rounds, server {server:?}", amount.0));
        let results = measure(&courses, amount, server)?;
        rows.extend(judge(&courses, &results, (&sizes, server))?);
    }
    Ok(rows)
}

fn judge(
    courses: &[Course],
    results: &[Vec<Vec<f64>>],
    (sizes, server): (&[(u32, Kinds)], Server),
) -> Outcome<Vec<Row>> {
    let row = |what: &str, p50s: &[f64], (name, floor): (&str, &[f64])| {
        let how = match server {
            Server::Accepting => "connect p50",
            Server::Absent => "network path alone",
        };
        Row::new(format!("{how}: {what}"), format!("{:.2} µs", median(p50s)))
            .floor(format!("{name}: {:.2} µs", median(floor)), ratio(p50s, floor))
            .numbers(json!({"p50_us": p50s, "floor_p50_us": floor}))
    };
    // A bar is about what a client sees; without a server the same microseconds weigh more.
    let bar = |row: Row, bar: f64| match server {
        Server::Accepting => row.ratio_bar(bar),
        Server::Absent => row,
    };
    let (untracked, peers) = (&results[0][0], &results[1]);
    let name = |index: usize| courses[1].variants[index].name.as_str();
    let mut rows = vec![
        row("untracked, to a plain address", untracked, ("itself", untracked)),
        row(name(0), &peers[0], ("untracked", untracked)),
        row(name(1), &peers[1], ("plain conntrack", &peers[0])),
        row(name(2), &peers[2], ("plain conntrack", &peers[0])),
        row(name(3), &peers[3], ("plain conntrack", &peers[0])),
        row(name(4), &peers[4], ("one DNAT rule", &peers[3])),
        row(name(5), &peers[5], ("empty nat hooks", &peers[1])),
    ];
    for ((services, kinds), found) in sizes.iter().zip(&results[2..]) {
        let [to_service, one_rule, to_plain, conntrack, empty_nat] = &found[..] else {
            return Err("a variant was not measured".into());
        };
        let cluster = kinds.name(*services);
        let service = format!("vipd at {cluster}, to a service");
        let plain = format!("vipd at {cluster}, to a plain address");
        rows.extend([
            bar(row(&service, to_service, ("one DNAT rule", one_rule)), 1.05),
            // Any address translation needs the nat hooks, whatever its rules: a bar that they miss
            // by themselves says nothing about the rules.
            bar(
                row(
                    &plain,
                    to_plain,
                    (
                        "conntrack, nat hooks without a rule (any translation needs the hooks)",
                        empty_nat,
                    ),
                ),
                1.03,
            ),
            row(&plain, to_plain, ("plain conntrack, no nat hooks (for information)", conntrack)),
        ]);
    }
    Ok(rows)
}
