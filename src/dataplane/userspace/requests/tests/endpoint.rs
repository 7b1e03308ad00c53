//! Servers to send requests to, and clients that send them.

use crate::dataplane::userspace::tests::{LONG, LOOPBACK, World, target_at};
use crate::model::{Balancer, HttpVersion, Protocol};
use crate::planner::Target;
use futures_util::StreamExt;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::client::conn::http2::SendRequest;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio_util::sync::CancellationToken;

pub type AnyBody = BoxBody<Bytes, hyper::Error>;

pub fn bytes(bytes: impl Into<Bytes>) -> AnyBody {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed()
}

/// A body of what is sent to it, until the sender is gone.
pub fn in_parts() -> (Sender<Frame<Bytes>>, AnyBody) {
    let (send, parts) = channel(1);
    let parts =
        futures_util::stream::unfold(parts, |mut parts: Receiver<Frame<Bytes>>| async move {
            Some((Ok(parts.recv().await?), parts))
        });
    (send, BodyExt::boxed(StreamBody::new(parts)))
}

pub fn nothing() -> AnyBody {
    Empty::new().map_err(|never| match never {}).boxed()
}

/// As much as anybody takes.
pub fn endless() -> AnyBody {
    let block = Bytes::from(vec![7; 16 << 10]);
    let blocks = futures_util::stream::repeat_with(move || Ok(Frame::data(block.clone())));
    BodyExt::boxed(StreamBody::new(blocks))
}

/// World with a port on which HTTP is balanced in turn.
pub fn world(version: HttpVersion) -> World {
    balancing(World::new(Protocol::Tcp), version)
}

pub fn balancing(mut world: World, version: HttpVersion) -> World {
    world.relayed.requests = Some(version);
    world.relayed.balancer = Balancer::RoundRobin;
    world
}

/// A server that says its name, and does what the path asks for.
pub struct Endpoint {
    pub target: Target,
    seen: Arc<Seen>,
    stop: CancellationToken,
}

pub struct Seen {
    pub requests: AtomicUsize,
    pub opened: AtomicUsize,
    pub open: AtomicUsize,
    /// Requests for `/held` are answered by permits.
    pub held: Semaphore,
    /// Those that were given up before they were answered.
    pub given_up: AtomicUsize,
}

struct GivenUp(Option<Arc<Seen>>);

impl Drop for GivenUp {
    fn drop(&mut self) {
        if let Some(seen) = self.0.take() {
            seen.given_up.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Endpoint {
    pub async fn new(name: &'static str, version: HttpVersion) -> Self {
        Self::allowing(name, version, 1000).await
    }

    /// One that allows so many requests at a time on one connection.
    pub async fn allowing(name: &'static str, version: HttpVersion, streams: u32) -> Self {
        let listener = TcpListener::bind(LOOPBACK).await.unwrap();
        let target = target_at(listener.local_addr().unwrap());
        let seen = Arc::new(Seen {
            requests: AtomicUsize::new(0),
            opened: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            held: Semaphore::new(0),
            given_up: AtomicUsize::new(0),
        });
        let stop = CancellationToken::new();
        let (all, ending) = (Arc::clone(&seen), stop.clone());
        tokio::spawn(async move {
            while let Some(accepted) = ending.run_until_cancelled(listener.accept()).await {
                let (seen, ending) = (Arc::clone(&all), ending.clone());
                let stream = accepted.unwrap().0;
                seen.opened.fetch_add(1, Ordering::Relaxed);
                seen.open.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(async move {
                    converse(name, (version, streams), stream, &seen, ending).await;
                    seen.open.fetch_sub(1, Ordering::Relaxed);
                });
            }
        });
        Self { target, seen, stop }
    }

    pub fn requests(&self) -> usize {
        self.seen.requests.load(Ordering::Relaxed)
    }

    pub fn open(&self) -> usize {
        self.seen.open.load(Ordering::Relaxed)
    }

    pub fn opened(&self) -> usize {
        self.seen.opened.load(Ordering::Relaxed)
    }

    pub fn given_up(&self) -> usize {
        self.seen.given_up.load(Ordering::Relaxed)
    }

    pub fn answer_held(&self, count: usize) {
        self.seen.held.add_permits(count);
    }

    /// Takes no more connections, and ends those that there are after what was asked on them.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    pub async fn until(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let began = Instant::now();
        while !is_so(self) {
            assert!(began.elapsed() < LONG, "{what}");
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    }
}

async fn converse(
    name: &'static str,
    (version, streams): (HttpVersion, u32),
    stream: TcpStream,
    seen: &Arc<Seen>,
    ending: CancellationToken,
) {
    stream.set_nodelay(true).unwrap();
    let seen = Arc::clone(seen);
    let service = service_fn(move |request| answer(name, Arc::clone(&seen), request));
    let io = TokioIo::new(stream);
    match version {
        HttpVersion::Http1 => {
            let serving = http1::Builder::new().serve_connection(io, service).with_upgrades();
            let mut serving = pin!(serving);
            tokio::select! {
                _ = serving.as_mut() => return,
                () = ending.cancelled() => serving.as_mut().graceful_shutdown(),
            }
            let _ = serving.await;
        }
        HttpVersion::H2c => {
            let mut server = http2::Builder::new(TokioExecutor::new());
            let serving = server.max_concurrent_streams(streams).serve_connection(io, service);
            let mut serving = pin!(serving);
            tokio::select! {
                _ = serving.as_mut() => return,
                () = ending.cancelled() => serving.as_mut().graceful_shutdown(),
            }
            let _ = serving.await;
        }
    }
}

async fn answer(
    name: &'static str,
    seen: Arc<Seen>,
    mut request: Request<Incoming>,
) -> Result<Response<AnyBody>, h2::Error> {
    seen.requests.fetch_add(1, Ordering::Relaxed);
    let answer = |body| Ok(Response::builder().header("x-name", name).body(body).unwrap());
    match request.uri().path() {
        "/echo" => answer(request.into_body().boxed()),
        "/endless" => answer(endless()),
        "/held" => {
            let mut given_up = GivenUp(Some(Arc::clone(&seen)));
            seen.held.acquire().await.unwrap().forget();
            given_up.0 = None;
            answer(bytes(name))
        }
        // What it is asked.
        "/heads" => {
            let mut lines: Vec<String> = request
                .headers()
                .iter()
                .map(|(name, value)| format!("{name}: {}\n", value.to_str().unwrap()))
                .collect();
            lines.sort();
            answer(bytes(format!("{}\n{}", request.uri(), lines.concat())))
        }
        // Reads no body.
        "/deaf" => {
            let _held = request.into_body();
            seen.held.acquire().await.unwrap().forget();
            answer(bytes(name))
        }
        // Over HTTP/1 the connection is closed without a word.
        "/reset" => Err(h2::Reason::ENHANCE_YOUR_CALM.into()),
        "/websocket" => {
            let upgrade = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let mut io = TokioIo::new(upgrade.await.unwrap());
                io.write_all(name.as_bytes()).await.unwrap();
                let (mut read, mut write) = tokio::io::split(io);
                tokio::io::copy(&mut read, &mut write).await.unwrap();
                write.shutdown().await.unwrap();
            });
            let answer = Response::builder().status(101).header("connection", "upgrade");
            Ok(answer.header("upgrade", "websocket").body(nothing()).unwrap())
        }
        // hyper leaves it out over HTTP/1 only.
        _ if request.method() == hyper::Method::HEAD => {
            let answer = Response::builder().header("content-length", name.len());
            Ok(answer.body(nothing()).unwrap())
        }
        _ => answer(bytes(name)),
    }
}

/// A client of HTTP/1.1 that keeps its connection.
pub struct Plain(pub BufReader<TcpStream>);

/// What it is answered.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Plain {
    pub async fn new(world: &World) -> Self {
        Self(BufReader::new(world.connect().await))
    }

    pub async fn say(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.unwrap();
    }

    pub async fn get(&mut self, path: &str) -> Answer {
        self.say(&format!("GET {path} HTTP/1.1\r\nHost: web\r\n\r\n")).await;
        self.answer().await.expect("the connection is open")
    }

    /// Of the kind that has a length.
    pub async fn answer(&mut self) -> io::Result<Answer> {
        tokio::time::timeout(LONG, async {
            let head = self.head().await?;
            let length = head.to_lowercase().lines().find_map(|line| {
                line.strip_prefix("content-length: ").map(|length| length.parse().unwrap())
            });
            let mut body = vec![0; length.unwrap_or(0)];
            self.0.read_exact(&mut body).await?;
            let status = head.split(' ').nth(1).unwrap().parse().unwrap();
            Ok(Answer { status, head, body: String::from_utf8(body).unwrap() })
        })
        .await
        .expect("an answer in time")
    }

    pub async fn head(&mut self) -> io::Result<String> {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if self.0.read_line(&mut head).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(head)
    }

    pub async fn is_closed(&mut self) -> bool {
        let read = tokio::time::timeout(LONG, self.0.read(&mut [0])).await.expect("an end in time");
        !matches!(read, Ok(1))
    }
}

/// A client of HTTP/2.
pub async fn multiplexed(world: &World) -> SendRequest<AnyBody> {
    let io = TokioIo::new(world.connect().await);
    let client = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
    let (sender, connection) = client.handshake(io).await.unwrap();
    tokio::spawn(connection);
    sender
}

pub fn post(path: &str, body: AnyBody) -> Request<AnyBody> {
    Request::post(format!("http://web{path}")).body(body).unwrap()
}

pub async fn ask(client: &SendRequest<AnyBody>, path: &str) -> hyper::Result<String> {
    let response = client.clone().send_request(post(path, nothing())).await?;
    Ok(text(response).await)
}

pub async fn text(response: Response<Incoming>) -> String {
    let whole = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(whole.to_vec()).unwrap()
}

/// Frames of a body one by one, as far as they come.
pub async fn frames(body: Incoming, most: usize) -> usize {
    let frames = body.into_data_stream().take(most);
    frames.fold(0, |sum, frame| async move { sum + frame.unwrap().len() }).await
}
