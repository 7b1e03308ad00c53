//! From the rename of a manifest to the commit that carries it, in a running `vipd run`.
//!
//! In: changes of services that have a file each, one at a time and 100 a second. Out: latencies as
//! a subscriber of nf_tables' notifications sees them, and the daemon's CPU time.
//! Never: a change counted by another one's commit: each brings an address of its own.

use crate::daemon::Daemon;
use crate::generate::{Cluster, Shape};
use crate::manifests::{Format, Manifests};
use crate::nft::Census;
use crate::report::{Row, Verdict};
use crate::stats::{median, quantile};
use crate::watch::Watcher;
use crate::world::Namespace;
use crate::{Effort, Outcome, floor, progress};
use rustix::fs::inotify;
use serde_json::json;
use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

const SINGLES: usize = 1_000;
/// Longer than vipd puts off what may wait, so that no commit is in flight.
const REST: Duration = Duration::from_millis(75);
const INTERVAL: Duration = Duration::from_millis(10);
const PATIENCE: Duration = Duration::from_secs(5);

pub fn run(effort: Effort) -> Outcome<Vec<Row>> {
    let large = effort.pick(Shape::new(10_000, 2), Shape::new(100_000, 2));
    let (at_rest, under_load) = effort.pick((100, 300), (400, 2_000));
    let mut rows = Vec::new();
    let mut cpu = Vec::new();
    rows.push(echo(at_rest)?);
    for shape in [Shape::new(1_000, 2), large] {
        let mut subject = Subject::new(shape)?;
        progress(&format!("event: {at_rest} changes at rest at {}", shape.name()));
        let rest = subject.at_rest(at_rest)?;
        rows.push(row(shape, "at rest", &rest));
        progress(&format!("event: {under_load} changes, 100 a second, at {}", shape.name()));
        let before = subject.daemon.cpu_seconds()?;
        let loaded = subject.under_load(under_load)?;
        let spent = subject.daemon.cpu_seconds()? - before;
        cpu.push(spent / f64::from(under_load) * 1e6);
        rows.push(row(shape, "under 100 changes/s", &loaded));
    }
    let [small, large_cpu] = cpu[..] else { return Ok(rows) };
    rows.push(
        Row::new(
            format!("vipd run's CPU time per change under 100 changes/s, {}", large.name()),
            format!("{large_cpu:.0} µs ({small:.0} µs at 1k×2)"),
        )
        .numbers(json!({"large_us": large_cpu, "small_us": small})),
    );
    Ok(rows)
}

/// What the way there and back costs whoever goes it: a thread that waits for the rename and writes
/// one element, and the same subscriber.
fn echo(count: u32) -> Outcome<Row> {
    progress(&format!("event: {count} changes at rest, bare"));
    let mut writer = floor::Writer::new(floor::Declared::Growing)?;
    let watcher = Watcher::start(&writer.namespace)?;
    let directory = tempfile::Builder::new().prefix("vipd-bench-").tempdir()?;
    let watched = directory.path().join("watched");
    std::fs::create_dir(&watched)?;
    let events = inotify::init(inotify::CreateFlags::CLOEXEC)?;
    inotify::add_watch(&events, &watched, inotify::WatchFlags::MOVED_TO)?;
    let follow = move || -> Outcome<()> {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(events, &mut buffer);
        for _ in 0..count {
            let event = reader.next()?;
            let name = event.file_name().ok_or("an event without a name")?;
            writer.bring(name.to_str()?.parse()?)?;
        }
        Ok(())
    };
    let mut cluster = Cluster::new(Shape::new(1, 1));
    // Not scoped: if a change is lost, nobody must wait for the follower, who waits for ever.
    let follower = std::thread::spawn(follow);
    let mut milliseconds = Vec::new();
    for _ in 0..count {
        std::thread::sleep(REST);
        let address = cluster.fresh();
        let staged = directory.path().join("staged");
        std::fs::write(&staged, "")?;
        let start = Instant::now();
        std::fs::rename(&staged, watched.join(address.to_string()))?;
        let seen = watcher.until(address, PATIENCE)?;
        milliseconds.push((seen - start).as_secs_f64() * 1e3);
    }
    follower.join().unwrap_or_else(|_| Err("the follower panicked".into()))?;
    let (p50, p99) = (median(&milliseconds), quantile(&milliseconds, 0.99));
    Ok(Row::new(
        format!("bare inotify loop and writer: rename → commit at rest, p50 / p99 (n={count})"),
        format!("{p50:.2} / {p99:.2} ms"),
    )
    .numbers(json!({"p50_ms": p50, "p99_ms": p99, "samples_ms": milliseconds})))
}

fn row(shape: Shape, how: &str, milliseconds: &[f64]) -> Row {
    let (p50, p99) = (median(milliseconds), quantile(milliseconds, 0.99));
    let row = Row::new(
        format!("rename → commit at {}, {how}, p50 / p99 (n={})", shape.name(), milliseconds.len()),
        format!("{p50:.2} / {p99:.2} ms"),
    )
    .numbers(json!({"p50_ms": p50, "p99_ms": p99, "samples_ms": milliseconds}));
    let met = p50 <= 0.3 && p99 <= 3.0;
    row.bar("≤ 0.3 / 3 ms", if met { Verdict::Met } else { Verdict::Missed })
}

struct Subject {
    /// Ends before its directory does.
    daemon: Daemon,
    cluster: Cluster,
    manifests: Manifests,
    watcher: Watcher,
    next: usize,
}

impl Subject {
    fn new(shape: Shape) -> Outcome<Self> {
        let cluster = Cluster::new(shape);
        let manifests = Manifests::write(&cluster, Format::Json, SINGLES)?;
        let namespace = Namespace::new()?;
        let mut daemon = Daemon::start(&namespace, &manifests)?;
        daemon.settled(&mut Census::open(&namespace, "vipd")?, cluster.elements())?;
        let watcher = Watcher::start(&namespace)?;
        Ok(Self { cluster, manifests, daemon, watcher, next: 0 })
    }

    /// Renumbers an endpoint of the next service, up to the rename; then the rename, and when it
    /// was begun.
    fn change(&mut self) -> Outcome<(Ipv4Addr, Instant)> {
        let service = self.next % SINGLES;
        self.next += 1;
        let address = self.cluster.renumber(service);
        let staged = self.manifests.stage(&self.cluster, service)?;
        let start = Instant::now();
        staged.publish()?;
        Ok((address, start))
    }

    fn at_rest(&mut self, count: u32) -> Outcome<Vec<f64>> {
        (0..count)
            .map(|_| {
                std::thread::sleep(REST);
                let (address, start) = self.change()?;
                let seen = self.watcher.until(address, PATIENCE)?;
                Ok((seen - start).as_secs_f64() * 1e3)
            })
            .collect()
    }

    /// Changes come at their time whether or not the former ones are through.
    fn under_load(&mut self, count: u32) -> Outcome<Vec<f64>> {
        let begin = Instant::now();
        let mut open = HashMap::new();
        for index in 0..count {
            let due = begin + INTERVAL * index;
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            let (address, start) = self.change()?;
            open.insert(address, start);
        }
        let mut times = Vec::new();
        while !open.is_empty() {
            let commit = self.watcher.next(PATIENCE)?;
            let commit = commit.ok_or_else(|| format!("{} changes never came", open.len()))?;
            for address in &commit.fresh {
                if let Some(start) = open.remove(address) {
                    times.push((commit.at - start).as_secs_f64() * 1e3);
                }
            }
        }
        Ok(times)
    }
}
