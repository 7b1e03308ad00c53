//! Datagrams through the engine on loopback sockets.

use super::tests::{LONG, LOOPBACK, World, kind, options, refusing, target_at};
use crate::model::{Balancer, Protocol};
use crate::planner::Target;
use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::time::timeout;

/// Sends each datagram back with its name at the end.
pub(super) async fn datagrams(name: u8) -> (Target, tokio::task::AbortHandle) {
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

pub(super) async fn client(at: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind(LOOPBACK).await.unwrap();
    socket.connect(at).await.unwrap();
    socket
}

/// The server that answers, once one does.
pub(super) async fn asked(client: &UdpSocket, text: &[u8]) -> u8 {
    client.send(text).await.unwrap();
    let mut buffer = vec![0; 70_000];
    let size = timeout(LONG, client.recv(&mut buffer)).await.expect("an answer").unwrap();
    assert_eq!(&buffer[..size - 1], text);
    buffer[size - 1]
}

#[tokio::test]
async fn datagrams_of_a_client_go_to_one_endpoint() {
    let mut world = World::new(Protocol::Udp);
    world.serve(&[datagrams(1).await.0, datagrams(2).await.0]);
    let mut names = BTreeSet::new();
    // Kept, or a later one may have the port of a former one, and go on with its session.
    let mut clients = Vec::new();
    for _ in 0..40 {
        let client = client(world.at()).await;
        let name = asked(&client, b"a").await;
        for _ in 0..3 {
            assert_eq!(asked(&client, b"b").await, name);
        }
        names.insert(name);
        clients.push(client);
    }
    assert_eq!(names, [1, 2].into());
    let large = client(world.at()).await;
    assert!(names.contains(&asked(&large, &[7; 60_000]).await));
    assert!(names.contains(&asked(&large, b"").await));
    let counts = world.counts();
    assert_eq!(counts.endpoints.iter().map(|endpoint| endpoint.opened).sum::<u64>(), 41);
}

#[tokio::test]
async fn a_datagram_that_is_refused_goes_to_another_endpoint() {
    let mut world = World::new(Protocol::Udp);
    world.relayed.balancer = Balancer::RoundRobin;
    world.serve(&[datagrams(1).await.0, refusing().await, refusing().await]);
    for _ in 0..20 {
        assert_eq!(asked(&client(world.at()).await, b"x").await, 1);
    }
}

#[tokio::test]
async fn a_session_leaves_an_endpoint_that_goes() {
    let mut world = World::new(Protocol::Udp);
    let ((one, first), (two, _second)) = (datagrams(1).await, datagrams(2).await);
    world.serve(&[one]);
    let client = client(world.at()).await;
    assert_eq!(asked(&client, b"x").await, 1);
    world.serve(&[one, two]);
    assert_eq!(asked(&client, b"x").await, 1);
    world.serve(&[two]);
    assert_eq!(asked(&client, b"x").await, 2);
    world.serve(&[one]);
    assert_eq!(asked(&client, b"x").await, 1);
    // It terminates, and serves until it has ended.
    world.relayed.serving = Box::from([one]);
    world.serve(&[two]);
    assert_eq!(asked(&client, b"x").await, 1);
    assert_eq!(asked(&self::client(world.at()).await, b"x").await, 2);
    world.serve(&[one, two]);
    first.abort();
    tokio::task::yield_now().await;
    assert_eq!(asked(&client, b"y").await, 2);
}

#[tokio::test]
async fn a_client_that_nobody_answers_is_refused_where_that_is_possible() {
    let mut world = World::new(Protocol::Udp);
    if !super::refusals::Refusals::open().can_send() {
        eprintln!("NOT RUN: refusals take CAP_NET_RAW");
        return;
    }
    world.serve(&[refusing().await, refusing().await]);
    let client = client(world.at()).await;
    for round in 0..3 {
        client.send(b"x").await.unwrap();
        let heard = timeout(LONG, client.recv(&mut [0; 10])).await.expect("a refusal");
        assert_eq!(kind(heard), Some(io::ErrorKind::ConnectionRefused), "in round {round}");
    }
    // And what is no frontend (any more).
    world.engine.update(vec![(world.key(), None)]);
    client.send(b"x").await.unwrap();
    let heard = timeout(LONG, client.recv(&mut [0; 10])).await.expect("a refusal");
    assert_eq!(kind(heard), Some(io::ErrorKind::ConnectionRefused));
    assert!(world.engine.counts().strays > 0);
}

#[tokio::test]
async fn a_session_that_is_idle_ends() {
    let mut world = World::new(Protocol::Udp);
    world.relayed.limits.session = Duration::from_millis(100);
    world.serve(&[datagrams(1).await.0]);
    let client = client(world.at()).await;
    assert_eq!(asked(&client, b"x").await, 1);
    assert_eq!(world.counts().active(), 1);
    world.wait_until(|port| port.active() == 0).await;
    assert_eq!(asked(&client, b"x").await, 1);
}

#[tokio::test]
async fn an_open_session_goes_by_the_idle_time_that_holds() {
    let mut world = World::new(Protocol::Udp);
    let one = datagrams(1).await.0;
    world.serve(&[one]);
    let client = client(world.at()).await;
    assert_eq!(asked(&client, b"x").await, 1);
    world.relayed.limits.session = Duration::from_millis(100);
    world.serve(&[one]);
    world.wait_until(|port| port.active() == 0).await;
}

#[tokio::test]
async fn without_room_a_quiet_session_makes_some() {
    // Room for four sessions; some client is always the quiet one.
    let mut world = World::with(Protocol::Udp, options(512 + 4));
    world.serve(&[datagrams(1).await.0]);
    let mut clients = Vec::new();
    let mut answered = 0;
    for _ in 0..40 {
        let client = client(world.at()).await;
        client.send(b"x").await.unwrap();
        let mut heard = [0; 10];
        let answer = timeout(Duration::from_millis(500), client.recv(&mut heard)).await;
        answered += usize::from(answer.is_ok_and(|size| size.is_ok()));
        clients.push(client);
    }
    // Threads end sessions of their own only: one that has none yet must wait for the others'.
    assert!(answered >= 15, "{answered} of 40 were answered");
    assert!(world.counts().active() <= 4);
}

#[tokio::test]
async fn datagrams_of_who_may_not_ask_are_lost_without_a_word() {
    let mut world = World::new(Protocol::Udp);
    let one = datagrams(1).await.0;
    world.serve(&[one]);
    let known = client(world.at()).await;
    assert_eq!(asked(&known, b"x").await, 1);
    world.relayed.allow = Some(Arc::default());
    world.serve(&[one]);
    let other = client(world.at()).await;
    other.send(b"x").await.unwrap();
    world.wait_until(|port| port.denied == 1).await;
    assert_eq!(asked(&known, b"x").await, 1, "whose session is open goes on");
    let heard = timeout(Duration::from_millis(100), other.recv(&mut [0; 10])).await;
    assert!(heard.is_err(), "{heard:?}");
}
