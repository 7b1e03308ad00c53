//! Which node ports are served, by value; and on loopback sockets, that they are.

use super::places::{led, places, sctp};
use super::turn::{NodePorts, PortsTurn};
use crate::dataplane::userspace::engine::Engine;
use crate::dataplane::userspace::handed::HandedEngine;
use crate::dataplane::userspace::relayed::{Relayed, relayed};
use crate::dataplane::userspace::tests::{LONG, echo, options, refusing};
use crate::dataplane::userspace::udp_tests::{asked, client, datagrams};
use crate::model::{
    Balancer, Family, HttpVersion, Limits, PortName, Protocol, ProxyProtocol, ServiceKey,
};
use crate::planner::{
    Action, Balanced, Carrier, Forward, Frontend, FrontendAddress, FrontendKey, FrontendKind,
    Locality, Masquerade, Member, NodePlan, Plan, PlanDelta, PodsToldBy, Pool, PortPlan, Reach,
    Relay, ServiceDelta, ServicePlan, Target,
};
use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

const NODE_PORT: u16 = 30080;
const BOTH: [bool; 2] = [true; 2];

fn target(last: u8) -> Target {
    Target { address: IpAddr::from([10, 180, 0, last]), port: 8080 }
}

/// A node port with a cluster IP beside it.
fn port(protocol: Protocol, family: Family, lasts: &[u8]) -> PortPlan {
    let forward = Forward { reach: Reach::LocalFromOutside, masquerade: Masquerade::Always };
    let member = Member { locality: Locality::Unknown, terminating: false };
    let frontend = |at, port, kind| Frontend {
        at: FrontendKey { at, protocol, port },
        kind,
        action: Action::Forward(forward),
        allow: None,
        foreign: false,
        lost_to: None,
    };
    let cluster_ip = FrontendAddress::Address(IpAddr::from([10, 96, 0, 1]));
    PortPlan {
        name: PortName::from("http"),
        protocol,
        port: 80,
        family,
        affinity: None,
        carrier: Carrier::Kernel,
        balanced: Balanced::default(),
        cluster: lasts.iter().map(|last| (target(*last), member)).collect(),
        local: Pool::new(),
        serving: lasts.iter().map(|last| target(*last)).collect(),
        frontends: [
            frontend(cluster_ip, 80, FrontendKind::ClusterIp),
            frontend(FrontendAddress::NodePort(family), NODE_PORT, FrontendKind::NodePort),
        ]
        .into(),
    }
}

fn service(name: &str, ports: impl IntoIterator<Item = PortPlan>) -> ServicePlan {
    let (ports, idle) = (ports.into_iter().collect(), Box::default());
    ServicePlan { key: ServiceKey::new("ns", name), ports, idle, health: None }
}

fn web(lasts: &[u8]) -> ServicePlan {
    service("web", [port(Protocol::Tcp, Family::V4, lasts)])
}

const RELAY: Relay = Relay {
    balancer: Balancer::Maglev,
    proxy_protocol: Some(ProxyProtocol::V2),
    limits: Limits::DEFAULT,
    pods_told_by: PodsToldBy::Address,
};

fn by_relay(name: &str, lasts: &[u8]) -> ServicePlan {
    let mut port = port(Protocol::Tcp, Family::V4, lasts);
    port.carrier = Carrier::Relay(RELAY);
    port.balanced = Balanced::Requests(HttpVersion::Http1);
    service(name, [port])
}

/// `TCP 127.0.0.1:30080`
fn text(at: &FrontendKey) -> String {
    let FrontendAddress::Address(address) = at.at else { panic!("{at} is no address") };
    format!("{} {}", at.protocol.name(), SocketAddr::new(address, at.port))
}

fn told(plan: &ServicePlan, families: [bool; 2]) -> Vec<String> {
    places(plan, families).map(|(at, _)| text(&at)).collect()
}

// ---- which ones

#[test]
fn node_ports_with_endpoints_are_served_in_the_families_asked_for() {
    let plan = service(
        "web",
        [
            port(Protocol::Tcp, Family::V4, &[1]),
            port(Protocol::Tcp, Family::V6, &[1]),
            port(Protocol::Udp, Family::V4, &[1]),
            port(Protocol::Sctp, Family::V4, &[1]),
        ],
    );
    let all = ["TCP 127.0.0.1:30080", "TCP [::1]:30080", "UDP 127.0.0.1:30080"];
    assert_eq!(told(&plan, BOTH), all);
    assert_eq!(sctp(&plan, BOTH), Some(NODE_PORT));
    assert_eq!(told(&plan, [false, true]), all[1..2]);
    assert_eq!(sctp(&plan, [false, true]), None);
    assert!(told(&web(&[]), BOTH).is_empty());
}

#[test]
fn who_lost_the_node_port_or_has_it_relayed_is_not_served() {
    let mut plan = web(&[1]);
    plan.ports[0].frontends[1].lost_to = Some(ServiceKey::new("ns", "other"));
    assert!(told(&plan, BOTH).is_empty());
    let mut plan = by_relay("web", &[1]);
    assert!(told(&plan, BOTH).is_empty());
    // The kernel has this node port, and the relay the others.
    let by_interface = Relay { pods_told_by: PodsToldBy::Interface, ..RELAY };
    plan.ports[0].carrier = Carrier::Relay(by_interface);
    let (_, relayed) = places(&plan, BOTH).next().unwrap();
    assert_eq!(relayed.balancer, Balancer::Maglev);
    assert_eq!((relayed.requests, relayed.proxy_protocol), (None, None));
    assert_eq!(led(&plan, BOTH).count(), 0);
}

#[test]
fn what_is_led_to_the_relay_is_served_as_by_the_relay() {
    let (at, relayed) = led(&by_relay("web", &[1]), BOTH).next().unwrap();
    assert_eq!(text(&at), "TCP 127.0.0.1:30080");
    assert_eq!(relayed.proxy_protocol, RELAY.proxy_protocol);
    assert_eq!(relayed.requests, Some(HttpVersion::Http1));
    assert_eq!(led(&by_relay("web", &[]), BOTH).count(), 0);
    assert_eq!(led(&web(&[1]), BOTH).count(), 0);
}

#[test]
fn the_node_may_use_all_endpoints_whatever_the_policy() {
    let (_, relayed) = places(&web(&[1, 2]), BOTH).next().unwrap();
    assert_eq!((relayed.reach, relayed.cluster.len()), (Reach::Cluster, 2));
}

fn plan_of(families: [bool; 2]) -> Plan {
    let plan = Plan::empty();
    let node = NodePlan { localhost_node_ports: families, ..NodePlan::clone(&plan.node) };
    Plan { node: Arc::new(node), ..plan }
}

fn delta(services: &[(Option<ServicePlan>, Option<ServicePlan>)]) -> PlanDelta {
    let one = |(old, new): &(Option<ServicePlan>, Option<ServicePlan>)| ServiceDelta {
        key: old.as_ref().or(new.as_ref()).unwrap().key.clone(),
        old: old.clone().map(Arc::new),
        new: new.clone().map(Arc::new),
    };
    let mut services: Vec<_> = services.iter().map(one).collect();
    services.sort_by(|one, other| one.key.cmp(&other.key));
    PlanDelta { services, node: None }
}

/// Open ones by their service, and closed ones.
fn of_turn(turn: &PortsTurn) -> (Vec<&str>, Vec<String>) {
    let open = turn.open.iter().map(|(_, relayed)| relayed.service.name()).collect();
    (open, turn.closed.iter().map(text).collect())
}

#[test]
fn a_change_costs_what_changed() {
    let plan = plan_of([true, false]);
    let mut ports = NodePorts::default();
    assert_eq!(ports.turn_to(&plan, &[]), PortsTurn::default());
    let mut turn = |services: &[(Option<ServicePlan>, Option<ServicePlan>)]| {
        ports.turn(&delta(services), &plan, || panic!("all are looked at"))
    };
    let come = turn(&[(None, Some(web(&[1])))]);
    assert_eq!(of_turn(&come), (vec!["web"], vec![]));
    assert_eq!(turn(&[(Some(web(&[1])), Some(web(&[1])))]), PortsTurn::default());
    assert_eq!(of_turn(&turn(&[(Some(web(&[1])), Some(web(&[2])))])), (vec!["web"], vec![]));
    let gone = turn(&[(Some(web(&[1])), Some(web(&[])))]);
    assert_eq!(of_turn(&gone), (vec![], vec!["TCP 127.0.0.1:30080".into()]));
}

#[test]
fn a_port_that_changes_hands_stays_open_whoever_sorts_first() {
    let plan = plan_of([true, false]);
    let mut ports = NodePorts::default();
    ports.turn_to(&plan, &[]);
    let of = |name| Some(service(name, [port(Protocol::Tcp, Family::V4, &[1])]));
    for [loser, winner] in [["a", "b"], ["b", "a"]] {
        let turn = ports.turn(&delta(&[(of(loser), None), (None, of(winner))]), &plan, Vec::new);
        assert_eq!(of_turn(&turn), (vec![winner], vec![]));
    }
}

#[test]
fn a_family_that_answers_no_more_closes_its_ports() {
    let mut ports = NodePorts::default();
    ports.turn_to(&plan_of(BOTH), &[]);
    let open: Vec<FrontendKey> = places(&web(&[1]), BOTH).map(|(at, _)| at).collect();
    let turn = ports.turn(&delta(&[]), &plan_of([false; 2]), || open.clone());
    assert_eq!(of_turn(&turn), (vec![], vec!["TCP 127.0.0.1:30080".into()]));
}

#[test]
fn relayed_services_have_sockets_while_nobody_is_led_to_the_relay() {
    const AT: &str = "TCP 127.0.0.1:30080";
    let plan = plan_of([true, false]);
    let mut ports = NodePorts::default();
    ports.turn_to(&plan, &[]);
    let turn = |ports: &mut NodePorts, old: Option<&ServicePlan>, new: Option<&ServicePlan>| {
        let services = [(old.cloned(), new.cloned())];
        ports.turn(&delta(&services), &plan, || panic!("all are looked at"))
    };
    let (one, other) = (by_relay("web", &[1]), by_relay("web", &[2]));
    let kernel = web(&[1]);
    assert_eq!(turn(&mut ports, None, Some(&one)), PortsTurn::default());
    let open: Vec<String> = ports.stand_in().iter().map(|(at, _)| text(at)).collect();
    assert_eq!(open, [AT]);

    // Meanwhile they follow the plan, whoever carries them.
    let changed = turn(&mut ports, Some(&one), Some(&other));
    assert_eq!(changed.open[0].1.cluster[..], [target(2)]);
    assert_eq!(ports.stand_in()[0].1.cluster[..], [target(2)]);
    assert_eq!(of_turn(&turn(&mut ports, Some(&other), Some(&kernel))), (vec!["web"], vec![]));
    assert!(ports.stand_in().is_empty(), "the kernel's have one anyway");
    assert_eq!(of_turn(&turn(&mut ports, Some(&kernel), Some(&one))), (vec!["web"], vec![]));
    assert_eq!(of_turn(&turn(&mut ports, Some(&one), None)), (vec![], vec![AT.to_owned()]));
    turn(&mut ports, None, Some(&one));

    let closed: Vec<String> = ports.stand_down().iter().map(text).collect();
    assert_eq!(closed, [AT]);
    assert!(ports.stand_down().is_empty(), "they are closed");
    assert_eq!(turn(&mut ports, Some(&one), Some(&other)), PortsTurn::default());
    // The relay fails while it takes the port over: that stays open.
    turn(&mut ports, Some(&other), Some(&kernel));
    let closed = turn(&mut ports, Some(&kernel), Some(&one)).closed;
    assert!(!ports.stands_in_for(&closed[0]));
    ports.stand_in();
    assert!(ports.stands_in_for(&closed[0]));
}

// ---- on sockets

struct World {
    engine: Engine,
    protocol: Protocol,
    port: u16,
}

impl World {
    fn new(protocol: Protocol, files: usize) -> Self {
        let engine = Engine::new(options(files));
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        Self { engine, protocol, port: free.local_addr().unwrap().port() }
    }

    fn at(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    fn key(&self) -> FrontendKey {
        let at = FrontendAddress::Address(self.at().ip());
        FrontendKey { at, protocol: self.protocol, port: self.port }
    }

    fn relayed(&self, targets: &[Target]) -> Relayed {
        let mut targets = targets.to_vec();
        targets.sort_unstable();
        Relayed { cluster: targets.into(), ..relayed(self.protocol, Reach::Cluster) }
    }

    fn listen(&self, targets: &[Target]) {
        self.engine.listen(vec![(self.key(), self.relayed(targets))]);
    }

    /// Whether its socket is open, before long.
    async fn comes_to(&self, open: u64) {
        let began = Instant::now();
        while self.engine.loopback_counts().open[0] != open {
            assert!(began.elapsed() < LONG, "{:?}", self.engine.loopback_counts());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn greeting(&self) -> io::Result<u8> {
        timeout(LONG, async { TcpStream::connect(self.at()).await?.read_u8().await }).await.unwrap()
    }
}

#[tokio::test]
async fn a_port_is_served_without_interception() {
    let world = World::new(Protocol::Tcp, 4096);
    let good = echo(7).await;
    world.listen(&[good, refusing().await, refusing().await]);
    world.comes_to(1).await;
    assert_eq!(world.engine.port(), None, "nothing is to be led here");
    let mut dialled = 0;
    for _ in 0..20 {
        assert_eq!(world.greeting().await.unwrap(), 7);
        dialled = world.engine.loopback_counts().failed_dials;
    }
    assert!(dialled >= 1, "of three endpoints two refuse");
}

#[tokio::test]
async fn a_port_that_goes_is_free_at_once_and_leaves_open_connections() {
    let world = World::new(Protocol::Tcp, 4096);
    let endpoint = echo(1).await;
    world.listen(&[endpoint]);
    world.comes_to(1).await;
    let mut open = TcpStream::connect(world.at()).await.unwrap();
    assert_eq!(open.read_u8().await.unwrap(), 1);
    world.engine.unlisten(vec![world.key()]);
    world.comes_to(0).await;
    assert!(TcpStream::connect(world.at()).await.is_err());
    assert!(world.engine.listening().is_empty());
    open.write_all(b"x").await.unwrap();
    assert_eq!(open.read_u8().await.unwrap(), b'x');
    world.listen(&[echo(2).await]);
    world.comes_to(1).await;
    assert_eq!(world.greeting().await.unwrap(), 2);
}

#[tokio::test]
async fn a_port_that_somebody_else_has_is_tried_again() {
    let world = World::new(Protocol::Tcp, 4096);
    let theirs = TcpListener::bind(world.at()).await.unwrap();
    world.listen(&[echo(1).await]);
    let began = Instant::now();
    while world.engine.loopback_counts().failures[0] == 0 {
        assert!(began.elapsed() < LONG);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(world.engine.loopback_counts().open, [0, 0]);
    drop(theirs);
    world.comes_to(1).await;
    assert_eq!(world.greeting().await.unwrap(), 1);
}

#[tokio::test]
async fn without_files_left_there_is_no_socket() {
    let world = World::new(Protocol::Tcp, 512);
    world.listen(&[echo(1).await]);
    let began = Instant::now();
    while world.engine.loopback_counts().failures[0] == 0 {
        assert!(began.elapsed() < LONG);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(TcpStream::connect(world.at()).await.is_err());
}

#[tokio::test]
async fn all_connections_of_the_node_have_one_pin() {
    let world = World::new(Protocol::Tcp, 4096);
    let targets = [echo(1).await, echo(2).await, echo(3).await, echo(4).await];
    let sticky = Relayed { affinity: NonZeroU32::new(600), ..world.relayed(&targets) };
    world.engine.listen(vec![(world.key(), sticky)]);
    world.comes_to(1).await;
    let all = futures_util::future::join_all((0..30).map(|_| world.greeting())).await;
    let servers: BTreeSet<u8> = all.into_iter().map(Result::unwrap).collect();
    assert_eq!(servers.len(), 1);
}

#[tokio::test]
async fn what_nobody_asks_for_is_not_counted() {
    let world = World::new(Protocol::Tcp, 4096);
    world.listen(&[echo(1).await]);
    world.comes_to(1).await;
    assert!(world.engine.counts().ports.is_empty());
    world.greeting().await.unwrap();
    assert_eq!(world.engine.counts().ports.len(), 1);
}

#[tokio::test]
async fn datagrams_of_a_client_go_to_one_endpoint_and_to_another_service_when_that_has_the_port() {
    let world = World::new(Protocol::Udp, 4096);
    world.listen(&[datagrams(1).await.0, datagrams(2).await.0]);
    world.comes_to(1).await;
    let client = client(world.at()).await;
    let first = asked(&client, b"a").await;
    for size in [1, 9_000, 60_000] {
        assert_eq!(asked(&client, &vec![7; size]).await, first);
    }
    let other = Relayed {
        service: ServiceKey::new("ns", "other"),
        ..world.relayed(&[datagrams(3).await.0])
    };
    world.engine.listen(vec![(world.key(), other)]);
    assert_eq!(asked(&client, b"b").await, 3);
}

async fn handed(world: &World) -> HandedEngine {
    let former = world.engine.clone();
    tokio::task::spawn_blocking(move || former.hand_over()).await.unwrap()
}

#[tokio::test]
async fn another_engine_goes_on_with_the_sockets_the_pins_and_the_sessions() {
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let mut world = World::new(protocol, 4096);
        let targets = match protocol {
            Protocol::Udp => [datagrams(1).await.0, datagrams(2).await.0, datagrams(3).await.0],
            _ => [echo(1).await, echo(2).await, echo(3).await],
        };
        let sticky = Relayed { affinity: NonZeroU32::new(600), ..world.relayed(&targets) };
        let all = vec![(world.key(), sticky)];
        world.engine.listen(all.clone());
        world.comes_to(1).await;
        let client = client(world.at()).await;
        let pinned = match protocol {
            Protocol::Udp => asked(&client, b"x").await,
            _ => world.greeting().await.unwrap(),
        };
        let handed = handed(&world).await;
        assert_eq!((handed.port, handed.loopback.len()), (None, 1));
        assert_eq!(handed.loopback[0].sessions.len(), usize::from(protocol == Protocol::Udp));
        // Nobody accepts, and the kernel takes it all the same.
        let mut waiting = None;
        match protocol {
            Protocol::Udp => drop(client.send(b"y").await.unwrap()),
            _ => waiting = Some(TcpStream::connect(world.at()).await.unwrap()),
        }
        let options = options(4096);
        world.engine =
            Engine::inherit(options, handed, Plan::empty().node, [vec![], all.clone()]).unwrap();
        world.engine.listen(all);
        world.comes_to(1).await;
        assert_eq!(world.engine.loopback_counts().failures, [0, 0]);
        let server = match &mut waiting {
            Some(waiting) => timeout(LONG, waiting.read_u8()).await.unwrap().unwrap(),
            None => {
                let mut buffer = [0; 10];
                let size = timeout(LONG, client.recv(&mut buffer)).await.unwrap().unwrap();
                buffer[size - 1]
            }
        };
        assert_eq!(server, pinned);
    }
}
