//! Listens for what there is to say, and says it. EDGE: its own task, by the clock.

use super::findings::Seen;
use super::ledger::{Ledger, Moment};
use super::notice::{Counts, Told};
use super::post::{Post, Why};
use crate::sources::kubernetes::{Access, pauses};
use crate::sync::Snapshot;
use arc_swap::ArcSwap;
use backon::ExponentialBackoff;
use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// While the server is away: the first pause, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// After the server said that this node may not.
const FORBIDDEN: Duration = Duration::from_secs(60);

/// What the task that sends Events is given.
pub struct Desk {
    pub access: Access,
    pub node: Arc<str>,
    pub counts: Counts,
    pub published: Arc<ArcSwap<Snapshot>>,
    /// Says when to look at what is published.
    pub findings: watch::Receiver<()>,
    pub told: Told,
}

/// Sends Events until told to stop. What could not be sent by then is lost: the log has it.
pub async fn serve(desk: Desk, stop: CancellationToken) {
    let Desk { access, node, counts, published, findings, told } = desk;
    let sender = Sender {
        ledger: Ledger::default(),
        post: Post::new(access, node),
        counts,
        pauses: pauses(PAUSES),
        resting: None,
        said: Said::default(),
    };
    stop.run_until_cancelled(sender.run(&published, findings, told)).await;
}

struct Sender {
    ledger: Ledger,
    post: Post,
    counts: Counts,
    pauses: ExponentialBackoff,
    /// Nothing is asked of the server before.
    resting: Option<Instant>,
    said: Said,
}

/// What the log says once, until it is otherwise.
#[derive(Default)]
struct Said {
    forbidden: bool,
    away: bool,
    full: bool,
}

impl Sender {
    async fn run(
        mut self,
        published: &ArcSwap<Snapshot>,
        mut findings: watch::Receiver<()>,
        mut told: Told,
    ) {
        let mut seen = Seen::default();
        // What was found before this task listened.
        findings.mark_changed();
        loop {
            tokio::select! {
                biased;
                Some(notice) = told.recv() => self.ledger.take(notice, now()),
                Ok(()) = findings.changed() => {
                    let notices = seen.look(&published.load());
                    notices.into_iter().for_each(|notice| self.ledger.take(notice, now()));
                }
                () = sleep_until(self.wake_at()) => self.send().await,
            }
            self.count_dropped();
        }
    }

    fn wake_at(&self) -> Option<Instant> {
        let ready = self.ledger.wake_at(Instant::now())?;
        Some(self.resting.map_or(ready, |rested| ready.max(rested)))
    }

    async fn send(&mut self) {
        let Some(sending) = self.ledger.next(Instant::now()) else { return };
        let (outcome, why) = self.post.send(&sending).await;
        let now = Instant::now();
        self.ledger.done(&sending, outcome, now);
        match why {
            None => {
                self.counts.sent.add(1);
                self.taken();
            }
            Some(Why::Unwanted(said)) => {
                self.counts.dropped.add(1);
                let object = &sending.notice.about;
                tracing::debug!(?object, "an Event is not taken: {said}");
                self.taken();
            }
            Some(Why::Forbidden(said)) => {
                self.counts.dropped.add(1);
                self.resting = Some(now + FORBIDDEN);
                if !std::mem::replace(&mut self.said.forbidden, true) {
                    tracing::warn!(
                        "Events are not taken: {said}; a ClusterRole must grant create and patch of \
                         events in events.k8s.io (examples/kubernetes). All else goes on"
                    );
                }
            }
            Some(Why::Away(said)) => {
                let pause = self.pauses.next().unwrap_or(PAUSES.1);
                self.resting = Some(now + pause);
                if !std::mem::replace(&mut self.said.away, true) {
                    tracing::info!("Events wait: {said}");
                }
            }
        }
        if self.ledger.wake_at(now).is_none() {
            self.post.rest();
        }
    }

    fn taken(&mut self) {
        self.resting = None;
        self.pauses = pauses(PAUSES);
        let said = std::mem::take(&mut self.said);
        if said.forbidden || said.away {
            tracing::info!("Events are taken again");
        }
    }

    fn count_dropped(&mut self) {
        let dropped = self.ledger.take_dropped();
        self.counts.dropped.add(dropped);
        // Where none is taken that is told, and why.
        if dropped > 0 && !self.said.forbidden && !std::mem::replace(&mut self.said.full, true) {
            tracing::warn!(
                "more Events than can be sent: some are left out (vipd_events_dropped_total); \
                 `vipd get rejected` has all that is wrong with objects"
            );
        }
    }
}

fn now() -> Moment {
    Moment { instant: Instant::now(), wall: SystemTime::now() }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => pending().await,
    }
}
