//! From the start of a proxy to the moment when everything is programmed.
//!
//! In: sizes, ascending; what is missing in the API is created on the way. Out: seconds of both
//! proxies and of the bare client and writer, in turns.
//! Never: the proxy's own word for it: elements are the kernel's, counted every 2 ms.

use crate::bare::{self, Listing};
use crate::generate::{Cluster, Shape};
use crate::plane::Plane;
use crate::proxies::Peer;
use crate::report::{Row, Verdict};
use crate::stats::{median, quantile, ratio};
use crate::world::Namespace;
use crate::{Effort, Outcome, progress};
use serde_json::json;
use std::time::Duration;

/// A node that only this start has.
struct Started {
    seconds: f64,
    cpu: f64,
    elements: u64,
    /// Freed with the others: the kernel does it behind everybody's back, on the same processors.
    _node: Namespace,
}

fn once(peer: Peer, plane: &Plane, services: usize) -> Outcome<Started> {
    let node = Namespace::new()?;
    plane.join(&node)?;
    let mut daemon = peer.start(&node, plane)?;
    let rest = peer.settled(&mut daemon, &node, services)?;
    let seconds = (rest.at - daemon.started).as_secs_f64();
    if peer != Peer::Vipd {
        // nft's time counts once it has ended, which may be seconds after its commit.
        std::thread::sleep(Duration::from_secs(3));
    }
    let started =
        Started { seconds, cpu: daemon.cpu_seconds()?, elements: rest.elements, _node: node };
    daemon.kill()?;
    Ok(started)
}

/// `cluster` is of the largest size.
pub fn run(plane: &Plane, cluster: &Cluster, effort: Effort) -> Outcome<Vec<Row>> {
    let largest = cluster.services.len();
    let mut sizes = effort.pick(vec![100], vec![1_000, 5_000]);
    sizes.push(largest);
    let (rounds, of_kube_proxy) = effort.pick((2, 1), (5, 3));
    let mut rows = Vec::new();
    let mut created = 0;
    for size in sizes {
        progress(&format!("start: {size} services are created"));
        plane.create(&cluster.services[created..size])?;
        created = size;
        let mut part = cluster.clone();
        part.services.truncate(size);
        let listings = [Listing::Typed, Listing::Streamed, Listing::Skipped];
        let mut floors = listings.map(|_| Vec::new());
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        progress(&format!("start: {size} services, {rounds} rounds"));
        // The first one fills the server's caches.
        bare::load(plane, &part, Listing::Typed)?;
        for round in 0..rounds {
            for (listing, floor) in listings.iter().zip(&mut floors) {
                floor.push(bare::load(plane, &part, *listing)?);
            }
            ours.push(once(Peer::Vipd, plane, size)?);
            if round < of_kube_proxy {
                theirs.push(once(Peer::Defaults, plane, size)?);
            }
        }
        let [ours_s, theirs_s] = [&ours, &theirs]
            .map(|all| all.iter().map(|started| started.seconds).collect::<Vec<f64>>());
        let shape = Shape::new(size as u32, 2).name();
        let largest = size == largest && effort == Effort::Full;
        rows.extend(judge(&shape, (&ours, &ours_s), (&theirs, &theirs_s), largest));
        for (listing, floor) in listings.into_iter().zip(&floors) {
            let how = match listing {
                Listing::Typed => "a bare client (pages, k8s-openapi types) + the bare writer",
                Listing::Streamed => "the same, with lists by stream as vipd asks for them",
                Listing::Skipped => "the same, in pages, nothing decoded",
            };
            let row = Row::new(what(&shape), seconds(&ours_s))
                .floor(format!("{how}: {}", seconds(floor)), ratio(&ours_s, floor))
                .numbers(json!({"seconds": ours_s, "floor_seconds": floor}));
            let is_judged = largest && listing != Listing::Skipped;
            rows.push(if is_judged { row.ratio_bar(1.5) } else { row });
        }
        drop((ours, theirs));
        std::thread::sleep(Duration::from_secs(2));
    }
    Ok(rows)
}

fn what(shape: &str) -> String {
    format!("vipd run, start → everything programmed, {shape}")
}

fn seconds(all: &[f64]) -> String {
    format!("{:.3} s (slowest {:.3})", median(all), quantile(all, 1.0))
}

fn judge(
    shape: &str,
    (ours, ours_s): (&[Started], &[f64]),
    (theirs, theirs_s): (&[Started], &[f64]),
    bar: bool,
) -> [Row; 2] {
    const SOONER: f64 = 10.0;
    let sooner = ratio(theirs_s, ours_s);
    let row = Row::new(what(shape), format!("{}, {} elements", seconds(ours_s), ours[0].elements))
        .floor(format!("kube-proxy: {}", seconds(theirs_s)), sooner)
        .numbers(json!({"seconds": ours_s, "kube_proxy_seconds": theirs_s}));
    let row = match bar {
        true => row.bar(
            format!("≥ {SOONER}× sooner (kube-proxy / vipd)"),
            Verdict::at_most(SOONER, sooner.low),
        ),
        false => row,
    };
    let [ours, theirs] =
        [ours, theirs].map(|all| all.iter().map(|started| started.cpu).collect::<Vec<f64>>());
    let cpu = Row::new(
        format!(
            "CPU seconds of that start, {shape} (kube-proxy's with those of the nft that it runs)"
        ),
        format!("{:.2} s", median(&ours)),
    )
    .floor(format!("kube-proxy: {:.2} s", median(&theirs)), ratio(&theirs, &ours))
    .numbers(json!({"cpu_seconds": ours, "kube_proxy_cpu_seconds": theirs}));
    [row, cpu]
}
