//! What is special about services, at scale: node ports, source ranges, affinity, many endpoints.
//!
//! In: a cluster per feature, and a plain one beside it. Out: full loads and single changes of both,
//! in turn, and their ratio.
//! Never: a feature that the kernel was not seen to hold.
//!
//! **The same number of plain elements.** A plain cluster has ClusterIP services with two endpoints
//! and nothing else, which are six elements each: one of `services`, one of `addresses`, two of
//! `endpoints`, two of `hairpin`. It has so many services that the kernel counts as many elements in
//! its table as in the table of the feature's cluster (checked, to half a per cent). So a ratio of
//! loads is a ratio of costs per element, however many of them a service takes.
//!
//! **One change.** One object comes with other content, and is decoded, stored, planned, lowered and
//! committed. Of the feature's cluster that is an EndpointSlice (of up to 100 endpoints) with another
//! address in the place of one, or a Service with another node port or source range; of the plain one
//! the EndpointSlice of two, in which one is replaced. The bar is on the times as they are: a plain
//! change has five operations (an element of `endpoints` and one of `hairpin`, removed and added each,
//! and one of `departed`), and what the feature writes more is not taken off. One endpoint of 5,000 is
//! five operations too: twice the plain change is the bar for these, so little is left for work that
//! grows with the service.
//!
//! It is told twice: from the object's text, and from the object. A slice of 100 endpoints is a text of
//! 20 kB, where the plain one has 500 bytes: what it takes to read grows with the slice, not with the
//! service, and no dataplane changes it. (From the rename of its file to the commit: part `event`.)

mod features;

use self::features::{Change, Feature, Witness, vips};
use crate::generate::{Cluster, Shape};
use crate::nft::Census;
use crate::report::{Row, Verdict};
use crate::rooms::Rooms;
use crate::stats::{Rng, median, quantile, ratio};
use crate::{Effort, Outcome, progress};
use serde_json::json;
use std::time::Duration;

/// Of a plain service with two endpoints.
const PLAIN_ELEMENTS: u64 = 6;
/// Changes in a row at one cluster before it is the other's turn.
const BLOCK: usize = 25;
/// How much slower than a plain one a change may be.
const CHANGE_BAR: f64 = 2.0;

pub fn run(effort: Effort) -> Outcome<Vec<Row>> {
    let mut rows = Vec::new();
    for feature in features::all() {
        progress(&format!("special: {}", feature.name));
        rows.extend(beside_plain(feature, effort)?);
    }
    progress("special: changes beside source ranges of others");
    rows.extend(beside_ranges(effort)?);
    Ok(rows)
}

/// A cluster, its table, and a stream of changes to services from `first` on.
struct Subject {
    cluster: Cluster,
    rooms: Rooms,
    rng: Rng,
    first: usize,
}

impl Subject {
    /// Nothing is in the kernel yet.
    fn new(cluster: Cluster) -> Outcome<Self> {
        let rooms = Rooms::new(&cluster)?;
        Ok(Self { cluster, rooms, rng: Rng::new(5), first: 0 })
    }

    fn held(&self) -> Outcome<u64> {
        Census::open(&self.rooms.namespace, "vipd")?.total()
    }

    fn shows(&self, (set, count): Witness) -> Outcome<()> {
        match Census::open(&self.rooms.namespace, "vipd")?.sets()?.get(set) {
            Some(held) if *held == count => Ok(()),
            held => Err(format!("{set} should hold {count} elements: {held:?}").into()),
        }
    }

    fn next(&mut self, change: Change) -> Outcome<String> {
        let at = self.first + self.rng.below(self.cluster.services.len() - self.first);
        change.make(&mut self.cluster, at, &mut self.rng)
    }
}

fn beside_plain(feature: Feature, effort: Effort) -> Outcome<Vec<Row>> {
    let Feature { name, cluster, witness, load_bar, .. } = feature;
    let mut ours = Subject::new(cluster)?;
    ours.rooms.load()?;
    ours.shows(witness)?;
    let held = ours.held()?;
    let services = (held + PLAIN_ELEMENTS / 2) / PLAIN_ELEMENTS;
    let mut plain = Subject::new(Cluster::new(Shape::new(services as u32, 2)))?;
    ours.rooms.leave()?;
    settle(held);

    let mut rows = vec![loads(&name, (&mut ours, &mut plain), effort)?.ratio_bar(load_bar)];
    let reference = format!("a plain service's endpoint among {services}");
    for &change in feature.beside_plain {
        let (ours_took, plain_took) = in_turn((&mut ours, change), &mut plain, effort)?;
        let what = format!("{} of {name}", change.name());
        rows.extend(compare(&what, &ours_took, (&reference, &plain_took)));
    }
    if let Some((change, bar_ms)) = feature.timed {
        let (took, plain_took) = in_turn((&mut ours, change), &mut plain, effort)?;
        let bar_us = bar_ms * 1e3;
        let verdict = Verdict::at_most(quantile(&took.whole, 0.99), bar_us);
        let what = format!("{} of {name}", change.name());
        rows.push(
            row_of(&what, &took.whole, &took, (&reference, &plain_took.whole))
                .bar(format!("p50 and p99 ≤ {bar_ms} ms"), verdict),
        );
    }
    // The changes left as much as they found.
    ours.rooms.settle()?;
    ours.shows(witness)?;
    Ok(rows)
}

/// Loads both in turn, each first as often as second (but for one). In the end both are loaded.
fn loads(name: &str, (ours, plain): (&mut Subject, &mut Subject), effort: Effort) -> Outcome<Row> {
    let rounds = effort.pick(5, 15);
    let (mut special, mut beside) = (Vec::new(), Vec::new());
    let mut held = [0, 0];
    for round in 0..rounds {
        if round > 0 {
            ours.rooms.leave()?;
            plain.rooms.leave()?;
            settle(held[0] + held[1]);
        }
        let mut sides = [(&mut *ours, &mut special), (&mut *plain, &mut beside)];
        if round % 2 == 1 {
            sides.reverse();
        }
        for (subject, seconds) in sides {
            seconds.push(subject.rooms.load()?.0);
        }
        held = [ours.held()?, plain.held()?];
        if held[0].abs_diff(held[1]) * 200 > held[0] {
            return Err(format!("not the same number of elements: {held:?}").into());
        }
    }
    let text = |seconds: &[f64], held| format!("{:.1} ms, {held} elements", median(seconds) * 1e3);
    let services = plain.cluster.services.len();
    Ok(Row::new(format!("full load, {name}"), text(&special, held[0]))
        .floor(
            format!("{services} plain services: {}", text(&beside, held[1])),
            ratio(&special, &beside),
        )
        .numbers(json!({"seconds": special, "plain_seconds": beside, "elements": held})))
}

/// What changes took, in microseconds.
#[derive(Default)]
struct Times {
    /// From an object's text to committed.
    whole: Vec<f64>,
    /// From the object in the store to committed.
    decoded: Vec<f64>,
    operations: u64,
}

impl Times {
    fn block(&mut self, subject: &mut Subject, change: Change) -> Outcome<()> {
        for _ in 0..BLOCK {
            let text = subject.next(change)?;
            let step = subject.rooms.change(&text)?;
            self.whole.push(step.decode_us + step.think_us + step.commit_us);
            self.decoded.push(step.think_us + step.commit_us);
            self.operations += step.applied.operations;
        }
        Ok(())
    }
}

/// A change of one in turn with a plain endpoint of the other.
fn in_turn(
    (ours, change): (&mut Subject, Change),
    plain: &mut Subject,
    effort: Effort,
) -> Outcome<(Times, Times)> {
    // What a first change meets (caches, a set that grows) is not what one change costs.
    Times::default().block(ours, change)?;
    Times::default().block(plain, Change::Endpoint)?;
    let (mut special, mut beside) = (Times::default(), Times::default());
    for round in 0..effort.pick(10, 40) {
        if round % 2 == 0 {
            special.block(ours, change)?;
        }
        beside.block(plain, Change::Endpoint)?;
        if round % 2 == 1 {
            special.block(ours, change)?;
        }
    }
    Ok((special, beside))
}

/// The whole way of a change, and the way from the decoded object.
fn compare(what: &str, times: &Times, (reference, beside): (&str, &Times)) -> [Row; 2] {
    let whole = row_of(what, &times.whole, times, (reference, &beside.whole));
    let what = format!("{what}, once it is decoded");
    let decoded = row_of(&what, &times.decoded, times, (reference, &beside.decoded));
    [whole, decoded].map(|row| row.ratio_bar(CHANGE_BAR))
}

fn row_of(what: &str, took: &[f64], times: &Times, (reference, beside): (&str, &[f64])) -> Row {
    let blocks = |times: &[f64]| -> Vec<f64> { times.chunks(BLOCK).map(median).collect() };
    let quantiles =
        |times: &[f64]| format!("{:.1} / {:.1} µs", median(times), quantile(times, 0.99));
    let (special, plain) = (blocks(took), blocks(beside));
    let operations = times.operations as f64 / times.whole.len() as f64;
    Row::new(
        format!("{what}, p50 / p99"),
        format!("{}, {operations:.1} operations", quantiles(took)),
    )
    .floor(format!("{reference}: {}", quantiles(beside)), ratio(&special, &plain))
    .numbers(json!({"block_p50_us": special, "plain_block_p50_us": plain,
                    "p99_us": quantile(took, 0.99), "operations": operations}))
}

/// Plain services beside 2,000 VIPs: what it costs them that the VIPs have ranges.
fn beside_ranges(effort: Effort) -> Outcome<[Row; 2]> {
    const VIPS: u32 = 2_000;
    const RANGES: usize = 10;
    const PLAIN: u32 = 1_000;
    // "Nothing", as far as medians of blocks can tell.
    const NOTHING: f64 = 1.1;
    let subject = |ranges: usize| -> Outcome<Subject> {
        let mut cluster = vips(VIPS + PLAIN, ranges);
        for service in &mut cluster.services[VIPS as usize..] {
            service.outside = Default::default();
        }
        let mut subject = Subject::new(cluster)?;
        subject.first = VIPS as usize;
        subject.rooms.load()?;
        subject.shows(("allowed4", u64::from(VIPS) * ranges as u64))?;
        Ok(subject)
    };
    let (mut with, mut without) = (subject(RANGES)?, subject(0)?);
    let (with, without) = in_turn((&mut with, Change::Endpoint), &mut without, effort)?;
    let what = format!("one endpoint beside {} ranges of others", VIPS as usize * RANGES);
    let reference = "without those ranges";
    let rows = [
        row_of(&what, &with.whole, &with, (reference, &without.whole)),
        row_of(
            &format!("{what}, once it is decoded"),
            &with.decoded,
            &with,
            (reference, &without.decoded),
        ),
    ];
    Ok(rows.map(|row| row.ratio_bar(NOTHING)))
}

/// The kernel frees a namespace's elements behind our back: the next round must not pay for it.
fn settle(elements: u64) {
    std::thread::sleep(Duration::from_micros(100_000 + 2 * elements));
}
