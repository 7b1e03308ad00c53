//! Connections from three places, and what became of them.

use super::Result;
use super::world::World;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Where connections come from: the name that is printed, the namespace.
pub const PLACES: [(&str, &str); 3] = [("pod", "client"), ("node", "node"), ("outside", "outside")];

pub const TARGET: &str = "10.254.56.190:8000";

#[derive(Debug, Clone)]
pub enum Outcome {
    Answered { by: String, saw: String },
    Refused,
    Failed(String),
}

#[derive(Debug, Clone)]
pub struct Sample {
    pub place: &'static str,
    pub started: Instant,
    pub took: Duration,
    pub outcome: Outcome,
}

type Samples = Arc<Mutex<Vec<Sample>>>;

/// Clients that go on until this is dropped.
pub struct Traffic {
    clients: Vec<(Child, JoinHandle<()>)>,
    samples: Samples,
}

impl Traffic {
    pub fn start(world: &World) -> Result<Self> {
        let samples = Samples::default();
        let clients = spawn(world, 0, &samples)?;
        Ok(Self { clients, samples })
    }

    /// Those that started in this time; call it when the last of them must have ended.
    pub fn between(&self, from: Instant, to: Instant) -> Vec<Sample> {
        let samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        samples.iter().filter(|s| from <= s.started && s.started < to).cloned().collect()
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        for (child, reader) in self.clients.drain(..) {
            end(child, reader);
        }
    }
}

/// A number of connections from each place; returns when all have ended.
pub fn burst(world: &World, count: u32) -> Result<Vec<Sample>> {
    let samples = Samples::default();
    for (mut child, reader) in spawn(world, count, &samples)? {
        // Its lines say how it went; a client that died early is missed in their number.
        let _ = child.wait();
        let _ = reader.join();
    }
    let mut samples = samples.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(std::mem::take(&mut *samples))
}

fn spawn(world: &World, count: u32, samples: &Samples) -> Result<Vec<(Child, JoinHandle<()>)>> {
    let pause_ms = if count == 0 { "4" } else { "0" };
    let mut clients = Vec::new();
    for (place, namespace) in PLACES {
        let mut child = world
            .own(namespace)?
            .args(["client", TARGET, &count.to_string(), pause_ms])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("client in {namespace}: {error}"))?;
        let out = child.stdout.take().ok_or("a client without stdout")?;
        let samples = Arc::clone(samples);
        let reader = thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(std::result::Result::ok) {
                let sample = parse(place, &line, Instant::now());
                samples.lock().unwrap_or_else(PoisonError::into_inner).push(sample);
            }
        });
        clients.push((child, reader));
    }
    Ok(clients)
}

fn end(mut child: Child, reader: JoinHandle<()>) {
    // Both say at worst that it has ended already.
    let _ = child.kill();
    let _ = child.wait();
    let _ = reader.join();
}

fn parse(place: &'static str, line: &str, now: Instant) -> Sample {
    let (took, rest) = line.split_once(' ').unwrap_or(("0", line));
    let took = Duration::from_micros(took.parse().unwrap_or(0));
    let words: Vec<&str> = rest.split(' ').collect();
    let outcome = match words[..] {
        ["ok", by, saw] => Outcome::Answered { by: by.to_owned(), saw: saw.to_owned() },
        ["refused"] => Outcome::Refused,
        _ => Outcome::Failed(rest.trim_start_matches("failed ").to_owned()),
    };
    Sample { place, started: now.checked_sub(took).unwrap_or(now), took, outcome }
}

/// How many answers came from whom: place → pod → number.
pub fn answers(samples: &[Sample]) -> BTreeMap<&'static str, BTreeMap<String, u32>> {
    let mut found: BTreeMap<_, BTreeMap<String, u32>> = BTreeMap::new();
    for sample in samples {
        if let Outcome::Answered { by, .. } = &sample.outcome {
            *found.entry(sample.place).or_default().entry(by.clone()).or_default() += 1;
        }
    }
    found
}

/// `0 failed of N`, or why not. Refused counts as failed: there were endpoints.
pub fn none_failed(samples: &[Sample]) -> Result<String> {
    for (place, _) in PLACES {
        if !samples.iter().any(|sample| sample.place == place) {
            return Err(format!("no connection was made from {place}"));
        }
    }
    let mut failed: BTreeMap<String, u32> = BTreeMap::new();
    for sample in samples {
        let why = match &sample.outcome {
            Outcome::Answered { .. } => continue,
            Outcome::Refused => "refused",
            Outcome::Failed(why) => why,
        };
        *failed.entry(format!("{}: {why}", sample.place)).or_default() += 1;
    }
    if failed.is_empty() {
        return Ok(format!("0 failed of {}", samples.len()));
    }
    let number: u32 = failed.values().sum();
    let list: Vec<String> = failed.iter().map(|(why, times)| format!("{times} × {why}")).collect();
    Err(format!("{number} failed of {}: {}", samples.len(), list.join("; ")))
}

/// `refused at once`, or why not.
pub fn all_refused(samples: &[Sample], within: Duration) -> Result<String> {
    for (place, _) in PLACES {
        if !samples.iter().any(|sample| sample.place == place) {
            return Err(format!("no connection was tried from {place}"));
        }
    }
    for sample in samples {
        match &sample.outcome {
            Outcome::Refused if sample.took <= within => {}
            other => {
                let took = sample.took.as_millis();
                return Err(format!("from {}: {other:?} after {took} ms", sample.place));
            }
        }
    }
    let slowest = samples.iter().map(|sample| sample.took).max().unwrap_or_default();
    Ok(format!("refused at once: {} of {0}, the slowest in {} ms", samples.len(), millis(slowest)))
}

pub fn millis(length: Duration) -> String {
    format!("{:.1}", length.as_secs_f64() * 1e3)
}
