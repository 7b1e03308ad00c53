//! What is answered and where, on loopback sockets.

use super::answer::answer;
use super::follow::Servers;
use super::ports::{Followed, Ports};
use crate::events::{About, Counts, Notices, Reason};
use crate::model::{Created, Family, NodeFacts, ServiceKey};
use crate::planner::{HealthCheck, NodePlan, Plan, Policy};
use crate::sync::{Snapshot, SyncStatus};
use arc_swap::ArcSwap;
use hyper::StatusCode;
use imbl::OrdMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

fn key(name: &str) -> ServiceKey {
    ServiceKey::new("ns", name)
}

fn checked(port: u16, local_endpoints: u32) -> HealthCheck {
    let port = NonZeroU16::new(port).unwrap();
    let since = Created::new(None);
    HealthCheck { port, since, local_endpoints: [local_endpoints, 0] }
}

/// The same of a service that was created then.
fn created(seconds: i64, check: HealthCheck) -> HealthCheck {
    HealthCheck { since: Created::new(Some(seconds)), ..check }
}

/// A healthy node that answers on 127.0.0.1 only.
fn snapshot(services: &[(&str, u16, u32)]) -> Snapshot {
    let mut plan = Plan::new(Policy::default(), NodeFacts::default());
    plan.node = Arc::new(NodePlan {
        localhost_health_checks: [true, false],
        ..NodePlan::clone(&plan.node)
    });
    for (name, port, endpoints) in services {
        plan.health_checks.insert(key(name), checked(*port, *endpoints));
    }
    let status = SyncStatus {
        synced: true,
        last_success: Some(SystemTime::now()),
        served: plan.health_checks.clone(),
        ..SyncStatus::default()
    };
    Snapshot { known: OrdMap::new(), plan, problems: OrdMap::new(), status }
}

#[test]
fn each_family_is_told_of_its_own_endpoints() {
    let snapshot = snapshot(&[("web", 30555, 1)]);
    let about = |family| answer(&snapshot, (&key("web"), 30555, family), Instant::now()).status;
    assert_eq!(about(Family::V4), StatusCode::OK);
    assert_eq!(about(Family::V6), StatusCode::SERVICE_UNAVAILABLE);
}

#[test]
fn endpoints_that_no_commit_has_brought_do_not_count() {
    let mut snapshot = snapshot(&[("web", 30555, 1)]);
    snapshot.plan.health_checks.insert(key("web"), checked(30555, 2));
    let answer = answer(&snapshot, (&key("web"), 30555, Family::V4), Instant::now());
    assert_eq!((answer.status, answer.weight), (StatusCode::OK, 1));
}

#[test]
fn ready_endpoints_of_a_healthy_node_are_answered_with_200() {
    let snapshot = snapshot(&[("web", 30555, 2)]);
    let answer = answer(&snapshot, (&key("web"), 30555, Family::V4), Instant::now());
    assert_eq!((answer.status, answer.weight), (StatusCode::OK, 2));
    assert_eq!(
        answer.body,
        r#"{"service":{"namespace":"ns","name":"web"},"localEndpoints":2,"serviceProxyHealthy":true}"#
    );
}

#[test]
fn everything_else_is_answered_with_503() {
    let now = Instant::now();
    let asked = |snapshot: &Snapshot, name: &str| {
        let answer = answer(snapshot, (&key(name), 30555, Family::V4), now);
        let healthy = answer.body.contains("\"serviceProxyHealthy\":true");
        assert!(answer.body.contains(&format!("\"localEndpoints\":{}", answer.weight)));
        (answer.status.as_u16(), answer.weight, healthy)
    };
    let ready = snapshot(&[("web", 30555, 1), ("empty", 30555, 0), ("moved", 30556, 1)]);
    assert_eq!(asked(&ready, "web"), (200, 1, true));
    assert_eq!(asked(&ready, "empty"), (503, 0, true));
    assert_eq!(asked(&ready, "moved"), (503, 0, true));
    assert_eq!(asked(&ready, "gone"), (503, 0, true));

    let mut failing = ready.clone();
    failing.status.failing_since = Some(now.checked_sub(Duration::from_secs(61)).unwrap());
    assert_eq!(asked(&failing, "web"), (503, 1, false));

    let mut going = ready.clone();
    going.plan.facts = Arc::new(NodeFacts { going_away: true, ..NodeFacts::default() });
    assert_eq!(asked(&going, "web"), (503, 1, false));
}

#[test]
fn the_first_service_by_name_has_a_port() {
    let one = snapshot(&[("b", 30555, 1)]).plan.health_checks;
    let two = snapshot(&[("a", 30555, 1), ("b", 30555, 1), ("c", 30556, 1)]).plan.health_checks;
    let counted = snapshot(&[("a", 30555, 7), ("b", 30555, 0), ("c", 30556, 1)]).plan.health_checks;
    let (mut ports, none) = (Ports::default(), OrdMap::new());
    assert_eq!(ports.follow(&none, &one), Followed::Changed);
    assert_eq!(ports.holders().collect::<Vec<_>>(), [(30555, &key("b"))]);
    assert_eq!(ports.losers().count(), 0);
    assert_eq!(ports.follow(&one, &two), Followed::Changed);
    assert_eq!(ports.holders().collect::<Vec<_>>(), [(30555, &key("a")), (30556, &key("c"))]);
    assert_eq!(ports.losers().collect::<Vec<_>>(), [(30555, &key("b"))]);
    assert_eq!(ports.follow(&two, &counted), Followed::Same);
    assert_eq!(ports.follow(&counted, &none), Followed::Changed);
    assert_eq!(ports.holders().count(), 0);
}

#[test]
fn the_oldest_service_has_a_port() {
    let with_ages = |ages: &[(&str, i64)]| -> OrdMap<ServiceKey, HealthCheck> {
        ages.iter().map(|(name, age)| (key(name), created(*age, checked(30555, 1)))).collect()
    };
    let (mut ports, none) = (Ports::default(), OrdMap::new());
    let young = with_ages(&[("a", 20)]);
    let both = with_ages(&[("a", 20), ("b", 10)]);
    let again = with_ages(&[("a", 20), ("b", 30)]);
    for (before, now, holder, losers) in
        [(&none, &young, "a", 0), (&young, &both, "b", 1), (&both, &again, "a", 1)]
    {
        assert_eq!(ports.follow(before, now), Followed::Changed);
        assert_eq!(ports.holders().collect::<Vec<_>>(), [(30555, &key(holder))]);
        assert_eq!(ports.losers().count(), losers);
    }
}

// ---- on sockets

/// A port of 127.0.0.1 that nobody listened on a moment ago.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

fn at(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

async fn ask(port: u16, request: &'static str) -> String {
    let asking = tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect(at(port)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    });
    asking.await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_number_of_endpoints_is_that_of_the_moment() {
    let port = free_port();
    let published = Arc::new(ArcSwap::from_pointee(snapshot(&[("web", port, 1)])));
    let mut servers = Servers::new(Arc::clone(&published));
    servers.follow().await;
    assert_eq!(servers.open_at(), [at(port)]);
    let text = ask(port, "GET /any/path HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
    assert!(text.contains("\r\nX-Load-Balancing-Endpoint-Weight: 1\r\n"), "{text}");
    let text = ask(port, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi").await;
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");

    // Published, and nobody was woken.
    published.store(Arc::new(snapshot(&[("web", port, 0)])));
    let text = ask(port, "GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(text.starts_with("HTTP/1.1 503 "), "{text}");
    published.store(Arc::new(snapshot(&[])));
    let text = ask(port, "GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(text.starts_with("HTTP/1.1 503 "), "{text}");
    assert!(text.contains(r#""name":"web""#), "{text}");
    servers.follow().await;
    assert!(TcpStream::connect(at(port)).is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_port_changes_hands_without_being_closed() {
    let port = free_port();
    let published = Arc::new(ArcSwap::from_pointee(snapshot(&[("b", port, 1)])));
    let mut servers = Servers::new(Arc::clone(&published));
    servers.follow().await;
    published.store(Arc::new(snapshot(&[("a", port, 0), ("b", port, 1)])));
    servers.follow().await;
    let text = ask(port, "GET / HTTP/1.0\r\n\r\n").await;
    assert!(text.contains(" 503 ") && text.contains(r#""name":"a""#), "{text}");
    published.store(Arc::new(snapshot(&[("b", port, 1)])));
    servers.follow().await;
    let text = ask(port, "GET / HTTP/1.0\r\n\r\n").await;
    assert!(text.contains(" 200 ") && text.contains(r#""name":"b""#), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_port_of_another_process_is_had_when_that_gives_it_up() {
    let theirs = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = theirs.local_addr().unwrap().port();
    let published = Arc::new(ArcSwap::from_pointee(snapshot(&[("web", port, 1)])));
    let mut servers = Servers::new(published);
    servers.follow().await;
    assert_eq!(servers.open_at(), []);
    drop(theirs);
    servers.follow().await;
    assert_eq!(servers.open_at(), [at(port)]);
    assert!(ask(port, "GET / HTTP/1.0\r\n\r\n").await.contains(" 200 "));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn who_says_nothing_keeps_nobody_from_an_answer() {
    let port = free_port();
    let published = Arc::new(ArcSwap::from_pointee(snapshot(&[("web", port, 1)])));
    let mut servers = Servers::new(published);
    servers.follow().await;
    let silent: Vec<_> = (0..40).map(|_| TcpStream::connect(at(port)).unwrap()).collect();
    // All places are taken until the silent ones have had their time, three seconds each.
    let start = Instant::now();
    assert!(ask(port, "GET / HTTP/1.0\r\n\r\n").await.contains(" 200 "));
    assert!(start.elapsed() < Duration::from_secs(12), "{:?}", start.elapsed());
    drop(silent);
}

#[tokio::test]
async fn a_port_that_nobody_can_ask_is_noticed_once() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let published = Arc::new(ArcSwap::from_pointee(snapshot(&[("web", port, 1)])));
    let mut servers = Servers::new(Arc::clone(&published));
    let (notices, mut told) = Notices::new(Counts::default());
    servers.notices = notices;
    servers.follow().await;
    servers.follow().await;
    let mut expect = |words: &str| {
        let notice = told.try_recv().expect("it is told");
        assert_eq!(notice.about, About::service(&key("web")));
        assert_eq!(notice.reason, Reason::FailedToStartServiceHealthcheck);
        assert!(notice.note.contains(words), "{}", notice.note);
        assert!(told.try_recv().is_err(), "once");
    };
    expect("another process has the port");
    let mut nowhere = Snapshot::clone(&published.load());
    nowhere.plan.node = Arc::new(NodePlan {
        localhost_health_checks: [false, false],
        ..NodePlan::clone(&nowhere.plan.node)
    });
    published.store(Arc::new(nowhere));
    servers.follow().await;
    servers.follow().await;
    expect("--nodeport-addresses");
}
