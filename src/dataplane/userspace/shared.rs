//! What all traffic threads have in common.

use super::budget::{Budget, Files};
use super::counts::Number;
use super::frontends::Frontends;
use super::pipes::Pipes;
use super::refusals::Refusals;
use super::relay::Quiet;
use super::served::{Opened, Served};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// What relayed connections may take, and how long nothing may pass on them.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections and sessions of one Service. Those of all are bounded by the files that this
    /// process may open.
    pub per_service: u64,
    /// A connection on which nothing passes. Who is gone is found by keepalive; this is for ends
    /// that are there and forgot it. As long as Kubernetes has conntrack keep one.
    pub idle: Duration,
    /// A connection of which one end is done, while nothing comes from the other.
    pub half_open_idle: Duration,
    /// What is open to an endpoint that serves no more.
    pub drain: Duration,
    /// A client's UDP session, which is a port of this node towards the endpoint.
    pub session_idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            per_service: u64::MAX,
            idle: Duration::from_secs(24 * 60 * 60),
            half_open_idle: Duration::from_secs(5 * 60),
            drain: Duration::from_secs(10 * 60),
            session_idle: Duration::from_secs(60),
        }
    }
}

impl Limits {
    pub(super) fn quiet(&self) -> Quiet {
        Quiet { open: self.idle, half_open: self.half_open_idle }
    }
}

#[derive(Debug)]
pub(super) struct Shared {
    pub frontends: Frontends,
    pub limits: Limits,
    pub budget: Arc<Budget>,
    pub pipes: Pipes,
    pub refusals: Refusals,
    /// Of node ports that have a socket of their own.
    pub loopback_failed_dials: Number,
    /// Sessions go on in another process.
    handed_over: AtomicBool,
}

/// What a connection or session takes up until it ends.
#[derive(Debug)]
pub(super) struct Admitted {
    _files: Files,
    _open: (Opened, Option<Opened>),
}

impl Shared {
    pub(super) fn new(limits: Limits, budget: Arc<Budget>) -> Self {
        Self {
            frontends: Frontends::new(limits.drain),
            limits,
            pipes: Pipes::new(Arc::clone(&budget)),
            budget,
            refusals: Refusals::open(),
            loopback_failed_dials: Number::default(),
            handed_over: AtomicBool::new(false),
        }
    }

    pub(super) fn hand_over(&self) {
        self.handed_over.store(true, Ordering::SeqCst);
    }

    pub(super) fn is_handed_over(&self) -> bool {
        self.handed_over.load(Ordering::SeqCst)
    }

    /// Room for one more, or what there is too little of, which is counted.
    pub(super) fn admit(&self, served: &Served, files: u32) -> Result<Admitted, Full> {
        let admitted = || {
            let open = served.open(self.limits.per_service).ok_or(Full::Service)?;
            Ok(Admitted { _files: self.budget.files(files).ok_or(Full::Files)?, _open: open })
        };
        admitted().inspect_err(|_| served.port.refused.add(1))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Full {
    /// It has as many as a Service may.
    Service,
    Files,
}
