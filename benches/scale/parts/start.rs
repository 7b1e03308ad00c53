//! `vipd run` from nothing, and after a crash with changes in between.
//!
//! In: manifests of 1,000 objects a file. Out: seconds until the kernel holds everything, and after
//! the crash also what was written to it.
//! Never: the daemon's own count: elements are the kernel's, operations those it announced.

use crate::daemon::Daemon;
use crate::generate::{Cluster, Shape};
use crate::manifests::{Format, Manifests, bytes_in};
use crate::nft::Census;
use crate::report::{Row, Verdict};
use crate::stats::{median, quantile};
use crate::watch::Watcher;
use crate::world::Namespace;
use crate::{Effort, Outcome, progress};
use serde_json::json;
use std::net::Ipv4Addr;
use std::time::Duration;

/// Elements that a changed service may cost at a restart, out and in together, and one that remembers
/// the endpoint that went.
const OPERATIONS_PER_SERVICE: f64 = 5.0;
/// Besides, the first service with three endpoints needs a class: a chain, its rules, an element.
const NEW_CLASS: f64 = 4.0;

fn shape(effort: Effort) -> Shape {
    effort.pick(Shape::new(10_000, 2), Shape::new(100_000, 2))
}

/// `start`
pub fn start(effort: Effort) -> Outcome<Vec<Row>> {
    let cluster = Cluster::new(shape(effort));
    let kinds = [("JSON", Format::Json, 4.0), ("YAML", Format::Yaml, 8.0)];
    kinds
        .into_iter()
        .map(|(name, format, bar)| from_nothing(&cluster, name, (format, bar), effort))
        .collect()
}

fn from_nothing(
    cluster: &Cluster,
    name: &str,
    (format, bar): (Format, f64),
    effort: Effort,
) -> Outcome<Row> {
    progress(&format!("start: {} as {name}", shape(effort).name()));
    let manifests = Manifests::write(cluster, format, 0)?;
    let megabytes = bytes_in(&manifests.path())? as f64 / 1e6;
    let (mut seconds, mut cpu) = (Vec::new(), Vec::new());
    let mut elements = 0;
    for _ in 0..effort.pick(2, 5) {
        let namespace = Namespace::new()?;
        let mut census = Census::open(&namespace, "vipd")?;
        let mut daemon = Daemon::start(&namespace, &manifests)?;
        let rest = daemon.settled(&mut census, cluster.elements())?;
        seconds.push((rest.at - daemon.started).as_secs_f64());
        cpu.push(daemon.cpu_seconds()?);
        elements = rest.elements;
    }
    let slowest = quantile(&seconds, 1.0);
    Ok(Row::new(
        format!(
            "vipd run, start → everything programmed, {} {name} ({megabytes:.0} MB)",
            shape(effort).name()
        ),
        format!(
            "{:.2} s (slowest {slowest:.2}), {:.2} s of CPU time, {elements} elements",
            median(&seconds),
            median(&cpu)
        ),
    )
    .bar(format!("≤ {bar} s"), Verdict::at_most(slowest, bar))
    .numbers(json!({"seconds": seconds, "cpu_seconds": cpu, "elements": elements,
                    "megabytes": megabytes})))
}

/// `restart`
pub fn restart(effort: Effort) -> Outcome<Vec<Row>> {
    let mut cluster = Cluster::new(shape(effort));
    let manifests = Manifests::write(&cluster, Format::Json, 0)?;
    let namespace = Namespace::new()?;
    let mut daemon = Daemon::start(&namespace, &manifests)?;
    daemon.settled(&mut Census::open(&namespace, "vipd")?, cluster.elements())?;
    let mut rows = Vec::new();
    for changed in [0, 100, 1_000] {
        progress(&format!("restart: kill -9, {changed} services changed"));
        let (mut seconds, mut operations) = (Vec::new(), Vec::new());
        for _ in 0..effort.pick(1, 3) {
            daemon.kill()?;
            let expected = change_some(&mut cluster, &manifests, changed)?;
            let watcher = Watcher::start(&namespace)?;
            daemon = Daemon::start(&namespace, &manifests)?;
            let written = written(&watcher, &mut daemon, &expected)?;
            seconds.push(written.seconds);
            operations.push(written.operations as f64);
        }
        let (slowest, most) = (quantile(&seconds, 1.0), quantile(&operations, 1.0));
        let row = Row::new(
            format!("kill −9, {changed} services changed, start again at {}", shape(effort).name()),
            format!("{:.2} s (slowest {slowest:.2})", median(&seconds)),
        )
        .numbers(json!({"seconds": seconds, "operations": operations}));
        rows.push(match changed {
            100 => row.bar("≤ 6 s", Verdict::at_most(slowest, 6.0)),
            _ => row,
        });
        let allowed = match changed {
            0 => 0.0,
            _ => OPERATIONS_PER_SERVICE * changed as f64 + NEW_CLASS,
        };
        rows.push(
            Row::new(
                format!("kernel operations of that start, {changed} services changed"),
                format!("{most:.0}"),
            )
            .bar(format!("≤ {allowed:.0}"), Verdict::at_most(most, allowed))
            .numbers(json!({"operations": operations, "allowed": allowed})),
        );
    }
    Ok(rows)
}

/// Spread over all files: 4 in 10 services have an endpoint renumbered, 3 gain one, 3 vanish with
/// another coming in their place. Returns the addresses that must appear in the kernel.
fn change_some(
    cluster: &mut Cluster,
    manifests: &Manifests,
    count: usize,
) -> Outcome<Vec<Ipv4Addr>> {
    let mut expected = Vec::new();
    let services = cluster.services.len();
    let chosen: Vec<usize> = (0..count).map(|i| i * services / count + i % 7).collect();
    for (index, &service) in chosen.iter().enumerate() {
        match index % 10 {
            0..4 => expected.push(cluster.renumber(service)),
            4..7 => {
                let address = cluster.fresh();
                let endpoints = &mut cluster.services[service].endpoints;
                endpoints.push(crate::generate::EndpointSpec { address, ..endpoints[0] });
                expected.push(address);
            }
            _ => {
                expected.push(cluster.renumber(service));
                cluster.services[service].name.push('x');
            }
        }
    }
    for first in manifests.files_of(&chosen) {
        manifests.update(cluster, first)?;
    }
    Ok(expected)
}

struct Written {
    seconds: f64,
    operations: u64,
}

/// Follows what a starting daemon writes until all of `expected` is there and nothing more comes.
fn written(watcher: &Watcher, daemon: &mut Daemon, expected: &[Ipv4Addr]) -> Outcome<Written> {
    const FIRST: Duration = Duration::from_secs(30);
    const QUIET: Duration = Duration::from_secs(2);
    let mut missing: std::collections::BTreeSet<_> = expected.iter().copied().collect();
    let mut sum = Written { seconds: 0.0, operations: 0 };
    if expected.is_empty() {
        // Nothing may come: ready is when the daemon has read what the kernel holds.
        sum.seconds = daemon.synced(FIRST)?;
    }
    while let Some(commit) = watcher.next(if missing.is_empty() { QUIET } else { FIRST })? {
        sum.seconds = (commit.at - daemon.started).as_secs_f64();
        sum.operations += commit.operations;
        for address in &commit.fresh {
            missing.remove(address);
        }
    }
    match missing.first() {
        Some(address) => Err(format!("{address} never came to the kernel").into()),
        None => Ok(sum),
    }
}
