//! What was said, how often, and what may be sent now. PURE.
//!
//! In: notices, the time, what became of what was sent. Out: one Event at a time to make or to count up.
//! Never: more than it has room for; the same thing as two Events within [`SERIES`].

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use super::notice::{About, Finders, Notice};
use super::rate::{Bucket, Limit};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// Events about one object, so that none floods its `kubectl describe`.
const OF_ONE: Limit = Limit { burst: 10, every: Duration::from_secs(60) };
/// All Events of this node: a cluster has thousands of nodes.
const OF_ALL: Limit = Limit { burst: 50, every: Duration::from_secs(1) };
/// Between two times that an Event is counted up: what happened meanwhile comes in one go.
const UPDATE: Duration = Duration::from_secs(60);
/// What was not said for so long is a new Event when it is said again. The server forgets Events an
/// hour after they were last written.
const SERIES: Duration = Duration::from_secs(15 * 60);
/// Different things to be sent. While the server is away newcomers are dropped: what came first is what
/// the others mostly follow from.
const WAITING: usize = 256;
/// Beside them, what is about the node: a thousand bad objects must not hide it.
const OF_NODE: usize = 32;
/// Different things that are remembered.
const KEPT: usize = 2048;

/// When something happened: for waiting, and for the Event.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    pub instant: Instant,
    pub wall: SystemTime,
}

/// What is to be done at the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sending {
    pub notice: Arc<Notice>,
    pub first: SystemTime,
    pub step: Step,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    Make,
    /// The Event of this name happened so often in all.
    Count {
        name: Box<str>,
        count: u32,
        last: SystemTime,
    },
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The server has the Event, by this name.
    Sent(Box<str>),
    /// It has it no more.
    Gone,
    /// It does not take it.
    Refused,
    /// It cannot be asked now.
    Later,
}

/// One thing that was said.
#[derive(Debug)]
struct Series {
    first: SystemTime,
    last: SystemTime,
    heard: Instant,
    count: u32,
    /// How often the server knows of, and by which name.
    told: Option<(Box<str>, u32)>,
    /// Not to be written before.
    next: Instant,
    waits: bool,
}

#[derive(Debug, Default)]
pub(super) struct Ledger {
    series: BTreeMap<Arc<Notice>, Series>,
    /// What the server does not know yet, in the order it was said.
    waiting: VecDeque<Arc<Notice>>,
    of_one: BTreeMap<About, Bucket>,
    of_all: Bucket,
    dropped: u64,
}

impl Ledger {
    pub fn take(&mut self, notice: Notice, now: Moment) {
        if let Some((key, series)) = self.series.get_key_value(&notice) {
            let (key, waits) = (Arc::clone(key), series.waits);
            if waits || now.instant.saturating_duration_since(series.heard) < SERIES {
                return self.again(key, now);
            }
            self.series.remove(&key);
        }
        if self.is_full(&notice.about) || !self.has_room(now.instant) {
            self.dropped += 1;
            return;
        }
        let notice = Arc::new(notice);
        let Moment { instant, wall } = now;
        let series = Series {
            first: wall,
            last: wall,
            heard: instant,
            count: 1,
            told: None,
            next: instant,
            waits: true,
        };
        self.series.insert(Arc::clone(&notice), series);
        self.waiting.push_back(notice);
    }

    fn again(&mut self, notice: Arc<Notice>, now: Moment) {
        let Some(series) = self.series.get_mut(&notice) else { return };
        series.heard = now.instant;
        // How often all nodes together found it nobody knows.
        if notice.reason.finders() == Finders::EveryNode {
            return;
        }
        series.last = now.wall;
        series.count = series.count.saturating_add(1);
        if series.waits {
            return;
        }
        if self.is_full(&notice.about) {
            self.dropped += 1;
            return;
        }
        self.waiting.push_back(Arc::clone(&notice));
        if let Some(series) = self.series.get_mut(&notice) {
            series.waits = true;
        }
    }

    fn is_full(&self, about: &About) -> bool {
        let room = match about {
            About::Node => WAITING + OF_NODE,
            About::Object { .. } => WAITING,
        };
        self.waiting.len() >= room
    }

    fn has_room(&mut self, now: Instant) -> bool {
        if self.series.len() >= KEPT {
            let lately = |at: Instant| now.saturating_duration_since(at) < SERIES;
            self.series.retain(|_, series| series.waits || lately(series.heard));
        }
        self.series.len() < KEPT
    }

    /// What may be sent now. The same until [`Ledger::done`] says what became of it.
    pub fn next(&self, now: Instant) -> Option<Sending> {
        let notice = self.waiting.iter().find(|notice| self.ready_at(notice, now) <= now)?;
        let series = self.series.get(notice)?;
        let step = match &series.told {
            None => Step::Make,
            Some((name, _)) => {
                Step::Count { name: name.clone(), count: series.count, last: series.last }
            }
        };
        Some(Sending { notice: Arc::clone(notice), first: series.first, step })
    }

    /// When there is something to send, at the earliest; `None`: nothing waits.
    pub fn wake_at(&self, now: Instant) -> Option<Instant> {
        self.waiting.iter().map(|notice| self.ready_at(notice, now)).min()
    }

    fn ready_at(&self, notice: &Arc<Notice>, now: Instant) -> Instant {
        let own = self.of_one.get(&notice.about).copied().unwrap_or_default();
        let next = self.series.get(notice).map_or(now, |series| series.next);
        self.of_all.ready_at(OF_ALL, now).max(own.ready_at(OF_ONE, now)).max(next)
    }

    /// What became of what [`Ledger::next`] said.
    pub fn done(&mut self, sending: &Sending, outcome: Outcome, now: Instant) {
        let Some(series) = self.series.get_mut(&sending.notice) else { return };
        match outcome {
            Outcome::Later => return,
            // It is made anew, as if it were said for the first time.
            Outcome::Gone => {
                (series.told, series.count, series.first) = (None, 1, series.last);
                return;
            }
            Outcome::Refused => {
                self.series.remove(&sending.notice);
                self.waiting.retain(|other| *other != sending.notice);
            }
            Outcome::Sent(name) => {
                let count = match sending.step {
                    Step::Make => 1,
                    Step::Count { count, .. } => count,
                };
                series.told = Some((name, count));
                // The second time is news, and comes at once; what follows is a number.
                series.next = if count > 1 { now + UPDATE } else { now };
                series.waits = series.count > count;
                if !series.waits {
                    self.waiting.retain(|other| *other != sending.notice);
                }
            }
        }
        self.of_all.take(OF_ALL, now);
        self.of_one.retain(|_, bucket| !bucket.is_full(now));
        self.of_one.entry(sending.notice.about.clone()).or_default().take(OF_ONE, now);
    }

    /// How many found no room since this was last asked.
    pub fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }
}
