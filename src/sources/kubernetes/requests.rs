//! What the API server was asked, and how it answered: counted for who watches vipd.
//!
//! In: requests. Out: the same, with what became of them counted by client-go's labels.
//! Never: a path or a query, of which there are as many as objects.

use crate::histogram::Histogram;
use hyper::body::{Body, Buf as _, Frame, SizeHint};
use hyper::{Method, Request, Response};
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tower::Service;

/// client-go's bounds for `rest_client_request_duration_seconds` and
/// `rest_client_rate_limiter_duration_seconds`.
const BOUNDS: [f64; 12] = [0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0];

/// The same for `rest_client_request_size_bytes` and `rest_client_response_size_bytes`.
const SIZES: [f64; 11] = [
    64.0, 256.0, 512.0, 1024.0, 4096.0, 16384.0, 65536.0, 262144.0, 1048576.0, 4194304.0,
    16777216.0,
];

/// Where the server gave no answer (client-go's word).
const NO_ANSWER: &str = "<error>";

/// Requests to API servers since the start. Copies count on the same.
#[derive(Debug, Clone, Default)]
pub struct Requests(Arc<Mutex<Made>>);

/// All requests, by what they are told apart by.
#[derive(Debug, Clone, Default)]
pub struct Made {
    /// By method, host and HTTP status.
    pub answers: BTreeMap<(Method, Arc<str>, Box<str>), u64>,
    /// From the request to the head of its answer.
    pub durations: BTreeMap<Asked, Histogram>,
    /// How long requests were held back before they were sent.
    pub waits: BTreeMap<Asked, Histogram>,
    /// Bodies of requests, of which most are empty; those of watches are not counted, as in client-go.
    pub sent: BTreeMap<Asked, Histogram>,
    /// Bodies of answers that came to their end; the same.
    pub received: BTreeMap<Asked, Histogram>,
}

/// Method and host.
pub type Asked = (Method, Arc<str>);

impl Requests {
    /// As they are now.
    pub fn made(&self) -> Made {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn change(&self, how: impl FnOnce(&mut Made)) {
        how(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn count(&self, (method, host): Asked, status: &str, begun: Instant) {
        let took = begun.elapsed();
        self.change(|made| {
            *made.answers.entry((method.clone(), host.clone(), status.into())).or_default() += 1;
            let durations = made.durations.entry((method, host));
            durations.or_insert_with(|| Histogram::new(&BOUNDS)).observe(took);
        });
    }

    pub(super) fn waited(&self, asked: Asked, pause: Duration) {
        self.change(|made| {
            made.waits.entry(asked).or_insert_with(|| Histogram::new(&BOUNDS)).observe(pause);
        });
    }

    fn sent(&self, asked: Asked, bytes: u64) {
        self.change(|made| {
            let of = made.sent.entry(asked);
            of.or_insert_with(|| Histogram::of_sizes(&SIZES)).observe_size(bytes);
        });
    }

    fn received(&self, asked: Asked, bytes: u64) {
        self.change(|made| {
            let of = made.received.entry(asked);
            of.or_insert_with(|| Histogram::of_sizes(&SIZES)).observe_size(bytes);
        });
    }
}

/// A service whose requests are counted.
#[derive(Debug, Clone)]
pub(super) struct Counted<S> {
    inner: S,
    requests: Requests,
    host: Arc<str>,
}

impl<S> Counted<S> {
    /// A request names no host by itself.
    pub fn new(inner: S, (requests, host): (Requests, Arc<str>)) -> Self {
        Self { inner, requests, host }
    }
}

impl<S, B, A> Service<Request<B>> for Counted<S>
where
    S: Service<Request<B>, Response = Response<A>>,
    S::Future: Send + 'static,
    B: Body,
{
    type Response = Response<Measured<A>>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let of = (request.method().clone(), Arc::clone(&self.host));
        let requests = self.requests.clone();
        let measured = !is_watch(&request);
        let size = request.body().size_hint().exact().filter(|_| measured);
        let answer = self.inner.call(request);
        Box::pin(async move {
            let begun = Instant::now();
            let answer = answer.await;
            let status = answer.as_ref().map(|answer| answer.status());
            let status = status.as_ref().map_or(NO_ANSWER, |status| status.as_str());
            requests.count(of.clone(), status, begun);
            if let Some(size) = size {
                requests.sent(of.clone(), size);
            }
            let of = measured.then_some((requests, of));
            answer.map(|answer| answer.map(|body| Measured { body: Box::pin(body), size: 0, of }))
        })
    }
}

/// Whether the answer goes on until the server ends it.
pub(super) fn is_watch<B>(request: &Request<B>) -> bool {
    request.uri().query().is_some_and(|query| query.split('&').any(|one| one == "watch=true"))
}

/// The body of an answer, whose size is counted when its end is there.
#[derive(Debug)]
pub(super) struct Measured<A> {
    body: Pin<Box<A>>,
    size: u64,
    /// `None`: it is not counted, or was.
    of: Option<(Requests, Asked)>,
}

impl<A: Body> Body for Measured<A> {
    type Data = A::Data;
    type Error = A::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<A::Data>, A::Error>>> {
        let frame = std::task::ready!(self.body.as_mut().poll_frame(context));
        match &frame {
            Some(Ok(frame)) => {
                self.size += frame.data_ref().map_or(0, |data| data.remaining() as u64);
            }
            Some(Err(_)) => self.of = None,
            None => {}
        }
        // Who knows that this was the last frame asks for none after it.
        if (frame.is_none() || self.body.is_end_stream())
            && let Some((requests, of)) = self.of.take()
        {
            requests.received(of, self.size);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt as _;
    use std::convert::Infallible;
    use std::future::ready;
    use tower::service_fn;

    #[tokio::test]
    async fn requests_are_told_apart_by_method_host_and_status() {
        let requests = Requests::default();
        let answers = service_fn(|request: Request<String>| {
            let status = if request.uri().path() == "/none" { 404 } else { 200 };
            ready(Ok::<_, Infallible>(
                Response::builder().status(status).body(String::new()).unwrap(),
            ))
        });
        let of = |host: &str| (requests.clone(), host.into());
        let mut server = Counted::new(answers, of("10.0.0.1:6443"));
        for (method, path) in [("GET", "/a"), ("GET", "/b"), ("GET", "/none"), ("POST", "/a")] {
            let request = Request::builder().method(method).uri(path).body(String::new()).unwrap();
            server.call(request).await.unwrap();
        }
        let away = service_fn(|_: Request<String>| ready(Err::<Response<String>, _>("refused")));
        let request = Request::get("/a").body(String::new()).unwrap();
        Counted::new(away, of("10.0.0.2")).call(request).await.unwrap_err();
        let made = requests.made();
        let told = made.answers.iter().map(|((m, h, s), n)| format!("{m} {h} {s}: {n}"));
        assert_eq!(
            told.collect::<Vec<_>>(),
            [
                "GET 10.0.0.1:6443 200: 2",
                "GET 10.0.0.1:6443 404: 1",
                "GET 10.0.0.2 <error>: 1",
                "POST 10.0.0.1:6443 200: 1",
            ]
        );
        let counts = made.durations.values().map(|of| of.cumulative().last().unwrap().1);
        assert_eq!(counts.collect::<Vec<_>>(), [3, 1, 1]);
    }

    #[tokio::test]
    async fn bodies_are_measured_but_those_of_watches() {
        let requests = Requests::default();
        let answers = service_fn(|_: Request<String>| {
            ready(Ok::<_, Infallible>(Response::new("x".repeat(70))))
        });
        let mut server = Counted::new(answers, (requests.clone(), "10.0.0.1:6443".into()));
        let mut unread = Vec::new();
        for (method, path, body, read) in [
            ("GET", "/a?limit=500", "", true),
            ("GET", "/a?limit=500", "", false),
            ("GET", "/a?watch=true", "", true),
            ("POST", "/a", "300 bytes", true),
        ] {
            let request = Request::builder().method(method).uri(path);
            let answer = server.call(request.body(body.to_owned()).unwrap()).await.unwrap();
            match read {
                true => assert_eq!(answer.collect().await.unwrap().to_bytes().len(), 70),
                false => unread.push(answer),
            }
        }
        let made = requests.made();
        let told = |of: &BTreeMap<Asked, Histogram>| {
            let of = of.iter().map(|((method, _), sizes)| {
                let count = sizes.cumulative().last().unwrap().1;
                format!("{method}: {count}, {} bytes", sizes.sum())
            });
            of.collect::<Vec<_>>()
        };
        assert_eq!(told(&made.sent), ["GET: 2, 0 bytes", "POST: 1, 9 bytes"]);
        assert_eq!(told(&made.received), ["GET: 1, 70 bytes", "POST: 1, 70 bytes"]);
    }
}
