//! The engine on loopback sockets. Nothing intercepts here, so a frontend is what its listeners are
//! bound to; the node port of 127.0.0.1 is one too.

use super::budget::Budget;
use super::engine::{Engine, EngineOptions};
use super::listeners::Interception;
use super::relayed::{Relayed, relayed};
use super::{EndpointCounts, PortCounts};
use crate::model::{Balancer, Family, MaxConnections, Protocol, ProxyProtocol};
use crate::planner::{FrontendAddress, FrontendKey, NodePlan, Plan, Reach, Target};
use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

pub(super) const LOOPBACK: &str = "127.0.0.1:0";
pub(super) const LONG: Duration = Duration::from_secs(20);

/// An engine with one Service port, which answers at its own loopback address.
pub(super) struct World {
    pub engine: Engine,
    protocol: Protocol,
    pub relayed: Relayed,
}

pub(super) fn options(files: usize) -> EngineOptions {
    let budget = Arc::new(Budget::of(files));
    EngineOptions { threads: NonZeroUsize::new(2).unwrap(), drain: LONG * 30, budget }
}

impl World {
    pub fn new(protocol: Protocol) -> Self {
        Self::with(protocol, options(4096))
    }

    pub fn with(protocol: Protocol, options: EngineOptions) -> Self {
        let engine = Engine::new(options);
        engine.intercept_by(Interception::None).unwrap();
        Self { engine, protocol, relayed: relayed(protocol, Reach::Cluster) }
    }

    pub fn at(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.engine.port().unwrap()))
    }

    pub fn key(&self) -> FrontendKey {
        let at = FrontendAddress::Address(self.at().ip());
        FrontendKey { at, protocol: self.protocol, port: self.at().port() }
    }

    /// From now on the Service has these endpoints, and what else `self.relayed` says.
    pub fn serve(&mut self, targets: &[Target]) {
        let mut targets = targets.to_vec();
        targets.sort_unstable();
        self.relayed.cluster = targets.into();
        self.engine.update(vec![(self.key(), Some(self.relayed.clone()))]);
    }

    pub async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.at()).await.unwrap()
    }

    /// What the server says whom a new connection reaches.
    async fn greeting(&self) -> io::Result<u8> {
        greeting(self.at()).await
    }

    pub fn counts(&self) -> PortCounts {
        let counts = self.engine.counts();
        counts.ports.into_iter().next().expect("there is one Service port")
    }

    pub fn count(&self, of: Target) -> EndpointCounts {
        let counts = self.counts();
        *counts.endpoints.iter().find(|counts| counts.target == of).expect("it is known")
    }

    /// Until what connections leave behind is what it should be.
    pub async fn wait_until(&self, is_so: impl Fn(&PortCounts) -> bool) {
        let began = Instant::now();
        while !is_so(&self.counts()) {
            assert!(began.elapsed() < LONG, "{:?}", self.counts());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// A reset may come before the client has seen that it is connected.
async fn greeting(at: SocketAddr) -> io::Result<u8> {
    timeout(LONG, async { TcpStream::connect(at).await?.read_u8().await }).await.unwrap()
}

pub(super) fn target_at(at: SocketAddr) -> Target {
    Target { address: at.ip(), port: at.port() }
}

/// A server that greets with its name, then sends everything back, and ends after its client.
pub(super) async fn echo(name: u8) -> Target {
    let listener = TcpListener::bind(LOOPBACK).await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                let _ = write.write_u8(name).await;
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    target_at(at)
}

/// An address of this machine that refuses.
pub(super) async fn refusing() -> Target {
    let listener = TcpListener::bind(LOOPBACK).await.unwrap();
    target_at(listener.local_addr().unwrap())
}

/// One that says nothing while this is there: its queue of connections is full.
pub(super) struct Silent {
    pub target: Target,
    _held: (socket2::Socket, Vec<TcpStream>),
}

impl Silent {
    pub async fn new() -> Self {
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
        socket.listen(0).unwrap();
        let at = socket.local_addr().unwrap().as_socket().unwrap();
        let mut queue = Vec::new();
        while let Ok(stream) = timeout(Duration::from_millis(100), TcpStream::connect(at)).await {
            queue.push(stream.unwrap());
        }
        Self { target: target_at(at), _held: (socket, queue) }
    }
}

pub(super) fn kind<T>(result: io::Result<T>) -> Option<io::ErrorKind> {
    result.err().map(|error| error.kind())
}

// ---- connections

#[tokio::test]
async fn bytes_go_both_ways_and_each_end_ends_by_itself() {
    let mut world = World::new(Protocol::Tcp);
    let endpoint = echo(1).await;
    world.serve(&[endpoint]);
    let mut client = world.connect().await;
    let sent: Vec<u8> = (0..3_000_000u32).map(|n| n.to_le_bytes()[1]).collect();
    let (mut read, mut write) = client.split();
    let sending = async {
        write.write_all(&sent).await.unwrap();
        write.shutdown().await.unwrap();
    };
    let mut received = Vec::new();
    let receiving = async { read.read_to_end(&mut received).await.unwrap() };
    tokio::join!(sending, receiving);
    assert_eq!(received[0], 1);
    assert!(received[1..] == sent, "{} bytes came back", received.len());
    world.wait_until(|port| port.active() == 0).await;
    let counts = world.count(endpoint);
    assert_eq!((counts.opened, counts.failed), (1, 0));
    assert_eq!((counts.sent, counts.received), (3_000_000, 3_000_001));
    assert_eq!(world.counts().connect_times.cumulative().last().unwrap().1, 1);
}

#[tokio::test]
async fn who_refuses_is_left_for_the_next_at_once() {
    let mut world = World::new(Protocol::Tcp);
    let mut all = vec![echo(7).await];
    for _ in 0..9 {
        all.push(refusing().await);
    }
    world.serve(&all);
    let began = Instant::now();
    for _ in 0..40 {
        assert_eq!(world.greeting().await.unwrap(), 7);
    }
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    let counts = world.counts();
    assert!(counts.endpoints.iter().any(|endpoint| endpoint.ejections > 0), "{counts:?}");
    assert!(counts.endpoints.iter().filter(|endpoint| endpoint.ejected).count() <= 5);
    assert_eq!(counts.unserved, 0);
}

#[tokio::test]
async fn who_says_nothing_is_left_after_a_quarter_of_a_second() {
    let mut world = World::new(Protocol::Tcp);
    world.relayed.balancer = Balancer::RoundRobin;
    let silent = Silent::new().await;
    world.serve(&[echo(7).await, silent.target]);
    for _ in 0..2 {
        let began = Instant::now();
        assert_eq!(world.greeting().await.unwrap(), 7);
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    }
    assert!(world.count(silent.target).failed >= 1);
}

#[tokio::test]
async fn a_client_is_reset_where_no_endpoint_answers() {
    let mut world = World::new(Protocol::Tcp);
    world.serve(&[refusing().await]);
    assert_eq!(kind(world.greeting().await), Some(io::ErrorKind::ConnectionReset));
    assert_eq!(world.counts().unserved, 1);
    world.serve(&[]);
    assert_eq!(kind(world.greeting().await), Some(io::ErrorKind::ConnectionReset));
}

#[tokio::test]
async fn a_reset_of_one_end_is_one_of_the_other() {
    let mut world = World::new(Protocol::Tcp);
    let listener = TcpListener::bind(LOOPBACK).await.unwrap();
    world.serve(&[target_at(listener.local_addr().unwrap())]);
    for client_first in [false, true] {
        let client = world.connect().await;
        let (endpoint, _) = listener.accept().await.unwrap();
        let [first, mut second] =
            if client_first { [client, endpoint] } else { [endpoint, client] };
        first.set_zero_linger().unwrap();
        drop(first);
        let read = timeout(LONG, second.read_u8()).await.unwrap();
        assert_eq!(kind(read), Some(io::ErrorKind::ConnectionReset));
    }
}

#[tokio::test]
async fn who_breaks_off_before_a_byte_went_is_left_for_the_next() {
    let mut world = World::new(Protocol::Tcp);
    let listener = TcpListener::bind(LOOPBACK).await.unwrap();
    let breaking = target_at(listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            stream.set_zero_linger().unwrap();
        }
    });
    world.relayed.balancer = Balancer::RoundRobin;
    world.serve(&[echo(7).await, breaking]);
    for _ in 0..20 {
        assert_eq!(world.greeting().await.unwrap(), 7);
    }
    let count = world.count(breaking);
    assert!(count.failed >= 3 && count.ejections >= 1, "{count:?}");
}

#[tokio::test]
async fn affinity_holds_for_connections_that_come_at_once() {
    let mut world = World::new(Protocol::Tcp);
    let mut all = vec![refusing().await];
    for name in 1..=5 {
        all.push(echo(name).await);
    }
    world.relayed.affinity = NonZeroU32::new(600);
    world.serve(&all);
    let pinned = world.greeting().await.unwrap();
    let at_once: Vec<_> = futures_util::future::join_all((0..30).map(|_| world.greeting())).await;
    assert!(at_once.iter().all(|name| *name.as_ref().unwrap() == pinned), "{at_once:?}");
    world.relayed.affinity = None;
    world.serve(&all);
    let mut names = BTreeSet::new();
    for _ in 0..60 {
        names.insert(world.greeting().await.unwrap());
    }
    assert_eq!(names.len(), 5);
}

#[tokio::test]
async fn an_endpoint_that_goes_takes_no_new_connection_and_keeps_its_old_ones() {
    let mut world = World::new(Protocol::Tcp);
    world.serve(&[echo(1).await]);
    let mut open = world.connect().await;
    assert_eq!(open.read_u8().await.unwrap(), 1);
    world.serve(&[echo(2).await]);
    assert_eq!(world.greeting().await.unwrap(), 2);
    world.engine.update(vec![(world.key(), None)]);
    assert_eq!(world.greeting().await.unwrap(), 2, "the kernel may have made it before");
    assert_eq!(world.engine.counts().strays, 0);
    let began = Instant::now();
    while world.greeting().await.is_ok() {
        assert!(began.elapsed() < LONG);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(kind(world.greeting().await), Some(io::ErrorKind::ConnectionReset));
    assert!(world.engine.is_busy(world.at().ip()));
    open.write_all(b"x").await.unwrap();
    assert_eq!(open.read_u8().await.unwrap(), b'x');
    assert_eq!(world.engine.counts().strays, 2);
    drop(open);
    let began = Instant::now();
    while world.engine.is_busy(world.at().ip()) {
        assert!(began.elapsed() < LONG);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn more_than_there_may_be_are_reset_and_counted() {
    let mut world = World::new(Protocol::Tcp);
    world.relayed.limits.connections = MaxConnections::new(3);
    world.serve(&[echo(1).await]);
    let mut open = Vec::new();
    for _ in 0..3 {
        let mut stream = world.connect().await;
        assert_eq!(stream.read_u8().await.unwrap(), 1);
        open.push(stream);
    }
    assert_eq!(kind(world.greeting().await), Some(io::ErrorKind::ConnectionReset));
    assert_eq!(world.counts().refused, 1);
    open.pop();
    world.wait_until(|port| port.active() == 2).await;
    // The last of what a connection holds goes a moment after its endpoint's count.
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(world.greeting().await.unwrap(), 1);
}

#[tokio::test]
async fn a_limit_that_changes_holds_at_once_for_who_comes() {
    let mut world = World::new(Protocol::Tcp);
    let one = echo(1).await;
    world.serve(&[one]);
    let mut open = Vec::new();
    for _ in 0..3 {
        let mut stream = world.connect().await;
        assert_eq!(stream.read_u8().await.unwrap(), 1);
        open.push(stream);
    }
    world.relayed.limits.connections = MaxConnections::new(2);
    world.serve(&[one]);
    assert_eq!(kind(world.greeting().await), Some(io::ErrorKind::ConnectionReset));
    for stream in &mut open {
        stream.write_all(b"x").await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'x', "what is open stays");
    }
    world.relayed.limits.connections = MaxConnections::default();
    world.serve(&[one]);
    assert_eq!(world.greeting().await.unwrap(), 1);
}

#[tokio::test]
async fn open_connections_go_by_the_idle_time_that_holds() {
    let mut world = World::new(Protocol::Tcp);
    let one = echo(1).await;
    world.serve(&[one]);
    let mut stream = world.connect().await;
    assert_eq!(stream.read_u8().await.unwrap(), 1);
    world.relayed.limits.idle = Duration::from_millis(100);
    world.serve(&[one]);
    let ended = timeout(LONG, stream.read_u8()).await.expect("it is told");
    assert_eq!(kind(ended), Some(io::ErrorKind::ConnectionReset));
}

#[tokio::test]
async fn a_silent_endpoint_has_the_time_that_the_limit_says() {
    let silent = Silent::new().await;
    let mut world = World::new(Protocol::Tcp);
    world.relayed.limits.connect = Duration::from_millis(15);
    world.serve(&[silent.target]);
    assert_eq!(kind(world.greeting().await), Some(io::ErrorKind::ConnectionReset));
    assert_eq!(world.count(silent.target).failed, 2, "two tries");
    world.relayed.limits.connect = LONG * 100;
    world.serve(&[silent.target]);
    let waiting = timeout(Duration::from_millis(500), world.greeting()).await;
    assert!(waiting.is_err(), "{waiting:?}: it is waited for");
}

#[tokio::test]
async fn who_may_not_ask_is_reset_and_counted() {
    let mut world = World::new(Protocol::Tcp);
    let one = echo(1).await;
    world.relayed.allow = Some(["192.0.2.0/24".parse().unwrap()].into());
    world.serve(&[one]);
    assert_eq!(kind(world.greeting().await), Some(io::ErrorKind::ConnectionReset));
    let counts = world.counts();
    assert_eq!((counts.denied, counts.refused, counts.unserved), (1, 0, 0));
    world.relayed.allow = Some(["127.0.0.0/8".parse().unwrap()].into());
    world.serve(&[one]);
    assert_eq!(world.greeting().await.unwrap(), 1);
}

#[tokio::test]
async fn files_bound_the_connections_of_all() {
    // 512 are the rest of the daemon's; two connections have two each.
    let mut world = World::with(Protocol::Tcp, options(512 + 5));
    world.serve(&[echo(1).await]);
    let mut open = Vec::new();
    for _ in 0..2 {
        let mut stream = world.connect().await;
        assert_eq!(stream.read_u8().await.unwrap(), 1);
        open.push(stream);
    }
    assert_eq!(kind(world.greeting().await), Some(io::ErrorKind::ConnectionReset));
    assert_eq!(world.counts().refused, 1);
}

#[tokio::test]
async fn an_endpoint_is_told_who_the_client_is() {
    let mut world = World::new(Protocol::Tcp);
    let listener = TcpListener::bind(LOOPBACK).await.unwrap();
    world.relayed.proxy_protocol = Some(ProxyProtocol::V1);
    world.serve(&[target_at(listener.local_addr().unwrap())]);
    let mut client = world.connect().await;
    client.write_all(b"hello").await.unwrap();
    client.shutdown().await.unwrap();
    let (mut endpoint, _) = listener.accept().await.unwrap();
    let mut said = String::new();
    endpoint.read_to_string(&mut said).await.unwrap();
    let (client, frontend) = (client.local_addr().unwrap(), world.at());
    let (from, to) = (client.port(), frontend.port());
    assert_eq!(said, format!("PROXY TCP4 127.0.0.1 127.0.0.1 {from} {to}\r\nhello"));
}

#[tokio::test]
async fn a_node_port_answers_at_loopback_where_the_node_says_so() {
    let mut world = World::new(Protocol::Tcp);
    let plan = |localhost_node_ports| {
        let node = NodePlan::clone(&Plan::empty().node);
        Arc::new(NodePlan { localhost_node_ports, ..node })
    };
    world.relayed.cluster = Box::new([echo(4).await]);
    for (family, ip) in [
        (Family::V4, IpAddr::V4(Ipv4Addr::LOCALHOST)),
        (Family::V6, IpAddr::V6(Ipv6Addr::LOCALHOST)),
    ] {
        world.relayed.port.family = family;
        let at = FrontendAddress::NodePort(family);
        let key = FrontendKey { at, protocol: Protocol::Tcp, port: world.at().port() };
        world.engine.update(vec![(key, Some(world.relayed.clone()))]);
        let to = SocketAddr::new(ip, world.at().port());
        if std::net::TcpListener::bind((ip, 0)).is_err() {
            assert!(family == Family::V6, "this loopback address is always there");
            continue;
        }
        world.engine.set_node(plan([false; 2]));
        assert!(greeting(to).await.is_err());
        world.engine.set_node(plan([true; 2]));
        assert_eq!(greeting(to).await.unwrap(), 4);
    }
}

#[tokio::test]
async fn stopping_waits_for_what_is_open_as_long_as_it_may() {
    for (drain, ends) in [(LONG, true), (Duration::from_millis(100), false)] {
        let mut world = World::new(Protocol::Tcp);
        world.serve(&[echo(1).await]);
        let mut open = world.connect().await;
        assert_eq!(open.read_u8().await.unwrap(), 1);
        let (engine, at) = (world.engine.clone(), world.at());
        let stopping = tokio::task::spawn_blocking(move || engine.stop(drain));
        let began = Instant::now();
        while TcpStream::connect(at).await.is_ok() {
            assert!(began.elapsed() < LONG, "it accepts still");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        if ends {
            open.write_all(b"x").await.unwrap();
            assert_eq!(open.read_u8().await.unwrap(), b'x');
            drop(open);
        }
        timeout(LONG / 2, stopping).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn another_engine_goes_on_with_the_sockets_and_what_waits_in_them() {
    let mut world = World::new(Protocol::Tcp);
    world.relayed.affinity = NonZeroU32::new(600);
    let endpoints = [echo(1).await, echo(2).await, echo(3).await];
    world.serve(&endpoints);
    let at = world.at();
    let mut open = world.connect().await;
    let pinned = open.read_u8().await.unwrap();
    let former = world.engine.clone();
    let handed = tokio::task::spawn_blocking(move || former.hand_over()).await.unwrap();
    assert_eq!(handed.listeners.len(), 2, "of each thread");

    // Nobody accepts, and the kernel takes them all the same.
    let mut waiting = Vec::new();
    for _ in 0..20 {
        waiting.push(TcpStream::connect(at).await.unwrap());
    }
    let frontends = [vec![(world.key(), world.relayed.clone())], Vec::new()];
    let node = Plan::empty().node;
    // One thread for the sockets of two.
    let options = EngineOptions { threads: NonZeroUsize::MIN, ..options(4096) };
    let next = Engine::inherit(options, handed, node, frontends).unwrap();
    assert_eq!(next.port(), Some(at.port()));
    for mut client in waiting {
        assert_eq!(timeout(LONG, client.read_u8()).await.unwrap().unwrap(), pinned);
    }
    assert_eq!(greeting(at).await.unwrap(), pinned);
    // The old one's connection is still the old one's.
    open.write_all(b"x").await.unwrap();
    assert_eq!(open.read_u8().await.unwrap(), b'x');
    let stopping = tokio::task::spawn_blocking(move || world.engine.stop(LONG));
    drop(open);
    timeout(LONG / 2, stopping).await.unwrap().unwrap();
    assert_eq!(greeting(at).await.unwrap(), pinned);
    tokio::task::spawn_blocking(move || next.stop(Duration::ZERO)).await.unwrap();
}

#[tokio::test]
async fn what_is_open_to_an_endpoint_that_serves_no_more_ends_in_its_time() {
    let drain = Duration::from_millis(200);
    let mut world = World::with(Protocol::Tcp, EngineOptions { drain, ..options(4096) });
    let (one, other) = (echo(1).await, echo(2).await);
    world.serve(&[one]);
    let mut open = world.connect().await;
    assert_eq!(open.read_u8().await.unwrap(), 1);
    // It serves still, though it takes no new ones.
    world.relayed.serving = [one].into();
    world.serve(&[other]);
    assert_eq!(world.greeting().await.unwrap(), 2);
    tokio::time::sleep(drain * 2).await;
    open.write_all(b"x").await.unwrap();
    assert_eq!(open.read_u8().await.unwrap(), b'x');
    world.relayed.serving = Box::default();
    world.serve(&[other]);
    let ended = timeout(LONG, open.read_u8()).await.unwrap();
    assert_eq!(kind(ended), Some(io::ErrorKind::ConnectionReset));
}

#[tokio::test]
async fn thousands_of_connections_leave_nothing_behind() {
    let mut world = World::new(Protocol::Tcp);
    let endpoint = echo(1).await;
    world.serve(&[endpoint]);
    let files = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    assert_eq!(world.greeting().await.unwrap(), 1);
    for round in 0..30 {
        let all = (0..100).map(|_| world.greeting());
        for name in futures_util::future::join_all(all).await {
            assert_eq!(name.unwrap(), 1, "in round {round}");
        }
    }
    world.wait_until(|port| port.active() == 0).await;
    assert_eq!(world.count(endpoint).opened, 3001);
    // Other tests of this process open files too, but no thousands.
    assert!(files() < 1500, "{} files are open", files());
}
