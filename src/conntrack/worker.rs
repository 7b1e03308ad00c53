//! The thread that removes stale entries: walks until one finds nothing. EDGE: a clock.

use super::netlink::{Dump, Entry, Error, Table};
use super::query::{DeleteBy, Query, Removal, plan_removals};
use super::stale::{Audit, Cause, Stale, Suspects, Verdict, is_backward};
use crate::histogram::{DOUBLING, Histogram};
use crate::model::Family;
use crate::planner::{FrontendKey, Plan};
use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A packet that chose its endpoint by the former rules may enter its flow into the table after
/// the walk has passed that place; a walk that begins this much later sees it.
const SETTLE: Duration = Duration::from_millis(10);
/// Longest pause between tries that do not succeed.
const MAX_PAUSE: Duration = Duration::from_secs(10);
/// Walks in a row that may find something before that is reported as a failure.
const MAX_WALKS: u32 = 5;
/// Walks that may find flows the other way round: a late answer may make one once more, but a
/// process of this node that sends from a frontend's address and port, without being asked, makes
/// them for ever.
const BACKWARD_WALKS: u32 = 3;

#[derive(Debug)]
pub(super) struct Shared {
    /// Of each family.
    pub deleted: [AtomicU64; 2],
    pub filtered: AtomicU64,
    pub runs: AtomicU64,
    pub failures: AtomicU64,
    /// Of walks, however they ended.
    pub durations: Histogram,
    /// Orders carried out, for who waits.
    pub finished: Mutex<u64>,
    pub wake: Condvar,
    /// The same number, for who must not wait for a lock.
    pub finished_hint: AtomicU64,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            deleted: <[AtomicU64; 2]>::default(),
            filtered: AtomicU64::default(),
            runs: AtomicU64::default(),
            failures: AtomicU64::default(),
            durations: Histogram::new(&DOUBLING),
            finished: Mutex::default(),
            wake: Condvar::default(),
            finished_hint: AtomicU64::default(),
        }
    }
}

pub(super) enum Order {
    Clean(Stale, Plan),
    Audit(Plan),
    /// The plan went on without leaving anything stale.
    Plan(Plan),
}

/// What is under suspicion, since when, and the plan to judge by.
struct Job {
    frontends: HashMap<FrontendKey, (Cause, Instant)>,
    audit: Option<Instant>,
    plan: Plan,
    /// Something was added since the last walk.
    fresh: bool,
    /// Walks in a row after which something was left to do for another reason than settling.
    unfinished: u32,
    /// Walks that found flows the other way round.
    backward: u32,
    failing: bool,
}

impl Job {
    fn suspects(&self) -> Suspects {
        let forward = self.backward >= BACKWARD_WALKS;
        let cause = |cause| if forward { Cause::Changed } else { cause };
        Suspects {
            frontends: self.frontends.iter().map(|(at, (why, _))| (*at, cause(*why))).collect(),
            audit: match self.audit {
                None => Audit::No,
                Some(_) if forward => Audit::Forward,
                Some(_) => Audit::All,
            },
        }
    }

    /// Clears what a walk that began at `began` has found clean.
    fn acquit(&mut self, began: Instant) {
        let open = |since: &Instant| *since + SETTLE > began;
        self.frontends.retain(|_, (_, since)| open(since));
        self.audit = self.audit.filter(open);
        self.unfinished = 0;
    }

    fn is_done(&self) -> bool {
        self.frontends.is_empty() && self.audit.is_none()
    }
}

/// What one walk brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Walk {
    Clean,
    /// Something was there, or may have been missed.
    Again,
}

/// Whether the owner is gone, and with it the time for many tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    No,
    Yes,
}

pub(super) struct Worker {
    table: Table,
    delete_by: DeleteBy,
    orders: Receiver<Order>,
    shared: Arc<Shared>,
    job: Option<Job>,
    absorbed: u64,
}

impl Worker {
    pub fn new(
        table: Table,
        delete_by: DeleteBy,
        orders: Receiver<Order>,
        shared: Arc<Shared>,
    ) -> Self {
        Self { table, delete_by, orders, shared, job: None, absorbed: 0 }
    }

    pub fn run(mut self) {
        let mut due = Instant::now();
        loop {
            let order = if self.job.is_none() {
                self.orders.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                self.orders.recv_timeout(due.saturating_duration_since(Instant::now()))
            };
            let ending = match order {
                // What is under way goes on at its own pace.
                Ok(order @ Order::Plan(_)) => {
                    self.absorb(order);
                    self.finish_if_done();
                    continue;
                }
                Ok(order) => {
                    self.absorb(order);
                    Ending::No
                }
                Err(RecvTimeoutError::Timeout) => Ending::No,
                Err(RecvTimeoutError::Disconnected) if self.job.is_none() => return,
                Err(RecvTimeoutError::Disconnected) => {
                    std::thread::sleep(due.saturating_duration_since(Instant::now()).min(SETTLE));
                    Ending::Yes
                }
            };
            self.absorb_waiting();
            let began = Instant::now();
            let walk = self.walk();
            let took = began.elapsed();
            self.shared.durations.observe(took);
            let pause = self.conclude(walk, began);
            due = Instant::now() + pause;
            if ending == Ending::Yes && self.job.as_ref().is_some_and(|job| job.unfinished > 1) {
                return;
            }
            if self.job.is_some() && ending == Ending::No {
                // Orders that keep coming share walks: half of the time at most goes to them.
                std::thread::sleep(took);
            }
        }
    }

    fn absorb(&mut self, order: Order) {
        self.absorbed += 1;
        let now = Instant::now();
        let (stale, audit, plan) = match order {
            Order::Clean(stale, plan) => (stale, None, plan),
            Order::Audit(plan) => (Stale::default(), Some(now), plan),
            Order::Plan(plan) => (Stale::default(), None, plan),
        };
        let job = self.job.get_or_insert_with(|| Job {
            frontends: HashMap::new(),
            audit: None,
            plan: plan.clone(),
            fresh: false,
            unfinished: 0,
            backward: 0,
            failing: false,
        });
        job.fresh |= !stale.is_empty();
        job.plan = plan;
        for (at, cause) in stale.iter() {
            let before = job.frontends.get(&at).map_or(cause, |(before, _)| *before);
            job.frontends.insert(at, (cause.max(before), now));
        }
        job.audit = audit.or(job.audit);
        if !stale.is_empty() || audit.is_some() {
            job.backward = 0;
        }
    }

    fn absorb_waiting(&mut self) {
        while let Ok(order) = self.orders.try_recv() {
            self.absorb(order);
        }
    }

    /// Looks at all that is suspected, once.
    fn walk(&mut self) -> Result<Walk, Error> {
        self.shared.runs.fetch_add(1, Ordering::Relaxed);
        let Some(job) = &mut self.job else { return Ok(Walk::Clean) };
        // Deletions by filter do not say what they found: the next walk looks.
        let by = if std::mem::take(&mut job.fresh) { self.delete_by } else { DeleteBy::Entry };
        let steps = plan_removals(&job.suspects(), &job.plan, by);
        let (mut result, mut backward) = (Walk::Clean, false);
        for step in steps {
            let walk = match step {
                Removal::Everything(address, port) => self.delete_all_to(address, port)?,
                Removal::Judged(query) => self.delete_judged(&query, &mut backward)?,
            };
            if walk == Walk::Again {
                result = Walk::Again;
            }
        }
        if let Some(job) = self.job.as_mut().filter(|_| backward) {
            job.backward += 1;
        }
        Ok(result)
    }

    fn delete_all_to(&mut self, address: Ipv4Addr, port: u16) -> Result<Walk, Error> {
        self.absorb_waiting();
        let Some(job) = &self.job else { return Ok(Walk::Clean) };
        let step = Removal::Everything(address, port);
        if !plan_removals(&job.suspects(), &job.plan, DeleteBy::Filter).contains(&step) {
            // Endpoints came while other steps were carried out.
            return Ok(Walk::Again);
        }
        match self.table.delete_all_to(address, port) {
            Ok(()) => {
                self.shared.filtered.fetch_add(1, Ordering::Relaxed);
                Ok(Walk::Again)
            }
            Err(error @ Error::Filter(_)) => {
                tracing::warn!(%error, "conntrack entries are deleted one by one from now on");
                self.delete_by = DeleteBy::Entry;
                Ok(Walk::Again)
            }
            Err(error) => Err(error),
        }
    }

    /// `backward` becomes true where a flow was there the other way round.
    fn delete_judged(&mut self, query: &Query, backward: &mut bool) -> Result<Walk, Error> {
        let Some(job) = &self.job else { return Ok(Walk::Clean) };
        let (suspects, mut condemned) = (job.suspects(), Vec::new());
        let dump = self.table.dump(query, |entry| {
            if suspects.judge(&job.plan, &entry.flow) == Verdict::Remove {
                *backward |= is_backward(&job.plan, &entry.flow);
                condemned.push(entry);
            }
        })?;
        let clean = dump == Dump::Whole && condemned.is_empty();
        self.delete(condemned, query.family)?;
        Ok(if clean { Walk::Clean } else { Walk::Again })
    }

    /// Deletes what is still to go by the newest plan.
    fn delete(&mut self, mut condemned: Vec<Entry>, family: Family) -> Result<(), Error> {
        if condemned.is_empty() {
            return Ok(());
        }
        self.absorb_waiting();
        if let Some(job) = &self.job {
            let suspects = job.suspects();
            condemned.retain(|entry| suspects.judge(&job.plan, &entry.flow) == Verdict::Remove);
        }
        let deleted = self.table.delete(&condemned)?;
        self.shared.deleted[family.index()].fetch_add(deleted, Ordering::Relaxed);
        tracing::debug!(deleted, "stale conntrack entries removed");
        Ok(())
    }

    /// Draws the consequences of a walk; how long to wait before the next.
    fn conclude(&mut self, walk: Result<Walk, Error>, began: Instant) -> Duration {
        let Some(job) = &mut self.job else { return Duration::ZERO };
        match walk {
            Ok(Walk::Clean) => {
                if std::mem::take(&mut job.failing) {
                    tracing::info!("stale conntrack entries are removed again");
                }
                job.acquit(began);
            }
            Ok(Walk::Again) => {
                job.unfinished += 1;
                if job.unfinished == MAX_WALKS {
                    self.shared.failures.fetch_add(1, Ordering::Relaxed);
                    tracing::warn!("stale conntrack entries keep coming back; going on");
                }
            }
            Err(error) => {
                job.unfinished += 1;
                self.shared.failures.fetch_add(1, Ordering::Relaxed);
                if !std::mem::replace(&mut job.failing, true) {
                    tracing::warn!(%error, "stale conntrack entries not removed; trying again");
                }
                // What is left of a broken listing must not answer the next request.
                self.table.reopen();
            }
        }
        let pause = SETTLE * 2u32.saturating_pow(job.unfinished.saturating_sub(1).min(16));
        self.finish_if_done();
        pause.min(MAX_PAUSE)
    }

    fn finish_if_done(&mut self) {
        if self.job.as_ref().is_some_and(Job::is_done) {
            self.job = None;
            *self.shared.finished.lock().unwrap_or_else(PoisonError::into_inner) = self.absorbed;
            self.shared.finished_hint.store(self.absorbed, Ordering::Release);
            self.shared.wake.notify_all();
        }
    }
}
