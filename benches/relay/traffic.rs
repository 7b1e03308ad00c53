//! Clients and endpoints. EDGE.
//!
//! In: a connection's first byte, which says what the endpoint does. Out: bytes, and how many.
//! Never: a copy of bulk data where the kernel can throw it away: who generates traffic shares the
//! processors with who is measured.

use crate::Outcome;
use crate::http::{self, Version};
use crate::world::Namespace;
use socket2::SockRef;
use std::io;
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::thread::JoinHandle;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Notify;

/// Answers what comes until the client closes.
pub const ECHO: u8 = b'e';

/// Where endpoints listen.
pub const PORT: u16 = 8080;
/// Answers one byte and closes.
pub const ONCE: u8 = b'o';
/// Takes all until the client is done, then answers a byte.
const SINK: u8 = b'k';
/// Sends as many bytes as the client says.
pub const SOURCE: u8 = b's';
/// Both.
const BOTH: u8 = b'b';

/// Written and read in one go.
const CHUNK: usize = 256 << 10;
static ZEROS: [u8; CHUNK] = [0; CHUNK];

/// Which way a transfer goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// To the client.
    Down,
    Up,
    Both,
}

/// All endpoints of a site, on one thread, until they are dropped.
pub struct Endpoints {
    stop: Arc<Notify>,
    thread: Option<JoinHandle<()>>,
}

impl Endpoints {
    pub fn start(
        namespace: &Namespace,
        addresses: impl Iterator<Item = Ipv4Addr> + Send,
    ) -> Outcome<Self> {
        let (tcp, http, udp) = namespace.run(|| {
            let tcp = listen(PORT)?;
            let http = Version::ALL.map(|version| Ok((version, listen(version.endpoint_port())?)));
            let http: Vec<_> = http.into_iter().collect::<Outcome<_>>()?;
            // Each answers from the address that it was asked at.
            let mut udp = Vec::new();
            for address in addresses {
                let socket = std::net::UdpSocket::bind((address, PORT))?;
                socket.set_nonblocking(true)?;
                udp.push(socket);
            }
            Ok((tcp, http, udp))
        })?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let stop = Arc::new(Notify::new());
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("endpoints".to_owned()).spawn(move || {
            runtime.block_on(async {
                for socket in udp {
                    match UdpSocket::from_std(socket) {
                        Ok(socket) => drop(tokio::spawn(answer(socket))),
                        Err(error) => crate::progress(&format!("an endpoint is missing: {error}")),
                    }
                }
                for (version, listener) in http {
                    tokio::spawn(accept(listener, move |stream| http::serve(stream, version)));
                }
                tokio::select! {
                    () = accept(tcp, serve) => {}
                    () = stopped.notified() => {}
                }
            });
        })?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Endpoints {
    fn drop(&mut self) {
        self.stop.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn listen(port: u16) -> Outcome<std::net::TcpListener> {
    const BACKLOG: i32 = 4096;
    let at = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    // Accepted ones inherit it.
    socket.set_tcp_nodelay(true)?;
    socket.bind(&at.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

async fn accept<F: Future<Output = io::Result<()>> + Send + 'static>(
    listener: std::net::TcpListener,
    serve: impl Fn(TcpStream) -> F,
) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return crate::progress(&format!("endpoints are missing: {error}")),
    };
    loop {
        match listener.accept().await {
            // A connection that breaks is the client's to notice.
            Ok((stream, _)) => drop(tokio::spawn(serve(stream))),
            Err(error) => crate::progress(&format!("an endpoint cannot accept: {error}")),
        }
    }
}

async fn answer(socket: UdpSocket) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        if let Ok((size, from)) = socket.recv_from(&mut buffer).await {
            // As in any full queue, it may be lost.
            let _ = socket.try_send_to(&buffer[..size], from);
        }
    }
}

async fn serve(mut stream: TcpStream) -> io::Result<()> {
    let mut byte = [0];
    stream.read_exact(&mut byte).await?;
    match byte[0] {
        ECHO => loop {
            stream.write_all(&byte).await?;
            if stream.read(&mut byte).await? == 0 {
                return Ok(());
            }
        },
        ONCE => stream.write_all(&byte).await,
        SINK => {
            let (mut from, mut to) = stream.split();
            discard(&mut from, u64::MAX).await?;
            to.write_all(&byte).await
        }
        SOURCE => {
            let size = stream.read_u64().await?;
            send(&mut stream.split().1, size).await
        }
        BOTH => {
            let size = stream.read_u64().await?;
            let (mut from, mut to) = stream.split();
            tokio::try_join!(discard(&mut from, size), send(&mut to, size))?;
            // Who closes while the other still sends is a test of its own.
            discard(&mut from, u64::MAX).await.map(drop)
        }
        other => Err(io::Error::other(format!("no such request: {other}"))),
    }
}

async fn send(to: &mut WriteHalf<'_>, size: u64) -> io::Result<()> {
    let mut left = size;
    while left > 0 {
        let chunk = usize::try_from(left).map_or(CHUNK, |left| left.min(CHUNK));
        to.write_all(&ZEROS[..chunk]).await?;
        left -= chunk as u64;
    }
    Ok(())
}

/// Bytes until the end, or until there were so many, which nobody looks at.
async fn discard(from: &mut ReadHalf<'_>, most: u64) -> io::Result<u64> {
    let mut room = vec![MaybeUninit::uninit(); CHUNK];
    let mut total = 0;
    while total < most {
        let stream: &TcpStream = from.as_ref();
        stream.ready(Interest::READABLE).await?;
        let received = stream.try_io(Interest::READABLE, || {
            // TCP does not copy what is received so (tcp(7)).
            SockRef::from(stream).recv_with_flags(&mut room, libc::MSG_TRUNC)
        });
        match received {
            Ok(0) => return Ok(total),
            Ok(size) => total += size as u64,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(total)
}

/// Moves `size` bytes each way that is asked for, and returns how many that were.
pub async fn transfer(to: SocketAddr, way: Way, size: u64) -> Outcome<u64> {
    let mut stream = TcpStream::connect(to).await?;
    let moved = match way {
        Way::Down => {
            stream.write_all(&request(SOURCE, size)).await?;
            discard(&mut stream.split().0, u64::MAX).await?
        }
        Way::Up => {
            stream.write_all(&[SINK]).await?;
            send(&mut stream.split().1, size).await?;
            stream.shutdown().await?;
            stream.read_exact(&mut [0]).await?;
            size
        }
        Way::Both => {
            stream.write_all(&request(BOTH, size)).await?;
            let (mut from, mut to) = stream.split();
            let (received, ()) = tokio::try_join!(discard(&mut from, size), send(&mut to, size))?;
            received + size
        }
    };
    let asked = if way == Way::Both { 2 * size } else { size };
    if moved == asked { Ok(moved) } else { Err(format!("{moved} of {asked} bytes came").into()) }
}

pub fn request(what: u8, size: u64) -> [u8; 9] {
    let mut request = [what; 9];
    request[1..].copy_from_slice(&size.to_be_bytes());
    request
}
