//! Who tells vipd what exists. All sources speak the same words: batches of [`Change`].
//!
//! In: files, an API server. Out: [`Batch`]es on one bounded channel.
//! Never: a decision about traffic; dropping a change.

pub mod decode;
pub mod kubernetes;
pub mod manifests;

use crate::model::{Kind, Object, ObjectRef, Origin, Problem};
use std::time::{Instant, SystemTime};

/// One thing that a source says.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// The object is now this. Saying so twice is harmless.
    Upsert(Object),
    /// The object is gone. Deleting what was never there is harmless.
    Delete(ObjectRef),
    /// All that is wrong at an origin now (a file, or one object of an API server);
    /// replaces what was said of the same `scope` before. Empty: nothing any more.
    Problems { scope: Scope, problems: Vec<Problem> },
    /// The first list of this kind is complete. Nothing is programmed before all are.
    Synced(Kind),
}

/// What a list of problems is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// A file (its `document` is 0).
    Origin(Origin),
    /// An object of an API server.
    Object(ObjectRef),
}

/// Changes that belong together (one file, one watch event): planned and committed as one.
#[derive(Debug)]
pub struct Batch {
    pub changes: Vec<Change>,
    /// In the order of the changes; most have none.
    pub triggers: Vec<Trigger>,
    /// When the source learned of it; what event-to-commit latency is counted from.
    pub seen: Instant,
}

impl Batch {
    pub fn new(changes: Vec<Change>, seen: Instant) -> Self {
        Self { changes, triggers: Vec::new(), seen }
    }
}

/// When somebody did in the cluster what a change follows from. It stands beside the change: as a part
/// of the object it would make two objects of what is one to everybody else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trigger {
    /// Which change of the batch.
    pub change: usize,
    /// Annotation `endpoints.kubernetes.io/last-change-trigger-time` of an EndpointSlice.
    pub at: SystemTime,
}
