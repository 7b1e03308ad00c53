//! `nft flush ruleset` under a running vipd.
//!
//! In: clusters. Out: seconds from before nft is started until the kernel holds as much as before.
//! Never: a repair judged by the number of elements alone where another set's surplus could hide a
//! lack: every set must have its former count.

use crate::daemon::Daemon;
use crate::generate::{Cluster, Shape};
use crate::manifests::{Format, Manifests};
use crate::nft::Census;
use crate::report::{Row, Verdict};
use crate::stats::{median, quantile};
use crate::world::Namespace;
use crate::{Effort, Outcome, progress};
use serde_json::json;
use std::time::{Duration, Instant};

pub fn run(effort: Effort) -> Outcome<Vec<Row>> {
    const CASES: [(Shape, f64); 2] = [(Shape::new(10_000, 2), 1.0), (Shape::new(100_000, 2), 2.0)];
    let cases = &CASES[..effort.pick(1, 2)];
    cases.iter().map(|&(shape, bar)| repair(shape, bar, effort)).collect()
}

fn repair(shape: Shape, bar: f64, effort: Effort) -> Outcome<Row> {
    progress(&format!("repair: {}", shape.name()));
    let cluster = Cluster::new(shape);
    let manifests = Manifests::write(&cluster, Format::Json, 0)?;
    let namespace = Namespace::new()?;
    let mut census = Census::open(&namespace, "vipd")?;
    let mut daemon = Daemon::start(&namespace, &manifests)?;
    daemon.settled(&mut census, cluster.elements())?;
    let before = census.sets()?;
    let mut seconds = Vec::new();
    for _ in 0..effort.pick(2, 5) {
        let start = Instant::now();
        namespace.nft("flush ruleset\n")?;
        while census.sets()? != before {
            if start.elapsed() > Duration::from_secs(60) {
                return Err(format!("not repaired: {:?}, {before:?} before", census.sets()?).into());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        seconds.push(start.elapsed().as_secs_f64());
        // The flushed elements are still being freed.
        std::thread::sleep(Duration::from_secs(2));
    }
    let slowest = quantile(&seconds, 1.0);
    Ok(Row::new(
        format!("repair after nft flush ruleset at {}", shape.name()),
        format!("{:.2} s (slowest {slowest:.2})", median(&seconds)),
    )
    .bar(format!("≤ {bar} s"), Verdict::at_most(slowest, bar))
    .numbers(json!({"seconds": seconds})))
}
