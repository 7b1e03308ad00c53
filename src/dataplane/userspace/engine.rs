//! The traffic threads, and what they are told.

use super::budget::Budget;
use super::counts::Counts;
use super::error::StartError;
use super::listeners::{self, Interception, Sockets};
use super::relayed::Relayed;
use super::shared::{Limits, Shared};
use super::{tcp, udp};
use crate::planner::{FrontendKey, NodePlan};
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, UdpSocket};
use tokio::runtime::Builder;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How often the end of the traffic threads is looked for.
const LOOK: Duration = Duration::from_millis(10);

#[derive(Debug, Clone)]
pub struct EngineOptions {
    pub threads: NonZeroUsize,
    pub limits: Limits,
    /// Shared with others of this process that hold files open.
    pub budget: Arc<Budget>,
}

impl EngineOptions {
    /// One thread per core.
    pub fn new(budget: Arc<Budget>) -> Self {
        let threads = thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        Self { threads, limits: Limits::default(), budget }
    }
}

/// A handle: copies are of the same engine, which runs until one of them stops it.
#[derive(Debug, Clone)]
pub struct Engine(Arc<Running>);

#[derive(Debug)]
struct Running {
    shared: Arc<Shared>,
    port: u16,
    /// Nothing is accepted any more.
    stop: CancellationToken,
    /// What is open ends.
    end: CancellationToken,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Engine {
    /// Opens the listeners in the calling thread's network namespace, where the traffic threads
    /// dial too.
    pub fn start(options: EngineOptions) -> Result<Self, StartError> {
        Self::start_with(options, Interception::Tproxy)
    }

    pub(super) fn start_with(
        options: EngineOptions,
        interception: Interception,
    ) -> Result<Self, StartError> {
        let EngineOptions { threads, limits, budget } = options;
        let (port, sockets) = listeners::open(threads, interception, &budget)?;
        let shared = Arc::new(Shared::new(limits, budget));
        let (stop, end) = (CancellationToken::new(), CancellationToken::new());
        let running = Running {
            shared: Arc::clone(&shared),
            port,
            stop: stop.clone(),
            end: end.clone(),
            threads: Mutex::default(),
        };
        for (number, sockets) in sockets.into_iter().enumerate() {
            let (shared, stop, end) = (Arc::clone(&shared), stop.clone(), end.clone());
            let runtime = Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(StartError::Runtime)?;
            let run = move || runtime.block_on(traffic(sockets, shared, (stop, end)));
            let thread = thread::Builder::new().name(format!("vipd-relay-{number}"));
            let thread = thread.spawn(run).map_err(StartError::Thread)?;
            running.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
        }
        Ok(Self(Arc::new(running)))
    }

    /// Of 127.0.0.1 and [::1], where packets for frontends are to be led to.
    pub fn port(&self) -> u16 {
        self.0.port
    }

    /// From now on these are relayed so; `None`: there are no new connections. Takes effect at
    /// once, also for connections that have found no endpoint yet.
    pub fn update(&self, changes: Vec<(FrontendKey, Option<Relayed>)>) {
        self.0.shared.frontends.update(changes);
    }

    /// What choices depend on: whose addresses are this node's or its pods', and where node ports
    /// answer.
    pub fn set_node(&self, node: Arc<NodePlan>) {
        self.0.shared.frontends.set_node(node);
    }

    /// Whether a connection to this frontend address is open: what leads packets here must stay.
    pub fn is_busy(&self, address: IpAddr) -> bool {
        self.0.shared.frontends.is_busy(address)
    }

    pub fn counts(&self) -> Counts {
        self.0.shared.frontends.counts(Instant::now())
    }

    /// Accepts nothing any more; waits until open connections have ended, for as long as `drain`,
    /// then ends them. Blocks.
    pub fn stop(self, drain: Duration) {
        let Running { stop, end, threads, .. } = &*self.0;
        stop.cancel();
        let until = Instant::now() + drain;
        let threads = std::mem::take(&mut *threads.lock().unwrap_or_else(PoisonError::into_inner));
        while Instant::now() < until && !threads.iter().all(JoinHandle::is_finished) {
            thread::sleep(LOOK);
        }
        end.cancel();
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a traffic thread has panicked");
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
        self.end.cancel();
    }
}

/// One thread's part, until all its connections have ended.
async fn traffic(
    sockets: Sockets,
    shared: Arc<Shared>,
    (stop, end): (CancellationToken, CancellationToken),
) {
    let connections = TaskTracker::new();
    let refused = |error| tracing::error!(%error, "a listening socket cannot be waited for");
    for listener in sockets.tcp {
        match TcpListener::from_std(listener) {
            Ok(listener) => {
                let serving =
                    tcp::serve(listener, Arc::clone(&shared), connections.clone(), stop.clone());
                connections.spawn(serving);
            }
            Err(error) => refused(error),
        }
    }
    for (socket, replies) in sockets.udp {
        match UdpSocket::from_std(socket) {
            Ok(socket) => {
                let serving = udp::serve(socket, replies, Arc::clone(&shared), stop.clone());
                connections.spawn(serving);
            }
            Err(error) => refused(error),
        }
    }
    stop.cancelled().await;
    connections.close();
    end.run_until_cancelled(connections.wait()).await;
}
