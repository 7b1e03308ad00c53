//! What a GB costs.
//!
//! In: sites. Out: CPU seconds of the proxy, all threads, user and system, per GB that it passed on.
//! Never: a bar on GB/s: two processors carry client, proxy and endpoint, and others besides.

use super::{rounds, without_again};
use crate::report::Row;
use crate::sites::{Proxy, Site};
use crate::stats::{median, ratio};
use crate::traffic::{Way, transfer};
use crate::{Effort, Outcome, progress};
use serde_json::json;
use std::time::Instant;

/// Which way, over how many connections.
const SHAPES: [(Way, usize); 4] = [(Way::Down, 1), (Way::Up, 1), (Way::Both, 1), (Way::Down, 16)];

pub fn run(sites: &[Site], effort: Effort) -> Outcome<Vec<Row>> {
    let sites = without_again(sites);
    let (times, size) = effort.pick((2, 256 << 20), (5, 1 << 30));
    let mut rows = Vec::new();
    for (way, connections) in SHAPES {
        progress(&format!("throughput: {way:?}, {connections} connections, {times} rounds"));
        let found = rounds(&sites, times, |site| measure(site, way, (connections, size)))?;
        rows.extend(judge(&sites, &found, (way, connections)));
    }
    Ok(rows)
}

struct Cost {
    cpu_per_gb: f64,
    gb_per_second: f64,
}

fn measure(site: &Site, way: Way, (connections, size): (usize, u64)) -> Outcome<Cost> {
    let (before, began) = (site.daemon.cpu_seconds()?, Instant::now());
    let each = size / connections as u64;
    let moved = site.among_clients(async || {
        let all = (0..connections).map(|_| transfer(site.to, way, each));
        Ok(futures_util::future::try_join_all(all).await?.into_iter().sum::<u64>())
    })?;
    let gb = moved as f64 / 1e9;
    let cpu = site.daemon.cpu_seconds()? - before;
    Ok(Cost { cpu_per_gb: cpu / gb, gb_per_second: gb / began.elapsed().as_secs_f64() })
}

fn judge(sites: &[&Site], found: &[Vec<Cost>], (way, connections): (Way, usize)) -> Vec<Row> {
    let cpu = |costs: &[Cost]| costs.iter().map(|cost| cost.cpu_per_gb).collect::<Vec<_>>();
    let rate = |costs: &[Cost]| median(&costs.iter().map(|c| c.gb_per_second).collect::<Vec<_>>());
    let way = match way {
        Way::Down => "to the client",
        Way::Up => "to the endpoint",
        Way::Both => "both ways",
    };
    let ours = cpu(&found[0]);
    let what = format!("CPU seconds per GB, {way}, {connections} at a time");
    let measured = format!("{:.3} s, {:.2} GB/s", median(&ours), rate(&found[0]));
    let row = Row::new(what, measured);
    let peers = sites.iter().zip(found).skip(1).map(|(site, costs)| {
        let theirs = cpu(costs);
        let floor =
            format!("{}: {:.3} s, {:.2} GB/s", site.proxy.name(), median(&theirs), rate(costs));
        let numbers = json!({"cpu_s_per_gb": ours, "peer_cpu_s_per_gb": theirs});
        let row = row.clone().floor(floor, ratio(&ours, &theirs)).numbers(numbers);
        if site.proxy == Proxy::Haproxy { row.ratio_bar(0.75) } else { row }
    });
    let peers: Vec<Row> = peers.collect();
    if peers.is_empty() { vec![row] } else { peers }
}
