//! Full load into the kernel, beside the bare writer's.
//!
//! In: shapes. Out: seconds of both, round by round, and the bare writer's one-change latency.
//! Never: one side measured after the other instead of in turn with it.

use crate::generate::{Cluster, Shape};
use crate::report::Row;
use crate::stats::{median, quantile};
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
        rows.push(load(shape, effort)?);
    }
    for services in [1_000, 100_000] {
        let shape = Shape::new(services, 2);
        progress(&format!("bare one-change latency at {}", shape.name()));
        rows.extend(one_change(shape)?);
    }
    Ok(rows)
}

fn load(shape: Shape, effort: Effort) -> Outcome<Row> {
    let cluster = Cluster::new(shape);
    let rounds = effort.pick(3, 5);
    let mut floors = Vec::new();
    for _ in 0..rounds {
        let mut writer = floor::Writer::new()?;
        floors.push(writer.load(&cluster)?);
        let held = writer.held()?;
        if held != cluster.elements() {
            return Err(format!("{} elements written, {held} held", cluster.elements()).into());
        }
        drop(writer);
        settle(&cluster);
    }
    let seconds = median(&floors);
    Ok(Row::new(
        format!("bare writer, full load {} ({} elements)", shape.name(), cluster.elements()),
        format!("{:.1} ms", seconds * 1e3),
    )
    .numbers(json!({"floor_seconds": floors, "elements": cluster.elements()})))
}

/// The kernel frees a namespace's elements behind our back: the next round must not pay for it.
fn settle(cluster: &Cluster) {
    std::thread::sleep(Duration::from_micros(100_000 + 2 * cluster.elements()));
}

fn one_change(shape: Shape) -> Outcome<Vec<Row>> {
    let cluster = Cluster::new(shape);
    let mut writer = floor::Writer::new()?;
    writer.load(&cluster)?;
    let runs = [
        ("add one element, back to back", writer.add_one(2_000, Duration::ZERO)?),
        ("add one element, 10 ms apart", writer.add_one(200, Duration::from_millis(10))?),
        ("replace one endpoint, back to back", writer.replace_one(&cluster, 2_000)?),
    ];
    Ok(runs
        .into_iter()
        .map(|(what, times)| {
            let (p50, p99) = (median(&times), quantile(&times, 0.99));
            Row::new(
                format!("bare writer at {}: {what}, p50 / p99", shape.name()),
                format!("{p50:.1} / {p99:.1} µs"),
            )
            .numbers(json!({"p50_us": p50, "p99_us": p99}))
        })
        .collect())
}
