//! vipd and the real kube-proxy side by side: one API server, the same objects, the same run.
//!
//! In: `cargo bench --bench peers -- [--quick]`. Out: a table on stdout, JSON in benches/out.
//! Never: a failure because a bar is missed; a trace of itself left on the host.
//!
//! ```text
//!                   etcd, kube-apiserver, who makes the changes
//!                  ╱                │                          ╲
//!   client─node(vipd)─servers  client─node(kube-proxy)─servers  …
//! ```
//!
//! Needs root, and what `tests/cluster/build-peers etcd kube-apiserver kube-proxy` builds.

mod bare;
mod change;
mod follow;
mod latency;
mod plane;
mod proxies;
mod rest;
mod sites;
mod start;

#[path = "../scale/connect.rs"]
#[allow(dead_code, reason = "`scale` uses more of it")]
mod connect;
#[path = "../../tests/support/control_plane.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod control_plane;
#[path = "../scale/daemon.rs"]
#[allow(dead_code, reason = "`scale` uses more of it")]
mod daemon;
#[path = "../scale/effort.rs"]
mod effort;
#[path = "../scale/floor.rs"]
#[allow(dead_code, reason = "`scale` uses more of it")]
mod floor;
#[path = "../scale/generate.rs"]
#[allow(dead_code, reason = "`scale` uses more of it")]
mod generate;
#[path = "../scale/manifests.rs"]
#[allow(dead_code, reason = "`scale` uses more of it")]
mod manifests;
#[path = "../../tests/support/netns.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod netns;
#[path = "../scale/nft.rs"]
#[allow(dead_code, reason = "`scale` uses more of it")]
mod nft;
#[path = "../scale/report.rs"]
#[allow(dead_code, reason = "`scale` uses more of it")]
mod report;
#[path = "../../tests/support/sandbox.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod sandbox;
#[path = "../scale/stats.rs"]
#[allow(dead_code, reason = "`scale` uses more of it")]
mod stats;
#[path = "../scale/world.rs"]
#[allow(dead_code, reason = "`scale` uses more of it")]
mod world;

use effort::{Effort, Outcome};
use plane::Plane;
use proxies::Peer;
use sites::Site;
use std::path::Path;
use std::time::Instant;

const USAGE: &str = "usage: cargo bench --bench peers -- [--quick]";

/// vipd's: what is measured here includes how memory is had.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    effort::exit("peers", run())
}

fn run() -> Outcome<()> {
    let mut effort = Effort::Full;
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            // What cargo itself adds.
            "--bench" => {}
            "--quick" => effort = Effort::Quick,
            _ => return Err(USAGE.into()),
        }
    }
    control_plane::are_built(&["etcd", "kube-apiserver", "kube-proxy"])?;
    let started = Instant::now();
    let machine = report::machine();
    // Named namespaces of the servers are then this process's own. As root, or sockets would have
    // small buffers, and vipd would make its sets without a size.
    sandbox::enter(sandbox::Way::Root).map_err(|error| format!("{error}; is this run as root?"))?;
    progress("etcd and kube-apiserver are started");
    let plane = Plane::start()?;
    let rows = plane.inside(|| measure(&plane, effort))?;
    drop(plane);
    println!("{}", report::table(&rows));
    println!("\n{machine}; took {:.0} s", started.elapsed().as_secs_f64());
    let out = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/out/peers.json");
    report::write_json(&rows, &out)?;
    println!("{}", out.display());
    print!("{}", report::bars(&rows));
    Ok(())
}

fn measure(plane: &Plane, effort: Effort) -> Outcome<Vec<report::Row>> {
    let services = effort.pick(1_000, 10_000);
    let mut cluster = sites::cluster(services);
    let mut rows = start::run(plane, &cluster, effort)?;
    let mut all = Vec::new();
    for peer in [Peer::Vipd, Peer::Soonest, Peer::Defaults] {
        let site = Site::start(peer, plane, &cluster)?;
        site.pause()?;
        all.push(site);
    }
    rows.extend(change::run(plane, &mut cluster, (&all, effort))?);
    // Who was stopped may have lost a watch; the figures are then not what they seem.
    all.iter().filter(|site| site.peer == Peer::Vipd).for_each(|site| {
        progress(&format!("vipd's warnings, if any: {}", proxies::said(&site.daemon)));
    });
    rows.extend(rest::run(&format!("{services}×2"), (&all, effort))?);
    rows.extend(latency::run(&cluster, all, effort)?);
    Ok(rows)
}

/// A line on stderr, so that stdout holds the results alone.
fn progress(what: &str) {
    eprintln!("peers: {what}");
}
