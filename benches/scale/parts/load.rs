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
    shapes
        .iter()
        .map(|&shape| {
            progress(&format!("load {}", shape.name()));
            load(shape, effort)
        })
        .collect()
}

fn load(shape: Shape, effort: Effort) -> Outcome<Row> {
    let cluster = Cluster::new(shape);
    let elements = cluster.elements();
    let rounds = effort.pick(5, if elements > 200_000 { 9 } else { 15 });
    let (mut floors, mut ours) = (Vec::new(), Vec::new());
    let mut held = 0;
    let mut rooms = Rooms::new(&cluster)?;
    for _ in 0..rounds {
        let mut writer = floor::Writer::new()?;
        floors.push(writer.load(&cluster)?);
        if writer.held()? != elements {
            return Err(format!("{elements} elements written, {} held", writer.held()?).into());
        }
        drop(writer);
        settle(elements);

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
    let row = Row::new(
        format!("full load {}", shape.name()),
        format!("{:.1} ms, {held} elements", median(&ours) * 1e3),
    )
    .floor(
        format!("bare writer: {:.1} ms, {elements} elements", median(&floors) * 1e3),
        ratio(&ours, &floors),
    )
    .numbers(json!({"seconds": ours, "floor_seconds": floors, "elements": held}));
    Ok(match bar {
        Some(bar) => row.ratio_bar(bar),
        None => row,
    })
}

/// The kernel frees a namespace's elements behind our back: the next round must not pay for it.
fn settle(elements: u64) {
    std::thread::sleep(Duration::from_micros(100_000 + 2 * elements));
}
