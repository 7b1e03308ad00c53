//! The sockets: opened, tried again when refused, closed. EDGE.

use super::wishes::Wishes;
use crate::dataplane::userspace::budget::ListenerFile;
use crate::dataplane::userspace::congestion::Congestion;
use crate::dataplane::userspace::handed::{HandedPort, HandedSession};
use crate::dataplane::userspace::relay::KEEPALIVE;
use crate::dataplane::userspace::replies::Replies;
use crate::dataplane::userspace::shared::Shared;
use crate::dataplane::userspace::udp::{self, SessionsEnd};
use crate::dataplane::userspace::{listeners, tcp};
use crate::listen::{self, Kept, Tally, Tried};
use crate::model::Protocol;
use crate::planner::{FrontendAddress, FrontendKey};
use socket2::SockRef;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Sockets opened in one go: ten thousand at once would keep connections of others waiting.
const AT_ONCE: usize = 64;

/// A UDP port that the relay answered from until now is in use for a moment, by the sessions that end. One
/// that is in use for longer is somebody else's.
const MOMENT: Duration = Duration::from_millis(400);

/// Between two tries meanwhile.
const PAUSE: Duration = Duration::from_millis(20);

/// Has the sockets that are wished for, until `stop`. Returns them, with what waits in them.
pub(super) async fn keep(
    shared: Arc<Shared>,
    (wishes, handed): (Arc<Wishes>, Vec<HandedPort>),
    tallies: [Tally; 2],
    (connections, stop): (TaskTracker, CancellationToken),
) -> Vec<HandedPort> {
    let handed = handed.into_iter().map(|port| (port.at, port)).collect();
    let mut keeper = Keeper::new(shared, handed, (connections, stop.clone()));
    let mut changes = wishes.subscribe();
    loop {
        changes.borrow_and_update();
        keeper.follow(&wishes).await;
        wishes.follow();
        for (tally, kept) in tallies.iter().zip(&keeper.kept) {
            tally.set(kept.open_count(), kept.failures());
        }
        let wait = listen::change_or_retry(&mut changes, keeper.retry_at());
        if stop.run_until_cancelled(wait).await.is_none() {
            break;
        }
    }
    keeper.close().await
}

struct Keeper {
    shared: Arc<Shared>,
    /// Of a former process: all of them are wished for before long.
    handed: BTreeMap<FrontendKey, HandedPort>,
    /// Of each family.
    kept: [Kept<FrontendKey, Listener>; 2],
    /// Wanted, and not open.
    waiting: BTreeSet<FrontendKey>,
    /// Of these, in use since they were tried first.
    in_use: BTreeMap<FrontendKey, Instant>,
    again_at: Option<Instant>,
    told_of_files: bool,
    connections: TaskTracker,
    /// Of all that the engine accepts.
    stop: CancellationToken,
}

impl Keeper {
    fn new(
        shared: Arc<Shared>,
        handed: BTreeMap<FrontendKey, HandedPort>,
        (connections, stop): (TaskTracker, CancellationToken),
    ) -> Self {
        Self {
            shared,
            handed,
            kept: <[_; 2]>::default(),
            waiting: BTreeSet::new(),
            in_use: BTreeMap::new(),
            again_at: None,
            told_of_files: false,
            connections,
            stop,
        }
    }

    async fn follow(&mut self, wishes: &Wishes) {
        for (at, is_open) in &wishes.take() {
            let kept = &mut self.kept[at.at.family().index()];
            match is_open {
                true if kept.get(at).is_none() => drop(self.waiting.insert(*at)),
                true => {}
                false => {
                    self.waiting.remove(at);
                    self.in_use.remove(at);
                    self.handed.remove(at);
                    if let Some(listener) = kept.remove(at) {
                        self.withdraw(listener).await;
                    }
                }
            }
        }
        self.open().await;
    }

    fn retry_at(&self) -> Option<Instant> {
        self.kept.iter().filter_map(Kept::retry_at).chain(self.again_at).min()
    }

    async fn open(&mut self) {
        self.again_at = None;
        for (count, at) in std::mem::take(&mut self.waiting).into_iter().enumerate() {
            if count % AT_ONCE == AT_ONCE - 1 {
                tokio::task::yield_now().await;
            }
            let opened = self.listener(at);
            let now = Instant::now();
            match &opened {
                Ok(_) => drop(self.in_use.remove(&at)),
                Err(error) => {
                    self.waiting.insert(at);
                    if self.may_pass(at, error, now) {
                        self.again_at = Some(now + PAUSE);
                        continue;
                    }
                }
            }
            let tried = self.kept[at.at.family().index()].offer(at, now, opened);
            self.tell(at, tried);
        }
    }

    fn may_pass(&mut self, at: FrontendKey, error: &listen::Error, now: Instant) -> bool {
        if at.protocol != Protocol::Udp || !matches!(error, listen::Error::InUse) {
            return false;
        }
        let since = *self.in_use.entry(at).or_insert(now);
        now.saturating_duration_since(since) < MOMENT
    }

    fn tell(&mut self, at: FrontendKey, tried: Tried) {
        let (protocol, at) = (at.protocol, socket_address(at));
        let served = self.shared.frontends.find(protocol, at);
        let service = served.map(|served| served.port.service.to_string()).unwrap_or_default();
        match tried {
            Tried::Opened => tracing::debug!(%service, %at, %protocol, "node port listens"),
            Tried::OpenedAtLast => {
                tracing::info!(%service, %at, %protocol, "node port listens now");
            }
            Tried::Refused(listen::Error::Files)
                if std::mem::replace(&mut self.told_of_files, true) => {}
            Tried::Refused(error) if error.is_of_unused_family(at) => {
                tracing::debug!(%at, "not answered: {error}");
            }
            Tried::Refused(error) => tracing::warn!(
                %service,
                %at,
                %protocol,
                "node port cannot be answered on a loopback address: {error}; trying again"
            ),
            Tried::StillRefused => {}
        }
    }

    fn listener(&mut self, at: FrontendKey) -> Result<Listener, listen::Error> {
        let file = self.shared.budget.listener().ok_or(listen::Error::Files)?;
        let stop = CancellationToken::new();
        let handed = self.handed.remove(&at);
        let (socket, sessions) = match handed {
            Some(HandedPort { socket, sessions, .. }) => (Some(socket), sessions),
            None => (None, Vec::new()),
        };
        let (shared, end) = (Arc::clone(&self.shared), stop.clone());
        let task = match at.protocol {
            Protocol::Udp => {
                let socket = udp_socket(at, socket)?;
                let replies = Replies::listening(Arc::clone(&shared.budget));
                let socket = (socket, sessions);
                let serving = udp::serve(socket, (replies, SessionsEnd::WithSocket), shared, end);
                Task::Udp(tokio::spawn(serving))
            }
            Protocol::Tcp | Protocol::Sctp => {
                let listener = tcp_listener(at, socket, &shared.congestion)?;
                let serving = tcp::serve(listener, shared, self.connections.clone(), end);
                Task::Tcp(tokio::spawn(serving))
            }
        };
        Ok(Listener { at, stop, task, _file: file })
    }

    /// Who waits in the socket's queue goes to whom the address leads by now. When this returns, the port
    /// is free. Open connections go on; a session ends, because its answers must come from the port.
    async fn withdraw(&self, listener: Listener) {
        listener.stop.cancel();
        match listener.task {
            Task::Tcp(task) => {
                if let Ok(listener) = task.await {
                    tcp::take_waiting(listener, &self.shared, &self.connections, &self.stop);
                }
            }
            Task::Udp(task) => drop(task.await),
        }
    }

    async fn close(self) -> Vec<HandedPort> {
        let open: Vec<Listener> = self.kept.into_iter().flat_map(Kept::into_open).collect();
        open.iter().for_each(|listener| listener.stop.cancel());
        let mut handed: Vec<HandedPort> = self.handed.into_values().collect();
        for Listener { at, task, .. } in open {
            let given = match task {
                Task::Tcp(task) => {
                    task.await.map(|listener| (listener.into_std().map(OwnedFd::from), Vec::new()))
                }
                Task::Udp(task) => task
                    .await
                    .map(|(socket, sessions)| (socket.into_std().map(OwnedFd::from), sessions)),
            };
            let Ok((Ok(socket), sessions)) = given else { continue };
            handed.push(HandedPort { at, socket, sessions });
        }
        handed
    }
}

/// A socket that is listened on until it is told to stop.
struct Listener {
    at: FrontendKey,
    stop: CancellationToken,
    task: Task,
    _file: ListenerFile,
}

/// A task of both kinds would be as large as the larger one, twice.
enum Task {
    Tcp(JoinHandle<TcpListener>),
    Udp(JoinHandle<(UdpSocket, Vec<HandedSession>)>),
}

fn socket_address(at: FrontendKey) -> SocketAddr {
    match at.at {
        FrontendAddress::Address(address) => SocketAddr::new(address, at.port),
        FrontendAddress::NodePort(_) => unreachable!("only loopback addresses are listened at"),
    }
}

fn tcp_listener(
    at: FrontendKey,
    handed: Option<OwnedFd>,
    congestion: &Congestion,
) -> Result<TcpListener, listen::Error> {
    if let Some(socket) = handed {
        congestion.begin_again(&socket);
        return Ok(TcpListener::from_std(socket.into())?);
    }
    // The loopback interface may be down for now.
    let listener = listen::tcp_ahead(socket_address(at))?;
    // What is accepted inherits it.
    let socket = SockRef::from(&listener);
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&KEEPALIVE)?;
    congestion.begin(&listener);
    Ok(listener)
}

fn udp_socket(at: FrontendKey, handed: Option<OwnedFd>) -> Result<UdpSocket, listen::Error> {
    if let Some(socket) = handed {
        return Ok(UdpSocket::from_std(socket.into())?);
    }
    let socket = listen::udp_ahead(socket_address(at))?;
    listeners::tell_destination(&socket, at.at.family())?;
    Ok(socket)
}
