//! How far the kernel follows the plan.

use crate::sync::Snapshot;
use serde::{Deserialize, Serialize};
use std::time::UNIX_EPOCH;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StatusView {
    pub node: String,
    pub services: usize,
    pub generation: u64,
    pub synced: bool,
    /// Seconds since 1970 when the kernel last held exactly the plan.
    pub last_success: Option<u64>,
    pub last_error: Option<String>,
    pub commits: u64,
    pub failures: u64,
    pub repairs: u64,
    /// TCP connections that were reset because their endpoint is gone.
    pub resets: u64,
    pub operations: u64,
    pub transactions: u64,
    pub netlink_messages: u64,
    pub netlink_bytes: u64,
}

impl From<&Snapshot> for StatusView {
    fn from(snapshot: &Snapshot) -> Self {
        let status = &snapshot.status;
        let since_epoch = |at: std::time::SystemTime| at.duration_since(UNIX_EPOCH).ok();
        Self {
            node: snapshot.plan.facts.name.to_string(),
            services: snapshot.plan.services,
            generation: status.generation,
            synced: status.synced,
            last_success: status.last_success.and_then(since_epoch).map(|age| age.as_secs()),
            last_error: status.last_error.as_deref().map(str::to_owned),
            commits: status.commits,
            failures: status.failures,
            repairs: status.repairs,
            resets: status.resets.get(),
            operations: status.applied.operations,
            transactions: status.applied.transactions,
            netlink_messages: status.applied.messages,
            netlink_bytes: status.applied.bytes,
        }
    }
}
