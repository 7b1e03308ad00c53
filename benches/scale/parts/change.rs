//! One change: how long its commit takes, and whether its cost grows with the cluster.
//!
//! In: clusters of 1,000 and 100,000 services. Out: latencies, CPU time, bytes allocated, netlink
//! traffic, in turn at both sizes; beside them the bare writer's change of one endpoint.
//! Never: changes that are all alike: each renumbers an endpoint of another service.

use crate::generate::{Cluster, Shape};
use crate::report::{Row, Verdict};
use crate::rooms::{Rooms, text_of};
use crate::stats::{Estimate, Rng, median, quantile, ratio};
use crate::{Effort, Outcome, alloc, floor, progress};
use rustix::time::{ClockId, clock_gettime};
use serde_json::json;
use std::time::Duration;
use vipd::dataplane::Applied;

const SMALL: Shape = Shape::new(1_000, 2);

/// Changes in a row at one size before it is the other's turn.
const BLOCK: usize = 100;

pub fn run(effort: Effort) -> Outcome<Vec<Row>> {
    let large = effort.pick(Shape::new(10_000, 2), Shape::new(100_000, 2));
    progress(&format!("change: loading {} and {}", SMALL.name(), large.name()));
    let mut subject = Subject::new(large)?;
    let mut rows = floors(large, &subject.cluster)?;
    rows.extend(latency(large, &mut subject)?);
    rows.extend(growth(large, &mut subject, effort)?);
    Ok(rows)
}

/// A loaded cluster and a stream of changes to it.
struct Subject {
    cluster: Cluster,
    rooms: Rooms,
    rng: Rng,
}

impl Subject {
    fn new(shape: Shape) -> Outcome<Self> {
        let cluster = Cluster::new(shape);
        let mut rooms = Rooms::new(&cluster)?;
        rooms.load()?;
        Ok(Self { cluster, rooms, rng: Rng::new(5) })
    }

    /// The text of a service whose first endpoint has a new address.
    fn next(&mut self) -> String {
        let service = self.rng.below(self.cluster.services.len());
        self.cluster.renumber(service);
        text_of(&self.cluster.services[service])
    }
}

fn floors(shape: Shape, cluster: &Cluster) -> Outcome<Vec<Row>> {
    let mut writer = floor::Writer::new(floor::Declared::Growing)?;
    writer.load(cluster)?;
    let pause = Duration::from_millis(10);
    let runs = [
        ("add one element, back to back", writer.add_one(2_000, Duration::ZERO)?),
        ("add one element, 10 ms apart", writer.add_one(200, pause)?),
        ("replace one endpoint, back to back", writer.replace_one(cluster, 2_000, Duration::ZERO)?),
        ("replace one endpoint, 10 ms apart", writer.replace_one(cluster, 200, pause)?),
    ];
    let row = |(what, times): (&str, Vec<f64>)| {
        let (p50, p99) = (median(&times), quantile(&times, 0.99));
        let what = format!("bare writer at {}: {what}, p50 / p99", shape.name());
        Row::new(what, format!("{p50:.1} / {p99:.1} µs"))
            .numbers(json!({"p50_us": p50, "p99_us": p99}))
    };
    Ok(runs.into_iter().map(row).collect())
}

fn latency(shape: Shape, subject: &mut Subject) -> Outcome<Vec<Row>> {
    let mut rows = Vec::new();
    let paces =
        [("back to back", 5_000, Duration::ZERO), ("10 ms apart", 500, Duration::from_millis(10))];
    for (pace, count, pause) in paces {
        progress(&format!("change: {count} at {}, {pace}", shape.name()));
        let (mut think, mut commit) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let text = subject.next();
            if !pause.is_zero() {
                std::thread::sleep(pause);
            }
            let step = subject.rooms.change(&text)?;
            think.push(step.decode_us + step.think_us);
            commit.push(step.commit_us);
        }
        let (p50, p99) = (median(&commit), quantile(&commit, 0.99));
        rows.push(
            Row::new(
                format!("one change at {}, {pace}: commit p50 / p99", shape.name()),
                format!(
                    "{p50:.1} / {p99:.1} µs (decode, store and plan before it: {:.1} µs)",
                    median(&think)
                ),
            )
            .bar("p50 ≤ 100 µs", Verdict::at_most(p50, 100.0))
            .numbers(json!({"commit_p50_us": p50, "commit_p99_us": p99,
                            "think_p50_us": median(&think)})),
        );
    }
    Ok(rows)
}

/// What a block of changes cost.
#[derive(Debug, Clone, Copy, Default)]
struct Cost {
    cpu_seconds: f64,
    allocated: f64,
    applied: Applied,
}

fn block(subject: &mut Subject) -> Outcome<Cost> {
    let texts: Vec<String> = (0..BLOCK).map(|_| subject.next()).collect();
    let mut applied = Applied::default();
    let (cpu, allocated) = (cpu_seconds(), alloc::bytes());
    for text in &texts {
        applied += subject.rooms.change(text)?.applied;
    }
    Ok(Cost {
        cpu_seconds: cpu_seconds() - cpu,
        allocated: (alloc::bytes() - allocated) as f64,
        applied,
    })
}

fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

fn growth(shape: Shape, large: &mut Subject, effort: Effort) -> Outcome<Vec<Row>> {
    let changes: usize = effort.pick(2_000, 10_000);
    progress(&format!("change: {changes} at {} and {} in turn", SMALL.name(), shape.name()));
    let mut small = Subject::new(SMALL)?;
    let (mut at_small, mut at_large) = (Vec::new(), Vec::new());
    for _ in 0..changes / BLOCK {
        at_small.push(block(&mut small)?);
        at_large.push(block(large)?);
    }
    let sizes = format!("{changes} changes, {} against {}", shape.name(), SMALL.name());
    let per_change = |costs: &[Cost], of: fn(&Cost) -> f64| -> Vec<f64> {
        costs.iter().map(|cost| of(cost) / BLOCK as f64).collect()
    };
    let compare = |what: &str, unit: &str, of: fn(&Cost) -> f64| {
        let (small, large) = (per_change(&at_small, of), per_change(&at_large, of));
        Row::new(format!("{what} per change ({sizes})"), format!("{:.1} {unit}", median(&large)))
            .floor(format!("{:.1} {unit}", median(&small)), ratio(&large, &small))
            .numbers(json!({"large": large, "small": small}))
    };
    let total = |costs: &[Cost]| {
        costs.iter().fold(Applied::default(), |mut sum, cost| {
            sum += cost.applied;
            sum
        })
    };
    let (small, large) = (total(&at_small), total(&at_large));
    let exact = |of: fn(&Applied) -> u64| {
        let ratio = of(&large) as f64 / of(&small) as f64;
        Estimate { median: ratio, low: ratio, high: ratio, rounds: 1 }
    };
    let netlink = |what: &str, of: fn(&Applied) -> u64| {
        let equal = if of(&large) == of(&small) { Verdict::Met } else { Verdict::Missed };
        Row::new(format!("{what} ({sizes})"), of(&large).to_string())
            .floor(of(&small).to_string(), exact(of))
            .bar("equal", equal)
            .numbers(json!({"large": of(&large), "small": of(&small)}))
    };
    Ok(vec![
        compare("CPU time", "µs", |cost| cost.cpu_seconds * 1e6).ratio_bar(1.3),
        compare("bytes allocated", "B", |cost| cost.allocated).ratio_bar(1.3),
        netlink("netlink messages", |applied| applied.messages),
        netlink("netlink bytes", |applied| applied.bytes),
    ])
}
