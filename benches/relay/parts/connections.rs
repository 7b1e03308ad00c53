//! New connections per second: connect, a byte each way, close.
//!
//! In: sites. Out: how many clients were answered in a second, and what the proxy took for each.
//! Never: one end closing first for one proxy and the other end for another.

use super::{rounds, without_again};
use crate::report::Row;
use crate::sites::Site;
use crate::stats::{median, ratio};
use crate::traffic::{ECHO, ONCE};
use crate::{Effort, Outcome, progress};
use serde_json::json;
use std::cell::Cell;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Clients that connect at the same time, one connection after the other.
const CLIENTS: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum First {
    Client,
    Endpoint,
}

pub fn run(sites: &[Site], effort: Effort) -> Outcome<Vec<Row>> {
    let sites = without_again(sites);
    let (times, lasting) = effort.pick((3, 500), (9, 1_000));
    let mut rows = Vec::new();
    for first in [First::Client, First::Endpoint] {
        progress(&format!("connections: {first:?} closes first, {times} rounds"));
        let found =
            rounds(&sites, times, |site| measure(site, first, Duration::from_millis(lasting)))?;
        rows.extend(judge(&sites, &found, first));
    }
    Ok(rows)
}

struct Rate {
    per_second: f64,
    cpu_us: f64,
}

fn measure(site: &Site, first: First, lasting: Duration) -> Outcome<Rate> {
    let (before, began) = (site.daemon.cpu_seconds()?, Instant::now());
    let opened = site.from_client(async || {
        let until = Instant::now() + lasting;
        let opened = Cell::new(0_u64);
        let clients = (0..CLIENTS).map(async |_| {
            while Instant::now() < until {
                connection(site.to, first).await?;
                opened.set(opened.get() + 1);
            }
            std::io::Result::Ok(())
        });
        futures_util::future::try_join_all(clients).await?;
        Ok(opened.get())
    })?;
    let took = began.elapsed().as_secs_f64();
    let cpu = site.daemon.cpu_seconds()? - before;
    Ok(Rate { per_second: opened as f64 / took, cpu_us: cpu * 1e6 / opened as f64 })
}

/// One, from SYN to the end of the client's part.
pub async fn connection(to: SocketAddr, first: First) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(to).await?;
    let (request, mut answer) = match first {
        First::Client => (ECHO, [0]),
        First::Endpoint => (ONCE, [0]),
    };
    stream.write_all(&[request]).await?;
    stream.read_exact(&mut answer).await?;
    if first == First::Endpoint && stream.read(&mut answer).await? != 0 {
        return Err(std::io::Error::other("the endpoint said more than it was asked"));
    }
    Ok(())
}

fn judge(sites: &[&Site], found: &[Vec<Rate>], first: First) -> Vec<Row> {
    let of = |rates: &[Rate]| rates.iter().map(|rate| rate.per_second).collect::<Vec<_>>();
    let cpu = |rates: &[Rate]| median(&rates.iter().map(|rate| rate.cpu_us).collect::<Vec<_>>());
    let ours = of(&found[0]);
    let who = match first {
        First::Client => "client",
        First::Endpoint => "endpoint",
    };
    let said = |per_second: &[f64], rates| {
        format!("{:.0}/s, {:.0} µs of its CPU time each", median(per_second), cpu(rates))
    };
    let row = Row::new(
        format!("new connections, a byte each way, the {who} closes first"),
        said(&ours, &found[0]),
    );
    let peers = sites.iter().zip(found).skip(1).map(|(site, rates)| {
        let theirs = of(rates);
        let floor = format!("{}: {}", site.proxy.name(), said(&theirs, rates));
        let numbers = json!({"per_second": ours, "peer_per_second": theirs,
            "cpu_us": cpu(&found[0]), "peer_cpu_us": cpu(rates)});
        let row = row.clone().floor(floor, ratio(&ours, &theirs)).numbers(numbers);
        if site.is_bar() { row.ratio_bar_at_least(1.15) } else { row }
    });
    let peers: Vec<Row> = peers.collect();
    if peers.is_empty() { vec![row] } else { peers }
}
