//! An answer's body on its way to the client, piece by piece.

use super::super::counts::Held;
use super::upstreams::Lease;
use hyper::Response;
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use std::pin::Pin;
use std::task::{Context, Poll};

/// Read from the endpoint only as fast as the client takes it.
#[derive(Debug)]
pub(super) enum Passing {
    /// vipd's own.
    Own(Bytes),
    /// `held` counts the request as one in flight, `_lease` keeps its place on the connection.
    Endpoint { body: Incoming, held: Held, _lease: Lease },
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
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            Passing::Own(bytes) if bytes.is_empty() => Poll::Ready(None),
            Passing::Own(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Passing::Endpoint { body, held, .. } => {
                let frame = Pin::new(body).poll_frame(cx);
                if let Poll::Ready(Some(Err(_))) = frame {
                    held.broken.add(1);
                }
                frame
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
