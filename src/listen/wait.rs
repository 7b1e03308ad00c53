//! When to look again.

use std::future::pending;
use std::time::Instant;
use tokio::sync::watch;

/// Waits for a change, or for the time of the next try. Who tells of changes may be gone: what was
/// told last then stays.
pub async fn change_or_retry(changes: &mut watch::Receiver<()>, retry_at: Option<Instant>) {
    let changed = async {
        if changes.changed().await.is_err() {
            pending().await
        }
    };
    let retry = async {
        match retry_at {
            Some(at) => tokio::time::sleep_until(at.into()).await,
            None => pending().await,
        }
    };
    tokio::select! {
        () = changed => {}
        () = retry => {}
    }
}
