//! Connections in, answers out, with a bound on everything.

use super::route::{Answer, METRICS, answer};
use super::stream::Body;
use super::{Listener, socket};
use crate::metrics::{self, Metrics};
use crate::sync::Snapshot;
use arc_swap::ArcSwap;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// More wait in the socket's backlog.
const CONNECTIONS: usize = 16;

/// Bytes of a request's head; a body is never read.
const REQUEST_MAX: usize = 16 * 1024;

const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// For the whole connection: a reader that stops reading must not hold a place for ever.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(60);

/// What answers under way get at shutdown.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(1);

/// Pause after a refused accept, which is nearly always a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Whether the answer comes from a daemon that has read everything.
pub(super) const SYNCED: HeaderName = HeaderName::from_static("vipd-synced");

/// Answers until `shutdown`, then removes the socket's file.
pub async fn serve(
    listener: Listener,
    snapshot: Arc<ArcSwap<Snapshot>>,
    metrics: Metrics,
    shutdown: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let connections = TaskTracker::new();
    while let Some(stream) = next(&listener, &shutdown).await {
        let Some(Ok(place)) =
            shutdown.run_until_cancelled(Arc::clone(&places).acquire_owned()).await
        else {
            break;
        };
        let (snapshot, metrics) = (Arc::clone(&snapshot), metrics.clone());
        connections.spawn(async move {
            connection(stream, snapshot, &metrics).await;
            drop(place);
        });
    }
    connections.close();
    if tokio::time::timeout(SHUTDOWN_GRACE, connections.wait()).await.is_err() {
        tracing::debug!(connections = connections.len(), "admin answers cut off by the shutdown");
    }
}

/// The next connection; `None` at shutdown.
async fn next(listener: &socket::Listener, shutdown: &CancellationToken) -> Option<UnixStream> {
    loop {
        match shutdown.run_until_cancelled(listener.accept()).await? {
            Ok(stream) => return Some(stream),
            Err(error) => {
                tracing::warn!(%error, "admin socket cannot accept: check the limit on open files");
                shutdown.run_until_cancelled(tokio::time::sleep(ACCEPT_PAUSE)).await?;
            }
        }
    }
}

async fn connection(stream: UnixStream, snapshot: Arc<ArcSwap<Snapshot>>, metrics: &Metrics) {
    let service = service_fn(move |request| {
        let snapshot = snapshot.load_full();
        async move { Ok::<_, Infallible>(respond(&request, snapshot, metrics).await) }
    });
    let serving = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(REQUEST_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(CONNECTION_TIMEOUT, serving).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "admin connection ended early"),
        Err(_) => tracing::debug!("admin connection took too long"),
    }
}

async fn respond(
    request: &Request<Incoming>,
    snapshot: Arc<Snapshot>,
    metrics: &Metrics,
) -> Response<Body> {
    let synced = snapshot.status.synced;
    let mut content_type = "application/json";
    let mut response = if request.method() == Method::GET {
        let uri = request.uri();
        if uri.path() == METRICS {
            content_type = metrics::CONTENT_TYPE;
            Response::new(Full::from(metrics.scrape(&snapshot).await).boxed_unsync())
        } else {
            match answer(uri.path(), uri.query().unwrap_or_default(), (snapshot, metrics)) {
                Answer::Body(body) => Response::new(body),
                Answer::Refusal(status, text) => refusal(status, &text),
            }
        }
    } else {
        let mut response =
            refusal(StatusCode::METHOD_NOT_ALLOWED, "only GET: nothing can be changed here");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
        response
    };
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(SYNCED, HeaderValue::from_static(if synced { "true" } else { "false" }));
    response
}

fn refusal(status: StatusCode, text: &str) -> Response<Body> {
    let body = serde_json::json!({ "error": text }).to_string();
    let mut response = Response::new(Full::from(body).boxed_unsync());
    *response.status_mut() = status;
    response
}
