//! One long-lived connection or UDP socket that sends a numbered line at an interval.
//!
//! In: where to, how often. Out: a log of what was sent, answered and refused.
//! Never: a decision about what is right.

use super::clients::{Ending, answer, ending_of};
use super::netns::Netns;
use super::servers::Proto;
use rustix::event::{PollFd, PollFlags, poll};
use socket2::{Domain, Socket, Type};
use std::collections::BTreeSet;
use std::io::{self, ErrorKind, Read};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Sent(u64),
    /// Server, its port (UDP only), and the number it answers to.
    Got {
        server: String,
        port: u16,
        number: u64,
    },
    Refused,
    Failed(String),
}

#[derive(Debug, Clone, Copy)]
pub struct FlowPlan {
    pub proto: Proto,
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub every: Duration,
    pub manner: Manner,
}

/// Whether the server shall answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    Talking,
    OneWay,
}

type Log = Arc<Mutex<Vec<(Instant, Event)>>>;

/// Stops when dropped.
pub struct Flow {
    log: Log,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    pub local: SocketAddr,
}

impl Flow {
    #[track_caller]
    pub fn start(netns: &Netns, plan: FlowPlan) -> Flow {
        let (socket, local) = netns
            .enter(|| open(&plan))
            .unwrap_or_else(|error| panic!("a flow to {} does not start: {error}", plan.to));
        let (log, stop) = (Log::default(), Arc::new(AtomicBool::new(false)));
        let (thread_log, thread_stop) = (log.clone(), stop.clone());
        let thread = std::thread::spawn(move || send(socket, plan, &thread_log, &thread_stop));
        Flow { log, stop, thread: Some(thread), local }
    }

    fn since(&self, start: Instant) -> Vec<Event> {
        let log = self.log.lock().expect("no holder panics");
        log.iter().filter(|(at, _)| *at >= start).map(|(_, event)| event.clone()).collect()
    }

    pub fn servers(&self, since: Instant) -> BTreeSet<String> {
        let name = |event| match event {
            Event::Got { server, .. } => Some(server),
            _ => None,
        };
        self.since(since).into_iter().filter_map(name).collect()
    }

    pub fn ports(&self, since: Instant) -> BTreeSet<u16> {
        let port = |event| match event {
            Event::Got { port, .. } => Some(port),
            _ => None,
        };
        self.since(since).into_iter().filter_map(port).collect()
    }

    pub fn refusals(&self, since: Instant) -> usize {
        self.since(since).iter().filter(|event| **event == Event::Refused).count()
    }

    /// Errors of any kind, refusals included.
    pub fn errors(&self, since: Instant) -> Vec<Event> {
        let wrong = |event: &Event| matches!(event, Event::Refused | Event::Failed(_));
        self.since(since).into_iter().filter(wrong).collect()
    }

    /// Numbers that were sent (until 0.3 s ago) and never answered.
    pub fn lost(&self) -> Vec<u64> {
        let log = self.log.lock().expect("no holder panics");
        let recent = Instant::now() - Duration::from_millis(300);
        let answered: BTreeSet<u64> = log
            .iter()
            .filter_map(|(_, event)| match event {
                Event::Got { number, .. } => Some(*number),
                _ => None,
            })
            .collect();
        log.iter()
            .filter_map(|(at, event)| match event {
                Event::Sent(number) if *at < recent && !answered.contains(number) => Some(*number),
                _ => None,
            })
            .collect()
    }

    /// Never disturbed: no error, nothing lost, one server all the time.
    #[track_caller]
    pub fn undisturbed(&self, start: Instant) {
        let (errors, lost, servers) = (self.errors(start), self.lost(), self.servers(start));
        assert!(
            errors.is_empty() && lost.is_empty() && servers.len() == 1,
            "a flow was disturbed: answered by {servers:?}, lost {lost:?}, errors {errors:?}"
        );
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

fn open(plan: &FlowPlan) -> io::Result<(Socket, SocketAddr)> {
    let kind = match plan.proto {
        Proto::Tcp => Type::STREAM,
        Proto::Udp => Type::DGRAM,
    };
    let socket = Socket::new(Domain::for_address(plan.to), kind, None)?;
    // Two UDP sockets that have it may be given one port by the kernel, and one of them hears nothing.
    socket.set_reuse_address(plan.from.port() != 0)?;
    socket.bind(&plan.from.into())?;
    socket.connect_timeout(&plan.to.into(), Duration::from_secs(3))?;
    if plan.proto == Proto::Tcp {
        socket.set_read_timeout(Some(Duration::from_secs(3)))?;
        socket.set_tcp_nodelay(true)?;
        let mut greeting = [0; 256];
        let size = (&socket).read(&mut greeting)?;
        if answer(&String::from_utf8_lossy(&greeting[..size])).is_none() {
            return Err(io::Error::other("no greeting"));
        }
    }
    socket.set_nonblocking(true)?;
    let local = socket.local_addr()?.as_socket().expect("an IP socket");
    Ok((socket, local))
}

fn send(socket: Socket, plan: FlowPlan, log: &Log, stop: &AtomicBool) {
    let note = |event| log.lock().expect("no holder panics").push((Instant::now(), event));
    let failed = |error: &io::Error| match ending_of(error) {
        Ending::Refused => Event::Refused,
        _ => Event::Failed(error.to_string()),
    };
    let (mut number, mut next, mut rest) = (0, Instant::now(), String::new());
    while !stop.load(Ordering::Relaxed) {
        if Instant::now() >= next {
            number += 1;
            next += plan.every;
            let quiet = if plan.manner == Manner::OneWay { "Q" } else { "" };
            // A pending ICMP error is reported by the first send, which then sends nothing.
            for _ in 0..2 {
                match socket.send(format!("{quiet}{number}\n").as_bytes()) {
                    Ok(_) => {
                        note(Event::Sent(number));
                        break;
                    }
                    Err(error) => note(failed(&error)),
                }
            }
        }
        let mut buffer = [0; 4096];
        match (&socket).read(&mut buffer) {
            Ok(0) if plan.proto == Proto::Tcp => return note(Event::Failed("closed".to_owned())),
            Ok(size) => {
                rest.push_str(&String::from_utf8_lossy(&buffer[..size]));
                if plan.proto == Proto::Udp && !rest.ends_with('\n') {
                    rest.push('\n');
                }
                while let Some(end) = rest.find('\n') {
                    let line: String = rest.drain(..=end).collect();
                    note(heard(line.trim_end()));
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let pause =
                    next.saturating_duration_since(Instant::now()).min(Duration::from_millis(20));
                let timeout = rustix::event::Timespec {
                    tv_sec: 0,
                    tv_nsec: pause.subsec_nanos().max(100_000).into(),
                };
                poll(&mut [PollFd::new(&socket, PollFlags::IN)], Some(&timeout)).ok();
            }
            Err(error) => {
                note(failed(&error));
                if plan.proto == Proto::Tcp {
                    return;
                }
            }
        }
    }
}

/// `NAME NUMBER` of a connection, or the answer to a datagram.
fn heard(line: &str) -> Event {
    let number = line.rsplit(' ').next().and_then(|word| word.parse().ok());
    let (server, port) = match answer(line) {
        Some(Ending::Answer { server, local, .. }) => (server, local.port()),
        _ => (line.split(' ').next().unwrap_or_default().to_owned(), 0),
    };
    match number {
        Some(number) => Event::Got { server, port, number },
        None => Event::Failed(format!("heard {line:?}")),
    }
}
