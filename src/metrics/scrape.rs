//! One scrape: the counters are read, then all is one text. EDGE: it asks the kernel.

use super::families::{Opened, Readings, render};
use crate::dataplane::nftables::{Counted, Counters};
use crate::listen::Tally;
use crate::localhost;
use crate::sync::Snapshot;
use std::sync::{Arc, Mutex, PoisonError};

/// What is read besides the snapshot. Copies read the same.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    /// `None`: nobody is asked, and what the kernel counts is left out.
    kernel: Option<Arc<Mutex<Counters>>>,
    pub health: Tally,
    pub localhost: localhost::Counts,
}

impl Metrics {
    pub fn with_kernel(counters: Counters) -> Self {
        Self { kernel: Some(Arc::new(Mutex::new(counters))), ..Self::default() }
    }

    /// The text of this moment.
    pub async fn scrape(&self, snapshot: &Snapshot) -> String {
        let kernel = self.read_kernel().await;
        let opened = |tally: &Tally| Opened { open: tally.open(), failures: tally.failures() };
        let readings = Readings {
            kernel,
            health_listeners: opened(&self.health),
            localhost_listeners: opened(&self.localhost.listeners),
            failed_dials: self.localhost.failed_dials.get(),
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
