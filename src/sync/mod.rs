//! The one writer: changes in, kernel commits and snapshots out.

mod snapshot;

pub use snapshot::{Snapshot, SyncStatus};
