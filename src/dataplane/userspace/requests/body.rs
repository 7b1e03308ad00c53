//! An answer's body on its way to the client, piece by piece.

use super::super::counts::Held;
use super::asked::Spoilt;
use super::upstreams::Lease;
use hyper::Response;
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use std::pin::Pin;
use std::task::{Context, Poll};

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
