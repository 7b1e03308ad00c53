//! Sockets that answer about the process.

use super::answer::{Answer, Now, healthz, livez};
use crate::events::{About, Notices, Reason};
use crate::listen::{self, Acceptor, Limits, Places, one_request};
use crate::metrics::{self, Metrics};
use crate::sync::Snapshot;
use arc_swap::ArcSwap;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::{Method, Request, Response, StatusCode};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Connections of one socket.
const CONNECTIONS: usize = 64;

const LIMITS: Limits = Limits { head: Duration::from_secs(3), whole: Duration::from_secs(30) };

/// Between two tries to open a socket, as kube-proxy waits.
const RETRY: Duration = Duration::from_secs(5);

const TEXT: &str = "text/plain; charset=utf-8";

/// What a socket is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// Does this node serve?
    Health,
    /// How much?
    Metrics,
}

/// What all sockets answer from, and where they tell that they cannot.
#[derive(Clone)]
pub struct Site {
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    pub metrics: Metrics,
    /// JSON, as [`super::configz`] writes it.
    pub configz: Arc<ArcSwap<String>>,
    pub notices: Notices,
}

/// Answers at an address until told to stop.
pub async fn serve((asked, at): (Asked, SocketAddr), site: Site, stop: CancellationToken) {
    let opened = stop.run_until_cancelled(open(asked, at, &site.notices)).await;
    let Some(Some(listener)) = opened else { return };
    let mut acceptor = Acceptor::new(listener);
    let places = Places::new(CONNECTIONS);
    loop {
        let next = stop.run_until_cancelled(acceptor.next()).await;
        let Some((stream, _)) = next else { return };
        let site = site.clone();
        places.spawn(async move {
            let respond = |request| respond(asked, request, site.clone());
            one_request(stream, LIMITS, asked.name(), respond).await;
        });
    }
}

impl Asked {
    fn name(self) -> &'static str {
        match self {
            Asked::Health => "health of the proxy",
            Asked::Metrics => "metrics",
        }
    }

    fn flag(self) -> &'static str {
        match self {
            Asked::Health => "--healthz-bind-address",
            Asked::Metrics => "--metrics-bind-address",
        }
    }

    fn failure(self) -> Reason {
        match self {
            Asked::Health => Reason::FailedToStartProxierHealthcheck,
            Asked::Metrics => Reason::FailedToStartMetricServer,
        }
    }
}

/// `None` where the kernel does without the address family.
async fn open(asked: Asked, at: SocketAddr, notices: &Notices) -> Option<TcpListener> {
    let mut told = false;
    loop {
        match listen::tcp(at) {
            Ok(listener) => {
                tracing::info!(%at, "{} is answered", asked.name());
                return Some(listener);
            }
            Err(error) if error.is_of_unused_family(at) => {
                tracing::debug!(%at, "not answered: {error}");
                return None;
            }
            Err(error) if !std::mem::replace(&mut told, true) => {
                let (name, flag) = (asked.name(), asked.flag());
                let what = format!("{name} cannot be answered: {error}; trying again ({flag})");
                tracing::warn!(%at, "{what}");
                notices.tell(About::Node, asked.failure(), format!("{at}: {what}"));
            }
            Err(_) => {}
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn respond<B>(asked: Asked, request: Request<B>, site: Site) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n".into());
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    let (snapshot, metrics) = (site.snapshot.load_full(), &site.metrics);
    let now = Now { instant: Instant::now(), wall: SystemTime::now() };
    match (asked, request.uri().path()) {
        (Asked::Health, "/healthz") => {
            let answer = healthz(&snapshot, now);
            metrics.asked.healthz.count(answer.status.is_success());
            json(answer)
        }
        (Asked::Health, "/livez") => {
            let answer = livez(&snapshot, now);
            metrics.asked.livez.count(answer.status.is_success());
            json(answer)
        }
        (Asked::Metrics, "/metrics") => {
            let mut response = text(StatusCode::OK, metrics.scrape(&snapshot).await);
            let kind = HeaderValue::from_static(metrics::CONTENT_TYPE);
            response.headers_mut().insert(CONTENT_TYPE, kind);
            response
        }
        (Asked::Metrics, "/configz") => {
            let body = String::clone(&site.configz.load());
            json(Answer { status: StatusCode::OK, body })
        }
        (Asked::Metrics, "/healthz") => text(StatusCode::OK, "ok".into()),
        (Asked::Metrics, "/proxyMode") => {
            text(StatusCode::OK, snapshot.plan.policy.mode.name().into())
        }
        _ => text(StatusCode::NOT_FOUND, "404 page not found\n".into()),
    }
}

fn json(answer: Answer) -> Response<Full<Bytes>> {
    let mut response = text(answer.status, answer.body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(TEXT));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
