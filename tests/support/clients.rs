//! Clients that open connections or send datagrams and note what became of each.
//!
//! In: who, where to, how often. Out: one `Outcome` per try.
//! Never: a decision about what is right (see `replies`).

use super::servers::Proto;
use socket2::{Domain, Socket, Type};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// What became of one try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// A server answered: its name, the peer it saw, its own address, what else it said.
    Answer { server: String, peer: SocketAddr, local: SocketAddr, rest: String },
    /// Reset, ICMP port unreachable, or (the node's own UDP) EPERM at once.
    Refused,
    /// Nothing came back.
    Timeout,
    /// Any other error.
    Error(String),
}

#[derive(Debug, Clone)]
pub struct Outcome {
    pub from: IpAddr,
    pub started: Instant,
    /// How long it took until a TCP connection was there.
    pub connected: Option<Duration>,
    pub ending: Ending,
    pub took: Duration,
}

/// Where the tries go to and how.
#[derive(Debug, Clone)]
pub struct Tries {
    pub proto: Proto,
    pub from: IpAddr,
    pub to: SocketAddr,
    pub times: usize,
    pub at_once: usize,
    pub patience: Duration,
    /// Bytes of a datagram.
    pub size: usize,
}

/// Runs all tries; the calling thread must be inside the client's namespace.
pub fn run(tries: &Tries) -> Vec<Outcome> {
    runtime().block_on(async {
        let slots = Arc::new(Semaphore::new(tries.at_once));
        let mut running = JoinSet::new();
        for _ in 0..tries.times {
            let slot = slots.clone().acquire_owned().await.expect("never closed");
            let tries = tries.clone();
            running.spawn(async move {
                let outcome = one(&tries).await;
                drop(slot);
                outcome
            });
        }
        running.join_all().await
    })
}

pub fn runtime() -> tokio::runtime::Runtime {
    let made = tokio::runtime::Builder::new_current_thread().enable_all().build();
    made.expect("epoll is available")
}

pub async fn one(tries: &Tries) -> Outcome {
    let started = Instant::now();
    let mut connected = None;
    let work = async {
        match tries.proto {
            Proto::Tcp => {
                let stream = connection(tries).await?;
                connected = Some(started.elapsed());
                greeting(stream).await
            }
            Proto::Udp => datagram(tries).await,
        }
    };
    let ending = match tokio::time::timeout(tries.patience, work).await {
        Err(_) => Ending::Timeout,
        Ok(Ok(text)) => answer(&text).unwrap_or(Ending::Error(format!("said {text:?}"))),
        Ok(Err(error)) => ending_of(&error),
    };
    Outcome { from: tries.from, started, connected, ending, took: started.elapsed() }
}

pub fn ending_of(error: &io::Error) -> Ending {
    match error.kind() {
        ErrorKind::ConnectionRefused | ErrorKind::PermissionDenied => Ending::Refused,
        ErrorKind::TimedOut => Ending::Timeout,
        _ => Ending::Error(error.to_string()),
    }
}

/// Closing resets, so that no port stays in TIME_WAIT and no tuple is used up.
async fn connection(tries: &Tries) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(tries.to), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.set_linger(Some(Duration::ZERO))?;
    bind_anew(&socket, tries.from)?;
    TcpSocket::from_std_stream(socket.into()).connect(tries.to).await
}

/// A port that no former try of the case had. The kernel picks one at random, and conntrack remembers
/// for two minutes that a tuple was not translated: a case that tries before it serves would meet one of
/// its own tuples again, once in some hundred runs.
fn bind_anew(socket: &Socket, from: IpAddr) -> io::Result<()> {
    /// Above all ports that cases serve at.
    const FIRST: u16 = 34_000;
    static TRIES: AtomicU16 = AtomicU16::new(0);
    loop {
        let port = FIRST + TRIES.fetch_add(1, Ordering::Relaxed) % (u16::MAX - FIRST);
        match socket.bind(&SocketAddr::new(from, port).into()) {
            Err(error) if error.kind() == ErrorKind::AddrInUse => {}
            bound => return bound,
        }
    }
}

async fn greeting(stream: TcpStream) -> io::Result<String> {
    let mut line = String::new();
    if BufReader::new(stream).read_line(&mut line).await? == 0 {
        return Err(io::Error::other("closed before the first byte"));
    }
    Ok(line)
}

async fn datagram(tries: &Tries) -> io::Result<String> {
    let socket = UdpSocket::bind(SocketAddr::new(tries.from, 0)).await?;
    socket.connect(tries.to).await?;
    socket.send(&vec![b'x'; tries.size.max(1)]).await?;
    let mut buffer = vec![0; 65536];
    let size = socket.recv(&mut buffer).await?;
    Ok(String::from_utf8_lossy(&buffer[..size]).into_owned())
}

/// Reads what a server said.
pub fn answer(text: &str) -> Option<Ending> {
    let mut words = text.trim_end().splitn(4, ' ');
    let server = words.next()?.to_owned();
    let peer = words.next()?.parse().ok()?;
    let local = words.next()?.parse().ok()?;
    let rest = words.next().unwrap_or_default().to_owned();
    Some(Ending::Answer { server, peer, local, rest })
}
