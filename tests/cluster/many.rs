//! Ten thousand Services with their slices on the real server: all of them are programmed, by a
//! streaming list and by pages.

use crate::live::{self, Live};
use crate::runner::Case;
use crate::support::manifests::{Manifest, svc};
use crate::support::plan::{L1, L2, R1, V4};
use serde_json::Value;
use std::time::{Duration, Instant};

/// For the long runs only.
pub const LONG_CASES: &[Case] =
    &[("10,000 services, by a streaming list and by pages", programmed)];

const SERVICES: u16 = 10_000;
const PATIENCE: Duration = Duration::from_secs(120);
/// Resident, half a minute after the last change.
const MEMORY: u64 = 60 << 20;

fn objects() -> Vec<Value> {
    let service = |n: u16| svc().named(format!("s{n}"), 0).at(V4.bulk_cluster_ip(n)).on([L1, R1]);
    (0..SERVICES).flat_map(|n| service(n).files(V4)).flat_map(|file| file.objects).collect()
}

/// How many requests for a page of Services the server has answered since its start.
fn pages(live: &Live) -> f64 {
    let text = live.api.text("/metrics");
    let lists = text.lines().filter(|line| {
        ["apiserver_request_total{", r#"resource="services""#, r#"verb="LIST""#]
            .into_iter()
            .all(|part| line.contains(part))
    });
    lists.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

/// Starts vipd on what is there; how many pages it asked for.
fn starts(live: &Live, how: &str) -> f64 {
    let before = pages(live);
    let begun = Instant::now();
    live.launch(&[]);
    live.w.settle_within(PATIENCE);
    println!("{how}: all programmed {:.1?} after the start", begun.elapsed());
    assert_eq!(live.metric("vipd_services"), Some(f64::from(SERVICES) + 2.0), "and two more");
    for n in (0..SERVICES).step_by(199) {
        live.w.tcp(L2, V4.bulk_cluster_ip(n), 80).times(2).reached();
    }
    live.w.sleep(30_000);
    let resident = live.w.resident();
    println!("{how}: {:.1} MiB resident", resident as f64 / f64::from(1 << 20));
    assert!(resident <= MEMORY, "{resident} bytes");
    pages(live) - before
}

fn programmed() {
    live::with(|live| {
        let begun = Instant::now();
        let objects = objects();
        objects.chunks(1000).for_each(|some| live.api.create_all(some));
        println!("{} objects made in {:.1?}", objects.len(), begun.elapsed());
        assert_eq!(starts(live, "streaming"), 0.0);
        live.w.kill();
        live.plane.kill_server();
        let usual = live.plane.settings.server_flags.clone();
        live.plane.settings.server_flags.push("--feature-gates=WatchList=false".into());
        live.plane.start_server();
        let asked = starts(live, "pages");
        assert!(asked >= 20.0, "500 in each: {asked}");
        live.w.kill();
        live.plane.kill_server();
        live.plane.settings.server_flags = usual;
        live.plane.start_server();
    });
}
