//! The one writer: changes in, kernel commits and snapshots out.
//!
//! In: batches of changes, the node's addresses, the operator's settings, foreign edits. Out: commits, clean flows, one
//! published [`Snapshot`] after each.
//! Never: a second task that writes; a wait for anything but the kernel.

mod at_work;
#[cfg(test)]
mod counts_tests;
mod durations;
mod no_local;
mod schedule;
#[cfg(test)]
mod schedule_tests;
mod snapshot;
mod sticky;
mod task;
mod triggers;
mod writer;

pub use at_work::AtWork;
pub use durations::Durations;
pub use no_local::NoLocalEndpoints;
pub use schedule::{Schedule, Work};
pub use snapshot::{Snapshot, SyncStatus};
pub use sticky::StickyServices;
pub use task::{Inputs, run};
pub use writer::{OwnNode, Settings, StaleFlows, Tuning, Writer};
