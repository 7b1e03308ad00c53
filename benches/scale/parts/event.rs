//! From the rename of a manifest to the commit that carries it, in a running `vipd run`.
//!
//! In: changes of services that have a file each (in memory), one at a time and 100 a second. Out:
//! latencies as a subscriber of nf_tables' notifications sees them, and the daemon's CPU time.
//! Never: a change counted by another one's commit: each brings an address of its own.

use crate::daemon::Daemon;
use crate::generate::{Cluster, Shape};
use crate::manifests::{Format, Manifests, in_memory};
use crate::nft::Census;
use crate::report::{Row, Verdict};
use crate::stats::{median, quantile, ratio};
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

/// Changes in a row under load before it is another's turn.
const BLOCK: u32 = 100;

pub fn run(effort: Effort) -> Outcome<Vec<Row>> {
    let large = effort.pick(Shape::new(10_000, 2), Shape::new(100_000, 2));
    let shapes = [Shape::new(1_000, 2), large];
    let (at_rest, under_load) = effort.pick((100, 300), (400, 2_000));
    let mut bare = Bare::new()?;
    let mut subjects = [Subject::new(shapes[0])?, Subject::new(shapes[1])?];

    progress(&format!("event: {at_rest} changes at rest, in turn"));
    let (mut floor, mut ours) = (Vec::new(), [Vec::new(), Vec::new()]);
    for _ in 0..at_rest {
        floor.push(one(&mut bare)?);
        for (subject, times) in subjects.iter_mut().zip(&mut ours) {
            times.push(one(subject)?);
        }
    }
    let mut rows: Vec<Row> = shapes
        .iter()
        .zip(&ours)
        .map(|(shape, times)| row(*shape, "at rest", times, &floor))
        .collect();

    progress(&format!("event: {under_load} changes, 100 a second, in turn"));
    let (mut floor, mut ours) = (Vec::new(), [Vec::new(), Vec::new()]);
    let mut cpu = [0.0; 2];
    for _ in 0..under_load / BLOCK {
        floor.extend(block(&mut bare)?);
        for ((subject, times), cpu) in subjects.iter_mut().zip(&mut ours).zip(&mut cpu) {
            let before = subject.daemon.cpu_seconds()?;
            times.extend(block(subject)?);
            *cpu += subject.daemon.cpu_seconds()? - before;
        }
    }
    let loaded = shapes.iter().zip(&ours);
    rows.extend(loaded.map(|(shape, times)| row(*shape, "under 100 changes/s", times, &floor)));
    let [small, large_cpu] = cpu.map(|seconds| seconds / f64::from(under_load) * 1e6);
    rows.push(
        Row::new(
            format!("vipd run's CPU time per change under 100 changes/s, {}", large.name()),
            format!("{large_cpu:.0} µs ({small:.0} µs at 1k×2)"),
        )
        .numbers(json!({"large_us": large_cpu, "small_us": small})),
    );
    drop((bare, subjects));
    rows.extend(many_endpoints(effort)?);
    Ok(rows)
}

/// One endpoint of a service that has 5,000, beside one of as many plain elements: every object has
/// a file of its own, so that a change is that of one EndpointSlice.
fn many_endpoints(effort: Effort) -> Outcome<Vec<Row>> {
    const BAR: f64 = 2.0;
    let shapes = [Shape::new(1, 5_000), Shape::new(1_668, 2)];
    let (at_rest, under_load) = effort.pick((50, 300), (200, 1_000));
    progress(&format!("event: {at_rest} changes of one endpoint of 5,000, and of plain ones"));
    let [mut special, mut plain] = [Slices::new(shapes[0])?, Slices::new(shapes[1])?];
    let mut rest = [Vec::new(), Vec::new()];
    for _ in 0..at_rest {
        rest[0].push(one(&mut special)?);
        rest[1].push(one(&mut plain)?);
    }
    let mut loaded = [Vec::new(), Vec::new()];
    for _ in 0..under_load / BLOCK {
        loaded[0].extend(block(&mut special)?);
        loaded[1].extend(block(&mut plain)?);
    }
    let row = |how: &str, [special, plain]: [Vec<f64>; 2]| {
        let quantiles =
            |times: &[f64]| format!("{:.2} / {:.2} ms", median(times), quantile(times, 0.99));
        let what = "rename → commit of one endpoint of a service with 5,000";
        Row::new(format!("{what}, {how}, p50 / p99 (n={})", special.len()), quantiles(&special))
            .floor(
                format!("one of {}: {}", shapes[1].name(), quantiles(&plain)),
                ratio(&special, &plain),
            )
            .ratio_bar(BAR)
            .numbers(json!({"samples_ms": special, "plain_samples_ms": plain}))
    };
    Ok(vec![row("at rest", rest), row("under 100 changes/s", loaded)])
}

/// `vipd run` that has written the cluster, and who hears of what it commits from then on.
fn watched(cluster: &Cluster, manifests: &Manifests) -> Outcome<(Daemon, Watcher)> {
    let namespace = Namespace::new()?;
    let mut daemon = Daemon::start(&namespace, manifests)?;
    daemon.settled(&mut Census::open(&namespace, "vipd")?, cluster.elements())?;
    let watcher = Watcher::start(&namespace)?;
    Ok((daemon, watcher))
}

/// A cluster whose objects have a file each.
struct Slices {
    /// Ends before its directory does.
    _daemon: Daemon,
    cluster: Cluster,
    manifests: Manifests,
    watcher: Watcher,
    next: usize,
}

impl Slices {
    fn new(shape: Shape) -> Outcome<Self> {
        let cluster = Cluster::new(shape);
        let manifests = Manifests::write_objects_in_memory(&cluster)?;
        let (daemon, watcher) = watched(&cluster, &manifests)?;
        Ok(Self { _daemon: daemon, cluster, manifests, watcher, next: 0 })
    }
}

impl Follower for Slices {
    /// Renumbers an endpoint somewhere in the next service.
    fn change(&mut self) -> Outcome<(Ipv4Addr, Instant)> {
        let service = self.next % self.cluster.services.len();
        let endpoint = self.next * 101 % self.cluster.services[service].endpoints.len();
        self.next += 1;
        let address = self.cluster.renumber_endpoint(service, endpoint);
        let staged = self.manifests.stage_slice(&self.cluster, (service, endpoint))?;
        let start = Instant::now();
        staged.publish()?;
        Ok((address, start))
    }

    fn watcher(&self) -> &Watcher {
        &self.watcher
    }
}

fn row(shape: Shape, how: &str, milliseconds: &[f64], floor: &[f64]) -> Row {
    let (p50, p99) = (median(milliseconds), quantile(milliseconds, 0.99));
    let (floor50, floor99) = (median(floor), quantile(floor, 0.99));
    let met = p50 <= 0.3 && p99 <= 3.0;
    Row::new(
        format!("rename → commit at {}, {how}, p50 / p99 (n={})", shape.name(), milliseconds.len()),
        format!("{p50:.2} / {p99:.2} ms"),
    )
    .floor(
        format!("bare inotify loop and writer: {floor50:.2} / {floor99:.2} ms"),
        ratio(milliseconds, floor),
    )
    .bar("≤ 0.3 / 3 ms", if met { Verdict::Met } else { Verdict::Missed })
    .numbers(json!({"p50_ms": p50, "p99_ms": p99, "samples_ms": milliseconds,
                    "floor_p50_ms": floor50, "floor_p99_ms": floor99, "floor_samples_ms": floor}))
}

/// Something that follows a directory and writes to the kernel.
trait Follower {
    /// Prepares a change, then renames its file into place: the address that it brings, and when
    /// the rename was begun.
    fn change(&mut self) -> Outcome<(Ipv4Addr, Instant)>;
    fn watcher(&self) -> &Watcher;
}

/// Milliseconds of one change at rest.
fn one(follower: &mut impl Follower) -> Outcome<f64> {
    std::thread::sleep(REST);
    let (address, start) = follower.change()?;
    let seen = follower.watcher().until(address, PATIENCE)?;
    Ok((seen - start).as_secs_f64() * 1e3)
}

/// Milliseconds of changes that come at their time whether or not the former ones are through.
fn block(follower: &mut impl Follower) -> Outcome<Vec<f64>> {
    let begin = Instant::now();
    let mut open = HashMap::new();
    for index in 0..BLOCK {
        let due = begin + INTERVAL * index;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let (address, start) = follower.change()?;
        open.insert(address, start);
    }
    let mut times = Vec::new();
    while !open.is_empty() {
        let commit = follower.watcher().next(PATIENCE)?;
        let commit = commit.ok_or_else(|| format!("{} changes never came", open.len()))?;
        for address in &commit.fresh {
            if let Some(start) = open.remove(address) {
                times.push((commit.at - start).as_secs_f64() * 1e3);
            }
        }
    }
    Ok(times)
}

/// What the way there and back costs whoever goes it: a thread that waits for the rename and writes
/// one element.
struct Bare {
    watcher: Watcher,
    directory: tempfile::TempDir,
    cluster: Cluster,
}

impl Bare {
    fn new() -> Outcome<Self> {
        let mut writer = floor::Writer::new(floor::Declared::Growing)?;
        let watcher = Watcher::start(&writer.namespace)?;
        let directory = in_memory()?;
        let watched = directory.path().join("watched");
        std::fs::create_dir(&watched)?;
        let events = inotify::init(inotify::CreateFlags::CLOEXEC)?;
        inotify::add_watch(&events, &watched, inotify::WatchFlags::MOVED_TO)?;
        // Not joined: it waits for the next event until the process ends, or fails at the one of
        // the directory's removal. What it does not write is missed by the watcher.
        std::thread::spawn(move || -> Outcome<()> {
            let mut buffer = [MaybeUninit::uninit(); 4096];
            let mut reader = inotify::Reader::new(events, &mut buffer);
            loop {
                let event = reader.next()?;
                let name = event.file_name().ok_or("an event without a name")?;
                writer.bring(name.to_str()?.parse()?)?;
            }
        });
        Ok(Self { watcher, directory, cluster: Cluster::new(Shape::new(1, 1)) })
    }
}

impl Follower for Bare {
    fn change(&mut self) -> Outcome<(Ipv4Addr, Instant)> {
        let address = self.cluster.fresh();
        let staged = self.directory.path().join("staged");
        std::fs::write(&staged, "")?;
        let published = self.directory.path().join("watched").join(address.to_string());
        // As vipd's: a rename that replaces a file.
        std::fs::write(&published, "")?;
        let start = Instant::now();
        std::fs::rename(&staged, published)?;
        Ok((address, start))
    }

    fn watcher(&self) -> &Watcher {
        &self.watcher
    }
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
        let manifests = Manifests::write_in_memory(&cluster, Format::Json, SINGLES)?;
        let (daemon, watcher) = watched(&cluster, &manifests)?;
        Ok(Self { cluster, manifests, daemon, watcher, next: 0 })
    }
}

impl Follower for Subject {
    /// Renumbers an endpoint of the next service.
    fn change(&mut self) -> Outcome<(Ipv4Addr, Instant)> {
        let service = self.next % SINGLES;
        self.next += 1;
        let address = self.cluster.renumber(service);
        let staged = self.manifests.stage(&self.cluster, service)?;
        let start = Instant::now();
        staged.publish()?;
        Ok((address, start))
    }

    fn watcher(&self) -> &Watcher {
        &self.watcher
    }
}
