//! What people should see beside the object that it is about: Kubernetes Events. EDGE.
//!
//! In: published snapshots, what other rooms have to say. Out: Events (events.k8s.io/v1) at the API
//! server that objects come from.
//! Never: a wait that anybody else could feel; a queue that grows while the server is away; a second
//! Event for what was said already.
//!
//! kube's own recorder is not used: it takes two Events for one if only their notes differ, keeps no
//! bound, and reads the clock.

mod findings;
mod ledger;
#[cfg(test)]
mod ledger_tests;
mod notice;
mod post;
mod rate;
mod serve;
mod wire;

pub use notice::{About, Counts, Notice, Notices, Reason, Told};
pub use serve::{Desk, serve};
