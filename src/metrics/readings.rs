//! What is counted elsewhere than in a published snapshot. PURE.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use super::process::Process;
use crate::config::Gates;
use crate::dataplane::nftables::Counted;
use crate::dataplane::userspace::{Counts, LoopbackCounts};
use crate::sources::kubernetes::Made;
use std::sync::Arc;

/// All of it, as it was at the moment of the scrape.
#[derive(Debug, Clone, Default)]
pub struct Readings {
    /// `None` where the kernel could not be asked: no number is better than a wrong one.
    pub kernel: Option<Counted>,
    pub health_listeners: Opened,
    /// Node ports of loopback addresses.
    pub loopback: LoopbackCounts,
    pub healthz: Answered,
    pub livez: Answered,
    pub events_sent: u64,
    pub events_dropped: u64,
    /// Those that are not left at their defaults.
    pub gates: Arc<Gates>,
    /// To the API server.
    pub requests: Made,
    /// `None` where the kernel does not say.
    pub process: Option<Process>,
    /// `None` as long as nothing passed through it.
    pub relay: Option<Counts>,
}

/// Answers by status: 200, 503.
#[derive(Debug, Clone, Copy, Default)]
pub struct Answered {
    pub good: u64,
    pub bad: u64,
}

/// Listening sockets of one kind.
#[derive(Debug, Clone, Copy, Default)]
pub struct Opened {
    pub open: u64,
    pub failures: u64,
}
