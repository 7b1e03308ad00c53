//! The relay beside HAProxy: the same interception, the same endpoints, the same run.
//!
//! In: `cargo bench --bench relay -- [PART …] [--quick]`. Out: a table on stdout, JSON in benches/out.
//! Never: a failure because a bar is missed; a trace of itself left on the host.
//!
//! ```text
//!   client ── node: vipd, by its own table ────────────────── endpoints
//!   client ── node: HAProxy, by a tproxy rule like vipd's ─── endpoints
//!   client ── node: HAProxy, the same again (A/A) ─────────── endpoints
//!   client ── node: HAProxy at an address of the node's ───── endpoints
//! ```
//!
//! Needs root and `haproxy`; without it vipd is measured alone, and the last line says so.

mod http;
mod parts;
mod process;
mod sites;
mod traffic;

#[path = "../scale/daemon.rs"]
#[allow(dead_code, reason = "`scale` uses more of it")]
mod daemon;
#[path = "../scale/effort.rs"]
mod effort;
#[path = "../scale/generate.rs"]
#[allow(dead_code, reason = "`scale` uses more of it")]
mod generate;
#[path = "../scale/manifests.rs"]
#[allow(dead_code, reason = "`scale` uses more of it")]
mod manifests;
#[path = "../scale/nft.rs"]
#[allow(dead_code, reason = "`scale` uses more of it")]
mod nft;
#[path = "../scale/report.rs"]
#[allow(dead_code, reason = "`scale` uses more of it")]
mod report;
#[path = "../scale/stats.rs"]
#[allow(dead_code, reason = "`scale` uses more of it")]
mod stats;
#[path = "../scale/world.rs"]
#[allow(dead_code, reason = "`scale` uses more of it")]
mod world;

use effort::{Effort, Outcome};
use report::Row;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sites::{Proxy, Site};
use std::path::Path;
use std::time::Instant;

const USAGE: &str = "usage: cargo bench --bench relay -- [PART …] [--quick]
parts (all without any): throughput connections latency requests idle slow leak udp";

type Part = fn(&[Site], Effort) -> Outcome<Vec<Row>>;

const PARTS: [(&str, Part); 8] = [
    ("idle", parts::idle::run),
    ("throughput", parts::throughput::run),
    ("connections", parts::connections::run),
    ("latency", parts::latency::run),
    ("requests", parts::requests::run),
    ("udp", parts::udp::run),
    ("slow", parts::slow::run),
    ("leak", parts::leak::run),
];

/// vipd's: what is measured here shares the machine with who measures.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    effort::exit("relay", run())
}

fn run() -> Outcome<()> {
    let mut effort = Effort::Full;
    let mut wanted = Vec::new();
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            // What cargo itself adds.
            "--bench" => {}
            "--quick" => effort = Effort::Quick,
            name if PARTS.iter().any(|(part, _)| *part == name) => wanted.push(argument),
            _ => return Err(USAGE.into()),
        }
    }
    let started = Instant::now();
    let machine = report::machine();
    // Clients and endpoints are here, and inherited by proxies.
    let most = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most })?;
    let version = sites::haproxy_version();
    let peers: &[Proxy] = match &version {
        Some(version) => {
            progress(version);
            &[Proxy::Haproxy, Proxy::HaproxyAgain, Proxy::HaproxyPlain]
        }
        None => &[],
    };
    let mut all = vec![Site::start(Proxy::Vipd)?];
    for &peer in peers {
        all.push(Site::start(peer)?);
    }
    let (mut rows, mut failures) = (Vec::new(), Vec::new());
    for (name, part) in PARTS {
        if wanted.is_empty() || wanted.iter().any(|w| w == name) {
            progress(name);
            match part(&all, effort) {
                Ok(found) => rows.extend(found),
                // The other parts' results are worth having all the same.
                Err(error) => failures.push(format!("{name}: {error}")),
            }
        }
    }
    println!("{}", report::table(&rows));
    let peer = version.clone().unwrap_or_else(|| "no HAProxy".to_owned());
    println!("\n{machine}, {peer}; took {:.0} s", started.elapsed().as_secs_f64());
    let out = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/out/relay.json");
    report::write_json(&rows, &out)?;
    println!("{}", out.display());
    print!("{}", report::bars(&rows));
    if version.is_none() {
        println!(
            "!!!! SKIPPED: haproxy is missing (apt-get install haproxy): no bar was judged !!!!"
        );
    }
    if failures.is_empty() { Ok(()) } else { Err(failures.join("\n").into()) }
}

/// A line on stderr, so that stdout holds the results alone.
fn progress(what: &str) {
    eprintln!("relay: {what}");
}
