//! How long connect() takes through each proxy's rules, beside a path without any.
//!
//! In: sites whose proxies have ended and left their rules. Out: microseconds, and ratios.
//! Never: more than one word on a few per cent: two equal paths differ by so much here, which the
//! second path without rules shows. (`scale -- connect` compares rule sets on one path.)

use crate::connect::{self, Course, Path, SERVER_PORT, SERVERS, Server, Variant};
use crate::generate::Cluster;
use crate::report::Row;
use crate::sites::{Site, frontend};
use crate::stats::{median, ratio};
use crate::{Effort, Outcome, progress};
use serde_json::json;
use std::net::SocketAddrV4;

pub fn run(cluster: &Cluster, sites: Vec<Site>, effort: Effort) -> Outcome<Vec<Row>> {
    // A target: it leads to somebody. No endpoint is at the plain address.
    let service = frontend(&cluster.services[0]);
    let plain = SocketAddrV4::new(SERVERS[2], SERVER_PORT);
    let course = |path: Path, variants: &[(&str, SocketAddrV4)]| Course {
        path,
        tables: Vec::new(),
        variants: variants
            .iter()
            .map(|&(name, to)| Variant { name: name.to_owned(), table: None, to })
            .collect(),
    };
    let direct = ("direct, no rules", plain);
    let mut courses = vec![course(Path::new()?, &[direct]), course(Path::new()?, &[direct])];
    let mut names = Vec::new();
    for site in sites {
        names.push(site.peer.name());
        // As a crash would: both leave their rules.
        site.resume()?;
        site.daemon.kill()?;
        courses.push(course(site.path, &[("to a service", service), ("past it", plain)]));
    }
    let amount = effort.pick((10, 500), (40, 1_000));
    progress(&format!("latency: {} rounds", amount.0));
    let found = connect::measure(&courses, amount, Server::Accepting)?;
    let direct = &found[0][0];
    let row = |what: String, p50s: &[f64], (floor, theirs): (&str, &[f64])| {
        Row::new(format!("connect p50: {what}"), format!("{:.2} µs", median(p50s)))
            .floor(format!("{floor}: {:.2} µs", median(theirs)), ratio(p50s, theirs))
            .numbers(json!({"p50_us": p50s, "floor_p50_us": theirs}))
    };
    let reference = ("direct, no rules", direct.as_slice());
    let mut rows = vec![row("direct, another path (A/A)".into(), &found[1][0], reference)];
    for (name, found) in names.iter().zip(&found[2..]) {
        rows.push(row(format!("{name}, to a service"), &found[0], reference));
        rows.push(row(format!("{name}, to a plain address"), &found[1], reference));
    }
    if let [ours, theirs, ..] = &found[2..] {
        let what = format!("{}, to a service", names[0]);
        rows.push(row(what, &ours[0], (names[1], &theirs[0])));
    }
    Ok(rows)
}
