//! A request's body on its way to the endpoint.

use hyper::Request;
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

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
