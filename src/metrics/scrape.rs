//! One scrape: the counters are read, then all is one text. EDGE: it asks the kernel.

use super::families::render;
use super::process::Process;
use super::readings::{Answered, Opened, Readings};
use crate::config::Gates;
use crate::dataplane::nftables::{Counted, Counters};
use crate::dataplane::userspace::{Engine, PortCounts};
use crate::events;
use crate::listen::{Count, Tally};
use crate::model::ServiceKey;
use crate::sources::kubernetes::Requests;
use crate::sync::Snapshot;
use arc_swap::ArcSwap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// What is read besides the snapshot. Copies read the same.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    /// `None`: nobody is asked, and what the kernel counts is left out.
    kernel: Option<Arc<Mutex<Counters>>>,
    /// Once something passes through it.
    relay: Arc<OnceLock<Engine>>,
    pub health: Tally,
    pub events: events::Counts,
    pub asked: Asked,
    pub requests: Requests,
    /// Feature gates that are not left at their defaults.
    pub gates: Arc<ArcSwap<Gates>>,
}

/// What load balancers and kubelets were answered.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    pub healthz: Answers,
    pub livez: Answers,
}

/// By status. Copies count on the same.
#[derive(Debug, Clone, Default)]
pub struct Answers {
    good: Count,
    bad: Count,
}

impl Answers {
    pub fn count(&self, good: bool) {
        let count = if good { &self.good } else { &self.bad };
        count.add(1);
    }

    fn read(&self) -> Answered {
        Answered { good: self.good.get(), bad: self.bad.get() }
    }
}

impl Metrics {
    pub fn of(counters: Counters, relay: Arc<OnceLock<Engine>>) -> Self {
        Self { kernel: Some(Arc::new(Mutex::new(counters))), relay, ..Self::default() }
    }

    /// What is counted of a relayed Service, port by port.
    pub fn relayed(&self, service: &ServiceKey) -> Vec<PortCounts> {
        let mut ports = self.relay.get().map(Engine::counts).unwrap_or_default().ports;
        ports.retain(|port| port.service == *service);
        ports
    }

    /// The text of this moment.
    pub async fn scrape(&self, snapshot: &Snapshot) -> String {
        let kernel = self.read_kernel().await;
        let process = tokio::task::spawn_blocking(Process::read).await.ok().flatten();
        let opened = |tally: &Tally| Opened { open: tally.open(), failures: tally.failures() };
        let readings = Readings {
            kernel,
            health_listeners: opened(&self.health),
            loopback: self.relay.get().map(Engine::loopback_counts).unwrap_or_default(),
            healthz: self.asked.healthz.read(),
            livez: self.asked.livez.read(),
            events_sent: self.events.sent.get(),
            events_dropped: self.events.dropped.get(),
            gates: self.gates.load_full(),
            requests: self.requests.made(),
            process,
            relay: self.relay.get().map(Engine::counts),
        };
        render(snapshot, &readings)
    }

    pub(super) async fn read_kernel(&self) -> Option<Counted> {
        let kernel = Arc::clone(self.kernel.as_ref()?);
        // A reading that ended early is no harm to the next: what it left is drained first.
        let read = move || kernel.lock().unwrap_or_else(PoisonError::into_inner).read();
        match tokio::task::spawn_blocking(read).await {
            Ok(Ok(counted)) => Some(counted),
            Ok(Err(error)) => {
                tracing::debug!(%error, "the kernel's counters are not told");
                None
            }
            Err(_) => None,
        }
    }
}
