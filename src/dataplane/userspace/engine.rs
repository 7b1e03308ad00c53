//! The traffic threads, and what they are told.

use super::budget::Budget;
use super::counts::{Counts, PortCounts};
use super::error::StartError;
use super::handed::{HandedEngine, Listeners};
use super::listeners::{self, Datagrams, Interception, Sockets};
use super::loopback::{Loopback, LoopbackCounts};
use super::relayed::Relayed;
use super::served::Way;
use super::shared::Shared;
use super::tcp;
use super::udp::{self, SessionsEnd};
use crate::planner::{FrontendKey, NodePlan};
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, mpsc};
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
    threads_wanted: NonZeroUsize,
    loopback: Loopback,
    /// What takes what interception leads here.
    intercepting: OnceLock<Intercepting>,
    /// Nothing is accepted any more.
    stop: CancellationToken,
    /// What is open ends.
    end: CancellationToken,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Intercepting {
    port: u16,
    /// What each thread listened at, when it has stopped accepting.
    given_back: Mutex<mpsc::Receiver<Listeners>>,
}

impl Engine {
    /// Without a thread or a listener: those come when they are needed.
    pub fn new(options: EngineOptions) -> Self {
        Self::with(options, Loopback::default())
    }

    /// One that is ready for what is led to it.
    pub fn start(options: EngineOptions) -> Result<Self, StartError> {
        let engine = Self::new(options);
        engine.intercept()?;
        Ok(engine)
    }

    fn with(options: EngineOptions, loopback: Loopback) -> Self {
        let EngineOptions { threads, drain, budget } = options;
        Self(Arc::new(Running {
            shared: Arc::new(Shared::new(drain, budget)),
            threads_wanted: threads,
            loopback,
            intercepting: OnceLock::new(),
            stop: CancellationToken::new(),
            end: CancellationToken::new(),
            threads: Mutex::default(),
        }))
    }

    /// Opens the listeners in the calling thread's network namespace, where the traffic threads
    /// dial too. Returns their port, of 127.0.0.1 and [::1], where packets for frontends are to be led to.
    pub fn intercept(&self) -> Result<u16, StartError> {
        self.intercept_by(Interception::Tproxy)
    }

    pub(super) fn intercept_by(&self, interception: Interception) -> Result<u16, StartError> {
        if let Some(port) = self.port() {
            return Ok(port);
        }
        let Running { shared, threads_wanted, .. } = &*self.0;
        let with = (&shared.budget, &shared.congestion);
        let (port, sockets) = listeners::open(*threads_wanted, interception, with)?;
        self.run(port, sockets)?;
        Ok(port)
    }

    /// Goes on with what another process listened at. It accepts at once, so it is told first what is
    /// relayed; but for node ports of loopback addresses, whose sockets wait for [`Engine::listen`].
    pub(super) fn inherit(
        options: EngineOptions,
        handed: HandedEngine,
        node: Arc<NodePlan>,
        [led, with_own_socket]: [Vec<(FrontendKey, Relayed)>; 2],
    ) -> Result<Self, StartError> {
        let engine = Self::with(options, Loopback::of_former(handed.loopback));
        let Running { shared, threads_wanted, .. } = &*engine.0;
        shared.frontends.set_node(node);
        for (way, frontends) in [(Way::Interception, led), (Way::OwnSocket, with_own_socket)] {
            let frontends = frontends.into_iter().map(|(at, relayed)| (at, Some(relayed)));
            shared.frontends.update_by(way, frontends.collect());
        }
        shared.frontends.remember(handed.memory, Instant::now());
        if let Some(port) = handed.port {
            let with = (&shared.budget, &shared.congestion);
            let sockets = listeners::handed(handed.listeners, *threads_wanted, with);
            engine.run(port, sockets)?;
        }
        Ok(engine)
    }

    fn run(&self, port: u16, sockets: Vec<Sockets>) -> Result<(), StartError> {
        let (give_back, given_back) = mpsc::channel();
        let Running { shared, stop, end, .. } = &*self.0;
        let (stop, end) = (stop.child_token(), end.child_token());
        for (number, sockets) in sockets.into_iter().enumerate() {
            let tokens = (stop.clone(), end.clone());
            let part = (sockets, give_back.clone());
            self.spawn(number, part, (Arc::clone(shared), tokens)).inspect_err(|_| {
                // Those that run already.
                stop.cancel();
                end.cancel();
            })?;
        }
        let _ = self.0.intercepting.set(Intercepting { port, given_back: Mutex::new(given_back) });
        Ok(())
    }

    fn spawn(
        &self,
        number: usize,
        part: (Sockets, mpsc::Sender<Listeners>),
        (shared, tokens): (Arc<Shared>, (CancellationToken, CancellationToken)),
    ) -> Result<(), StartError> {
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(StartError::Runtime)?;
        let run = move || runtime.block_on(traffic(part, shared, tokens));
        let thread = thread::Builder::new().name(format!("vipd-relay-{number}"));
        self.add_thread(thread.spawn(run).map_err(StartError::Thread)?);
        Ok(())
    }

    fn add_thread(&self, thread: JoinHandle<()>) {
        self.0.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
    }

    /// Of 127.0.0.1 and [::1], where packets for frontends are to be led to; `None`: nothing is.
    pub fn port(&self) -> Option<u16> {
        self.0.intercepting.get().map(|intercepting| intercepting.port)
    }

    /// Serves these node ports of loopback addresses, by sockets that are bound to them: no packet is led
    /// here for them. A port that somebody else has is tried again.
    pub fn listen(&self, ports: Vec<(FrontendKey, Relayed)>) {
        let Running { shared, loopback, stop, end, .. } = &*self.0;
        let wished: Vec<FrontendKey> = ports.iter().map(|(at, _)| *at).collect();
        let ports = ports.into_iter().map(|(at, relayed)| (at, Some(relayed)));
        // First who is served: the sockets accept at once.
        shared.frontends.update_by(Way::OwnSocket, ports.collect());
        loopback.wish(wished.into_iter(), true);
        match loopback.start(shared, (stop.clone(), end.clone())) {
            Ok(thread) => thread.into_iter().for_each(|thread| self.add_thread(thread)),
            Err(error) => tracing::error!(
                "node ports of loopback addresses are not answered: cannot start a thread: {error}; \
                 check the limits on processes and memory"
            ),
        }
    }

    /// Whether this one has a socket of its own already, or is about to have it.
    pub fn listens(&self, at: &FrontendKey) -> bool {
        self.0.shared.frontends.has_own_socket(at)
    }

    /// Blocks until the sockets for node ports of loopback addresses are open, for so long at most.
    pub fn await_listeners(&self, most: Duration) {
        self.0.loopback.wait(most);
    }

    /// Serves these no more. Open connections go on.
    pub fn unlisten(&self, ports: Vec<FrontendKey>) {
        self.update(ports.iter().map(|at| (*at, None)).collect());
        self.0.loopback.wish(ports.into_iter(), false);
    }

    /// Node ports of loopback addresses that are served, whether their socket is open or not.
    pub fn listening(&self) -> Vec<FrontendKey> {
        self.0.shared.frontends.with_own_socket()
    }

    pub fn loopback_counts(&self) -> LoopbackCounts {
        let failed_dials = self.0.shared.loopback_failed_dials.get();
        LoopbackCounts { failed_dials, ..self.0.loopback.counts() }
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

    /// Whether a connection to this frontend address is open, or may come yet: what leads packets here must
    /// stay.
    pub fn is_busy(&self, address: IpAddr) -> bool {
        self.0.shared.frontends.is_busy(address, Instant::now())
    }

    pub fn counts(&self) -> Counts {
        self.0.shared.frontends.counts(Instant::now())
    }

    /// Accepts nothing any more, and gives away what it listened at, with the sessions of UDP clients
    /// and what choices remember. Open connections go on here, until the engine is stopped. Blocks for
    /// a moment.
    pub(super) fn hand_over(&self) -> HandedEngine {
        let Running { shared, stop, intercepting, loopback, .. } = &*self.0;
        shared.hand_over();
        stop.cancel();
        let given_back = |intercepting: &Intercepting| {
            let given_back = &intercepting.given_back;
            let given_back = given_back.lock().unwrap_or_else(PoisonError::into_inner);
            // Ends with the last thread that could give something.
            given_back.iter().collect()
        };
        HandedEngine {
            port: self.port(),
            listeners: intercepting.get().map(given_back).unwrap_or_default(),
            loopback: loopback.given_back(),
            memory: shared.frontends.memory(Instant::now()),
        }
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
                let replies = (replies, SessionsEnd::WithFrontend);
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
