//! How long a byte takes there and back over connections that are open.
//!
//! In: sites. Out: p50 and p99 of every round. Two equal ones are among them, on paths of their own:
//! what they differ by says what a ratio is worth.
//! Never: a figure of one connection alone: it may be on the processor of its peers, or on another.

use super::rounds;
use crate::report::Row;
use crate::sites::{Proxy, Site};
use crate::stats::{median, quantile, ratio};
use crate::traffic::ECHO;
use crate::{Effort, Outcome};
use serde_json::json;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Instant;

/// Open at a time; they take turns.
const CONNECTIONS: usize = 16;

pub fn run(sites: &[Site], effort: Effort) -> Outcome<Vec<Row>> {
    let sites: Vec<&Site> = sites.iter().collect();
    let (times, requests) = effort.pick((5, 1_000), (40, 2_500));
    let found = rounds(&sites, times, |site| site.client.run(|| measure(site, requests)))?;
    let of =
        |at: usize, q: f64| found[at].iter().map(|times| quantile(times, q)).collect::<Vec<_>>();
    let mut rows = Vec::new();
    let bar = sites.iter().position(|site| site.proxy == Proxy::Haproxy);
    for (at, site) in sites.iter().enumerate() {
        let Some(bar) = bar.filter(|&bar| bar != at) else { continue };
        for (name, q) in [("p50", 0.5), ("p99", 0.99)] {
            let (ours, theirs) = (of(at, q), of(bar, q));
            let floor = format!("{}: {:.1} µs", sites[bar].proxy.name(), median(&theirs));
            let row = Row::new(
                format!("a byte there and back, {name}, {}", site.proxy.name()),
                format!("{:.1} µs", median(&ours)),
            )
            .floor(floor, ratio(&ours, &theirs))
            .numbers(json!({"us": ours, "peer_us": theirs}));
            let has_bar = site.proxy == Proxy::Vipd && name == "p99";
            rows.push(if has_bar { row.ratio_bar(1.05) } else { row });
        }
    }
    if bar.is_none() {
        let said = format!("{:.1} / {:.1} µs", median(&of(0, 0.5)), median(&of(0, 0.99)));
        rows.push(Row::new("a byte there and back, p50 / p99, vipd", said));
    }
    Ok(rows)
}

/// Microseconds of each.
fn measure(site: &Site, requests: usize) -> Outcome<Vec<f64>> {
    let mut open = Vec::new();
    for _ in 0..CONNECTIONS {
        let stream = TcpStream::connect(site.to)?;
        stream.set_nodelay(true)?;
        open.push(stream);
    }
    let mut times = Vec::with_capacity(requests);
    let mut answer = [0];
    for number in 0..requests + CONNECTIONS {
        let stream = &mut open[number % CONNECTIONS];
        let began = Instant::now();
        stream.write_all(&[ECHO])?;
        stream.read_exact(&mut answer)?;
        // The first of each waits for the proxy's connection to the endpoint.
        if number >= CONNECTIONS {
            times.push(began.elapsed().as_secs_f64() * 1e6);
        }
    }
    Ok(times)
}
