//! How often watches are begun, and how long a failure is waited out.
//!
//! In: requests. Out: the same, some of them later.
//! Never: a list that waits.

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
}

impl<S> Paced<S> {
    pub fn new(inner: S, pace: Pace) -> Self {
        Self { inner, pace }
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
        let watch = request.uri().query().is_some_and(|query| query.contains("watch=true"));
        let pause = if watch { self.pace.take(Instant::now()) } else { Duration::ZERO };
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
}
