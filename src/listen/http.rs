//! One HTTP request on a connection, with a bound on everything: whoever reaches the socket may ask.

use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};

/// Bytes of a request's head; a body is never read.
const REQUEST_MAX: usize = 16 * 1024;

/// How long a connection may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Until the request's head is there.
    pub head: Duration,
    /// In all: a reader that stops reading must not hold a place for ever.
    pub whole: Duration,
}

/// Answers the one request that a connection has. `what` names it in the log.
pub async fn one_request<I, F, R, B>(stream: I, limits: Limits, what: &str, respond: F)
where
    I: AsyncRead + AsyncWrite + Unpin,
    F: Fn(Request<Incoming>) -> R,
    R: Future<Output = Response<B>>,
    B: Body + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let service = service_fn(|request| {
        let response = respond(request);
        async move { Ok::<_, Infallible>(response.await) }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_buf_size(REQUEST_MAX)
        .keep_alive(false)
        .half_close(true)
        .title_case_headers(true)
        .serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(limits.whole, serving).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "{what}: a connection ended early"),
        Err(_) => tracing::debug!("{what}: a connection took too long"),
    }
}
