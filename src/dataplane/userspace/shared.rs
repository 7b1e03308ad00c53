//! What all traffic threads have in common.

use super::budget::{Budget, Files};
use super::congestion::Congestion;
use super::counts::Number;
use super::frontends::Frontends;
use super::pipes::Pipes;
use super::refusals::Refusals;
use super::relay::Means;
use super::served::{Opened, Served};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

#[derive(Debug)]
pub(super) struct Shared {
    pub frontends: Frontends,
    pub budget: Arc<Budget>,
    pub pipes: Pipes,
    pub congestion: Congestion,
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
    /// `drain`: see [`EngineOptions`](super::EngineOptions).
    pub(super) fn new(drain: Duration, budget: Arc<Budget>) -> Self {
        Self {
            frontends: Frontends::new(drain),
            pipes: Pipes::new(Arc::clone(&budget)),
            congestion: Congestion::of_node(),
            budget,
            refusals: Refusals::open(),
            loopback_failed_dials: Number::default(),
            handed_over: AtomicBool::new(false),
        }
    }

    pub(super) fn means(&self) -> Means<'_> {
        Means { pipes: &self.pipes, congestion: &self.congestion }
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
            let most = served.port.limits().connections.get();
            let open = served.open(most).ok_or(Full::Service)?;
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
