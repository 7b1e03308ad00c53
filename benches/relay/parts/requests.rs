//! Requests per second over connections that stay open, balanced one by one.
//!
//! In: sites. Out: how many were answered in a second, what the proxy took for each, and how long one
//! takes where nothing else is asked.
//! Never: a connection that a request waits for: those of clients are open, and proxies keep theirs.

use super::{rounds, without_again};
use crate::http::{One, Two, Version};
use crate::report::Row;
use crate::sites::Site;
use crate::stats::{median, quantile, ratio};
use crate::{Effort, Outcome, progress};
use serde_json::json;
use std::cell::Cell;
use std::time::{Duration, Instant};

/// Requests under way at the same time: over as many connections, or over few with many each.
const CLIENTS: usize = 64;
const STREAMS: usize = 16;

/// One at a time, for the time that it takes; over so many connections in turn.
const ALONE: usize = 2_000;
const CONNECTIONS: usize = 16;

pub fn run(sites: &[Site], effort: Effort) -> Outcome<Vec<Row>> {
    let sites = without_again(sites);
    let (times, lasting) = effort.pick((3, 500), (9, 1_000));
    let mut rows = Vec::new();
    for version in Version::ALL {
        progress(&format!("requests: {}, {times} rounds", version.name()));
        let lasting = Duration::from_millis(lasting);
        let found = rounds(&sites, times, |site| measure(site, version, lasting))?;
        rows.extend(judge(&sites, &found, version));
    }
    Ok(rows)
}

struct Rate {
    per_second: f64,
    /// CPU time of the proxy for each.
    cpu_us: f64,
    p50_us: f64,
    p99_us: f64,
}

fn measure(site: &Site, version: Version, lasting: Duration) -> Outcome<Rate> {
    let to = site.at(version.ports().0);
    let alone = site.among_clients(async || match version {
        Version::One => {
            let mut open = Vec::new();
            for _ in 0..CONNECTIONS {
                open.push(One::open(to).await?);
            }
            times(async |number| open[number % CONNECTIONS].request().await).await
        }
        Version::Two => {
            let mut open = Vec::new();
            for _ in 0..CONNECTIONS {
                open.push(Two::open(to).await?);
            }
            times(async |number| open[number % CONNECTIONS].request().await).await
        }
    })?;
    let (answered, took, cpu) = site.among_clients(async || {
        let answered = Cell::new(0_u64);
        let (before, began) = (site.daemon.cpu_seconds()?, Instant::now());
        let until = began + lasting;
        match version {
            Version::One => {
                let clients = (0..CLIENTS).map(async |_| {
                    let mut client = One::open(to).await?;
                    while Instant::now() < until {
                        client.request().await?;
                        answered.set(answered.get() + 1);
                    }
                    Outcome::Ok(())
                });
                futures_util::future::try_join_all(clients).await?;
            }
            Version::Two => {
                let mut open = Vec::new();
                for _ in 0..CLIENTS / STREAMS {
                    open.push(Two::open(to).await?);
                }
                let clients = (0..CLIENTS).map(async |number| {
                    let mut client = open[number % open.len()].clone();
                    while Instant::now() < until {
                        client.request().await?;
                        answered.set(answered.get() + 1);
                    }
                    Outcome::Ok(())
                });
                futures_util::future::try_join_all(clients).await?;
            }
        }
        let took = began.elapsed().as_secs_f64();
        Ok((answered.get(), took, site.daemon.cpu_seconds()? - before))
    })?;
    Ok(Rate {
        per_second: answered as f64 / took,
        cpu_us: cpu * 1e6 / answered as f64,
        p50_us: quantile(&alone, 0.5),
        p99_us: quantile(&alone, 0.99),
    })
}

/// Microseconds of each.
async fn times(mut request: impl AsyncFnMut(usize) -> Outcome<()>) -> Outcome<Vec<f64>> {
    let mut times = Vec::with_capacity(ALONE);
    for number in 0..ALONE + CONNECTIONS {
        let began = Instant::now();
        request(number).await?;
        // The first of each waits for what the proxy has not open yet.
        if number >= CONNECTIONS {
            times.push(began.elapsed().as_secs_f64() * 1e6);
        }
    }
    Ok(times)
}

fn judge(sites: &[&Site], found: &[Vec<Rate>], version: Version) -> Vec<Row> {
    let name = version.name();
    let many = |what: &str| format!("{what}, {name}, {CLIENTS} under way");
    let alone = |which: &str| format!("a request alone, {name}, {which}");
    let mut rows = compared(sites, found, (many("requests"), rate), |rate| rate.per_second);
    rows.extend(compared(sites, found, (many("CPU time of a request"), rate), |rate| rate.cpu_us));
    rows.extend(compared(sites, found, (alone("p50"), time), |rate| rate.p50_us));
    rows.extend(compared(sites, found, (alone("p99"), time), |rate| rate.p99_us));
    rows
}

/// By `value`, which is said so.
fn compared(
    sites: &[&Site],
    found: &[Vec<Rate>],
    (what, said): (String, fn(&[Rate]) -> String),
    value: fn(&Rate) -> f64,
) -> Vec<Row> {
    let ours = &found[0];
    let row = || Row::new(&what, said(ours));
    if sites.len() == 1 {
        return vec![row()];
    }
    let peers = sites.iter().zip(found).skip(1);
    let beside = peers.map(|(site, theirs)| {
        let [own, peer] = [of(ours, value), of(theirs, value)];
        let floor = format!("{}: {}", site.proxy.name(), said(theirs));
        row().floor(floor, ratio(&own, &peer)).numbers(json!({"ours": own, "peer": peer}))
    });
    beside.collect()
}

fn of(rates: &[Rate], value: fn(&Rate) -> f64) -> Vec<f64> {
    rates.iter().map(value).collect()
}

fn rate(rates: &[Rate]) -> String {
    let [rate, own] = [of(rates, |rate| rate.per_second), of(rates, |rate| rate.cpu_us)];
    format!("{:.0}/s, {:.1} µs of its CPU time each", median(&rate), median(&own))
}

fn time(rates: &[Rate]) -> String {
    let [p50, p99] = [of(rates, |rate| rate.p50_us), of(rates, |rate| rate.p99_us)];
    format!("p50 {:.1} µs, p99 {:.1} µs", median(&p50), median(&p99))
}
