//! What the process itself is asked: /healthz and /livez, /metrics and /proxyMode.

use super::health::{Answer, ask_at};
use super::support::manifests::{node, svc};
use super::support::plan::{Ext, L1, NODE_A, Node, Who};
use super::support::runner::{Case, case};
use super::support::servers::Tcp;
use super::support::vipd::Carrier;
use super::support::world::World;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(2);

const HEALTHZ: (&str, &str) = ("--healthz-bind-address", "0.0.0.0");
const METRICS: (&str, &str) = ("--metrics-bind-address", "127.0.0.1:10249");

fn get(w: &World, who: Who, at: &str, path: &str) -> Option<Answer> {
    let at: SocketAddr = at.parse().expect("an address and a port");
    ask_at(w, who, (at, &format!("GET {path} HTTP/1.1\r\nHost: node\r\n\r\n")))
}

/// Status and body of an answer in JSON.
fn healthz(w: &World, path: &str) -> (u16, Value) {
    let answer = get(w, Ext, "192.168.0.2:10256", path).expect("somebody listens");
    assert_eq!(answer.headers["content-type"], "application/json");
    assert_eq!(answer.headers["x-content-type-options"], "nosniff");
    (answer.status, serde_json::from_str(&answer.body).expect("JSON"))
}

fn mode(w: &World) -> &'static str {
    match w.carrier() {
        Carrier::Kernel => "nftables",
        Carrier::Relay => "userspace",
    }
}

pub fn cases() -> Vec<Case> {
    vec![
        case("by default all may ask for health, and the node itself for metrics", |w| {
            w.serve(svc().on([L1]));
            for at in ["127.0.0.1:10256", "[::1]:10256", "127.0.0.1:10249", "[::1]:10249"] {
                let answer = get(w, Node, at, "/healthz").expect("somebody listens");
                assert_eq!(answer.status, 200, "{at}");
            }
            assert_eq!(
                get(w, Ext, "192.168.0.2:10256", "/healthz").expect("it listens").status,
                200
            );
            assert_eq!(get(w, Ext, "192.168.0.2:10249", "/healthz"), None);
        })
        .once(),
        case("an empty address is nowhere", |w| {
            w.serve(svc().on([L1]));
            for at in ["127.0.0.1:10256", "127.0.0.1:10249"] {
                assert_eq!(get(w, Node, at, "/healthz"), None, "{at}");
            }
        })
        .flag("--healthz-bind-address=", "")
        .flag("--metrics-bind-address=", "")
        .once(),
        case("/healthz and /livez of a node that serves, and of one that goes away", |w| {
            w.serve(svc().on([L1]));
            let (status, said) = healthz(w, "/healthz");
            assert_eq!((status, &said["nodeEligible"]), (200, &true.into()), "{said}");
            assert_eq!(said["lastUpdated"], said["currentTime"]);
            assert_eq!(healthz(w, "/livez").0, 200);
            let mut tainted = node(NODE_A, Some("z1"));
            tainted.objects[0]["spec"]["taints"] =
                json!([{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]);
            w.write(tainted);
            w.within(SOON, || healthz(w, "/healthz").0 == 503);
            let (_, said) = healthz(w, "/healthz");
            assert_eq!((&said["nodeEligible"], &said["healthy"]), (&false.into(), &false.into()));
            let (status, said) = healthz(w, "/livez");
            assert_eq!((status, said.get("nodeEligible")), (200, None), "{said}");
            assert_eq!(
                get(w, Ext, "192.168.0.2:10256", "/metrics").expect("an answer").status,
                404
            );
        })
        .flag(HEALTHZ.0, HEALTHZ.1)
        .once(),
        case("/metrics, /proxyMode and /healthz at the loopback address alone", |w| {
            w.serve(svc().on([L1]));
            let ask = |path| get(w, Node, METRICS.1, path).expect("somebody listens");
            let metrics = ask("/metrics");
            assert_eq!(metrics.headers["content-type"], "text/plain; version=0.0.4; charset=utf-8");
            assert!(metrics.body.contains("\nkubeproxy_sync_proxy_rules_"), "{}", metrics.body);
            assert_eq!(ask("/proxyMode").body, mode(w));
            assert_eq!((ask("/healthz").status, ask("/healthz").body.as_str()), (200, "ok"));
            assert_eq!(ask("/other").status, 404);
            let at = METRICS.1.parse().expect("an address and a port");
            let words = "POST /metrics HTTP/1.1\r\nHost: node\r\nContent-Length: 0\r\n\r\n";
            assert_eq!(ask_at(w, Node, (at, words)).expect("an answer").status, 405);
            assert_eq!(get(w, Ext, "192.168.0.2:10249", "/metrics"), None);
        })
        .flag(METRICS.0, METRICS.1)
        .once(),
        case("a port that another process has is told, and answered once it is free", |w| {
            let at: SocketAddr = "127.0.0.1:10249".parse().expect("an address and a port");
            w.terminate();
            w.servers(Node).listen([(Tcp, at)]);
            w.start(&[METRICS]);
            w.within(SOON, || w.log().contains("--metrics-bind-address"));
            w.serve(svc().on([L1]));
            w.servers(Node).close(Tcp, at);
            let patience = Duration::from_secs(8);
            let answer = || get(w, Node, METRICS.1, "/proxyMode").map(|answer| answer.body);
            w.within(patience, || answer().as_deref() == Some(mode(w)));
        })
        .flag(METRICS.0, METRICS.1)
        .once(),
    ]
}
