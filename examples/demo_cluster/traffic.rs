//! An open load: connections that start on time, whatever became of those before.
//!
//! In: namespaces. Out: what became of each connection.
//! Never: a second try.

use super::Result;
use super::netns::Netns;
use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

pub const TARGET: &str = "10.254.56.190:8000";

/// Between two connections of one place.
pub const EVERY: Duration = Duration::from_millis(5);
/// Linux sends a SYN again after a second: what takes longer has lost one.
const CONNECT_WITHIN: Duration = Duration::from_millis(950);
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

#[derive(Debug, Clone)]
pub struct Sample {
    pub place: &'static str,
    pub started: Instant,
    /// How long after it was due: what this machine makes wait that has nothing to wait for.
    pub late: Duration,
    pub took: Duration,
    /// Pod and image, or why not.
    pub outcome: std::result::Result<String, String>,
}

type Samples = Arc<Mutex<Vec<Sample>>>;

/// Goes on until stopped or dropped.
pub struct Traffic {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    samples: Samples,
}

impl Traffic {
    pub fn start(places: &[(&'static str, Netns)]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let samples = Samples::default();
        let threads = places.iter().map(|(place, netns)| {
            let (place, stop, samples) = (*place, stop.clone(), samples.clone());
            netns.spawn(move || run(place, &stop, &samples))
        });
        Self { threads: threads.collect(), stop, samples }
    }

    /// Of those that have ended and started since then, each pod's number of answers.
    pub fn answers_since(&self, since: Instant) -> BTreeMap<String, usize> {
        let samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        let mut answers = BTreeMap::new();
        for sample in samples.iter().filter(|sample| sample.started >= since) {
            if let Ok(who) = &sample.outcome {
                *answers.entry(who.clone()).or_default() += 1;
            }
        }
        answers
    }

    /// Waits for those that are under way.
    pub fn stop(mut self) -> Vec<Sample> {
        self.end();
        std::mem::take(&mut *self.samples.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A panic was told on standard error; its place's samples are missed.
            let _ = thread.join();
        }
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.end();
    }
}

/// The calling thread is in the place's namespace.
fn run(place: &'static str, stop: &AtomicBool, samples: &Samples) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a process may have a few more descriptors").block_on(async {
        let mut running = JoinSet::new();
        // What a late thread has missed is made up for: see `MissedTickBehavior::Burst`.
        let mut tick = tokio::time::interval(EVERY);
        while !stop.load(Ordering::Relaxed) {
            let due = tick.tick().await.into_std();
            let samples = samples.clone();
            running.spawn(async move {
                let started = Instant::now();
                let late = started.saturating_duration_since(due);
                let outcome = ask().await;
                let sample = Sample { place, started, late, took: started.elapsed(), outcome };
                samples.lock().unwrap_or_else(PoisonError::into_inner).push(sample);
            });
            while running.try_join_next().is_some() {}
        }
        running.join_all().await;
    });
}

async fn ask() -> std::result::Result<String, String> {
    let connected = timeout(CONNECT_WITHIN, TcpStream::connect(TARGET)).await;
    let mut stream = match connected {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(format!("connect: {error}")),
        Err(_) => return Err("no answer to a SYN".to_owned()),
    };
    let page = async {
        stream.write_all(b"GET / HTTP/1.1\r\nHost: nginx-service\r\n\r\n").await?;
        let mut page = String::new();
        // The server closes the connection.
        stream.read_to_string(&mut page).await?;
        Ok::<_, io::Error>(page)
    };
    let page = match timeout(ANSWER_WITHIN, page).await {
        Ok(Ok(page)) => page,
        Ok(Err(error)) => return Err(format!("answer: {error}")),
        Err(_) => return Err("no answer".to_owned()),
    };
    match who(&page) {
        Some(who) if page.contains("Welcome to nginx!") => Ok(who.to_owned()),
        _ => Err(format!("not nginx's page: {page:?}")),
    }
}

fn who(page: &str) -> Option<&str> {
    page.split_once("This is ")?.1.split_once("; you are ").map(|(who, _)| who)
}

/// `0 of N failed`, or why not.
pub fn none_failed(samples: &[Sample], took: Duration, places: usize) -> Result<String> {
    let mut failed: BTreeMap<String, usize> = BTreeMap::new();
    for sample in samples {
        if let Err(why) = &sample.outcome {
            *failed.entry(format!("from {}: {why}", sample.place)).or_default() += 1;
        }
    }
    let longest = |lengths: &dyn Fn(&Sample) -> Duration| {
        samples.iter().map(lengths).max().unwrap_or_default().as_secs_f64() * 1e3
    };
    let number: usize = failed.values().sum();
    let told = format!(
        "{number} of {} connections failed in {:.1} s; the slowest took {:.1} ms, the latest began \
         {:.1} ms after it was due",
        samples.len(),
        took.as_secs_f64(),
        longest(&|sample| sample.took),
        longest(&|sample| sample.late),
    );
    let list: Vec<String> =
        failed.iter().map(|(why, times)| format!("  {times} × {why}")).collect();
    // Without enough of them nothing was shown.
    let wanted = took.as_secs_f64() / EVERY.as_secs_f64() * places as f64;
    match (number, samples.len() as f64 > wanted * 0.9) {
        (0, true) => Ok(told),
        (0, false) => Err(format!("{told}; {wanted:.0} should have been made")),
        _ => Err(format!("{told}\n{}", list.join("\n"))),
    }
}
