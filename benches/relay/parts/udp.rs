//! Datagrams there and back, by the relay and by the kernel's translation.
//!
//! In: vipd's site. Out: datagrams per second each way, and what vipd takes for them.
//! Never: a bar: HAProxy does not relay UDP, and what passes in the kernel costs no process.

use super::vipd;
use crate::report::Row;
use crate::sites::Site;
use crate::stats::{median, ratio};
use crate::{Effort, Outcome};
use serde_json::json;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};
use tokio::net::UdpSocket;

/// What one client, of few and of many, has under way.
const WINDOW: usize = 16;
const FEW: usize = 1;
const MANY: usize = 16;
/// As in a bulk transfer over QUIC: one client with much under way.
const BULK: usize = 128;

/// Bytes of a datagram, clients, and what each has under way.
type Flow = (usize, usize, usize);

/// Talk, DNS, bulk.
const FLOWS: [Flow; 8] = [
    (64, FEW, 1),
    (64, FEW, WINDOW),
    (64, MANY, WINDOW),
    (512, FEW, WINDOW),
    (512, MANY, WINDOW),
    (1_400, FEW, WINDOW),
    (1_400, MANY, WINDOW),
    (1_400, FEW, BULK),
];

pub fn run(sites: &[Site], effort: Effort) -> Outcome<Vec<Row>> {
    let site = vipd(sites)?;
    let (times, lasting) = effort.pick((2, 300), (5, 700));
    let lasting = Duration::from_millis(lasting);
    let mut rows = Vec::new();
    for (size, clients, window) in FLOWS {
        let (mut relayed, mut kernel, mut cpu) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..=times {
            let before = site.daemon.cpu_seconds()?;
            let flow = (size, clients, window);
            let (answers, rate) = measure(site, site.to, flow, lasting)?;
            let spent = site.daemon.cpu_seconds()? - before;
            let (_, floor) = measure(site, site.kernel(), flow, lasting)?;
            if round > 0 {
                relayed.push(rate);
                kernel.push(floor);
                // Each is passed on twice.
                cpu.push(spent * 1e6 / (2 * answers) as f64);
            }
        }
        let per_gb = median(&cpu) / 1e6 * 1e9 / size as f64;
        let said = format!(
            "{:.0}/s there and back; {:.2} µs of its CPU time for each that it passes on ({per_gb:.1} s per GB)",
            median(&relayed),
            median(&cpu),
        );
        let floor = format!("the kernel's translation: {:.0}/s", median(&kernel));
        rows.push(
            Row::new(format!("datagrams of {size} bytes, {clients} with {window} under way"), said)
                .floor(floor, ratio(&relayed, &kernel))
                .numbers(
                    json!({"per_second": relayed, "kernel_per_second": kernel, "cpu_us": cpu}),
                ),
        );
    }
    Ok(rows)
}

/// How many came back, and how many in a second.
fn measure(site: &Site, to: SocketAddr, flow: Flow, lasting: Duration) -> Outcome<(u64, f64)> {
    let (size, clients, window) = flow;
    let began = Instant::now();
    let answers = site.among_clients(async || {
        let until = tokio::time::Instant::now() + lasting;
        let clients = (0..clients).map(|_| client((to, size, window), until));
        Ok(futures_util::future::try_join_all(clients).await?.into_iter().sum::<u64>())
    })?;
    if answers == 0 {
        return Err(format!("{to} answers no datagram").into());
    }
    Ok((answers, answers as f64 / began.elapsed().as_secs_f64()))
}

/// Sends one for each that comes; what is lost is made up for after a while of silence.
async fn client(
    (to, size, window): (SocketAddr, usize, usize),
    until: tokio::time::Instant,
) -> Outcome<u64> {
    const SILENCE: Duration = Duration::from_millis(50);
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
    socket.connect(to).await?;
    let (datagram, mut buffer, mut answers) = (vec![0; size], vec![0; size], 0);
    while tokio::time::Instant::now() < until {
        for _ in 0..window {
            let _ = socket.try_send(&datagram);
        }
        while tokio::time::Instant::now() < until {
            let Ok(received) = tokio::time::timeout(SILENCE, socket.recv(&mut buffer)).await else {
                break;
            };
            received?;
            answers += 1;
            socket.send(&datagram).await?;
        }
    }
    Ok(answers)
}
