//! Connections to a Service port's endpoints that requests of many clients share.
//!
//! Each traffic thread has its own: what is sent on one wakes nobody elsewhere.

use super::super::relay::KEEPALIVE;
use super::asked::Asked;
use super::heads;
use super::wire::{Hand, Wire};
use super::{ENDPOINT_WINDOW, HEAD_MOST, SEND_BUFFER, STREAM_WINDOW, STREAMS};
use crate::planner::Target;
use foldhash::HashMap;
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

/// A connection that nobody has used for so long is closed. Servers do the same after 5 s (Node.js) to
/// 75 s (nginx), mostly; whoever closes first, no request is lost that was not sent.
const IDLE: Duration = Duration::from_secs(60);

/// HTTP/1 connections that are kept for later, to one endpoint.
const LONE_MOST: usize = 32;

/// As long as this process may open so many files more. What is kept for later is nothing to refuse a
/// client for.
const FILES_LEFT: usize = 256;

/// HTTP/2 connections to one endpoint. On the last ones requests wait for room.
const SHARED_MOST: usize = 4;

/// Of one Service port.
#[derive(Debug, Default)]
pub struct Upstreams(Mutex<HashMap<(ThreadId, Target), Arc<Upstream>>>);

impl Upstreams {
    /// This thread's connections to an endpoint.
    pub(super) fn to(&self, target: Target) -> Arc<Upstream> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let place = all.entry((thread::current().id(), target));
        Arc::clone(place.or_insert_with(|| {
            let made = Arc::new(Upstream::default());
            tokio::spawn(sweep(Arc::downgrade(&made)));
            made
        }))
    }

    /// Only these are endpoints still. What is under way to others ends on its connection, which is
    /// closed after that.
    pub(in super::super) fn retain(&self, is_endpoint: impl Fn(Target) -> bool) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|(_, target), upstream| {
            let stays = is_endpoint(*target);
            if !stays {
                *upstream.kept() = Kept { is_over: true, ..Kept::default() };
            }
            stays
        });
    }
}

/// One thread's connections to one endpoint.
#[derive(Debug, Default)]
pub(super) struct Upstream {
    kept: Mutex<Kept>,
    /// Who dials for all, where one connection serves many.
    pub dialling: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Kept {
    /// HTTP/1, none in use; the one used last at the end.
    lone: Vec<Lone>,
    /// HTTP/2
    shared: Vec<Shared>,
    /// It is no endpoint any more.
    is_over: bool,
}

#[derive(Debug)]
struct Lone {
    sender: http1::SendRequest<Asked>,
    /// Gone with its connection.
    wire: Weak<Wire>,
    since: Instant,
}

impl Lone {
    fn is_usable(&self) -> bool {
        self.sender.is_ready()
            && !self.sender.is_closed()
            && self.wire.upgrade().is_some_and(|wire| wire.is_quiet())
    }
}

#[derive(Debug)]
struct Shared {
    sender: http2::SendRequest<Asked>,
    streams: Arc<AtomicUsize>,
    /// What the endpoint allows.
    most: Arc<AtomicUsize>,
    used: Instant,
}

impl Shared {
    fn room(&self) -> usize {
        let most = self.most.load(Ordering::Relaxed).min(STREAMS as usize);
        most.saturating_sub(self.streams.load(Ordering::Relaxed))
    }

    fn stream(&mut self) -> Connection {
        self.used = Instant::now();
        self.streams.fetch_add(1, Ordering::Relaxed);
        Connection::Shared(self.sender.clone(), Stream(Arc::clone(&self.streams)))
    }
}

/// A request's place on a connection of many.
#[derive(Debug)]
pub(super) struct Stream(Arc<AtomicUsize>);

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Upstream {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A kept HTTP/1 connection that is open still.
    pub(super) fn lone(self: &Arc<Self>) -> Option<Connection> {
        let mut kept = self.kept();
        loop {
            let lone = kept.lone.pop()?;
            if lone.is_usable() {
                let Lone { sender, wire, .. } = lone;
                return Some(Connection::Lone(Borrowed::new(sender, wire, self)));
            }
        }
    }

    /// A place on an HTTP/2 connection; `None`: another connection is to be made for it.
    pub(super) fn shared(&self) -> Option<Connection> {
        let mut kept = self.kept();
        kept.shared.retain(|one| !one.sender.is_closed());
        let may_dial = kept.shared.len() < SHARED_MOST;
        let emptiest = kept.shared.iter_mut().max_by_key(|one| one.room())?;
        (emptiest.room() > 0 || !may_dial).then(|| emptiest.stream())
    }

    /// HTTP/1 on a new connection.
    pub(super) async fn begin_lone(self: &Arc<Self>, wire: Wire) -> hyper::Result<Connection> {
        let wire = Arc::new(wire);
        let hand = TokioIo::new(Hand(Arc::clone(&wire)));
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(HEAD_MOST)
            .preserve_header_case(true)
            .handshake(hand)
            .await?;
        tokio::spawn(connection.with_upgrades());
        Ok(Connection::Lone(Borrowed::new(sender, Arc::downgrade(&wire), self)))
    }

    /// HTTP/2 on a new connection, which others find from now on. The endpoint has said how many
    /// requests it takes at a time, or the connection is closed.
    pub(super) async fn begin_shared(&self, wire: Wire) -> hyper::Result<Connection> {
        let wire = Arc::new(wire);
        let (sender, mut connection) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(ENDPOINT_WINDOW)
            .max_send_buf_size(SEND_BUFFER)
            .max_header_list_size(HEAD_MOST as u32)
            // Before it has said so nothing is sent that it would have to refuse.
            .initial_max_send_streams(0)
            .handshake(TokioIo::new(Hand(Arc::clone(&wire))))
            .await?;
        wire.heard().await;
        let most = Arc::new(AtomicUsize::new(connection.current_max_send_streams()));
        let told = Arc::clone(&most);
        tokio::spawn(poll_fn(move |cx| {
            let done = Pin::new(&mut connection).poll(cx);
            told.store(connection.current_max_send_streams(), Ordering::Relaxed);
            done
        }));
        let mut shared = Shared { sender, streams: Arc::default(), most, used: Instant::now() };
        let stream = shared.stream();
        let mut kept = self.kept();
        if !kept.is_over {
            kept.shared.push(shared);
        }
        Ok(stream)
    }

    fn forget_idle(&self, now: Instant) {
        let mut kept = self.kept();
        kept.lone.retain(|one| !one.sender.is_closed() && now < one.since + IDLE);
        kept.shared.retain(|one| {
            let is_used = one.streams.load(Ordering::Relaxed) > 0 || now < one.used + IDLE;
            is_used && !one.sender.is_closed()
        });
    }
}

/// Closes what nobody uses, as long as there is something to look at.
async fn sweep(upstream: Weak<Upstream>) {
    loop {
        tokio::time::sleep(IDLE / 2).await;
        let Some(upstream) = upstream.upgrade() else { return };
        upstream.forget_idle(Instant::now());
    }
}

/// What one request is sent on.
#[derive(Debug)]
pub(super) enum Connection {
    Lone(Borrowed),
    Shared(http2::SendRequest<Asked>, Stream),
}

/// An HTTP/1 connection that goes back to those that are kept, unless it has ended or is in use.
#[derive(Debug)]
pub(super) struct Borrowed {
    lone: Option<Lone>,
    upstream: Weak<Upstream>,
}

impl Borrowed {
    fn new(sender: http1::SendRequest<Asked>, wire: Weak<Wire>, upstream: &Arc<Upstream>) -> Self {
        let lone = Some(Lone { sender, wire, since: Instant::now() });
        Self { lone, upstream: Arc::downgrade(upstream) }
    }

    /// What comes after this answer may be part of it.
    fn is_kept_no_more(&mut self) {
        self.upstream = Weak::new();
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        let (Some(mut lone), Some(upstream)) = (self.lone.take(), self.upstream.upgrade()) else {
            return;
        };
        let mut kept = upstream.kept();
        let is_free = lone.sender.is_ready() && !lone.sender.is_closed();
        let is_ample = lone.wire.upgrade().is_some_and(|wire| wire.files_left() >= FILES_LEFT);
        if is_free && is_ample && !kept.is_over && kept.lone.len() < LONE_MOST {
            lone.since = Instant::now();
            kept.lone.push(lone);
        }
    }
}

/// What an answer takes up until its body has ended.
#[derive(Debug)]
pub(super) enum Lease {
    Lone { _until_then: Borrowed },
    Shared { _until_then: Stream },
}

impl Connection {
    /// The answer's head; or an error, with the request where nothing of it was sent.
    pub(super) async fn send(
        self,
        request: Request<Asked>,
    ) -> Result<(Response<Incoming>, Lease), TrySendError<Request<Asked>>> {
        match self {
            Connection::Lone(mut borrowed) => {
                let lone = borrowed.lone.as_mut().expect("it is there until this is dropped");
                let answer = lone.sender.try_send_request(request).await?;
                if heads::ends_in_two_ways(answer.headers()) {
                    borrowed.is_kept_no_more();
                }
                Ok((answer, Lease::Lone { _until_then: borrowed }))
            }
            Connection::Shared(mut sender, stream) => {
                let answer = sender.try_send_request(request).await?;
                Ok((answer, Lease::Shared { _until_then: stream }))
            }
        }
    }
}

/// What every connection to an endpoint has: no waiting for a second small segment, and an end that
/// vanished is found.
pub(super) fn prepare(stream: &tokio::net::TcpStream) {
    let _ = stream.set_nodelay(true);
    let _ = socket2::SockRef::from(stream).set_tcp_keepalive(&KEEPALIVE);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::userspace::budget::Budget;
    use crate::dataplane::userspace::counts::Endpoint;
    use tokio::io::AsyncReadExt;
    use tokio::net::{TcpListener, TcpStream};

    /// A connection, and the endpoint's end of it.
    async fn wire(budget: &Budget) -> (Wire, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let stream = TcpStream::connect(at).await.unwrap();
        let (end, _) = listener.accept().await.unwrap();
        let target = Target { address: at.ip(), port: at.port() };
        let wire = Wire::new(stream, Arc::new(Endpoint::new(target)), budget.files(1).unwrap());
        (wire, end)
    }

    async fn is_closed(end: &mut TcpStream) -> bool {
        let read = tokio::time::timeout(Duration::from_secs(20), end.read(&mut [0])).await;
        read.expect("an end in time").unwrap() == 0
    }

    #[tokio::test]
    async fn what_nobody_uses_for_long_is_closed() {
        let (budget, upstream) = (Budget::of(4096), Arc::new(Upstream::default()));
        let (wire, mut end) = wire(&budget).await;
        let connection = upstream.begin_lone(wire).await.unwrap();
        assert!(upstream.lone().is_none(), "it is in use");
        // It is looked at before it waits for a request.
        tokio::task::yield_now().await;
        drop(connection);
        drop(upstream.lone().expect("it is kept"));
        upstream.forget_idle(Instant::now());
        drop(upstream.lone().expect("it is kept still"));
        upstream.forget_idle(Instant::now() + IDLE);
        assert!(upstream.lone().is_none());
        assert!(is_closed(&mut end).await);
    }

    #[tokio::test]
    async fn nothing_is_kept_where_files_are_few() {
        let (budget, upstream) = (Budget::of(512 + 100), Arc::new(Upstream::default()));
        let (wire, mut end) = wire(&budget).await;
        let connection = upstream.begin_lone(wire).await.unwrap();
        tokio::task::yield_now().await;
        drop(connection);
        assert!(upstream.lone().is_none());
        assert!(is_closed(&mut end).await);
    }

    #[tokio::test]
    async fn what_has_ended_is_not_lent() {
        let (budget, upstream) = (Budget::of(4096), Arc::new(Upstream::default()));
        let (wire, end) = wire(&budget).await;
        let connection = upstream.begin_lone(wire).await.unwrap();
        tokio::task::yield_now().await;
        drop(connection);
        // Nobody has told hyper.
        drop(end);
        assert!(upstream.lone().is_none());
    }
}
