//! Requests that go to endpoints one by one, whatever connection they come on. EDGE.
//!
//! In: accepted connections of frontends whose [`Relayed`](super::Relayed) says how HTTP is spoken there.
//! Out: requests on connections to endpoints that many clients share, and answers; tunnels, after 101.
//! Never: a body held whole; a request sent twice; a header of its own but X-Forwarded-For.
//!
//! ```text
//! client's connection (hyper) ─► session: heads ─► choose ─► upstreams: a pooled connection, or dial
//!                                   ▲                             │ never sent: the next one
//!                                   └── body, heads ◄─────────────┘ 101: tunnel
//! ```

mod answers;
mod asked;
mod body;
mod heads;
mod session;
#[cfg(test)]
mod tests;
mod tunnel;
mod upstreams;
mod wire;

pub(super) use session::Session;
pub(super) use upstreams::Upstreams;

use super::abort::reset;
use crate::model::HttpVersion;
use body::Cut;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::error::Error as _;
use std::pin::{Pin, pin};
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

/// Of a request's or an answer's head, in bytes. hyper bounds the fields of one over HTTP/1 by 100
/// besides. It is also what is read of a body in one go.
const HEAD_MOST: usize = 64 << 10;

/// Of an HTTP/2 stream, in bytes that wait for their reader: what one stream can carry is this much for
/// each round trip.
const STREAM_WINDOW: u32 = 128 << 10;

/// Bytes of a stream that are ready to be written.
const SEND_BUFFER: usize = 64 << 10;

/// Requests at a time on one connection, a client's or an endpoint's.
const STREAMS: u32 = 100;

/// Of an endpoint's connection: room for what all streams may leave. Clients that do not keep up hold
/// up no others.
const ENDPOINT_WINDOW: u32 = STREAMS * STREAM_WINDOW;

/// Of a client's connection, who holds up nobody else: what it can leave here without being read.
const CLIENT_WINDOW: u32 = 16 * STREAM_WINDOW;

/// Until the client is done, or breaks off. When the frontend is relayed no more, or at `stop`, what
/// was asked is answered, and nothing is asked after that.
pub(super) async fn serve(session: Session, stream: TcpStream, stop: CancellationToken) {
    let (version, session) = (session.version, Arc::new(session));
    let (client, served) = (session.accepted.client, Arc::clone(&session.accepted.served));
    let idle = served.port.limits().idle;
    session.shared.congestion.settle(&stream);
    let over = async {
        tokio::select! {
            () = stop.cancelled() => {}
            () = served.closed() => {}
        }
    };
    let service = service_fn(move |request| Arc::clone(&session).answer(request));
    let io = TokioIo::new(stream);
    let done = match version {
        HttpVersion::Http1 => {
            let mut connection = http1::Builder::new()
                .timer(TokioTimer::new())
                // From the end of one request to that of the next one's head: how long a client
                // may say nothing.
                .header_read_timeout(idle)
                .max_buf_size(HEAD_MOST)
                .preserve_header_case(true)
                .auto_date_header(false)
                .serve_connection(io, service)
                .with_upgrades();
            let shut_down = http1::UpgradeableConnection::graceful_shutdown;
            let done = drive(Pin::new(&mut connection), over, shut_down).await;
            if done.as_ref().is_err_and(looks_whole)
                && let Some(parts) = connection.into_parts()
            {
                reset(parts.io.inner());
            }
            done
        }
        HttpVersion::H2c => {
            let connection = http2::Builder::new(TokioExecutor::new())
                .max_concurrent_streams(STREAMS)
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CLIENT_WINDOW)
                .max_send_buf_size(SEND_BUFFER)
                .max_header_list_size(HEAD_MOST as u32)
                .auto_date_header(false)
                .serve_connection(io, service);
            drive(pin!(connection), over, http2::Connection::graceful_shutdown).await
        }
    };
    if let Err(error) = done {
        tracing::trace!(%client, %error, "a client's connection ended early");
    }
}

fn looks_whole(error: &hyper::Error) -> bool {
    let cut = error.source().and_then(|source| source.downcast_ref::<Cut>());
    cut.is_some_and(|cut| cut.looks_whole)
}

/// To its end, which it is told to come to when it is `over`.
async fn drive<C>(
    mut connection: Pin<&mut C>,
    over: impl Future<Output = ()>,
    shut_down: fn(Pin<&mut C>),
) -> Result<(), hyper::Error>
where
    C: Future<Output = Result<(), hyper::Error>>,
{
    tokio::select! {
        done = connection.as_mut() => return done,
        () = over => {}
    }
    shut_down(connection.as_mut());
    connection.await
}
