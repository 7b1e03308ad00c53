//! SIGHUP: the program at this one's path, with the same arguments and `--replace`.
//!
//! In: how this process was started. Out: another process, which asks this one to hand over.
//! Never: a second one while the first has not come to an end or to its turn.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use tokio::sync::Notify;

/// How a daemon is started.
#[derive(Debug, Clone)]
pub struct Launch {
    /// Take the place of the one that runs.
    pub replace: bool,
    /// Its path as it was called: another file may be there by now, which is what SIGHUP is for.
    pub program: PathBuf,
    pub arguments: Vec<OsString>,
}

#[derive(Debug)]
pub(super) struct Successors {
    launch: Launch,
    under_way: Arc<AtomicBool>,
    ended: Arc<Notify>,
}

impl Successors {
    pub(super) fn new(launch: Launch) -> Self {
        Self { launch, under_way: Arc::default(), ended: Arc::default() }
    }

    /// Waits until one that was started here ends. Nobody else notices before this process ends too:
    /// it is its parent.
    pub(super) async fn ended(&self) {
        self.ended.notified().await;
    }

    pub(super) fn start(&self) {
        // Whatever is in a PID namespace ends with its first process.
        if std::process::id() == 1 {
            tracing::warn!(
                "SIGHUP is ignored: this is the first process of a container, in which another one \
                 would end with it; start another container with --replace"
            );
            return;
        }
        if self.under_way.swap(true, Ordering::SeqCst) {
            tracing::info!("SIGHUP: a process that is to replace this one is on its way already");
            return;
        }
        if let Err(error) = self.spawn() {
            self.under_way.store(false, Ordering::SeqCst);
            let program = self.launch.program.display();
            tracing::error!("{program} cannot be started to replace this process: {error}");
        }
    }

    fn spawn(&self) -> io::Result<()> {
        let Launch { program, arguments, .. } = &self.launch;
        let mut child = Command::new(program).args(arguments).arg("--replace").spawn()?;
        tracing::info!(
            pid = child.id(),
            "SIGHUP: {} is to replace this process",
            program.display()
        );
        let (under_way, told) = (Arc::clone(&self.under_way), Arc::clone(&self.ended));
        // Outlives this process, if all is well.
        thread::Builder::new().name("successor".into()).spawn(move || {
            let ended = child.wait();
            under_way.store(false, Ordering::SeqCst);
            told.notify_waiters();
            match ended {
                Ok(status) => {
                    tracing::error!("what was to replace this process has ended, {status}")
                }
                Err(error) => tracing::error!("what was to replace this process is lost: {error}"),
            }
        })?;
        Ok(())
    }
}
