//! Pods that speak HTTP, and clients that keep their connections to them.

use super::support::clients::runtime;
use super::support::netns::Netns;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::client::conn;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::collections::BTreeMap;
use std::io::Read;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

pub const PORT: u16 = 8088;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spoken {
    Http1,
    Http2,
}

pub type AnyBody = BoxBody<Bytes, hyper::Error>;

pub fn bytes(bytes: impl Into<Bytes>) -> AnyBody {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed()
}

/// How a pod ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// What was asked is answered first.
    Served,
    /// In the middle of it.
    Killed,
}

/// A pod's server. It answers with its name, after a moment as servers do.
pub struct Pod {
    seen: Arc<Mutex<Vec<String>>>,
    end: mpsc::Sender<End>,
    thread: Option<JoinHandle<()>>,
}

impl Pod {
    /// Returns when it listens.
    pub fn start(netns: &Netns, at: SocketAddr, spoken: Spoken) -> Self {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (name, log) = (netns.name().to_owned(), Arc::clone(&seen));
        let (end, ends) = mpsc::channel();
        let (listens, wait) = mpsc::channel();
        let thread = netns.spawn(move || {
            let runtime = runtime();
            runtime.block_on(async move {
                let listener = TcpListener::bind(at).await.expect("nobody has the port");
                listens.send(()).expect("somebody waits");
                serve(listener, spoken, (name.into(), log), ends).await;
            });
        });
        wait.recv().expect("it listens");
        Self { seen, end, thread: Some(thread) }
    }

    /// The paths it was asked for.
    pub fn seen(&self) -> Vec<String> {
        self.seen.lock().expect("no holder panics").clone()
    }

    pub fn end(mut self, end: End) -> Vec<String> {
        self.finish(end);
        self.seen()
    }

    fn finish(&mut self, end: End) {
        let Some(thread) = self.thread.take() else { return };
        self.end.send(end).ok();
        thread.join().expect("a server does not panic");
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        self.finish(End::Killed);
    }
}

type Named = (Arc<str>, Arc<Mutex<Vec<String>>>);

async fn serve(listener: TcpListener, spoken: Spoken, named: Named, ends: mpsc::Receiver<End>) {
    let (stop, connections) = (CancellationToken::new(), tokio_util::task::TaskTracker::new());
    let how = tokio::task::spawn_blocking(move || ends.recv().unwrap_or(End::Killed));
    let mut how = pin!(how);
    let end = loop {
        let accepted = tokio::select! {
            end = how.as_mut() => break end.expect("it waits for a word"),
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = accepted.expect("a connection");
        connections.spawn(converse(stream, (peer, spoken), named.clone(), stop.clone()));
    };
    drop(listener);
    if end == End::Served {
        stop.cancel();
        connections.close();
        connections.wait().await;
    }
}

async fn converse(
    stream: TcpStream,
    (peer, spoken): (SocketAddr, Spoken),
    named: Named,
    stop: CancellationToken,
) {
    stream.set_nodelay(true).ok();
    let service = service_fn(move |request| answer(request, peer, named.clone()));
    let io = TokioIo::new(stream);
    match spoken {
        Spoken::Http1 => {
            let serving = http1::Builder::new().serve_connection(io, service).with_upgrades();
            let mut serving = pin!(serving);
            tokio::select! {
                _ = serving.as_mut() => return,
                () = stop.cancelled() => serving.as_mut().graceful_shutdown(),
            }
            serving.await.ok();
        }
        Spoken::Http2 => {
            let server = http2::Builder::new(TokioExecutor::new());
            let mut serving = pin!(server.serve_connection(io, service));
            tokio::select! {
                _ = serving.as_mut() => return,
                () = stop.cancelled() => serving.as_mut().graceful_shutdown(),
            }
            serving.await.ok();
        }
    }
}

async fn answer(
    mut request: Request<Incoming>,
    peer: SocketAddr,
    (name, seen): Named,
) -> hyper::Result<Response<AnyBody>> {
    let path = request.uri().path().to_owned();
    seen.lock().expect("no holder panics").push(path.clone());
    let client = request.headers().get("x-forwarded-for").cloned();
    let mut response = Response::builder().header("x-peer", peer.ip().to_string());
    response = response.header("x-server", &*name);
    if let Some(client) = client {
        response = response.header("x-client", client);
    }
    let body = match path.as_str() {
        "/echo" => request.into_body().boxed(),
        "/endless" => {
            let block = Bytes::from(vec![7; 16 << 10]);
            let blocks = futures_util::stream::repeat_with(move || Ok(Frame::data(block.clone())));
            StreamBody::new(blocks).boxed()
        }
        "/websocket" => {
            let upgrade = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let mut io = TokioIo::new(upgrade.await?);
                let said = async {
                    io.write_all(format!("{name}\n").as_bytes()).await?;
                    let (mut read, mut write) = tokio::io::split(io);
                    tokio::io::copy(&mut read, &mut write).await?;
                    write.shutdown().await
                };
                // Its client may have gone.
                said.await.ok();
                hyper::Result::Ok(())
            });
            response = response.status(101).header("connection", "upgrade");
            response = response.header("upgrade", "websocket");
            bytes("")
        }
        _ => {
            tokio::time::sleep(Duration::from_millis(2)).await;
            bytes(name.to_string())
        }
    };
    Ok(response.body(body).expect("it is well-formed"))
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    pub path: String,
    /// The server's name, or why there is none.
    pub ending: Result<String, String>,
    /// Whom the server took for its client: X-Forwarded-For.
    pub client: String,
}

/// A connection that is kept.
#[derive(Clone)]
pub enum Kept {
    Http1(Arc<tokio::sync::Mutex<conn::http1::SendRequest<AnyBody>>>),
    Http2(conn::http2::SendRequest<AnyBody>),
}

impl Kept {
    pub async fn open(to: SocketAddr, spoken: Spoken) -> Self {
        let io = TokioIo::new(TcpStream::connect(to).await.expect("it is taken"));
        match spoken {
            Spoken::Http1 => {
                let (sender, connection) =
                    conn::http1::handshake(io).await.expect("it waits for a request");
                tokio::spawn(connection);
                Kept::Http1(Arc::new(tokio::sync::Mutex::new(sender)))
            }
            Spoken::Http2 => {
                let opened = conn::http2::handshake(TokioExecutor::new(), io).await;
                let (sender, connection) = opened.expect("the preface is taken");
                tokio::spawn(connection);
                Kept::Http2(sender)
            }
        }
    }

    pub async fn send(&self, path: &str, body: AnyBody) -> hyper::Result<Response<Incoming>> {
        let request = |uri: String| Request::post(uri).header("host", "web");
        match self {
            Kept::Http1(sender) => {
                let request = request(path.to_owned()).body(body).expect("it is well-formed");
                let mut sender = sender.lock().await;
                sender.ready().await?;
                sender.send_request(request).await
            }
            Kept::Http2(sender) => {
                let request = request(format!("http://web{path}"));
                let request = request.body(body).expect("it is well-formed");
                sender.clone().send_request(request).await
            }
        }
    }

    pub async fn ask(&self, path: &str) -> Reply {
        let asking = async {
            let response = self.send(path, bytes("")).await.map_err(|error| error.to_string())?;
            let head = |name: &str| {
                let value = response.headers().get(name).and_then(|value| value.to_str().ok());
                value.unwrap_or_default().to_owned()
            };
            let (status, client) = (response.status(), head("x-client"));
            let body = response.into_body().collect().await.map_err(|error| error.to_string())?;
            let text = String::from_utf8_lossy(&body.to_bytes()).into_owned();
            if status == 200 { Ok((text, client)) } else { Err(format!("{status}: {text}")) }
        };
        let patience = Duration::from_secs(10);
        let (ending, client) = match tokio::time::timeout(patience, asking).await {
            Ok(Ok((server, client))) => (Ok(server), client),
            Ok(Err(error)) => (Err(error), String::new()),
            Err(_) => (Err("nothing came back".to_owned()), String::new()),
        };
        Reply { path: path.to_owned(), ending, client }
    }
}

/// How often each server answered; fails on what nobody did.
#[track_caller]
pub fn tally(replies: &[Reply]) -> BTreeMap<String, usize> {
    let mut tally = BTreeMap::new();
    for reply in replies {
        let server = reply.ending.as_ref().unwrap_or_else(|error| panic!("{error}: {reply:?}"));
        *tally.entry(server.clone()).or_default() += 1;
    }
    tally
}

/// So many requests one after another on one connection, from within a client's namespace.
pub fn in_turn(netns: &Netns, to: SocketAddr, spoken: Spoken, count: usize) -> Vec<Reply> {
    netns.enter(|| {
        runtime().block_on(async {
            let kept = Kept::open(to, spoken).await;
            let mut replies = Vec::new();
            for number in 0..count {
                replies.push(kept.ask(&format!("/{number}")).await);
            }
            replies
        })
    })
}

/// The same, all at once on one connection.
pub fn at_once(netns: &Netns, to: SocketAddr, count: usize) -> Vec<Reply> {
    netns.enter(|| {
        runtime().block_on(async {
            let kept = Kept::open(to, Spoken::Http2).await;
            let paths: Vec<String> = (0..count).map(|number| format!("/{number}")).collect();
            futures_util::future::join_all(paths.iter().map(|path| kept.ask(path))).await
        })
    })
}

/// Clients that ask again and again, each on a connection of its own.
pub struct Asking {
    stop: CancellationToken,
    asked: Arc<AtomicUsize>,
    thread: JoinHandle<Vec<Reply>>,
}

impl Asking {
    pub fn start(netns: &Netns, to: SocketAddr, spoken: Spoken, clients: usize) -> Self {
        let stop = CancellationToken::new();
        let stopping = stop.clone();
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&asked);
        let thread = netns.spawn(move || {
            runtime().block_on(async move {
                let ask = async |client: usize| {
                    let (kept, mut replies) = (Kept::open(to, spoken).await, Vec::new());
                    while !stopping.is_cancelled() {
                        replies.push(kept.ask(&format!("/{client}/{}", replies.len())).await);
                        counted.fetch_add(1, Ordering::Relaxed);
                    }
                    replies
                };
                futures_util::future::join_all((0..clients).map(ask)).await.concat()
            })
        });
        Self { stop, asked, thread }
    }

    /// Until so many more requests have been answered, or were not.
    pub fn go_on(&self, more: usize) {
        let enough = self.asked.load(Ordering::Relaxed) + more;
        while self.asked.load(Ordering::Relaxed) < enough {
            assert!(!self.thread.is_finished(), "a client has ended by itself");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub fn stop(self) -> Vec<Reply> {
        self.stop.cancel();
        self.thread.join().expect("a client does not panic")
    }
}

/// Bytes to one end of a connection, and all that comes back.
pub fn exchange(mut stream: &std::net::TcpStream, until: usize) -> String {
    let mut said = vec![0; until];
    stream.read_exact(&mut said).expect("it is said");
    String::from_utf8_lossy(&said).into_owned()
}
