//! `--replace`: this process takes the place of the one that runs.
//!
//! In: where the former process offers its handover. Out: what it handed over; the turn.
//! Never: a write before the former process has ended its own; a wait without a bound for one that hangs.

use super::Error;
use super::lock::{Lock, lock};
use crate::dataplane::userspace::{Former, Handover, Inheritance, Part};
use crate::handover::{self, Speaker};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// For a former process that offers no handover yet, having taken somebody's place itself, or that was
/// asked by somebody else.
const OFFER: Duration = Duration::from_secs(2);

/// For one that is told to end: longer, if it is one that answers.
const TERMINATE: Duration = Duration::from_secs(4);
const TERMINATE_SILENT: Duration = Duration::from_millis(500);
/// For one that is made to end: the kernel takes apart what it had, its table too, and on a node without a free
/// processor that takes seconds.
const KILL: Duration = Duration::from_secs(10);

/// Between two looks at it.
const LOOK: Duration = Duration::from_millis(20);

/// From here on this process is the node's vipd.
#[derive(Debug)]
pub(super) struct Turn {
    pub lock: Lock,
    /// To the former process, where that has connections still.
    pub former: Option<Arc<Speaker>>,
    /// Cancelled when it has ended.
    pub ended: CancellationToken,
}

/// Asks the process that offers a handover at `path`, when the dataplane is about to write.
pub(super) fn former(path: PathBuf) -> (Former, oneshot::Receiver<Result<Turn, Error>>) {
    let (turn, taken) = oneshot::channel();
    (Former::new(move || take(&path, turn)), taken)
}

fn take(path: &Path, turn: oneshot::Sender<Result<Turn, Error>>) -> Option<Inheritance> {
    let began = Instant::now();
    let (holder, patience) = loop {
        let holder = match lock() {
            Ok(lock) => {
                tracing::warn!("the vipd that was to be replaced has ended by itself");
                let _ = turn.send(Ok(Turn::alone(lock)));
                return None;
            }
            Err(holder) => holder,
        };
        match handover::ask(path) {
            Ok((parts, former)) => return Some(inherit(parts, former, turn)),
            Err(handover::Error::Nobody { .. } | handover::Error::Broken(_))
                if began.elapsed() < OFFER =>
            {
                thread::sleep(LOOK);
            }
            Err(error) => {
                tracing::warn!(
                    "nothing is handed over by the vipd that runs: {error}; it is ended"
                );
                let silent = matches!(error, handover::Error::Silent | handover::Error::TooLong);
                break (holder, if silent { TERMINATE_SILENT } else { TERMINATE });
            }
        }
    };
    match end(holder, patience) {
        Ok(lock) => {
            let _ = turn.send(Ok(Turn::alone(lock)));
            None
        }
        Err(error) => {
            let _ = turn.send(Err(error));
            // There must not be two that write. This process is about to end.
            loop {
                thread::park();
            }
        }
    }
}

impl Turn {
    pub(super) fn alone(lock: Lock) -> Self {
        let ended = CancellationToken::new();
        ended.cancel();
        Self { lock, former: None, ended }
    }
}

fn inherit(
    parts: Vec<Part>,
    mut former: handover::Former,
    turn: oneshot::Sender<Result<Turn, Error>>,
) -> Inheritance {
    let handover = Handover::of_parts(parts).unwrap_or_else(|error| {
        tracing::error!("what was handed over is of no use: {error}; the relay starts anew");
        Handover::default()
    });
    let ended = CancellationToken::new();
    let told = ended.clone();
    // For as long as the former process has connections.
    thread::spawn(move || {
        let socket = handover::closed(&mut former).unwrap_or_else(|error| {
            tracing::warn!("the former process keeps what it listens at: {error}");
            None
        });
        let lock = socket.map_or_else(lock, Lock::inherited);
        let turn_of =
            |lock| Turn { lock, former: former.speaker().ok().map(Arc::new), ended: told.clone() };
        let _ = turn.send(lock.map(turn_of));
        handover::ended(former);
        told.cancel();
    });
    Inheritance { handover, ended }
}

/// Ends the process that has the lock, and takes it. One that hangs would hold on to whatever leads to
/// the relay, and let nobody else have it.
fn end(holder: Error, patience: Duration) -> Result<Lock, Error> {
    let Error::AlreadyRunning { pid } = holder else { return Err(holder) };
    let process = Pid::from_raw(pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    for (signal, patience) in [(Signal::TERM, patience), (Signal::KILL, KILL)] {
        match lock() {
            // The number is still its own, so the descriptor is of that process.
            Err(Error::AlreadyRunning { pid: now }) if now == pid => {}
            other => return other,
        }
        if let Some(process) = &process
            && let Err(error) = pidfd_send_signal(process, signal)
        {
            tracing::warn!(pid, %error, "the vipd that runs cannot be ended");
        }
        let began = Instant::now();
        while began.elapsed() < patience {
            if let Ok(lock) = lock() {
                return Ok(lock);
            }
            thread::sleep(LOOK);
        }
    }
    lock()
}
