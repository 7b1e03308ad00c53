//! How the daemon ends: by itself, or for another one.
//!
//! In: everything that runs. Out: the end of it.
//! Never: a write of this process after another one has the turn; a connection that is cut before its time.

use super::answers::Answering;
use super::lock::Lock;
use super::replace::Turn;
use super::successor::Successors;
use super::{Error, Signals, Writing};
use crate::dataplane::userspace::Engine;
use crate::handover::{BUSY, Successor};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, interval, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

/// For connections that were led to the relay just before nobody was any more: it accepts them still.
const LAST_ACCEPTS: Duration = Duration::from_millis(100);
/// For relayed connections that are open when nobody is led to the relay any more.
const DRAIN: Duration = Duration::from_secs(1);

/// Everything that runs.
pub(super) struct Running {
    pub stop: CancellationToken,
    pub writing: Writing,
    pub engine: Arc<OnceLock<Engine>>,
    pub answering: Answering,
    /// What else ends by the token.
    pub others: Vec<JoinHandle<()>>,
    pub turn: Turn,
}

impl Running {
    /// Leaves the node to the kernel.
    pub(super) async fn stop(self) {
        tracing::info!("stopping; what is programmed stays");
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
        self.stop.cancel();
        // The table that leads to the relay goes with the writer.
        drop(self.writing.ended().await);
        if let Some(engine) = self.engine.get().cloned() {
            sleep(LAST_ACCEPTS).await;
            let _ = spawn_blocking(move || engine.stop(DRAIN)).await;
        }
        self.answering.closed().await;
        for task in self.others {
            let _ = task.await;
        }
    }

    /// Leaves the node to another process, and stays while connections need this one: `drain` at most,
    /// or until a signal ends it.
    pub(super) async fn hand_over(
        self,
        mut successor: Successor,
        (signals, successors): (&mut Signals, &Successors),
        drain: Duration,
    ) -> Result<(), Error> {
        tracing::info!("another process takes over");
        let Running { stop, writing, engine, answering, others, turn } = self;
        stop.cancel();
        let writer = busily(&successor, writing.ended()).await?;
        tracing::debug!("the last commit has ended");
        let handed = spawn_blocking(move || {
            let handover = writer.map(|writer| writer.into_dataplane().hand_over());
            let handed = successor.hand(handover.unwrap_or_default().into_parts());
            handed.map(|()| successor).map_err(Error::Handover)
        });
        successor = handed.await.unwrap_or(Err(Error::SuccessorLost))?;
        busily(&successor, answering.closed()).await?;
        let Turn { lock, ended: former_ended, .. } = turn;
        close(&successor, lock)?;
        for task in others {
            let _ = task.await;
        }

        let until = Instant::now() + drain;
        let engine = engine.get().cloned();
        let open = engine.as_ref().map_or(0, Engine::open);
        tracing::info!(open, "handed over; open connections have {drain:?} to end");
        let ending = engine.clone();
        let relayed = spawn_blocking(move || {
            if let Some(engine) = ending {
                engine.stop(drain);
            }
        });
        let drained = async {
            let _ = relayed.await;
            // Routes that its connections need are looked after by the process that waits for this one.
            let _ = timeout_at(until, former_ended.cancelled()).await;
        };
        // Holds the stream on: its end is the sign that this process has ended.
        let mut serving = spawn_blocking(move || {
            let serves = successor.serving();
            (successor, serves)
        });
        let mut held = None;
        let mut drained = std::pin::pin!(drained);
        let mut child_ended = std::pin::pin!(successors.ended());
        let outcome = loop {
            tokio::select! {
                () = &mut drained => break Ok(()),
                () = signals.end() => break Ok(()),
                () = &mut child_ended => break Err(Error::SuccessorLost),
                serves = &mut serving, if held.is_none() => match serves {
                    Ok((successor, Ok(()))) => held = Some(successor),
                    _ => break Err(Error::SuccessorLost),
                }
            }
        };
        if let Some(engine) = engine {
            engine.end();
        }
        tracing::info!("ended");
        outcome
    }
}

/// What is handed over is closed here.
fn close(successor: &Successor, lock: Lock) -> Result<(), Error> {
    successor.closed(lock.socket()).map_err(Error::Handover)
}

/// Has the other process know meanwhile that this one does not hang.
async fn busily<T>(successor: &Successor, work: impl Future<Output = T>) -> Result<T, Error> {
    let mut work = std::pin::pin!(work);
    let mut tick = interval(BUSY);
    loop {
        tokio::select! {
            done = &mut work => return Ok(done),
            _ = tick.tick() => successor.busy().map_err(Error::Handover)?,
        }
    }
}
