//! Choosing, dialling and passing on: the pure parts by value, the rest on loopback sockets.

use super::follow::Listeners;
use super::pin::{Ask, Pin};
use super::places::{Changes, Families, Place, Port, changes};
use super::served::Served;
use super::tcp::dial;
use crate::dataplane::userspace::Budget;
use crate::listen::Count;
use crate::model::{Family, NodeFacts, Protocol, ServiceKey};
use crate::planner::{Listening, NodePlan, NodePortListener, Plan, Policy, Target};
use crate::sync::{Snapshot, SyncStatus};
use arc_swap::ArcSwap;
use imbl::OrdMap;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

const NODE_PORT: u16 = 30080;

fn target(last: u8) -> Target {
    Target { address: IpAddr::from([10, 180, 0, last]), port: 8080 }
}

fn targets(lasts: &[u8]) -> Vec<Target> {
    lasts.iter().map(|last| target(*last)).collect()
}

// ---- choosing

fn choose(
    pin: &mut Pin,
    candidates: &[Target],
    affinity: u32,
    (now, random): (Instant, u64),
) -> Option<Target> {
    let affinity = NonZeroU32::new(affinity);
    pin.choose(&Ask { candidates, affinity, now, random })
}

#[test]
fn without_affinity_the_random_number_decides() {
    let (mut pin, all, now) = (Pin::default(), targets(&[1, 2, 3]), Instant::now());
    let picked: Vec<_> =
        (0..6).map(|random| choose(&mut pin, &all, 0, (now, random)).unwrap()).collect();
    assert_eq!(picked, targets(&[1, 2, 3, 1, 2, 3]));
    assert_eq!(choose(&mut pin, &[], 0, (now, 7)), None);
}

#[test]
fn a_pin_holds_until_nobody_connects_for_its_time() {
    let (mut pin, all, start) = (Pin::default(), targets(&[1, 2, 3]), Instant::now());
    let at = |seconds| start + Duration::from_secs(seconds);
    assert_eq!(choose(&mut pin, &all, 10, (at(0), 1)), Some(target(2)));
    for seconds in [9, 18, 27] {
        assert_eq!(choose(&mut pin, &all, 10, (at(seconds), 0)), Some(target(2)), "at {seconds} s");
    }
    assert_eq!(choose(&mut pin, &all, 10, (at(37), 0)), Some(target(1)));
}

#[test]
fn a_pinned_endpoint_that_fails_or_goes_is_replaced_for_all() {
    let (mut pin, all, now) = (Pin::default(), targets(&[1, 2, 3]), Instant::now());
    assert_eq!(choose(&mut pin, &all, 10, (now, 0)), Some(target(1)));
    assert_eq!(choose(&mut pin, &targets(&[2, 3]), 10, (now, 1)), Some(target(3)));
    assert_eq!(choose(&mut pin, &all, 10, (now, 0)), Some(target(3)));
}

#[test]
fn affinity_that_is_switched_off_and_on_begins_anew_or_goes_on() {
    let (mut pin, all, now) = (Pin::default(), targets(&[1, 2]), Instant::now());
    assert_eq!(choose(&mut pin, &all, 10, (now, 0)), Some(target(1)));
    assert_eq!(choose(&mut pin, &all, 0, (now, 1)), Some(target(2)));
    assert_eq!(choose(&mut pin, &all, 10, (now, 1)), Some(target(1)));
}

// ---- what listens where

fn listener(protocol: Protocol, family: Family, targets: Vec<Target>) -> NodePortListener {
    NodePortListener { family, protocol, port: NODE_PORT, affinity: None, targets: targets.into() }
}

fn services(all: Vec<(&str, Vec<NodePortListener>)>) -> OrdMap<ServiceKey, Arc<Listening>> {
    let one = |(name, node_ports): (&str, Vec<NodePortListener>)| {
        let listening = Listening { health: None, node_ports: node_ports.into() };
        (ServiceKey::new("ns", name), Arc::new(listening))
    };
    all.into_iter().map(one).collect()
}

fn families(families: [bool; 2]) -> Families {
    let plan = Plan::empty();
    Families::of(&NodePlan { localhost_node_ports: families, ..NodePlan::clone(&plan.node) })
}

/// `tcp 127.0.0.1:30080 web`, `udp [::1]:30080 -`
fn told(changes: &Changes) -> Vec<String> {
    let service = |port: &Option<Port>| {
        port.as_ref().map_or("-".to_owned(), |port| port.service.name().to_owned())
    };
    let line = |(place, port): (&Place, &Option<Port>)| {
        format!("{} {} {}", place.protocol.name(), place.at, service(port))
    };
    changes.places.iter().map(line).collect()
}

#[test]
fn ports_with_endpoints_are_listened_for_in_the_families_asked_for() {
    let both = services(vec![(
        "web",
        vec![
            listener(Protocol::Tcp, Family::V4, targets(&[1])),
            listener(Protocol::Tcp, Family::V6, targets(&[1])),
            listener(Protocol::Udp, Family::V4, targets(&[1])),
            listener(Protocol::Sctp, Family::V4, targets(&[1])),
        ],
    )]);
    let none = OrdMap::new();
    let all = changes((&none, families([true; 2])), (&both, families([true; 2])));
    assert_eq!(
        told(&all),
        ["TCP 127.0.0.1:30080 web", "TCP [::1]:30080 web", "UDP 127.0.0.1:30080 web"]
    );
    assert_eq!(all.sctp, Some((ServiceKey::new("ns", "web"), NODE_PORT)));
    let six = changes((&none, families([false; 2])), (&both, families([false, true])));
    assert_eq!(told(&six), ["TCP [::1]:30080 web"]);
    assert_eq!(six.sctp, None);
    let off = changes((&both, families([false, true])), (&both, families([false; 2])));
    assert_eq!(told(&off), ["TCP [::1]:30080 -"]);
    let same = changes((&both, families([true; 2])), (&both, families([true; 2])));
    assert_eq!(same, Changes::default());
}

#[test]
fn a_port_without_endpoints_is_given_up() {
    let on = families([true, false]);
    let of = |lasts: &[u8]| {
        services(vec![("web", vec![listener(Protocol::Tcp, Family::V4, targets(lasts))])])
    };
    let gone = changes((&of(&[1]), on), (&of(&[]), on));
    assert_eq!(told(&gone), ["TCP 127.0.0.1:30080 -"]);
    let never = changes((&OrdMap::new(), on), (&of(&[]), on));
    assert_eq!(never, Changes::default());
}

#[test]
fn a_port_that_changes_hands_is_one_change_whoever_sorts_first() {
    let on = families([true, false]);
    let of =
        |name| services(vec![(name, vec![listener(Protocol::Tcp, Family::V4, targets(&[1]))])]);
    assert_eq!(told(&changes((&of("a"), on), (&of("b"), on))), ["TCP 127.0.0.1:30080 b"]);
    assert_eq!(told(&changes((&of("b"), on), (&of("a"), on))), ["TCP 127.0.0.1:30080 a"]);
}

// ---- on sockets

const LOOPBACK: &str = "127.0.0.1:0";

fn target_at(at: SocketAddr) -> Target {
    Target { address: at.ip(), port: at.port() }
}

/// Sorted, as plans have them.
fn port(
    protocol: Protocol,
    port: u16,
    affinity: u32,
    mut targets: Vec<Target>,
) -> NodePortListener {
    targets.sort_unstable();
    let (family, affinity) = (Family::V4, NonZeroU32::new(affinity));
    NodePortListener { family, protocol, port, affinity, targets: targets.into() }
}

fn snapshot(node_port: Option<NodePortListener>) -> Snapshot {
    let mut plan = Plan::new(Policy::default(), NodeFacts::default());
    plan.node =
        Arc::new(NodePlan { localhost_node_ports: [true, false], ..NodePlan::clone(&plan.node) });
    plan.listening = services(node_port.into_iter().map(|one| ("web", vec![one])).collect());
    Snapshot { known: OrdMap::new(), plan, problems: OrdMap::new(), status: SyncStatus::default() }
}

struct World {
    published: Arc<ArcSwap<Snapshot>>,
    listeners: Listeners,
    port: u16,
}

impl World {
    fn new() -> Self {
        let published = Arc::new(ArcSwap::from_pointee(snapshot(None)));
        let listeners = Listeners::new(Arc::clone(&published), Arc::new(Budget::of(1024)));
        let free = std::net::TcpListener::bind(LOOPBACK).unwrap();
        Self { published, listeners, port: free.local_addr().unwrap().port() }
    }

    async fn publish(&mut self, node_port: Option<NodePortListener>) {
        self.published.store(Arc::new(snapshot(node_port)));
        self.listeners.follow().await;
    }

    async fn tcp(&mut self, affinity: u32, targets: Vec<Target>) {
        self.publish(Some(port(Protocol::Tcp, self.port, affinity, targets))).await;
    }

    async fn udp(&mut self, targets: Vec<Target>) {
        self.publish(Some(port(Protocol::Udp, self.port, 0, targets))).await;
    }

    fn at(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.at()).await.unwrap()
    }

    /// What the server says whom a new connection reaches.
    async fn greeting(&self) -> u8 {
        self.connect().await.read_u8().await.unwrap()
    }
}

/// A server that greets with its name, then sends everything back, and ends after its client.
async fn echo(name: u8) -> Target {
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
async fn refusing() -> Target {
    let listener = TcpListener::bind(LOOPBACK).await.unwrap();
    target_at(listener.local_addr().unwrap())
}

async fn datagrams(name: u8) -> (Target, tokio::task::AbortHandle) {
    let socket = UdpSocket::bind(LOOPBACK).await.unwrap();
    let at = socket.local_addr().unwrap();
    let task = tokio::spawn(async move {
        let mut buffer = [0; 70_000];
        loop {
            let (size, client) = socket.recv_from(&mut buffer).await.unwrap();
            buffer[size] = name;
            let _ = socket.send_to(&buffer[..size + 1], client).await;
        }
    });
    (target_at(at), task.abort_handle())
}

#[tokio::test]
async fn a_dial_goes_on_until_somebody_answers() {
    let good = echo(7).await;
    let mut all = vec![good];
    for _ in 0..9 {
        all.push(refusing().await);
    }
    let listener = port(Protocol::Tcp, 1, 0, all);
    let served =
        Served::new(Port { service: ServiceKey::new("ns", "web"), listener }, Count::default());
    for _ in 0..20 {
        let mut stream = dial(&served).await.expect("one of ten answers");
        assert_eq!(stream.read_u8().await.unwrap(), 7);
    }
}

#[tokio::test]
async fn bytes_go_both_ways_and_each_end_ends_by_itself() {
    let mut world = World::new();
    world.tcp(0, vec![echo(1).await]).await;
    let mut client = world.connect().await;
    let sent: Vec<u8> = (0..300_000u32).map(|n| n.to_le_bytes()[1]).collect();
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
}

#[tokio::test]
async fn a_client_is_reset_where_no_endpoint_answers() {
    let mut world = World::new();
    world.tcp(0, vec![refusing().await]).await;
    let error = world.connect().await.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_reset_of_the_endpoint_is_one_for_the_client() {
    let mut world = World::new();
    let listener = TcpListener::bind(LOOPBACK).await.unwrap();
    world.tcp(0, vec![target_at(listener.local_addr().unwrap())]).await;
    let mut client = world.connect().await;
    let (endpoint, _) = listener.accept().await.unwrap();
    endpoint.set_zero_linger().unwrap();
    drop(endpoint);
    let error = client.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn affinity_pins_all_clients_even_those_that_come_at_once() {
    let mut world = World::new();
    let mut all = Vec::new();
    for name in 1..=5 {
        all.push(echo(name).await);
    }
    all.push(refusing().await);
    world.tcp(600, all.clone()).await;
    // The refusing one may be the first that is pinned.
    let pinned = world.greeting().await;
    let at_once: Vec<_> = futures_util::future::join_all((0..30).map(|_| world.greeting())).await;
    assert_eq!(at_once, [pinned; 30]);
    all.remove(usize::from(pinned) - 1);
    world.tcp(600, all.clone()).await;
    let other = world.greeting().await;
    assert_ne!(other, pinned);
    world.tcp(0, all).await;
    let mut names = BTreeSet::new();
    for _ in 0..60 {
        names.insert(world.greeting().await);
    }
    assert_eq!(names.len(), 4);
}

#[tokio::test]
async fn a_port_that_goes_stops_accepting_and_leaves_open_connections() {
    let mut world = World::new();
    world.tcp(0, vec![echo(1).await]).await;
    let mut open = world.connect().await;
    assert_eq!(open.read_u8().await.unwrap(), 1);
    world.tcp(0, vec![echo(2).await]).await;
    assert_eq!(world.greeting().await, 2);
    world.tcp(0, vec![]).await;
    assert_eq!(world.listeners.open_at(), []);
    assert!(TcpStream::connect(world.at()).await.is_err());
    world.publish(None).await;
    open.write_all(b"x").await.unwrap();
    assert_eq!(open.read_u8().await.unwrap(), b'x');
    // And the port can be had again, at once.
    world.tcp(0, vec![echo(3).await]).await;
    assert_eq!(world.greeting().await, 3);
}

#[tokio::test]
async fn a_port_that_another_process_has_is_tried_again() {
    let mut world = World::new();
    let theirs = TcpListener::bind(world.at()).await.unwrap();
    let endpoint = echo(1).await;
    world.tcp(0, vec![endpoint]).await;
    assert_eq!(world.listeners.open_at(), []);
    drop(theirs);
    world.listeners.follow().await;
    assert_eq!(world.greeting().await, 1);
}

#[tokio::test]
async fn without_files_left_there_is_no_listener() {
    let mut world = World::new();
    world.listeners = Listeners::new(Arc::clone(&world.published), Arc::new(Budget::of(512)));
    world.tcp(0, vec![echo(1).await]).await;
    assert_eq!(world.listeners.open_at(), []);
}

async fn client(at: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind(LOOPBACK).await.unwrap();
    socket.connect(at).await.unwrap();
    socket
}

/// The server that answers, once one does.
async fn asked(client: &UdpSocket, text: &[u8]) -> u8 {
    client.send(text).await.unwrap();
    let mut buffer = vec![0; 70_000];
    let receiving = tokio::time::timeout(Duration::from_secs(5), client.recv(&mut buffer));
    let size = receiving.await.expect("an answer").unwrap();
    assert_eq!(&buffer[..size - 1], text);
    buffer[size - 1]
}

#[tokio::test]
async fn datagrams_of_a_client_go_to_one_endpoint() {
    let mut world = World::new();
    world.udp(vec![datagrams(1).await.0, datagrams(2).await.0]).await;
    let mut names = BTreeSet::new();
    for _ in 0..40 {
        let client = client(world.at()).await;
        let name = asked(&client, b"a").await;
        for _ in 0..3 {
            assert_eq!(asked(&client, b"b").await, name);
        }
        names.insert(name);
    }
    assert_eq!(names, [1, 2].into());
    assert!(names.contains(&asked(&client(world.at()).await, &[7; 60_000]).await));
}

#[tokio::test]
async fn a_datagram_that_is_refused_goes_to_another_endpoint() {
    let mut world = World::new();
    let good = datagrams(1).await.0;
    world.udp(vec![good, refusing().await, refusing().await]).await;
    for _ in 0..20 {
        assert_eq!(asked(&client(world.at()).await, b"x").await, 1);
    }
}

#[tokio::test]
async fn a_session_leaves_an_endpoint_that_goes_and_one_that_is_not_wanted_any_more() {
    let mut world = World::new();
    let ((one, first), (two, _second)) = (datagrams(1).await, datagrams(2).await);
    world.udp(vec![one]).await;
    let client = client(world.at()).await;
    assert_eq!(asked(&client, b"x").await, 1);
    world.udp(vec![one, two]).await;
    assert_eq!(asked(&client, b"x").await, 1);
    world.udp(vec![two]).await;
    assert_eq!(asked(&client, b"x").await, 2);
    world.udp(vec![one]).await;
    assert_eq!(asked(&client, b"x").await, 1);
    world.udp(vec![one, two]).await;
    first.abort();
    tokio::task::yield_now().await;
    assert_eq!(asked(&client, b"y").await, 2);
}
