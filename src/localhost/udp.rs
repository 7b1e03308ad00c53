//! Datagrams: a session for each client, with a socket of its own towards its endpoint.

use super::served::Served;
use crate::dataplane::userspace::{Budget, Files};
use crate::planner::Target;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{Interest, Ready};
use tokio::net::UdpSocket;
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// A session ends when nothing has passed either way for this long.
const IDLE: Duration = Duration::from_secs(60);

/// Of one listener. One more ends the one whose client has been quiet the longest.
const SESSIONS: usize = 1024;

/// Datagrams on their way to an endpoint; more are lost, as in any full queue.
const QUEUE: usize = 64;

/// The most that a datagram can hold, and a little more.
const DATAGRAM: usize = 1 << 16;

/// Endpoints that a session tries for one unanswered datagram.
const MOST: usize = 16;

/// After an error of the listening socket, which should have none.
const PAUSE: Duration = Duration::from_millis(100);

/// Passes datagrams on until `stop`, and returns the socket. Then the sessions end too: a reply must
/// come from the port that was asked, and that is given up.
pub(super) async fn serve(
    socket: UdpSocket,
    served: Arc<Served>,
    budget: Arc<Budget>,
    stop: CancellationToken,
) -> Option<OwnedFd> {
    let mut sessions = Sessions {
        socket: Arc::new(socket),
        served,
        budget,
        open: HashMap::new(),
        tasks: JoinSet::new(),
    };
    let _ = stop.run_until_cancelled(sessions.run()).await;
    sessions.tasks.shutdown().await;
    let socket = Arc::into_inner(sessions.socket)?;
    socket.into_std().ok().map(OwnedFd::from)
}

struct Sessions {
    socket: Arc<UdpSocket>,
    served: Arc<Served>,
    budget: Arc<Budget>,
    open: HashMap<SocketAddr, Session>,
    tasks: JoinSet<SocketAddr>,
}

/// Ends when this is dropped.
struct Session {
    datagrams: mpsc::Sender<Box<[u8]>>,
    used: Instant,
}

impl Sessions {
    async fn run(&mut self) {
        let mut buffer = vec![0; DATAGRAM];
        loop {
            tokio::select! {
                received = self.socket.recv_from(&mut buffer) => match received {
                    Ok((size, client)) => self.send(client, buffer[..size].into()),
                    Err(error) => {
                        tracing::debug!(%error, "a node port's UDP socket");
                        tokio::time::sleep(PAUSE).await;
                    }
                },
                Some(ended) = self.tasks.join_next() => {
                    // It may have a successor by now.
                    let over = |session: &Session| session.datagrams.is_closed();
                    if let Ok(client) = ended && self.open.get(&client).is_some_and(over) {
                        self.open.remove(&client);
                    }
                }
            }
        }
    }

    fn send(&mut self, client: SocketAddr, datagram: Box<[u8]>) {
        let datagram = match self.open.get_mut(&client) {
            Some(session) => {
                session.used = Instant::now();
                match session.datagrams.try_send(datagram) {
                    Ok(()) | Err(TrySendError::Full(_)) => return,
                    Err(TrySendError::Closed(datagram)) => datagram,
                }
            }
            None => datagram,
        };
        let Some(files) = self.room() else {
            tracing::debug!(%client, "a datagram is lost: too many UDP sessions");
            return;
        };
        let (datagrams, inbox) = mpsc::channel(QUEUE);
        let _ = datagrams.try_send(datagram);
        let talk =
            Talk { client, socket: Arc::clone(&self.socket), served: Arc::clone(&self.served) };
        self.tasks.spawn(async move {
            talk.run(inbox).await;
            drop(files);
            client
        });
        self.open.insert(client, Session { datagrams, used: Instant::now() });
    }

    /// For one more session.
    fn room(&mut self) -> Option<Files> {
        let files = self.budget.files(1);
        if self.open.len() >= SESSIONS || files.is_none() {
            let quietest = self.open.iter().min_by_key(|(_, session)| session.used);
            let quietest = quietest.map(|(client, _)| *client)?;
            self.open.remove(&quietest);
        }
        files
    }
}

/// One session.
struct Talk {
    client: SocketAddr,
    /// The one that the client sends to.
    socket: Arc<UdpSocket>,
    served: Arc<Served>,
}

/// Why a session leaves its endpoint.
enum Left {
    /// For another one, with the datagram that nobody has answered.
    Refused,
    Over,
}

impl Talk {
    async fn run(&self, mut inbox: mpsc::Receiver<Box<[u8]>>) {
        let mut refused = Vec::new();
        let mut unanswered = None;
        while refused.len() < MOST {
            let rest = |targets: &[Target]| {
                targets.iter().filter(|target| !refused.contains(*target)).copied().collect()
            };
            let Some((target, _)) = self.served.choose(rest) else { return };
            let mut with =
                With { talk: self, target, unanswered: unanswered.take(), answered: false };
            match with.run(&mut inbox).await {
                Left::Over => return,
                Left::Refused => {
                    if with.answered {
                        refused.clear();
                    }
                    unanswered = with.unanswered;
                    refused.push(target);
                }
            }
        }
    }
}

/// A session with one endpoint.
struct With<'a> {
    talk: &'a Talk,
    target: Target,
    /// The last datagram, until an answer comes: should the endpoint refuse, another gets it.
    unanswered: Option<Box<[u8]>>,
    answered: bool,
}

impl With<'_> {
    async fn run(&mut self, inbox: &mut mpsc::Receiver<Box<[u8]>>) -> Left {
        let Ok(endpoint) = connect(self.target).await else { return Left::Refused };
        if let Some(datagram) = self.unanswered.take()
            && self.send(&endpoint, datagram).await.is_err()
        {
            return Left::Refused;
        }
        loop {
            tokio::select! {
                datagram = inbox.recv() => {
                    let Some(datagram) = datagram else { return Left::Over };
                    if !self.talk.served.has(self.target) {
                        self.unanswered = Some(datagram);
                        return Left::Refused;
                    }
                    if self.send(&endpoint, datagram).await.is_err() {
                        return Left::Refused;
                    }
                }
                ready = endpoint.ready(Interest::READABLE | Interest::ERROR) => {
                    match ready.and_then(|ready| receive(&endpoint, ready)) {
                        Ok(datagram) => {
                            (self.answered, self.unanswered) = (true, None);
                            let _ = self.talk.socket.send_to(&datagram, self.talk.client).await;
                        }
                        Err(error)
                            if error.kind() == io::ErrorKind::WouldBlock || is_too_big(&error) => {}
                        Err(_) => return Left::Refused,
                    }
                }
                () = tokio::time::sleep(IDLE) => return Left::Over,
            }
        }
    }

    /// Fails also for an ICMP error about an earlier datagram, and has sent nothing then.
    async fn send(&mut self, endpoint: &UdpSocket, datagram: Box<[u8]>) -> io::Result<()> {
        let mut sent = endpoint.send(&datagram).await;
        if sent.as_ref().is_err_and(is_too_big) {
            sent = endpoint.send(&datagram).await;
        }
        self.unanswered = Some(datagram);
        match sent {
            // Larger than a datagram may be: another endpoint would be no better.
            Err(error) if is_too_big(&error) => Ok(()),
            sent => sent.map(drop),
        }
    }
}

/// A path MTU error says nothing against the endpoint: the kernel has learned from it, and sends
/// the next datagram in fragments.
fn is_too_big(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EMSGSIZE)
}

async fn connect(target: Target) -> io::Result<UdpSocket> {
    let any = match target.address {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
    socket.connect(SocketAddr::new(target.address, target.port)).await?;
    Ok(socket)
}

/// The room for the largest datagram is on the stack: thousands of sessions have none of their own.
///
/// An ICMP error makes a socket erroneous and not readable (EPOLLERR alone), so it is asked for by
/// itself.
fn receive(endpoint: &UdpSocket, ready: Ready) -> io::Result<Vec<u8>> {
    if ready.is_error() {
        let error = endpoint.try_io(Interest::ERROR, || match endpoint.take_error()? {
            Some(error) => Ok(error),
            None => Err(io::ErrorKind::WouldBlock.into()),
        });
        if let Ok(error) = error {
            return Err(error);
        }
    }
    let mut buffer = [0; DATAGRAM];
    let size = endpoint.try_recv(&mut buffer)?;
    Ok(buffer[..size].to_vec())
}
