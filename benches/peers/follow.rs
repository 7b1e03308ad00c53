//! From the answer to a PUT to the first new connection that follows it.
//!
//! In: a [`Site`] and changes, each of which moves a service from one server to another. Out:
//! milliseconds.
//! Never: a change that waits for the one before it; connections in such a number that the proxy
//! would miss the time.

use crate::Outcome;
use crate::generate::Cluster;
use crate::plane::Plane;
use crate::sites::{Server, Site, TARGETS, frontend, place};
use crate::stats::Rng;
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread::{Scope, sleep};
use std::time::{Duration, Instant};

/// Between two changes, in milliseconds: so that no timer of a proxy keeps in step with them.
const APART: std::ops::Range<usize> = 200..400;
/// Changes that may be on their way at a time: a sync of kube-proxy's a second, and its own time.
const PROBERS: usize = 16;
/// Between two connections of one change: at first, and once it is not a matter of milliseconds.
const CLOSE: Duration = Duration::from_micros(250);
const WIDE: Duration = Duration::from_millis(2);
const LONG: Duration = Duration::from_millis(30);
const PATIENCE: Duration = Duration::from_secs(20);

/// A change whose effect is awaited.
struct Job {
    to: SocketAddrV4,
    /// Who answers once it is made.
    new: [Ipv4Addr; 2],
    since: Instant,
    reply: Sender<Outcome<f64>>,
}

/// Servers that say at which address they were reached, and clients, on one site.
pub struct Course<'a> {
    site: &'a Site,
    jobs: Sender<Job>,
}

impl<'a> Course<'a> {
    /// Its threads end when it is dropped, and `stop` is set.
    pub fn open<'scope>(
        site: &'a Site,
        scope: &'scope Scope<'scope, '_>,
        stop: &'scope AtomicBool,
    ) -> Outcome<Self>
    where
        'a: 'scope,
    {
        let listener = &site.path.listener;
        listener.set_nonblocking(false)?;
        listener.set_read_timeout(Some(Duration::from_millis(50)))?;
        scope.spawn(move || answer(listener, stop));
        let (jobs, queue) = channel();
        let queue = std::sync::Arc::new(Mutex::new(queue));
        for _ in 0..PROBERS {
            let queue = std::sync::Arc::clone(&queue);
            scope.spawn(move || probe(site, &queue));
        }
        Ok(Self { site, jobs })
    }

    /// Milliseconds of each of so many changes, at their times whether or not those before are
    /// through. Inside the plane.
    pub fn block(&self, changes: &mut Changes<'_>, count: usize) -> Outcome<Vec<f64>> {
        let (reply, replies) = channel();
        let mut due = Instant::now();
        for _ in 0..count {
            sleep(due.saturating_duration_since(Instant::now()));
            let (to, new) = changes.make()?;
            let since = Instant::now();
            let job = Job { to, new, since, reply: reply.clone() };
            self.jobs.send(job).map_err(|_| "the clients have ended")?;
            due = since + changes.pause();
        }
        drop(reply);
        let times: Vec<f64> = replies.iter().collect::<Outcome<_>>()?;
        match times.len() == count {
            true => Ok(times),
            false => Err(format!("{}: a client has ended", self.site.peer.name()).into()),
        }
    }
}

/// The stream of changes, the same for all who follow the API server.
pub struct Changes<'a> {
    plane: &'a Plane,
    cluster: &'a mut Cluster,
    at: [Server; TARGETS],
    next: usize,
    rng: Rng,
}

impl<'a> Changes<'a> {
    pub fn new(plane: &'a Plane, cluster: &'a mut Cluster) -> Self {
        Self { plane, cluster, at: [Server::First; TARGETS], next: 0, rng: Rng::new(11) }
    }

    /// Moves the next target; returns when the API server has answered.
    fn make(&mut self) -> Outcome<(SocketAddrV4, [Ipv4Addr; 2])> {
        let target = self.next % TARGETS;
        self.next += 1;
        let server = self.at[target].other();
        self.at[target] = server;
        let spec = place(self.cluster, target, server);
        self.plane.replace_slice(spec)?;
        Ok((frontend(spec), server.addresses(target)))
    }

    fn pause(&mut self) -> Duration {
        Duration::from_millis((APART.start + self.rng.below(APART.len())) as u64)
    }
}

fn answer(listener: &Socket, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        // A timeout, or a connection that was reset before it was accepted.
        let Ok((mut socket, _)) = listener.accept() else { continue };
        if let Some(SocketAddr::V4(here)) = socket.local_addr().ok().and_then(|a| a.as_socket()) {
            // Who asked may have gone.
            let _ = socket.write_all(&here.ip().octets());
        }
    }
}

fn probe(site: &Site, queue: &Mutex<Receiver<Job>>) {
    let entered = site.path.client.enter();
    loop {
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        let found = match &entered {
            Ok(()) => followed(&job),
            Err(error) => Err(format!("the clients' namespace: {error}").into()),
        };
        // Where nobody waits any more another change has failed.
        let _ = job.reply.send(found.map_err(|e| format!("{}: {e}", site.peer.name()).into()));
    }
}

/// Milliseconds until the first connection that a new server answers.
fn followed(job: &Job) -> Outcome<f64> {
    loop {
        let said = ask(job.to);
        let waited = job.since.elapsed();
        match said {
            Ok(address) if job.new.contains(&address) => return Ok(waited.as_secs_f64() * 1e3),
            // The old one, or nobody.
            Ok(_) | Err(_) if waited < PATIENCE => {}
            Ok(address) => return Err(format!("{} still leads to {address}", job.to).into()),
            Err(error) => return Err(format!("{}: {error}", job.to).into()),
        }
        sleep(if waited < LONG { CLOSE } else { WIDE });
    }
}

/// Which address a new connection came to.
fn ask(to: SocketAddrV4) -> std::io::Result<Ipv4Addr> {
    const ANSWER: Duration = Duration::from_secs(1);
    let mut socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    // A reset leaves no TIME_WAIT behind.
    socket.set_linger(Some(Duration::ZERO))?;
    socket.connect_timeout(&SocketAddr::V4(to).into(), ANSWER)?;
    socket.set_read_timeout(Some(ANSWER))?;
    let mut octets = [0; 4];
    socket.read_exact(&mut octets)?;
    Ok(Ipv4Addr::from(octets))
}
