//! What a socket answers, asked over the loopback.

use super::server::{Asked, Site, serve};
use crate::events::{About, Counts, Notices, Reason};
use crate::metrics::Metrics;
use crate::planner::Plan;
use crate::sync::{Snapshot, SyncStatus};
use arc_swap::ArcSwap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

fn site(notices: Notices) -> Site {
    let (known, problems) = Default::default();
    let status = SyncStatus {
        synced: true,
        last_success: Some(SystemTime::UNIX_EPOCH),
        ..SyncStatus::default()
    };
    Site {
        snapshot: Arc::new(ArcSwap::from_pointee(Snapshot {
            known,
            plan: Plan::empty(),
            problems,
            status,
        })),
        metrics: Metrics::default(),
        configz: Arc::new(ArcSwap::from_pointee("{\"kubeproxy.config.k8s.io\":{}}".into())),
        notices,
    }
}

/// A server that listens, and who stops it.
async fn started(asked: Asked, site: &Site) -> (SocketAddr, CancellationToken) {
    // Nobody else takes it on the way: the kernel gives a port that was free to others first.
    let free = TcpListener::bind("127.0.0.1:0").await.expect("a port of the loopback");
    let at = free.local_addr().expect("it is bound");
    drop(free);
    let stop = CancellationToken::new();
    tokio::spawn(serve((asked, at), site.clone(), stop.clone()));
    (at, stop)
}

/// Head in lower case, and body.
async fn ask(at: SocketAddr, line: &str) -> (String, String) {
    let mut stream = loop {
        match TcpStream::connect(at).await {
            Ok(stream) => break stream,
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    };
    let request = format!("{line} HTTP/1.1\r\nHost: node\r\nContent-Length: 0\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("it answers");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    (head.to_lowercase(), body.to_owned())
}

#[track_caller]
fn has(head: &str, lines: &[&str]) {
    for line in lines {
        assert!(head.lines().any(|other| other == *line), "{line} is missing in:\n{head}");
    }
}

const TEXT: [&str; 2] =
    ["content-type: text/plain; charset=utf-8", "x-content-type-options: nosniff"];

/// As kube-proxy 1.37.2 answered them, but for what it takes any method for.
#[tokio::test]
async fn what_go_answers_to_what_is_not_there() {
    let site = site(Notices::to_nobody());
    for asked in [Asked::Health, Asked::Metrics] {
        let (at, _stop) = started(asked, &site).await;
        for path in ["/", "/nothing", "/healthz/"] {
            let (head, body) = ask(at, &format!("GET {path}")).await;
            has(&head, &["http/1.1 404 not found", "content-length: 19"]);
            has(&head, &TEXT);
            assert_eq!(body, "404 page not found\n");
        }
        let (head, body) = ask(at, "POST /healthz").await;
        has(&head, &["http/1.1 405 method not allowed", "allow: get, head"]);
        has(&head, &TEXT);
        assert_eq!(body, "Method Not Allowed\n");
    }
}

#[tokio::test]
async fn a_head_is_what_a_get_would_have() {
    let site = site(Notices::to_nobody());
    let (health, _stop) = started(Asked::Health, &site).await;
    let (metrics, _stop) = started(Asked::Metrics, &site).await;
    let asked =
        [(health, "/livez"), (metrics, "/healthz"), (metrics, "/proxyMode"), (metrics, "/configz")];
    for (at, path) in asked {
        let (get, body) = ask(at, &format!("GET {path}")).await;
        let (head, nothing) = ask(at, &format!("HEAD {path}")).await;
        let length = format!("content-length: {}", body.len());
        has(&get, &["http/1.1 200 ok"]);
        if path == "/livez" {
            // It holds the time, whose fractions are of any length.
            has(&head, &["http/1.1 200 ok", "content-type: application/json"]);
        } else {
            has(&get, &[&length]);
            has(&head, &["http/1.1 200 ok", &length]);
        }
        assert_eq!(nothing, "", "{path}");
    }
}

#[tokio::test]
async fn the_configuration_of_now_is_shown() {
    let site = site(Notices::to_nobody());
    let (at, _stop) = started(Asked::Metrics, &site).await;
    let (head, body) = ask(at, "GET /configz").await;
    has(&head, &["content-type: application/json", "x-content-type-options: nosniff"]);
    assert_eq!(body, "{\"kubeproxy.config.k8s.io\":{}}");
    site.configz.store(Arc::new("{}".into()));
    assert_eq!(ask(at, "GET /configz").await.1, "{}");
}

#[tokio::test]
async fn answers_count_by_their_code() {
    let site = site(Notices::to_nobody());
    let (at, _stop) = started(Asked::Health, &site).await;
    ask(at, "GET /healthz").await;
    ask(at, "GET /livez").await;
    ask(at, "HEAD /livez").await;
    let mut unwell = Snapshot::clone(&site.snapshot.load());
    unwell.status.last_success = None;
    site.snapshot.store(Arc::new(unwell));
    ask(at, "GET /healthz").await;
    let text = site.metrics.scrape(&site.snapshot.load()).await;
    for line in [
        "kubeproxy_proxy_healthz_total{code=\"200\"} 1",
        "kubeproxy_proxy_healthz_total{code=\"503\"} 1",
        "kubeproxy_proxy_livez_total{code=\"200\"} 2",
        "kubeproxy_proxy_livez_total{code=\"503\"} 0",
    ] {
        assert!(text.lines().any(|other| other == line), "{line} is missing in:\n{text}");
    }
}

#[tokio::test]
async fn a_socket_that_cannot_be_opened_is_noticed() {
    for (asked, reason) in [
        (Asked::Health, Reason::FailedToStartProxierHealthcheck),
        (Asked::Metrics, Reason::FailedToStartMetricServer),
    ] {
        let (notices, mut told) = Notices::new(Counts::default());
        let taken = TcpListener::bind("127.0.0.1:0").await.expect("a port of the loopback");
        let at = taken.local_addr().expect("it is bound");
        let stop = CancellationToken::new();
        let serving = tokio::spawn(serve((asked, at), site(notices), stop.clone()));
        let notice = told.recv().await.expect("it is told");
        assert_eq!((notice.about, notice.reason), (About::Node, reason));
        assert!(notice.note.contains(&at.to_string()), "{}", notice.note);
        stop.cancel();
        serving.await.expect("it ends");
        assert!(told.recv().await.is_none(), "once");
    }
}
