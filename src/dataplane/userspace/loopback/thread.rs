//! The thread that has the sockets. EDGE.

use super::keeper::keep;
use super::wishes::Wishes;
use crate::dataplane::userspace::handed::HandedPort;
use crate::dataplane::userspace::shared::Shared;
use crate::listen::Tally;
use crate::planner::FrontendKey;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use tokio::runtime::Builder;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What is counted of node ports at loopback addresses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LoopbackCounts {
    /// Sockets that are open, of each family.
    pub open: [u64; 2],
    /// Tries to open one that failed, of each family.
    pub failures: [u64; 2],
    /// Dials to endpoints that did not take a TCP connection.
    pub failed_dials: u64,
}

/// One thread for all of them: each port is a socket and no more. It starts with the first.
#[derive(Debug, Default)]
pub(in super::super) struct Loopback {
    wishes: Arc<Wishes>,
    tallies: [Tally; 2],
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Of a former process, until the thread has them.
    handed: Vec<HandedPort>,
    given_back: Option<mpsc::Receiver<Vec<HandedPort>>>,
}

impl Loopback {
    pub(in super::super) fn of_former(handed: Vec<HandedPort>) -> Self {
        let state = State { handed, given_back: None };
        Self { state: Mutex::new(state), ..Self::default() }
    }

    /// The sockets of these are wanted or not, from now on.
    pub(in super::super) fn wish(&self, ports: impl Iterator<Item = FrontendKey>, is_open: bool) {
        self.wishes.add(ports.map(|at| (at, is_open)));
    }

    /// Blocks until what was wished for is open, or is somebody else's; for so long at most.
    pub(in super::super) fn wait(&self, most: Duration) {
        let runs = self.state().given_back.is_some();
        if runs {
            self.wishes.wait(most);
        }
    }

    /// Unless it runs. It ends when all that it accepted until `stop` has ended, or at `end`.
    pub(in super::super) fn start(
        &self,
        shared: &Arc<Shared>,
        (stop, end): (CancellationToken, CancellationToken),
    ) -> io::Result<Option<JoinHandle<()>>> {
        let mut state = self.state();
        if state.given_back.is_some() {
            return Ok(None);
        }
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let (give_back, given_back) = mpsc::channel();
        let (shared, wishes) = (Arc::clone(shared), Arc::clone(&self.wishes));
        let handed = std::mem::take(&mut state.handed);
        let tallies = self.tallies.clone();
        let run = async move {
            let connections = TaskTracker::new();
            let all = (wishes, handed);
            let handed = keep(Arc::clone(&shared), all, tallies, (connections.clone(), stop)).await;
            if shared.is_handed_over() {
                let _ = give_back.send(handed);
            } else {
                drop(handed);
            }
            drop(give_back);
            connections.close();
            end.run_until_cancelled(connections.wait()).await;
        };
        let thread = thread::Builder::new().name("vipd-loopback".into());
        let thread = thread.spawn(move || runtime.block_on(run))?;
        state.given_back = Some(given_back);
        Ok(Some(thread))
    }

    /// What the thread listened at, when it has stopped. Blocks for a moment.
    pub(in super::super) fn given_back(&self) -> Vec<HandedPort> {
        let mut state = self.state();
        match &state.given_back {
            Some(given_back) => given_back.iter().flatten().collect(),
            None => std::mem::take(&mut state.handed),
        }
    }

    /// But for the dials.
    pub(in super::super) fn counts(&self) -> LoopbackCounts {
        LoopbackCounts {
            open: self.tallies.each_ref().map(Tally::open),
            failures: self.tallies.each_ref().map(Tally::failures),
            failed_dials: 0,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
