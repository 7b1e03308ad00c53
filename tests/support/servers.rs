//! Echo servers of one namespace: they answer with their own name and the peer they saw.
//!
//! In: addresses to listen on. Out: one line of text per connection or datagram; a log of
//! datagrams.
//! Never: a decision about what is right.
//!
//! TCP: on accept the line `NAME PEER LOCAL`; each later line comes back as `NAME LINE`.
//! UDP: each datagram is answered with `NAME PEER LOCAL SIZE TEXT`, unless it starts with `Q`.

use super::netns::Netns;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Proto {
    Tcp,
    Udp,
}
pub use Proto::{Tcp, Udp};

impl Proto {
    pub fn kubernetes(self) -> &'static str {
        match self {
            Tcp => "TCP",
            Udp => "UDP",
        }
    }
}

enum Order {
    Listen(Proto, SocketAddr, mpsc::Sender<()>),
    Close(Proto, SocketAddr, mpsc::Sender<()>),
}

/// A datagram that arrived.
#[derive(Debug, Clone, Copy)]
pub struct Arrived {
    pub at: Instant,
    pub from: SocketAddr,
}

pub struct Servers {
    orders: UnboundedSender<Order>,
    arrived: Arc<Mutex<Vec<Arrived>>>,
}

impl Servers {
    /// A thread inside `netns`; listens nowhere yet.
    pub fn start(netns: &Netns) -> Servers {
        let (orders, inbox) = unbounded_channel();
        let arrived = Arc::new(Mutex::new(Vec::new()));
        let (name, log) = (netns.name().to_owned(), arrived.clone());
        netns.spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("epoll is available").block_on(serve(name, inbox, log));
        });
        Servers { orders, arrived }
    }

    /// Returns when clients can connect; there may be somebody already.
    pub fn listen(&self, at: impl IntoIterator<Item = (Proto, SocketAddr)>) {
        let (done, wait) = mpsc::channel();
        for (proto, address) in at {
            self.orders
                .send(Order::Listen(proto, address, done.clone()))
                .expect("server thread lives");
        }
        drop(done);
        while wait.recv().is_ok() {}
    }

    /// Returns when clients are refused. Who has connected before is still served.
    pub fn close(&self, proto: Proto, address: SocketAddr) {
        let (done, wait) = mpsc::channel();
        self.orders.send(Order::Close(proto, address, done)).expect("server thread lives");
        wait.recv().ok();
    }

    /// Datagrams of a client since then.
    pub fn arrived(&self, from: IpAddr, since: Instant) -> usize {
        let log = self.arrived.lock().expect("no holder panics");
        log.iter().filter(|one| one.from.ip() == from && one.at >= since).count()
    }
}

/// The argument that makes this program a server and nothing else.
pub const PROCESS: &str = "--server";

/// A TCP server that is a process of its own, so that it can be killed. Returns when clients can connect.
pub fn server_process(netns: &Netns, at: SocketAddr) -> Child {
    let child = netns.enter(|| {
        let mut server = Command::new("/proc/self/exe");
        server.args([PROCESS, &at.to_string()]).stdin(Stdio::null()).spawn()
    });
    let child = child.expect("can start itself");
    let connects = || netns.enter(|| std::net::TcpStream::connect(at)).is_ok();
    let end = Instant::now() + Duration::from_secs(5);
    while !connects() {
        assert!(Instant::now() < end, "no server at {at}");
        std::thread::sleep(Duration::from_millis(2));
    }
    child
}

/// The whole of that process.
pub fn serve_alone(at: &str) -> ExitCode {
    let at = at.parse().expect("written by server_process");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("epoll is available");
    runtime
        .block_on(async { accept("alone".into(), listener(at), CancellationToken::new()).await });
    ExitCode::SUCCESS
}

/// A server and the way to end it.
struct Open {
    task: JoinHandle<()>,
    stop: CancellationToken,
}

async fn serve(name: String, mut inbox: UnboundedReceiver<Order>, log: Arc<Mutex<Vec<Arrived>>>) {
    let name: Arc<str> = name.into();
    let mut open: HashMap<(Proto, SocketAddr), Open> = HashMap::new();
    while let Some(order) = inbox.recv().await {
        match order {
            Order::Listen(proto, address, _) if open.contains_key(&(proto, address)) => {}
            Order::Listen(proto, address, done) => {
                let stop = CancellationToken::new();
                let (name, log, ending) = (name.clone(), log.clone(), stop.clone());
                let task = match proto {
                    Tcp => tokio::spawn(accept(name, listener(address), ending)),
                    Udp => {
                        let socket = UdpSocket::bind(address).await;
                        let socket =
                            socket.unwrap_or_else(|error| panic!("{name}: udp {address}: {error}"));
                        tokio::spawn(async move {
                            ending.run_until_cancelled(answer(name, socket, log)).await;
                        })
                    }
                };
                open.insert((proto, address), Open { task, stop });
                drop(done);
            }
            Order::Close(proto, address, done) => {
                let Some(Open { task, stop }) = open.remove(&(proto, address)) else { continue };
                stop.cancel();
                task.await.ok();
                drop(done);
            }
        }
    }
}

fn listener(address: SocketAddr) -> TcpListener {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
    let listening = socket.and_then(|socket| {
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(1024)
    });
    listening.unwrap_or_else(|error| panic!("tcp {address}: {error}"))
}

async fn accept(name: Arc<str>, listener: TcpListener, stop: CancellationToken) {
    while let Some(Ok((stream, peer))) = stop.run_until_cancelled(listener.accept()).await {
        tokio::spawn(converse(name.clone(), stream, peer));
    }
    // The kernel would reset who waits to be accepted, though to the client it is connected.
    let Ok(listener) = listener.into_std() else { return };
    while let Ok((stream, peer)) = listener.accept() {
        let stream = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
        let Ok(stream) = stream else { continue };
        tokio::spawn(converse(name.clone(), stream, peer));
    }
}

/// Ends with the connection, whatever ended that.
async fn converse(name: Arc<str>, mut stream: TcpStream, peer: SocketAddr) {
    let Ok(local) = stream.local_addr() else { return };
    stream.set_nodelay(true).ok();
    let (read, mut write) = stream.split();
    if write.write_all(format!("{name} {peer} {local}\n").as_bytes()).await.is_err() {
        return;
    }
    let mut lines = BufReader::new(read).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if write.write_all(format!("{name} {line}\n").as_bytes()).await.is_err() {
            return;
        }
    }
}

async fn answer(name: Arc<str>, socket: UdpSocket, log: Arc<Mutex<Vec<Arrived>>>) {
    let Ok(local) = socket.local_addr() else { return };
    let mut buffer = vec![0; 65536];
    loop {
        // An ICMP error of an earlier answer is no reason to stop.
        let Ok((size, peer)) = socket.recv_from(&mut buffer).await else { continue };
        log.lock().expect("no holder panics").push(Arrived { at: Instant::now(), from: peer });
        if buffer[0] == b'Q' && size > 0 {
            continue;
        }
        let text = String::from_utf8_lossy(&buffer[..size.min(32)]).into_owned();
        socket.send_to(format!("{name} {peer} {local} {size} {text}").as_bytes(), peer).await.ok();
    }
}
