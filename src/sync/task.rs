//! The writer's loop: waits for a reason to write, and writes.

use super::writer::{StaleFlows, Tuning, Writer};
use crate::dataplane::Dataplane;
use crate::sources::Batch;
use std::future::pending;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::time::Instant;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// Batches taken before a write, at most: a flood of changes must not put it off for ever.
const BATCHES_AT_ONCE: usize = 1024;

/// What the writer hears.
pub struct Inputs {
    pub batches: mpsc::Receiver<Batch>,
    pub addresses: watch::Receiver<Vec<IpAddr>>,
    /// What is there when the loop begins is taken for what the writer was made with.
    pub tuning: watch::Receiver<Tuning>,
}

/// Writes until told to stop, and returns the writer. Commits block, so this wants a thread of its own.
pub async fn run<D: Dataplane, F: StaleFlows>(
    mut writer: Writer<D, F>,
    inputs: Inputs,
    stop: CancellationToken,
) -> Writer<D, F> {
    let Inputs { mut batches, mut addresses, mut tuning } = inputs;
    let mut tuning_open = true;
    let mut foreign: Option<AsyncFd<OwnedFd>> = None;
    let mut sources_open = true;
    let mut addresses_open = true;
    loop {
        let wake_at = writer.schedule().wake_at();
        tokio::select! {
            biased;
            () = stop.cancelled() => return writer,
            () = readable(foreign.as_ref()) => writer.repair(),
            changed = addresses.changed(), if addresses_open => match changed {
                Ok(()) => {
                    let now = addresses.borrow_and_update().clone();
                    writer.take_addresses(now);
                }
                Err(_) => addresses_open = false,
            },
            changed = tuning.changed(), if tuning_open => match changed {
                Ok(()) => {
                    let now = tuning.borrow_and_update().clone();
                    writer.take_tuning(now);
                }
                Err(_) => tuning_open = false,
            },
            batch = batches.recv(), if sources_open => match batch {
                Some(batch) => {
                    writer.take(batch);
                    // What arrived during the last commit is written with the next.
                    for _ in 0..BATCHES_AT_ONCE {
                        let Ok(batch) = batches.try_recv() else { break };
                        writer.take(batch);
                    }
                }
                None => sources_open = false,
            },
            () = sleep_until(wake_at) => {}
        }
        writer.work(Instant::now());
        if foreign.is_none() {
            foreign = writer.dataplane().foreign_edits().and_then(watched);
        }
    }
}

/// Waits until others have edited what is ours.
async fn readable(foreign: Option<&AsyncFd<OwnedFd>>) {
    match foreign {
        Some(fd) => match fd.readable().await {
            // The writer reads until nothing is left.
            Ok(mut guard) => guard.clear_ready(),
            Err(_) => pending().await,
        },
        None => pending().await,
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => pending().await,
    }
}

#[expect(
    deprecated,
    reason = "its replacement is unsafe, and an OwnedFd keeps the one promise that it asks for"
)]
fn watched(fd: OwnedFd) -> Option<AsyncFd<OwnedFd>> {
    AsyncFd::new(fd).ok()
}
