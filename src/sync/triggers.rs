//! When somebody did what a change of a slice follows from, until the kernel has it. PURE.
//!
//! In: slices that changed, with the time their annotation names. Out: how long each took, once.
//! Never: a time that lies before this process (it says how long it was not there), nor that of a
//! slice that went: its annotation is of the change before.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use crate::histogram::Histogram;
use crate::model::{Family, Object, SliceKey};
use std::time::SystemTime;

/// While nothing can be written changes go on. The oldest are the ones that matter then.
const WAITING: usize = 4096;

#[derive(Debug)]
pub(super) struct Triggers {
    started: SystemTime,
    waiting: Vec<Triggered>,
}

/// A slice that changed.
#[derive(Debug)]
pub(super) struct Triggered {
    slice: SliceKey,
    family: Family,
    at: SystemTime,
}

impl Triggers {
    pub fn since(started: SystemTime) -> Self {
        Self { started, waiting: Vec::new() }
    }

    /// What counts of a slice that is about to be taken in, should it turn out to be a change.
    pub fn of(&self, object: &Object, at: SystemTime) -> Option<Triggered> {
        let Object::EndpointSlice(slice) = object else { return None };
        let counts = at > self.started && self.waiting.len() < WAITING;
        counts.then(|| Triggered { slice: slice.key.clone(), family: slice.set.family, at })
    }

    pub fn changed(&mut self, triggered: Option<Triggered>) {
        self.waiting.extend(triggered);
    }

    pub fn removed(&mut self, slice: &str) {
        self.waiting.retain(|triggered| triggered.slice.as_str() != slice);
    }

    /// The kernel holds all of them by now. Clocks of two machines differ: what seems to come from
    /// the future took no time.
    pub fn programmed(&mut self, now: SystemTime, [v4, v6]: &[Histogram; 2]) {
        for triggered in self.waiting.drain(..) {
            let histogram = match triggered.family {
                Family::V4 => v4,
                Family::V6 => v6,
            };
            histogram.observe(now.duration_since(triggered.at).unwrap_or_default());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{EndpointSet, EndpointSlice, Ports, ServiceKey, SliceOrigin};
    use crate::sync::Durations;
    use std::sync::Arc;
    use std::time::{Duration, UNIX_EPOCH};

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn slice(name: &str, family: Family) -> Object {
        Object::EndpointSlice(Arc::new(EndpointSlice {
            key: SliceKey::new("default", name),
            service: ServiceKey::new("default", "web"),
            origin: SliceOrigin::Own,
            set: EndpointSet { family, ports: Ports::default(), endpoints: Box::default() },
        }))
    }

    /// How many durations there are of each family, and their sum.
    fn measured(durations: &Durations) -> [(u64, f64); 2] {
        durations.programming.each_ref().map(|of| (of.cumulative().last().unwrap().1, of.sum()))
    }

    #[test]
    fn each_change_counts_once_from_what_it_follows_from() {
        let (mut triggers, durations) = (Triggers::since(at(100)), Durations::default());
        let mut change = |name, family, seconds| {
            let triggered = triggers.of(&slice(name, family), at(seconds));
            triggers.changed(triggered);
        };
        change("before", Family::V4, 100);
        change("a", Family::V4, 101);
        change("b", Family::V6, 103);
        change("gone", Family::V4, 103);
        change("from-the-future", Family::V6, 200);
        triggers.removed("default/gone");
        triggers.programmed(at(104), &durations.programming);
        assert_eq!(measured(&durations), [(1, 3.0), (2, 1.0)]);
        triggers.programmed(at(105), &durations.programming);
        assert_eq!(measured(&durations), [(1, 3.0), (2, 1.0)], "each once");
    }

    #[test]
    fn what_waits_for_a_kernel_that_refuses_has_a_bound() {
        let (mut triggers, durations) = (Triggers::since(at(0)), Durations::default());
        for _ in 0..WAITING + 10 {
            let triggered = triggers.of(&slice("a", Family::V4), at(1));
            triggers.changed(triggered);
        }
        triggers.programmed(at(2), &durations.programming);
        assert_eq!(measured(&durations)[0].0, WAITING as u64);
    }
}
