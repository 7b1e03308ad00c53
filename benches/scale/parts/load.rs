//! Full load into the kernel: vipd's dataplane in turn with the bare writer.
//!
//! In: shapes. Out: seconds of both, round by round, and their ratio.
//! Never: a ratio of two runs that did not share the same minute.

use crate::generate::{Cluster, Shape, Spread};
use crate::nft::Census;
use crate::report::Row;
use crate::rooms::Rooms;
use crate::stats::{median, ratio};
use crate::{Effort, Outcome, floor, progress};
use serde_json::json;
use std::time::Duration;

pub fn run(effort: Effort) -> Outcome<Vec<Row>> {
    let shapes: &[Shape] = match effort {
        Effort::Quick => &[Shape::new(1_000, 10), Shape::new(10_000, 2)],
        Effort::Full => &[
            Shape::new(1_000, 10),
            Shape::new(10_000, 2),
            Shape::new(10_000, 10),
            Shape::new(100_000, 2),
            Shape::MIXED,
        ],
    };
    let mut rows = Vec::new();
    for &shape in shapes {
        progress(&format!("load {}", shape.name()));
        rows.extend(load(shape, effort)?);
    }
    Ok(rows)
}

/// Seconds of the bare writer, in a namespace of its own.
fn bare(cluster: &Cluster, declared: floor::Declared) -> Outcome<f64> {
    let elements = cluster.elements();
    let mut writer = floor::Writer::new(declared)?;
    let seconds = writer.load(cluster)?;
    if writer.held()? != elements {
        return Err(format!("{elements} elements written, {} held", writer.held()?).into());
    }
    drop(writer);
    settle(elements);
    Ok(seconds)
}

fn load(shape: Shape, effort: Effort) -> Outcome<[Row; 2]> {
    let cluster = Cluster::new(shape);
    let elements = cluster.elements();
    let rounds = effort.pick(5, if elements > 200_000 { 9 } else { 15 });
    let (mut floors, mut sized, mut ours) = (Vec::new(), Vec::new(), Vec::new());
    let mut held = 0;
    let mut rooms = Rooms::new(&cluster)?;
    for _ in 0..rounds {
        floors.push(bare(&cluster, floor::Declared::Growing)?);
        sized.push(bare(&cluster, floor::Declared::sized(&cluster))?);
        let (seconds, _) = rooms.load()?;
        ours.push(seconds);
        held = Census::open(&rooms.namespace, "vipd")?.total()?;
        rooms.leave()?;
        settle(2 * elements);
    }
    let bar = match shape {
        Shape { endpoints: Spread::Mixed, .. } => Some(2.5),
        Shape { services: 10_000 | 100_000, endpoints: Spread::Each(2) } => Some(1.8),
        _ => None,
    };
    let row = |writer: &str, floor: &[f64]| {
        Row::new(
            format!("full load {}", shape.name()),
            format!("{:.1} ms, {held} elements", median(&ours) * 1e3),
        )
        .floor(
            format!("{writer}: {:.1} ms, {elements} elements", median(floor) * 1e3),
            ratio(&ours, floor),
        )
        .numbers(json!({"seconds": ours, "floor_seconds": floor, "elements": held}))
    };
    let growing = row("bare writer", &floors);
    let growing = match bar {
        Some(bar) => growing.ratio_bar(bar),
        None => growing,
    };
    Ok([growing, row("bare writer, maps declared with `size`", &sized)])
}

/// The kernel frees a namespace's elements behind our back: the next round must not pay for it.
fn settle(elements: u64) {
    std::thread::sleep(Duration::from_micros(100_000 + 2 * elements));
}
