//! One address and port, with a bound on everything: whoever reaches the node may ask.

use super::answer::answer;
use crate::listen::{self, Acceptor, Limits, Places, one_request};
use crate::model::{Family, ServiceKey};
use crate::sync::Snapshot;
use arc_swap::ArcSwap;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::{Request, Response};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Connections of all servers.
pub(super) const CONNECTIONS: usize = 256;

const LIMITS: Limits = Limits { head: Duration::from_secs(3), whole: Duration::from_secs(10) };

const WEIGHT: HeaderName = HeaderName::from_static("x-load-balancing-endpoint-weight");

/// What all servers answer from.
pub(super) struct Site {
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    pub places: Places,
}

/// The service that a port answers for: it may become another one while the socket stays.
pub(super) struct Asked {
    pub service: ArcSwap<ServiceKey>,
    pub port: u16,
}

/// A socket that is answered until it is closed.
pub(super) struct Server {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Server {
    pub(super) fn open(
        at: SocketAddr,
        asked: Arc<Asked>,
        site: Arc<Site>,
    ) -> Result<Self, listen::Error> {
        let acceptor = Acceptor::new(listen::tcp(at)?);
        let stop = CancellationToken::new();
        let family = Family::of(at.ip());
        let task = tokio::spawn(accept(acceptor, (asked, site, family), stop.clone()));
        Ok(Self { stop, task })
    }

    /// When it returns the port is free. Who is connected still gets an answer.
    pub(super) async fn close(self) {
        self.stop.cancel();
        let _ = self.task.await;
    }
}

async fn accept(
    mut acceptor: Acceptor,
    (asked, site, family): (Arc<Asked>, Arc<Site>, Family),
    stop: CancellationToken,
) {
    loop {
        let next = stop.run_until_cancelled(acceptor.next()).await;
        let Some((stream, _)) = next else { return };
        let (asked, answering) = (Arc::clone(&asked), Arc::clone(&site));
        site.places.spawn(async move {
            let respond =
                |request| std::future::ready(respond(&request, (&asked, family), &answering));
            one_request(stream, LIMITS, "a health check", respond).await;
        });
    }
}

/// Any method and path.
fn respond<B>(
    _: &Request<B>,
    (asked, family): (&Asked, Family),
    site: &Site,
) -> Response<Full<Bytes>> {
    let service = asked.service.load();
    let about = (&**service, asked.port, family);
    let answer = answer(&site.snapshot.load(), about, Instant::now());
    let mut response = Response::new(Full::from(answer.body));
    *response.status_mut() = answer.status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(WEIGHT, HeaderValue::from(answer.weight));
    response
}
