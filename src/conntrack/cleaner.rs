//! The handle of the thread that removes stale entries.
//!
//! A removal walks the kernel's whole table, however little is to go: the writer only leaves word.

use super::netlink::{Error, Table};
use super::query::DeleteBy;
use super::resets::{ResetCount, Resetter};
use super::stale::Stale;
use super::worker::{Order, Shared, Worker};
use crate::histogram::Histogram;
use crate::model::ServiceKey;
use crate::planner::Plan;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    pub delete_by: DeleteBy,
    /// How long a TCP endpoint must be gone before its connections are reset; `None`: never.
    pub reset_gone_after: Option<Duration>,
}

/// What was done since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Entries of each family deleted one by one; deletions by filter are not counted by the kernel.
    pub deleted: [u64; 2],
    /// Deletions by filter.
    pub filtered: u64,
    /// Walks over all that was suspected.
    pub runs: u64,
    /// Walks that failed, and removals that found no end within several walks.
    pub failures: u64,
}

/// What was done since the start; counts on as it is read.
#[derive(Debug, Clone, Default)]
pub struct Removals(Arc<Shared>);

impl Removals {
    /// How long each walk over what is suspected took.
    pub fn durations(&self) -> &Histogram {
        &self.0.durations
    }

    pub fn get(&self) -> Stats {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            deleted: self.0.deleted.each_ref().map(of),
            filtered: of(&self.0.filtered),
            runs: of(&self.0.runs),
            failures: of(&self.0.failures),
        }
    }
}

/// Removes stale entries in the background. Dropping it finishes what was ordered, unless that
/// fails.
#[derive(Debug)]
pub struct Cleaner {
    orders: Option<Sender<Order>>,
    submitted: u64,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    resetter: Option<Resetter>,
}

impl Cleaner {
    /// A cleaner for the network namespace of the calling thread.
    pub fn spawn(options: Options) -> Result<Self, Error> {
        // Opened here for the error; the new thread is in the same namespace and can reopen it.
        let table = Table::open()?;
        let resetter = options.reset_gone_after.map(Resetter::spawn).transpose()?;
        let shared = Arc::new(Shared::default());
        let (orders, received) = channel();
        let worker = Worker::new(table, options.delete_by, received, Arc::clone(&shared));
        let thread = std::thread::Builder::new()
            .name("conntrack".into())
            .spawn(move || worker.run())
            .map_err(Error::Thread)?;
        Ok(Self { orders: Some(orders), submitted: 0, shared, thread: Some(thread), resetter })
    }

    /// To be called before services are planned again, with the plan of until then. Costs nothing
    /// unless connections are to be reset.
    pub fn before(&mut self, changing: &[ServiceKey], plan: &Plan) {
        if let Some(resetter) = &mut self.resetter {
            resetter.remember(changing, plan);
        }
    }

    /// Removes what is stale at these frontends under `plan`, which the kernel must hold already.
    /// Returns at once.
    ///
    /// To be called after every commit, also if nothing is stale: else flows to endpoints that
    /// come while a removal is under way would be judged by the plan before them. It costs
    /// nothing if none is.
    pub fn clean(&mut self, stale: Stale, plan: &Plan) {
        if !stale.is_empty() {
            self.order(Order::Clean(stale, plan.clone()));
        } else if self.shared.finished_hint.load(Ordering::Acquire) != self.submitted {
            self.order(Order::Plan(plan.clone()));
        }
        self.committed(plan);
    }

    /// Judges every flow: for a start or a resync, when former frontends are not known. Returns
    /// at once.
    pub fn audit(&mut self, plan: &Plan) {
        self.order(Order::Audit(plan.clone()));
        self.committed(plan);
    }

    fn committed(&mut self, plan: &Plan) {
        if let Some(resetter) = &mut self.resetter {
            resetter.committed(plan);
        }
    }

    /// How many TCP connections were reset.
    pub fn resets(&self) -> ResetCount {
        self.resetter.as_ref().map(Resetter::count).unwrap_or_default()
    }

    fn order(&mut self, order: Order) {
        self.submitted += 1;
        if let Some(orders) = &self.orders {
            // Without a receiver the thread has panicked, which its own report says.
            let _ = orders.send(order);
        }
    }

    pub fn stats(&self) -> Stats {
        self.removals().get()
    }

    /// The same, for who reads it later.
    pub fn removals(&self) -> Removals {
        Removals(Arc::clone(&self.shared))
    }

    /// Waits until all that was ordered is done; whether it was within `timeout`.
    pub fn wait(&self, timeout: Duration) -> bool {
        let finished = self.shared.finished.lock().unwrap_or_else(PoisonError::into_inner);
        let (finished, _) = self
            .shared
            .wake
            .wait_timeout_while(finished, timeout, |finished| *finished < self.submitted)
            .unwrap_or_else(PoisonError::into_inner);
        *finished >= self.submitted
    }
}

impl Drop for Cleaner {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
