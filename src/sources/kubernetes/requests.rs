//! What the API server was asked, and how it answered: counted for who watches vipd.
//!
//! In: requests. Out: the same, with what became of them counted by client-go's labels.
//! Never: a path or a query, of which there are as many as objects.

use crate::histogram::Histogram;
use hyper::{Method, Request, Response};
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;
use tower::Service;

/// client-go's bounds for `rest_client_request_duration_seconds`.
const BOUNDS: [f64; 12] = [0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0];

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
    /// From the request to the head of its answer, by method and host.
    pub durations: BTreeMap<(Method, Arc<str>), Histogram>,
}

impl Requests {
    /// As they are now.
    pub fn made(&self) -> Made {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn count(&self, (method, host): (Method, Arc<str>), status: &str, begun: Instant) {
        let mut made = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *made.answers.entry((method.clone(), host.clone(), status.into())).or_default() += 1;
        let durations = made.durations.entry((method, host));
        durations.or_insert_with(|| Histogram::new(&BOUNDS)).observe(begun.elapsed());
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
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let of = (request.method().clone(), Arc::clone(&self.host));
        let requests = self.requests.clone();
        let answer = self.inner.call(request);
        Box::pin(async move {
            let begun = Instant::now();
            let answer = answer.await;
            let status = answer.as_ref().map(|answer| answer.status());
            requests.count(of, status.as_ref().map_or(NO_ANSWER, |status| status.as_str()), begun);
            answer
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;
    use std::future::ready;
    use tower::service_fn;

    #[tokio::test]
    async fn requests_are_told_apart_by_method_host_and_status() {
        let requests = Requests::default();
        let answers = service_fn(|request: Request<()>| {
            let status = if request.uri().path() == "/none" { 404 } else { 200 };
            ready(Ok::<_, Infallible>(Response::builder().status(status).body(()).unwrap()))
        });
        let of = |host: &str| (requests.clone(), host.into());
        let mut server = Counted::new(answers, of("10.0.0.1:6443"));
        for (method, path) in [("GET", "/a"), ("GET", "/b"), ("GET", "/none"), ("POST", "/a")] {
            let request = Request::builder().method(method).uri(path).body(()).unwrap();
            server.call(request).await.unwrap();
        }
        let away = service_fn(|_: Request<()>| ready(Err::<Response<()>, _>("refused")));
        let request = Request::get("/a").body(()).unwrap();
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
}
