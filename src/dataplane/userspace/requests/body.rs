//! Bodies on their way, piece by piece.

use super::super::counts::Held;
use super::upstreams::Lease;
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::{Request, Response};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

/// A client's, to an endpoint.
#[derive(Debug)]
pub(super) struct Asked {
    body: Incoming,
    spoilt: Spoilt,
}

/// Whether a client's body broke off, or was none: whatever that led to, no endpoint is to blame.
#[derive(Debug, Clone, Default)]
pub(super) struct Spoilt(Option<Arc<AtomicBool>>);

impl Spoilt {
    pub(super) fn is_so(&self) -> bool {
        self.0.as_ref().is_some_and(|spoilt| spoilt.load(Ordering::Relaxed))
    }
}

impl Asked {
    pub(super) fn of(request: Request<Incoming>) -> (Request<Self>, Spoilt) {
        let is_empty = request.body().is_end_stream();
        let spoilt = Spoilt((!is_empty).then(Arc::default));
        let told = spoilt.clone();
        (request.map(|body| Self { body, spoilt: told }), spoilt)
    }
}

impl Body for Asked {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Self { body, spoilt } = self.get_mut();
        let frame = Pin::new(body).poll_frame(cx);
        if let (Poll::Ready(Some(Err(_))), Some(spoilt)) = (&frame, &spoilt.0) {
            spoilt.store(true, Ordering::Relaxed);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// What breaks off an answer.
#[derive(Debug, thiserror::Error)]
#[error("the answer broke off")]
pub(super) struct Cut {
    /// The end of the client's connection would be its end: only a reset shows that it is none
    /// (RFC 9112 8).
    pub looks_whole: bool,
    source: hyper::Error,
}

/// An answer's, to the client.
///
/// Read from the endpoint only as fast as the client takes it.
#[derive(Debug)]
pub(super) enum Passing {
    /// vipd's own.
    Own(Bytes),
    /// `held` counts the request as one in flight, `_lease` keeps its place on the connection.
    Endpoint {
        body: Incoming,
        held: Held,
        _lease: Lease,
        spoilt: Spoilt,
        /// It has neither length nor chunks on its way to the client.
        ends_with_connection: bool,
    },
}

impl Passing {
    pub(super) fn own(answer: Response<Bytes>) -> Response<Self> {
        answer.map(Passing::Own)
    }

    /// Of an answer without one: nothing is held up by it.
    pub(super) fn empty() -> Self {
        Passing::Own(Bytes::new())
    }
}

impl Body for Passing {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        match self.get_mut() {
            Passing::Own(bytes) if bytes.is_empty() => Poll::Ready(None),
            Passing::Own(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Passing::Endpoint { body, held, spoilt, ends_with_connection, .. } => {
                Pin::new(body).poll_frame(cx).map_err(|source| {
                    if !spoilt.is_so() {
                        held.broken.add(1);
                    }
                    Cut { looks_whole: *ends_with_connection, source }
                })
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Passing::Own(bytes) => bytes.is_empty(),
            Passing::Endpoint { body, .. } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Passing::Own(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Passing::Endpoint { body, .. } => body.size_hint(),
        }
    }
}
