//! Watches asked for as protobuf, and told to the client as the JSON that it reads.
//!
//! In: requests of the client, answers of the API server. Out: the same; a watch of Services or of
//! EndpointSlices is asked for as kube-proxy asks for it, and of its objects only what vipd reads is
//! handed on.
//! Never: a demand: who answers with JSON is understood as well; an object that stops others: one that
//! cannot be read is rejected by its name.
//!
//! The API server writes an object as protobuf in half the time that its JSON takes, and `managedFields`,
//! the larger part of most objects, are skipped unread.

mod frames;
mod messages;

use frames::{Frames, whole};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Body, Bytes};
use hyper::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::{Request, Response, Uri};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll};
use tower::{BoxError, Service};

/// What watches are asked for as; the second is for servers that have no protobuf of the kind.
const ASKED: HeaderValue =
    HeaderValue::from_static("application/vnd.kubernetes.protobuf;stream=watch,application/json");
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// A refusal is a Status, of some hundred bytes.
const LARGEST_REFUSAL: usize = 1 << 20;

/// Why an answer cannot be told.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("not an object in protobuf: it does not begin with k8s\\0")]
    NoObject,
    #[error("not the protobuf that Kubernetes writes: {0}")]
    Decode(#[from] prost::DecodeError),
    #[error("an object of the kind {0:?}, which was not asked for")]
    Kind(String),
    #[error("an object of {0} bytes")]
    Large(usize),
    #[error("it cannot be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// A service that is asked so.
#[derive(Debug, Clone)]
pub(super) struct Protobuf<S> {
    inner: S,
    /// An answer could not be told: from then on JSON is asked for.
    failed: Arc<AtomicBool>,
}

impl<S> Protobuf<S> {
    pub fn new(inner: S) -> Self {
        Self { inner, failed: Arc::default() }
    }
}

impl<S, B, A> Service<Request<B>> for Protobuf<S>
where
    S: Service<Request<B>, Response = Response<A>>,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    A: Body<Data = Bytes> + Send + 'static,
    A::Error: Into<BoxError>,
{
    type Response = Response<UnsyncBoxBody<Bytes, BoxError>>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        if is_known_watch(request.uri()) && !self.failed.load(Relaxed) {
            request.headers_mut().insert(ACCEPT, ASKED);
        }
        let answer = self.inner.call(request);
        let failed = Arc::clone(&self.failed);
        Box::pin(async move {
            let answer = answer.await.map_err(Into::into)?;
            if !is_protobuf(answer.headers()) {
                return Ok(answer.map(|body| body.map_err(Into::into).boxed_unsync()));
            }
            let (mut head, body) = answer.into_parts();
            head.headers.remove(CONTENT_LENGTH);
            head.headers.insert(CONTENT_TYPE, JSON);
            let body = if head.status.is_success() {
                Frames::new(body, failed).boxed_unsync()
            } else {
                let refusal = Limited::new(body, LARGEST_REFUSAL).collect().await?.to_bytes();
                let told = whole(refusal).inspect_err(|_| failed.store(true, Relaxed))?;
                Full::new(told).map_err(|never| match never {}).boxed_unsync()
            };
            Ok(Response::from_parts(head, body))
        })
    }
}

/// Whether it is a watch of a kind of which [`messages`] has all that is read.
fn is_known_watch(uri: &Uri) -> bool {
    let is_watch = uri.query().is_some_and(|query| query.split('&').any(|one| one == "watch=true"));
    let path = uri.path();
    is_watch && (path.ends_with("/services") || path.ends_with("/endpointslices"))
}

fn is_protobuf(headers: &HeaderMap) -> bool {
    headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.split(';').next().is_some_and(|kind| kind.trim() == PROTOBUF))
}

#[cfg(test)]
mod tests;
