//! What idle connections take.
//!
//! In: sites, one after the other, before any other traffic. Out: resident memory of the proxy with
//! what its sockets and pipes hold.
//! Never: a connection that has not passed a byte each way.

use super::without_again;
use crate::process::Held;
use crate::report::{Row, Verdict};
use crate::sites::Site;
use crate::traffic::ECHO;
use crate::{Effort, Outcome, progress};
use serde_json::json;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// As many as a file limit of 20,000 lets client, endpoint and proxy have.
const CONNECTIONS: usize = 7_500;
const REST: Duration = Duration::from_secs(2);

pub fn run(sites: &[Site], effort: Effort) -> Outcome<Vec<Row>> {
    let connections = effort.pick(1_000, CONNECTIONS);
    let mut found = Vec::new();
    for site in without_again(sites) {
        progress(&format!("idle: {}", site.proxy.name()));
        found.push((site, measure(site, connections)?));
    }
    let said = |(before, with): &(Held, Held)| {
        format!(
            "{:.1} MB (resident {:.1}, proportional {:.1}; sockets {:.2}, pipes {:.2}; before them {:.1})",
            mb(with.all()),
            mb(with.resident),
            mb(with.proportional),
            mb(with.sockets),
            mb(with.pipes),
            mb(before.all())
        )
    };
    let (_, ours) = &found[0];
    let row = Row::new(format!("memory with {connections} idle connections"), said(ours));
    let mut rows: Vec<Row> = Vec::new();
    for (site, theirs) in &found[1..] {
        let floor = format!("{}: {}", site.proxy.name(), said(theirs));
        let (our, their) = (ours.1.all() as f64, theirs.1.all() as f64);
        let numbers = json!({"bytes": our, "peer_bytes": their});
        let row = Row { floor, ..row.clone() }.numbers(numbers);
        let ratio = our / their;
        rows.push(if site.is_bar() && effort == Effort::Full {
            row.bar(format!("≤ 1.0× (it is {ratio:.2}×)"), Verdict::at_most(ratio, 1.0))
        } else {
            row
        });
    }
    Ok(if rows.is_empty() { vec![row] } else { rows })
}

fn mb(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// Before them, and with them.
fn measure(site: &Site, connections: usize) -> Outcome<(Held, Held)> {
    let before = Held::of(site)?;
    let open = site.client.run(|| {
        let mut open = Vec::with_capacity(connections);
        for _ in 0..connections {
            let mut stream = TcpStream::connect(site.to)?;
            stream.write_all(&[ECHO])?;
            stream.read_exact(&mut [0])?;
            open.push(stream);
        }
        Ok(open)
    })?;
    std::thread::sleep(REST);
    let with = Held::of(site)?;
    drop(open);
    std::thread::sleep(REST);
    Ok((before, with))
}
