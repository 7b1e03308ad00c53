//! New connections per second: connect, a byte each way, close.
//!
//! In: sites. Out: how many clients were answered in a second, and what the proxy took for each.
//! Never: one end closing first for one proxy and the other end for another.

use super::{rounds, without_again};
use crate::daemon::cpu_seconds_of;
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
    /// CPU time for each connection: the proxy's, and with that of client and endpoint. What the
    /// kernel does for one of them it does in the name of whoever runs, so that a proxy may save
    /// others work; and the second does not depend on what else the machine does.
    cpu_us: f64,
    all_us: f64,
}

fn measure(site: &Site, first: First, lasting: Duration) -> Outcome<Rate> {
    let (before, own, began) =
        (site.daemon.cpu_seconds()?, cpu_seconds_of("self")?, Instant::now());
    let opened = site.among_clients(async || {
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
    let all = cpu + cpu_seconds_of("self")? - own;
    let each = |seconds: f64| seconds * 1e6 / opened as f64;
    Ok(Rate { per_second: opened as f64 / took, cpu_us: each(cpu), all_us: each(all) })
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
    let of = |rates: &[Rate], value: fn(&Rate) -> f64| rates.iter().map(value).collect::<Vec<_>>();
    let who = match first {
        First::Client => "client",
        First::Endpoint => "endpoint",
    };
    let said = |rates: &[Rate]| {
        let [rate, own] = [of(rates, |r| r.per_second), of(rates, |r| r.cpu_us)];
        format!("{:.0}/s, {:.0} µs of its CPU time each", median(&rate), median(&own))
    };
    let all = |rates: &[Rate]| format!("{:.0} µs", median(&of(rates, |rate| rate.all_us)));
    let ours = &found[0];
    let what = format!("new connections, a byte each way, the {who} closes first");
    let mut rows = vec![Row::new(&what, said(ours))];
    if sites.len() > 1 {
        rows.clear();
    }
    for (site, theirs) in sites.iter().zip(found).skip(1) {
        let name = site.proxy.name();
        let numbers =
            |value: fn(&Rate) -> f64| json!({"ours": of(ours, value), "peer": of(theirs, value)});
        let per_second: fn(&Rate) -> f64 = |rate| rate.per_second;
        let row = Row::new(&what, said(ours))
            .floor(
                format!("{name}: {}", said(theirs)),
                ratio(&of(ours, per_second), &of(theirs, per_second)),
            )
            .numbers(numbers(per_second));
        rows.push(if site.is_bar() { row.ratio_bar_at_least(1.15) } else { row });
        let all_us: fn(&Rate) -> f64 = |rate| rate.all_us;
        rows.push(
            Row::new(
                format!("CPU time of client, proxy and endpoint for it, the {who} closes first"),
                all(ours),
            )
            .floor(
                format!("{name}: {}", all(theirs)),
                ratio(&of(ours, all_us), &of(theirs, all_us)),
            )
            .numbers(numbers(all_us)),
        );
    }
    rows
}
