//! Open loads: each connection is started on time, whatever became of those before it.
//!
//! In: a client, where to, how often. Out: `Replies`.
//! Never: a second try.

use super::clients::{self, Ending, Outcome, Tries};
use super::netns::Netns;
use super::plan::Who;
use super::replies::Replies;
use super::vipd::Carrier;
use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Linux sends a SYN again after a second: a connect that takes longer has lost one.
const LOST_SYN: Duration = Duration::from_millis(500);

/// When the connections of a load start.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    pub first_after: Duration,
    pub every: Duration,
}

/// Open-loop connections of one client.
pub struct Load {
    who: Who,
    tries: Tries,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Outcome>>,
}

impl Load {
    pub fn start(netns: &Netns, who: Who, tries: Tries, pace: Pace) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopping, running) = (stop.clone(), tries.clone());
        let thread = netns.spawn(move || run(&running, pace, &stopping));
        Load { who, tries, stop, thread }
    }

    /// Waits for the connections that are under way.
    pub fn stop(self) -> Replies {
        self.end();
        let outcomes = self.thread.join().expect("its panics are bugs of the harness");
        Replies {
            who: self.who,
            tries: self.tries,
            outcomes,
            trace: None,
            carrier: Carrier::Kernel,
        }
    }

    fn end(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Starts a try whenever one is due, however slow the earlier ones are, until `stop`.
fn run(tries: &Tries, pace: Pace, stop: &AtomicBool) -> Vec<Outcome> {
    clients::runtime().block_on(async {
        let mut running = JoinSet::new();
        let first = tokio::time::Instant::now() + pace.first_after;
        // What a late thread has missed is made up for: see `MissedTickBehavior::Burst`.
        let mut tick = tokio::time::interval_at(first, pace.every);
        while !stop.load(Ordering::Relaxed) {
            tick.tick().await;
            let tries = tries.clone();
            running.spawn(async move { clients::one(&tries).await });
        }
        running.join_all().await
    })
}

/// Open-loop connections of many clients, which take turns.
pub struct Crowd {
    began: Instant,
    loads: Vec<Load>,
}

impl Crowd {
    /// `pause` is the time between two connections, whoever makes them.
    pub fn start<'n>(
        clients: impl IntoIterator<Item = (&'n Netns, Who, Tries)>,
        pause: Duration,
    ) -> Crowd {
        let began = Instant::now();
        let clients: Vec<_> = clients.into_iter().collect();
        let count = u32::try_from(clients.len()).expect("a handful");
        let load = |(nth, (netns, who, tries))| {
            Load::start(netns, who, tries, Pace { first_after: pause * nth, every: pause * count })
        };
        Crowd { began, loads: (0..).zip(clients).map(load).collect() }
    }

    pub fn stop(self) -> Attempts {
        let took = self.began.elapsed();
        self.loads.iter().for_each(Load::end);
        let outcomes = self.loads.into_iter().flat_map(|load| load.stop().outcomes).collect();
        Attempts { began: self.began, took, outcomes }
    }
}

/// What a crowd's connections saw, one try each.
pub struct Attempts {
    began: Instant,
    took: Duration,
    outcomes: Vec<Outcome>,
}

impl Attempts {
    /// The load was open: so many connections a second were started, and never for a whole second
    /// less than half of them.
    #[track_caller]
    pub fn at_rate(&self, per_second: u32) -> &Self {
        let rate = f64::from(per_second);
        let in_second = |second: u32| {
            let from = self.began + Duration::from_secs(1) * second;
            let during = from..from + Duration::from_secs(1);
            self.outcomes.iter().filter(|one| during.contains(&one.started)).count()
        };
        #[expect(clippy::cast_possible_truncation, reason = "a test ends within minutes")]
        let whole_seconds = self.took.as_secs() as u32;
        let slowest = (0..whole_seconds).map(in_second).min().unwrap_or_default();
        #[expect(clippy::cast_precision_loss, reason = "counts of tries are far below 2^52")]
        let (made, slowest) = (self.outcomes.len() as f64, slowest as f64);
        let wanted = rate * self.took.as_secs_f64();
        assert!(
            whole_seconds > 0 && (made / wanted - 1.0).abs() < 0.05 && slowest > rate / 2.0,
            "{self}, the slowest second {slowest}; wanted {rate} a second"
        );
        self
    }

    /// From at least so many addresses.
    #[track_caller]
    pub fn of_clients(&self, least: usize) -> &Self {
        let addresses: BTreeSet<IpAddr> = self.outcomes.iter().map(|one| one.from).collect();
        assert!(addresses.len() >= least, "{self}; wanted {least} addresses, seen {addresses:?}");
        self
    }

    /// Errors, connections that lost a SYN, and those without an answer, in the order of their
    /// start.
    pub fn failed(&self) -> Vec<&Outcome> {
        let served = |one: &Outcome| {
            matches!(one.ending, Ending::Answer { .. })
                && one.connected.is_some_and(|took| took <= LOST_SYN)
        };
        let mut failed: Vec<&Outcome> = self.outcomes.iter().filter(|one| !served(one)).collect();
        failed.sort_by_key(|one| one.started);
        failed
    }
}

impl fmt::Display for Attempts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slowest = self.outcomes.iter().map(|one| one.took).max().unwrap_or_default();
        let (made, failed) = (self.outcomes.len(), self.failed().len());
        write!(f, "{made} connections in {:.1?}, {failed} failed, slowest {slowest:.1?}", self.took)
    }
}
