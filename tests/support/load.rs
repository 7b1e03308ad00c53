//! Open loads: each connection is started on time, whatever became of those before it.
//!
//! In: a client, where to, how often. Out: `Replies`.
//! Never: a second try.

use super::clients::{self, Outcome, Tries};
use super::netns::Netns;
use super::plan::Who;
use super::replies::Replies;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::task::JoinSet;

/// Open-loop connections.
pub struct Load {
    who: Who,
    tries: Tries,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Outcome>>,
}

impl Load {
    pub fn start(netns: &Netns, who: Who, tries: Tries, pause: Duration) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopping, running) = (stop.clone(), tries.clone());
        let thread = netns.spawn(move || run(&running, pause, &stopping));
        Load { who, tries, stop, thread }
    }

    pub fn stop(self) -> Replies {
        self.stop.store(true, Ordering::Relaxed);
        let outcomes = self.thread.join().expect("its panics are bugs of the harness");
        Replies { who: self.who, tries: self.tries, outcomes, trace: None }
    }
}

/// Starts a try every `pause`, however slow the earlier ones are, until `stop`.
fn run(tries: &Tries, pause: Duration, stop: &AtomicBool) -> Vec<Outcome> {
    clients::runtime().block_on(async {
        let mut running = JoinSet::new();
        let mut tick = tokio::time::interval(pause);
        while !stop.load(Ordering::Relaxed) {
            tick.tick().await;
            let tries = tries.clone();
            running.spawn(async move { clients::one(&tries).await });
        }
        running.join_all().await
    })
}
