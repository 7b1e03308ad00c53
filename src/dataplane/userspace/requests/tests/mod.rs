//! Requests on loopback sockets, to servers of hyper's and to such as say what they like.

mod breaks;
mod endpoint;
mod http1;
mod http2;

use super::super::tests::{LONG, LOOPBACK, Silent, World, options, refusing, target_at};
use crate::model::HttpVersion::{self, H2c, Http1};
use crate::model::{Balancer, Protocol};
use endpoint::{
    Endpoint, Plain, ask, balancing, bytes, endless, frames, in_parts, multiplexed, nothing, post,
    text, world,
};
use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

/// How often each name was heard.
fn tally(names: impl IntoIterator<Item = String>) -> BTreeMap<String, usize> {
    let mut tally = BTreeMap::new();
    for name in names {
        *tally.entry(name).or_default() += 1;
    }
    tally
}

/// So many requests one after another on one connection.
async fn in_turn(world: &World, version: HttpVersion, count: usize) -> Vec<String> {
    let mut names = Vec::new();
    match version {
        Http1 => {
            let mut client = Plain::new(world).await;
            for _ in 0..count {
                names.push(client.get("/").await.body);
            }
        }
        H2c => {
            let client = multiplexed(world).await;
            for _ in 0..count {
                names.push(ask(&client, "/").await.unwrap());
            }
        }
    }
    names
}

#[tokio::test]
async fn one_connection_reaches_every_endpoint() {
    for version in [Http1, H2c] {
        let mut world = world(version);
        let all = [
            Endpoint::new("a", version).await,
            Endpoint::new("b", version).await,
            Endpoint::new("c", version).await,
        ];
        world.serve(&all.each_ref().map(|one| one.target));
        let expected = ["a", "b", "c"].map(|name| (name.to_owned(), 20)).into();
        assert_eq!(tally(in_turn(&world, version, 60).await), expected, "{version:?}");
        for one in &all {
            assert_eq!((one.opened(), one.requests()), (1, 20), "{version:?}");
        }
        let counts = world.count(all[0].target);
        assert_eq!((counts.requests, counts.broken, counts.opened, counts.active), (20, 0, 1, 0));
        assert!(counts.sent > 0 && counts.received > 0, "{counts:?}");
    }
}

#[tokio::test]
async fn affinity_keeps_requests_where_the_first_one_went() {
    for version in [Http1, H2c] {
        let mut world = world(version);
        let all = [Endpoint::new("a", version).await, Endpoint::new("b", version).await];
        world.relayed.affinity = NonZeroU32::new(600);
        world.serve(&all.each_ref().map(|one| one.target));
        let mut names = in_turn(&world, version, 20).await;
        names.extend(in_turn(&world, version, 20).await);
        assert_eq!(tally(names).len(), 1, "{version:?}");
    }
}

#[tokio::test]
async fn requests_in_flight_are_what_least_connections_counts() {
    for version in [Http1, H2c] {
        let mut world = world(version);
        let (one, other) = (Endpoint::new("a", version).await, Endpoint::new("b", version).await);
        world.relayed.balancer = Balancer::LeastConnections;
        world.serve(&[one.target]);
        let busy = multiplexed_or_plain(&world, version).await;
        let busy = tokio::spawn(async move { busy.get("/held").await.1 });
        one.until("the request arrives", |one| one.requests() == 1).await;
        world.serve(&[one.target, other.target]);
        assert_eq!(tally(in_turn(&world, version, 20).await).get("b"), Some(&20), "{version:?}");
        assert_eq!(world.count(one.target).active, 1);
        one.answer_held(1);
        assert_eq!(busy.await.unwrap(), "a");
    }
}

#[tokio::test]
async fn an_endpoint_that_comes_is_used_and_one_that_goes_finishes() {
    for version in [Http1, H2c] {
        let mut world = world(version);
        let (one, other) = (Endpoint::new("a", version).await, Endpoint::new("b", version).await);
        world.serve(&[one.target]);
        let first = multiplexed_or_plain(&world, version).await;
        let mut first = first.get("/").await;
        assert_eq!(first.1, "a");
        let held = multiplexed_or_plain(&world, version).await;
        let held = tokio::spawn(async move { held.get("/held").await.1 });
        one.until("the request arrives", |one| one.requests() == 2).await;
        world.serve(&[other.target]);
        for _ in 0..10 {
            first = first.0.get("/").await;
            assert_eq!(first.1, "b", "{version:?}");
        }
        if version == Http1 {
            one.until("what nobody uses is closed", |one| one.open() == 1).await;
        }
        one.answer_held(1);
        assert_eq!(held.await.unwrap(), "a", "{version:?}");
        one.until("all is closed", |one| one.open() == 0).await;
        assert_eq!(one.requests(), 2);
    }
}

/// A client of either kind.
enum Either {
    Plain(Plain),
    Multiplexed(hyper::client::conn::http2::SendRequest<endpoint::AnyBody>),
}

async fn multiplexed_or_plain(world: &World, version: HttpVersion) -> Either {
    match version {
        Http1 => Either::Plain(Plain::new(world).await),
        H2c => Either::Multiplexed(multiplexed(world).await),
    }
}

impl Either {
    async fn get(mut self, path: &str) -> (Self, String) {
        let text = match &mut self {
            Either::Plain(client) => client.get(path).await.body,
            Either::Multiplexed(client) => ask(client, path).await.unwrap(),
        };
        (self, text)
    }
}

#[tokio::test]
async fn endpoints_that_end_between_requests_cost_none() {
    for version in [Http1, H2c] {
        let mut world = world(version);
        let mut all = Vec::new();
        for _ in 0..4 {
            all.push(Endpoint::new("a", version).await);
        }
        world.serve(&all.iter().map(|one| one.target).collect::<Vec<_>>());
        let mut client = multiplexed_or_plain(&world, version).await;
        for _ in 0..8 {
            client = client.get("/").await.0;
        }
        while all.len() > 1 {
            let ended = all.remove(0);
            ended.stop();
            ended.until("it ends", |one| one.open() == 0).await;
            for _ in 0..20 {
                let answered = client.get("/").await;
                assert_eq!(answered.1, "a", "{version:?}");
                client = answered.0;
            }
        }
        let counts = world.counts();
        assert_eq!(counts.endpoints.iter().map(|one| one.broken).sum::<u64>(), 0, "{counts:?}");
    }
}

#[tokio::test]
async fn who_refuses_or_is_silent_is_left_for_the_next() {
    for version in [Http1, H2c] {
        let mut world = world(version);
        let (one, silent) = (Endpoint::new("a", version).await, Silent::new().await);
        world.serve(&[one.target, refusing().await, silent.target]);
        assert_eq!(tally(in_turn(&world, version, 12).await).get("a"), Some(&12), "{version:?}");
    }
}

#[tokio::test]
async fn without_an_endpoint_a_client_is_told_so() {
    let mut world = world(Http1);
    let mut client = Plain::new_after(&mut world, &[refusing().await]).await;
    assert_eq!(client.get("/").await.status, 503);
    let silent = Silent::new().await;
    world.serve(&[silent.target]);
    assert_eq!(client.get("/").await.status, 504);
    world.serve(&[]);
    assert_eq!(client.get("/").await.status, 503);
    assert_eq!(world.counts().unserved, 3);
    let one = Endpoint::new("a", Http1).await;
    world.serve(&[one.target]);
    assert_eq!(client.get("/").await.body, "a", "the connection is as good as before");
}

impl Plain {
    async fn new_after(world: &mut World, targets: &[crate::planner::Target]) -> Self {
        world.serve(targets);
        Self::new(world).await
    }
}

#[tokio::test]
async fn files_bound_the_connections_to_endpoints() {
    let limited = World::with(Protocol::Tcp, options(512 + 2));
    let mut world = balancing(limited, Http1);
    let one = Endpoint::new("a", Http1).await;
    world.serve(&[one.target]);
    let mut first = Plain::new(&world).await;
    first.say("GET /held HTTP/1.1\r\nHost: web\r\n\r\n").await;
    one.until("the request arrives", |one| one.requests() == 1).await;
    // Its end and the endpoint's are all there may be.
    // A reset may come before the client has seen that it is connected.
    if let Ok(second) = tokio::net::TcpStream::connect(world.at()).await {
        assert!(Plain(tokio::io::BufReader::new(second)).is_closed().await);
    }
    one.answer_held(1);
    assert_eq!(first.answer().await.unwrap().body, "a");
    drop(first);
    world.wait_until(|port| port.active() == 0).await;
    assert_eq!(world.counts().refused, 1);
}

#[tokio::test]
async fn what_nobody_reads_stays_where_it_is() {
    for version in [Http1, H2c] {
        let mut world = world(version);
        let one = Endpoint::new("a", version).await;
        world.serve(&[one.target]);
        let mut plain = None;
        let mut kept = None;
        match version {
            Http1 => {
                let mut client = Plain::new(&world).await;
                client.say("GET /endless HTTP/1.1\r\nHost: web\r\n\r\n").await;
                plain = Some(client);
            }
            H2c => {
                let mut client = multiplexed(&world).await;
                let request = client.send_request(post("/endless", nothing())).await.unwrap();
                kept = Some((client, request.into_body()));
            }
        }
        let settled = settled(&world).await;
        // Sockets' buffers hold most of it.
        assert!(settled < 24 << 20, "{version:?}: {settled} bytes");
        assert!(settled > 0);
        if let Some((client, body)) = kept.take() {
            // Others on the same connection go on.
            assert_eq!(ask(&client, "/").await.unwrap(), "a");
            assert!(frames(body, 2000).await > 16 << 20, "it goes on with its reader");
        }
        drop(plain);
        world.wait_until(|port| port.active() == 0).await;
    }
}

/// What came of the endpoint when no more comes.
async fn settled(world: &World) -> u64 {
    let received = || {
        let counts = world.engine.counts();
        let endpoints = counts.ports.iter().flat_map(|port| &port.endpoints);
        endpoints.map(|one| one.received).sum::<u64>()
    };
    let mut before = u64::MAX;
    loop {
        let now = received();
        if now == before && now > 0 {
            return now;
        }
        before = now;
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

#[tokio::test]
async fn a_frontend_that_is_no_more_answers_what_was_asked_and_hangs_up() {
    for version in [Http1, H2c] {
        let mut world = world(version);
        let one = Endpoint::new("a", version).await;
        world.serve(&[one.target]);
        let idle = multiplexed_or_plain(&world, version).await.get("/").await.0;
        let busy = multiplexed_or_plain(&world, version).await;
        let busy = tokio::spawn(async move { busy.get("/held").await.1 });
        one.until("the request arrives", |one| one.requests() == 2).await;
        world.engine.update(vec![(world.key(), None)]);
        match idle {
            Either::Plain(mut client) => assert!(client.is_closed().await),
            Either::Multiplexed(client) => {
                one.until("the client is told to go", |_| client.is_closed()).await;
            }
        }
        one.answer_held(1);
        assert_eq!(busy.await.unwrap(), "a", "{version:?}");
        one.until("nothing is kept", |one| one.open() == 0).await;
    }
}

#[tokio::test]
async fn stopping_waits_for_answers_and_for_no_idle_connection() {
    for version in [Http1, H2c] {
        let mut world = world(version);
        let one = Endpoint::new("a", version).await;
        world.serve(&[one.target]);
        let _idle = multiplexed_or_plain(&world, version).await.get("/").await.0;
        let busy = multiplexed_or_plain(&world, version).await;
        let busy = tokio::spawn(async move { busy.get("/held").await.1 });
        one.until("the request arrives", |one| one.requests() == 2).await;
        let engine = world.engine.clone();
        let stopping = tokio::task::spawn_blocking(move || engine.stop(LONG * 2));
        tokio::time::sleep(Duration::from_millis(50)).await;
        one.answer_held(1);
        assert_eq!(busy.await.unwrap(), "a", "{version:?}");
        tokio::time::timeout(LONG, stopping).await.expect("idle ones are no reason").unwrap();
    }
}
