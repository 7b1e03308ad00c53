//! How often watches are begun, and how long a failure is waited out.
//!
//! In: requests. Out: the same, some of them later.
//! Never: a list that waits.

use super::requests::{Requests, is_watch};
use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use hyper::Request;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::time::sleep;
use tower::Service;

/// As many a second in the long run, and at once (client-go's defaults for kube-proxy, KubeProxyConfiguration
/// `clientConnection.qps` and `burst`).
const RATE: (Duration, u32) = (Duration::from_millis(200), 10);

/// Pauses after failures, from the first to the longest: twice as long after each, with jitter, since the
/// nodes of a cluster must not come back at once.
pub fn pauses((first, longest): (Duration, Duration)) -> ExponentialBackoff {
    let builder = ExponentialBuilder::default().with_min_delay(first).with_max_delay(longest);
    builder.with_factor(2.0).with_jitter().without_max_times().build()
}

/// The pace of all clients that share it.
#[derive(Debug, Clone)]
pub(super) struct Pace(Arc<Next>);

/// When the next watch may begin, as if each took its share of time: in nanoseconds since `begun`.
#[derive(Debug)]
struct Next {
    begun: Instant,
    next: AtomicU64,
}

impl Pace {
    pub fn new() -> Self {
        Self::since(Instant::now())
    }

    fn since(begun: Instant) -> Self {
        Self(Arc::new(Next { begun, next: AtomicU64::new(0) }))
    }

    /// How long a request of now is to wait.
    fn take(&self, now: Instant) -> Duration {
        let (share, burst) = RATE;
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let (now, share) = (nanos(now.saturating_duration_since(self.0.begun)), nanos(share));
        let after = |next: u64| Some(next.max(now) + share);
        let (Ok(before) | Err(before)) =
            self.0.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, after);
        let ahead = share * u64::from(burst - 1);
        Duration::from_nanos(before.max(now).saturating_sub(now + ahead))
    }
}

/// A service whose watches keep to the pace. A server, or a proxy before it, that ends each watch at
/// once and says nothing is wrong would be asked again without a pause.
#[derive(Debug, Clone)]
pub(super) struct Paced<S> {
    inner: S,
    pace: Pace,
    requests: Requests,
    host: Arc<str>,
}

impl<S> Paced<S> {
    /// How long requests wait is told to `requests`.
    pub fn new(inner: S, pace: Pace, (requests, host): (Requests, Arc<str>)) -> Self {
        Self { inner, pace, requests, host }
    }
}

impl<S, B> Service<Request<B>> for Paced<S>
where
    S: Service<Request<B>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let pause =
            if is_watch(&request) { self.pace.take(Instant::now()) } else { Duration::ZERO };
        let asked = (request.method().clone(), Arc::clone(&self.host));
        self.requests.waited(asked, pause);
        // Begins when it is first asked for.
        let answer = self.inner.call(request);
        Box::pin(async move {
            if !pause.is_zero() {
                sleep(pause).await;
            }
            answer.await
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;
    use std::future::ready;

    #[test]
    fn ten_at_once_then_five_a_second() {
        let begun = Instant::now();
        let pace = Pace::since(begun);
        let at = |ms| begun + Duration::from_millis(ms);
        for _ in 0..10 {
            assert_eq!(pace.take(begun), Duration::ZERO);
        }
        assert_eq!(pace.take(begun), Duration::from_millis(200));
        assert_eq!(pace.take(begun), Duration::from_millis(400));
        assert_eq!(pace.take(at(400)), Duration::from_millis(200));
        // A long rest is worth ten, no more.
        for _ in 0..10 {
            assert_eq!(pace.take(at(60_000)), Duration::ZERO);
        }
        assert_eq!(pace.take(at(60_000)), Duration::from_millis(200));
    }

    #[test]
    fn what_a_request_waits_is_told() {
        let requests = Requests::default();
        let answers = tower::service_fn(|_: Request<()>| ready(Ok::<_, Infallible>(())));
        let pace = Pace::new();
        for _ in 0..1000 {
            pace.take(Instant::now());
        }
        let of = (requests.clone(), "10.0.0.1:6443".into());
        let mut paced = Paced::new(answers, pace, of);
        drop(paced.call(Request::get("/a?watch=true").body(()).unwrap()));
        drop(paced.call(Request::get("/a?limit=500").body(()).unwrap()));
        let waits = requests.made().waits;
        let told = waits.into_iter().map(|((method, host), of)| {
            let counts: Vec<_> = of.cumulative().map(|(_, count)| count).collect();
            (format!("{method} {host}"), counts[0], counts[counts.len() - 1], of.sum() > 100.0)
        });
        assert_eq!(told.collect::<Vec<_>>(), [("GET 10.0.0.1:6443".to_owned(), 1, 2, true)]);
    }
}
