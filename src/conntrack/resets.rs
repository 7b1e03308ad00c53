//! The thread that ends TCP connections to endpoints that are gone. EDGE: a clock.
//!
//! An entry that is deleted makes a reset: the client's next segment is tracked anew, and goes to
//! another endpoint or to a refusal, neither of which knows the connection.

use super::departed::{Departures, Former, Resets};
use super::netlink::{Dump, Entry, Error, Table};
use super::proc::picks_up_connections;
use super::query::queries;
use super::stale::Verdict;
use crate::model::{Known, ServiceKey};
use crate::planner::Plan;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Tries before flows are left to end by themselves.
const MAX_WALKS: u32 = 8;
/// Before the second try; it doubles with each.
const PAUSE: Duration = Duration::from_millis(10);

/// How many connections were ended since the start; counts on as it is read.
#[derive(Debug, Clone, Default)]
pub struct ResetCount(Arc<AtomicU64>);

impl ResetCount {
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The handle of the thread. Dropping it ends the thread; who still waits is forgotten.
#[derive(Debug)]
pub(super) struct Resetter {
    news: Option<Sender<News>>,
    former: BTreeMap<ServiceKey, Arc<Known>>,
    count: ResetCount,
    thread: Option<JoinHandle<()>>,
}

/// A commit.
struct News {
    former: BTreeMap<ServiceKey, Arc<Known>>,
    plan: Plan,
}

impl Resetter {
    pub fn spawn(grace: Duration) -> Result<Self, Error> {
        let (news, received) = channel();
        let count = ResetCount::default();
        let worker = Worker {
            table: Table::open()?,
            departures: Departures::new(grace),
            plan: Plan::empty(),
            news: received,
            count: count.clone(),
            pickup: Pickup::Works,
        };
        let thread = std::thread::Builder::new()
            .name("resets".into())
            .spawn(move || worker.run())
            .map_err(Error::Thread)?;
        Ok(Self { news: Some(news), former: BTreeMap::new(), count, thread: Some(thread) })
    }

    pub fn count(&self) -> ResetCount {
        self.count.clone()
    }

    /// Remembers what services were at the last commit.
    pub fn remember(&mut self, changing: &[ServiceKey], plan: &Plan) {
        for key in changing {
            // What a commit that failed was about is not what the kernel holds.
            let known = || plan.known.get(key).cloned().unwrap_or_default();
            self.former.entry(key.clone()).or_insert_with(known);
        }
    }

    /// The kernel holds `plan`.
    pub fn committed(&mut self, plan: &Plan) {
        if let Some(news) = &self.news {
            let former = std::mem::take(&mut self.former);
            // Without a receiver the thread has panicked, which its own report says.
            let _ = news.send(News { former, plan: plan.clone() });
        }
    }
}

impl Drop for Resetter {
    fn drop(&mut self) {
        self.news = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Whether a client's next segment is tracked at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pickup {
    Works,
    Refused,
}

struct Worker {
    table: Table,
    departures: Departures,
    plan: Plan,
    news: Receiver<News>,
    count: ResetCount,
    pickup: Pickup,
}

/// What one walk brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Walk {
    Whole,
    /// Entries may have been missed.
    Partial,
}

impl Worker {
    fn run(mut self) {
        loop {
            let news = match self.departures.next_due() {
                None => self.news.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(at) => self.news.recv_timeout(at.saturating_duration_since(Instant::now())),
            };
            match news {
                Ok(news) => self.absorb(news),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.absorb_waiting();
            let began = Instant::now();
            let resets = self.departures.due(&self.plan, began);
            if !resets.is_empty() {
                self.reset(resets);
            }
            // Departures that keep coming share walks: half of the time at most goes to them.
            let took = began.elapsed();
            if took > Duration::from_millis(1) {
                std::thread::sleep(took);
            }
        }
    }

    fn absorb(&mut self, news: News) {
        self.plan = news.plan;
        let now = Instant::now();
        for (key, known) in news.former {
            self.departures.note(&Former { key, known }, &self.plan, now);
        }
    }

    /// Whether there was anything.
    fn absorb_waiting(&mut self) -> bool {
        let mut any = false;
        while let Ok(news) = self.news.try_recv() {
            self.absorb(news);
            any = true;
        }
        any
    }

    fn reset(&mut self, mut resets: Resets) {
        if !self.can_reset() {
            return;
        }
        let mut failure = None;
        for walk in 0..MAX_WALKS {
            if walk > 0 {
                std::thread::sleep(PAUSE * 2u32.pow(walk - 1));
            }
            match self.walk(&mut resets) {
                Ok(Walk::Whole) => return,
                Ok(Walk::Partial) => failure = None,
                Err(error) => {
                    failure = Some(error);
                    // What is left of a broken listing must not answer the next request.
                    self.table.reopen();
                }
            }
        }
        let reason = failure.map(|error| error.to_string());
        let reason = reason.unwrap_or_else(|| "every listing was interrupted".to_owned());
        tracing::warn!("TCP connections to endpoints that are gone are not all reset: {reason}");
    }

    /// A segment of a connection that is not tracked is INVALID where the kernel does not pick it
    /// up, and no rule may answer it: then the client would wait as long, and a living endpoint
    /// would be cut off.
    fn can_reset(&mut self) -> bool {
        let before = self.pickup;
        self.pickup = if picks_up_connections() { Pickup::Works } else { Pickup::Refused };
        if self.pickup == Pickup::Refused && before == Pickup::Works {
            tracing::warn!(
                "--reset-gone-after resets nothing while net.netfilter.nf_conntrack_tcp_loose is 0: \
                 the kernel would ignore the client's next segment; set it to 1"
            );
        }
        self.pickup == Pickup::Works
    }

    fn walk(&mut self, resets: &mut Resets) -> Result<Walk, Error> {
        let (mut condemned, mut result): (Vec<Entry>, _) = (Vec::new(), Walk::Whole);
        for query in queries(resets.0.keys()) {
            let dump = self.table.dump(&query, |entry| {
                if resets.judge(&self.plan, &entry.flow) == Verdict::Remove {
                    condemned.push(entry);
                }
            })?;
            if dump == Dump::Interrupted {
                result = Walk::Partial;
            }
        }
        if condemned.is_empty() {
            return Ok(result);
        }
        // An endpoint that came back meanwhile may have new connections.
        if self.absorb_waiting() {
            resets.revise(&self.plan);
            condemned.retain(|entry| resets.judge(&self.plan, &entry.flow) == Verdict::Remove);
        }
        let connections = self.table.delete(&condemned)?;
        if connections > 0 {
            self.count.0.fetch_add(connections, Ordering::Relaxed);
            tracing::info!(connections, "TCP connections to endpoints that are gone are reset");
        }
        Ok(result)
    }
}
