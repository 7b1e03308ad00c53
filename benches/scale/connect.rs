//! How long connect() takes from a pod over the node to another pod, rule set by rule set.
//!
//! In: [`Path`]s: a client, a node and a server namespace, several rule sets in the node's. Out:
//! microseconds of every round.
//! Never: two rule sets compared over different namespaces: two equal paths differ by 4 % here, so
//! rule sets that are compared share one, and take turns by their tables' dormant flag.

use crate::Outcome;
use crate::nft::Transactions;
use crate::stats::{Rng, median};
use crate::world::Namespace;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use socket2::{Domain, Protocol, Socket, Type};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 60, 0, 2);
pub const SERVERS: [Ipv4Addr; 3] =
    [Ipv4Addr::new(10, 61, 0, 2), Ipv4Addr::new(10, 61, 0, 3), Ipv4Addr::new(10, 61, 0, 4)];
pub const SERVER_PORT: u16 = 8080;

/// What the server does while the client connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server {
    /// A thread sleeps in accept() on the client's processor, so that every connection wakes it, as
    /// it wakes an idle server. Left to the scheduler, it keeps running on another processor in some
    /// rounds and not in others, and connect() takes 9 or 19 µs.
    Accepting,
    /// Nobody accepts until the client pauses: what is measured is the network path alone.
    Absent,
}

/// Connections before the server side is emptied: below its backlog, so that nobody has to accept
/// while the client is measured.
const BURST: usize = 500;
const BACKLOG: i32 = 1024;

/// client — node — server.
#[derive(Debug)]
pub struct Path {
    pub client: Namespace,
    pub node: Namespace,
    #[allow(dead_code, reason = "held here, used by `peers`")]
    pub server: Namespace,
    pub listener: Socket,
}

impl Path {
    pub fn new() -> Outcome<Self> {
        let (client, node, server) = (Namespace::new()?, Namespace::new()?, Namespace::new()?);
        let addresses: String =
            SERVERS.iter().map(|s| format!("addr add {s}/24 dev eth0\n")).collect();
        node.ip(&format!(
            "link add to-client type veth peer name eth0 netns {}\n\
             link add to-server type veth peer name eth0 netns {}\n\
             addr add 10.60.0.1/24 dev to-client\n\
             addr add 10.61.0.1/24 dev to-server\n\
             link set to-client up\n\
             link set to-server up\n",
            client.path(),
            server.path()
        ))?;
        client.ip(&format!(
            "addr add {CLIENT}/24 dev eth0\nlink set eth0 up\nroute add default via 10.60.0.1\n"
        ))?;
        server.ip(&format!("{addresses}link set eth0 up\nroute add default via 10.61.0.1\n"))?;
        node.sysctl("net/ipv4/ip_forward", "1")?;
        // Reset connections would fill conntrack's table for ten seconds each.
        node.sysctl("net/netfilter/nf_conntrack_tcp_timeout_close", "1")?;
        let listener = server.run(|| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
            socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, SERVER_PORT)).into())?;
            socket.listen(BACKLOG)?;
            Ok(socket)
        })?;
        Ok(Self { client, node, server, listener })
    }

    /// Accepts until told to stop.
    fn accept(&self, stop: &AtomicBool) -> Outcome<()> {
        pin()?;
        self.listener.set_nonblocking(false)?;
        self.listener.set_read_timeout(Some(Duration::from_millis(50)))?;
        while !stop.load(Ordering::Relaxed) {
            // A timeout, or a connection that was reset before it was accepted.
            let _ = self.listener.accept();
        }
        Ok(())
    }

    /// Accepts what has come meanwhile.
    fn drain(&self) -> Outcome<()> {
        self.listener.set_nonblocking(true)?;
        while self.listener.accept().is_ok() {}
        Ok(())
    }

    /// Microseconds of each of `count` connections; the calling thread ends up in the client's
    /// namespace.
    fn connect(&self, to: SocketAddrV4, count: usize, server: Server) -> Outcome<Vec<f64>> {
        self.client.enter()?;
        let to = SocketAddr::V4(to).into();
        let mut times = Vec::with_capacity(count);
        while times.len() < count {
            for _ in 0..BURST.min(count - times.len()) {
                let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
                // A reset leaves no TIME_WAIT behind, and so no port is ever missing.
                socket.set_linger(Some(Duration::ZERO))?;
                let start = Instant::now();
                socket.connect(&to)?;
                times.push(start.elapsed().as_secs_f64() * 1e6);
            }
            if server == Server::Absent {
                self.drain()?;
            }
        }
        Ok(times)
    }
}

/// Keeps the calling thread on the first processor that it may use.
fn pin() -> Outcome<()> {
    let allowed = sched_getaffinity(None)?;
    let mut chosen = CpuSet::new();
    if let Some(cpu) = (0..CpuSet::MAX_CPU).find(|&cpu| allowed.is_set(cpu)) {
        chosen.set(cpu);
    }
    Ok(sched_setaffinity(None, &chosen)?)
}

/// One thing to measure on a path: the table that is awake meanwhile, and where to connect to.
#[derive(Debug, Clone)]
pub struct Variant {
    pub name: String,
    pub table: Option<&'static str>,
    pub to: SocketAddrV4,
}

/// A path with what takes turns on it.
pub struct Course {
    pub path: Path,
    pub tables: Vec<&'static str>,
    pub variants: Vec<Variant>,
}

/// The p50 of every round, by course and variant.
pub fn measure(
    courses: &[Course],
    (rounds, connections): (usize, usize),
    server: Server,
) -> Outcome<Vec<Vec<Vec<f64>>>> {
    let mut turns: Vec<(usize, usize)> = (0..courses.len())
        .flat_map(|course| (0..courses[course].variants.len()).map(move |v| (course, v)))
        .collect();
    let mut results: Vec<Vec<Vec<f64>>> =
        courses.iter().map(|c| vec![Vec::new(); c.variants.len()]).collect();
    let mut switches = courses
        .iter()
        .map(|course| Transactions::open(&course.path.node))
        .collect::<Outcome<Vec<_>>>()?;
    let mut rng = Rng::new(3);
    let stop = AtomicBool::new(false);
    // The thread wanders from namespace to namespace, so it must be one that ends afterwards.
    std::thread::scope(|scope| {
        let wander = move || {
            pin()?;
            for round in 0..=rounds {
                rng.shuffle(&mut turns);
                for &(at, which) in &turns {
                    let course = &courses[at];
                    let variant = &course.variants[which];
                    if !course.tables.is_empty() {
                        switches[at].wake_only(&course.tables, variant.table)?;
                    }
                    let connect = |count| {
                        let times = course.path.connect(variant.to, count, server);
                        times.map_err(|e| format!("{}: {e}", variant.name))
                    };
                    // The first connections after a switch fill caches.
                    connect(connections / 10)?;
                    let times = connect(connections)?;
                    // Round 0 fills neighbour tables and conntrack's.
                    if round > 0 {
                        results[at][which].push(median(&times));
                    }
                }
            }
            Ok(results)
        };
        let stop = &stop;
        if server == Server::Accepting {
            for course in courses {
                scope.spawn(|| course.path.accept(stop));
            }
        }
        let found = scope.spawn(wander).join();
        stop.store(true, Ordering::Relaxed);
        found.unwrap_or_else(|_| Err("the connecting thread panicked".into()))
    })
}
