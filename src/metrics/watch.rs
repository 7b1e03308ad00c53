//! What an operator should hear of although nobody scrapes. EDGE: it asks the kernel, by the clock.

use super::scrape::Metrics;
use super::unpinned::Unpinned;
use crate::sync::Snapshot;
use arc_swap::ArcSwap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// Between two readings of the kernel's counters, each of which costs what the table's rules do.
const PAUSE: Duration = Duration::from_secs(60);

/// Warns of a full affinity table until told to stop. The kernel is asked once at the start (the
/// rules of a former process have counted already), then only while services with affinity exist.
pub async fn watch(metrics: Metrics, published: Arc<ArcSwap<Snapshot>>, stop: CancellationToken) {
    let before = metrics.read_kernel().await;
    let mut unpinned = Unpinned::since(before.unwrap_or_default().unpinned);
    while stop.run_until_cancelled(tokio::time::sleep(PAUSE)).await.is_some() {
        if published.load().status.sticky.get() == 0 {
            continue;
        }
        let Some(counted) = metrics.read_kernel().await else { continue };
        if let Some(connections) = unpinned.look(counted.unpinned, Instant::now()) {
            tracing::warn!(
                connections,
                "the affinity table is full: since this was last said so many connections of \
                 services with ClientIP affinity were not pinned, and their clients may reach \
                 another endpoint next time; a shorter timeoutSeconds makes room"
            );
        }
    }
}
