//! The traffic threads, and what they are told.

use super::budget::Budget;
use super::counts::{Counts, PortCounts};
use super::error::StartError;
use super::handed::{HandedEngine, Listeners};
use super::listeners::{self, Datagrams, Interception, Sockets};
use super::relayed::Relayed;
use super::shared::Shared;
use super::{tcp, udp};
use crate::planner::{FrontendKey, NodePlan};
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, UdpSocket};
use tokio::runtime::Builder;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Where nobody says, as long as `--drain-timeout` is by default.
const DRAIN: Duration = Duration::from_secs(10 * 60);

/// How often the end of the traffic threads is looked for.
const LOOK: Duration = Duration::from_millis(10);

#[derive(Debug, Clone)]
pub struct EngineOptions {
    pub threads: NonZeroUsize,
    /// How long what is open to an endpoint that serves no more may go on.
    pub drain: Duration,
    /// Shared with others of this process that hold files open.
    pub budget: Arc<Budget>,
}

impl EngineOptions {
    /// One thread per core.
    pub fn new(budget: Arc<Budget>) -> Self {
        let threads = thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        Self { threads, drain: DRAIN, budget }
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
    /// What each thread listened at, when it has stopped accepting.
    given_back: Mutex<mpsc::Receiver<Listeners>>,
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
        let EngineOptions { threads, drain, budget } = options;
        let (port, sockets) = listeners::open(threads, interception, &budget)?;
        Self::run(port, sockets, Arc::new(Shared::new(drain, budget)))
    }

    /// Goes on with what another process listened at. It accepts at once, so it is told first what is
    /// relayed.
    pub(super) fn inherit(
        options: EngineOptions,
        handed: HandedEngine,
        node: Arc<NodePlan>,
        frontends: Vec<(FrontendKey, Option<Relayed>)>,
    ) -> Result<Self, StartError> {
        let EngineOptions { threads, drain, budget } = options;
        let sockets = listeners::handed(handed.listeners, threads, &budget);
        let shared = Arc::new(Shared::new(drain, budget));
        shared.frontends.set_node(node);
        shared.frontends.update(frontends);
        shared.frontends.remember(handed.memory, Instant::now());
        Self::run(handed.port, sockets, shared)
    }

    fn run(port: u16, sockets: Vec<Sockets>, shared: Arc<Shared>) -> Result<Self, StartError> {
        let (give_back, given_back) = mpsc::channel();
        let (stop, end) = (CancellationToken::new(), CancellationToken::new());
        let running = Running {
            shared: Arc::clone(&shared),
            port,
            stop: stop.clone(),
            end: end.clone(),
            threads: Mutex::default(),
            given_back: Mutex::new(given_back),
        };
        for (number, sockets) in sockets.into_iter().enumerate() {
            let (shared, stop, end) = (Arc::clone(&shared), stop.clone(), end.clone());
            let runtime = Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(StartError::Runtime)?;
            let give_back = give_back.clone();
            let run = move || runtime.block_on(traffic((sockets, give_back), shared, (stop, end)));
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

    /// Accepts nothing any more, and gives away what it listened at, with the sessions of UDP clients
    /// and what choices remember. Open connections go on here, until the engine is stopped. Blocks for
    /// a moment.
    pub(super) fn hand_over(&self) -> HandedEngine {
        let Running { shared, port, stop, given_back, .. } = &*self.0;
        shared.hand_over();
        stop.cancel();
        let given_back = given_back.lock().unwrap_or_else(PoisonError::into_inner);
        // Ends with the last thread that could give something.
        let listeners = given_back.iter().collect();
        HandedEngine { port: *port, listeners, memory: shared.frontends.memory(Instant::now()) }
    }

    /// Ends what is open, at once: whoever waits in [`Engine::stop`] waits no longer.
    pub fn end(&self) {
        self.0.end.cancel();
    }

    /// Connections and sessions that are open.
    pub fn open(&self) -> u64 {
        self.counts().ports.iter().map(PortCounts::active).sum()
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
    (sockets, give_back): (Sockets, mpsc::Sender<Listeners>),
    shared: Arc<Shared>,
    (stop, end): (CancellationToken, CancellationToken),
) {
    let connections = TaskTracker::new();
    let refused = |error| tracing::error!(%error, "a listening socket cannot be waited for");
    let (mut tcp, mut udp) = (Vec::new(), Vec::new());
    for listener in sockets.tcp {
        match TcpListener::from_std(listener) {
            Ok(listener) => {
                let serving =
                    tcp::serve(listener, Arc::clone(&shared), connections.clone(), stop.clone());
                tcp.push(tokio::spawn(serving));
            }
            Err(error) => refused(error),
        }
    }
    for Datagrams { socket, replies, sessions } in sockets.udp {
        match UdpSocket::from_std(socket) {
            Ok(socket) => {
                let socket = (socket, sessions);
                let serving = udp::serve(socket, replies, Arc::clone(&shared), stop.clone());
                udp.push(tokio::spawn(serving));
            }
            Err(error) => refused(error),
        }
    }
    stop.cancelled().await;
    let mut listeners = Listeners::default();
    for serving in tcp {
        let listener = serving.await.ok().and_then(|listener| listener.into_std().ok());
        listeners.tcp.extend(listener.map(OwnedFd::from));
    }
    for serving in udp {
        let Ok((socket, sessions)) = serving.await else { continue };
        listeners.udp.extend(socket.into_std().ok().map(|socket| (socket.into(), sessions)));
    }
    if shared.is_handed_over() {
        let _ = give_back.send(listeners);
    } else {
        drop(listeners);
    }
    drop(give_back);
    connections.close();
    end.run_until_cancelled(connections.wait()).await;
}
