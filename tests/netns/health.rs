//! `healthCheckNodePort`: what a load balancer is told about this node.

use super::metrics::metric;
use super::support::manifests::{Ep, Svc, draining, ep, node, svc};
use super::support::plan::{Ext, L1, L2, NODE_A, NODE_PORT, Node, R1, V4, V6, Who};
use super::support::runner::{Case, case};
use super::support::servers::Tcp;
use super::support::world::World;
use serde_json::json;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

const HEALTH_PORT: u16 = 30555;

/// A load balancer's service with local traffic only.
fn balanced(endpoints: impl IntoIterator<Item = impl Into<Ep>>) -> Svc {
    let vip = svc().load_balancer([] as [IpAddr; 0]).node_port(NODE_PORT).external_local();
    vip.health_port(HEALTH_PORT).on(endpoints)
}

/// An answer as it came over the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub headers: BTreeMap<String, String>,
    pub body: String,
}

/// `None`: nobody listens there.
fn ask(w: &World, who: Who, at: IpAddr) -> Option<Answer> {
    ask_with(w, who, (at, "GET /any/thing?at=all HTTP/1.1\r\nHost: node\r\n\r\n"))
}

fn ask_with(w: &World, who: Who, (at, request): (IpAddr, &str)) -> Option<Answer> {
    ask_at(w, who, (SocketAddr::new(at, HEALTH_PORT), request))
}

/// The answer to these words; `None`: nobody listens there.
pub fn ask_at(w: &World, who: Who, (at, request): (SocketAddr, &str)) -> Option<Answer> {
    let text = w.netns(who).enter(|| {
        let mut stream = TcpStream::connect_timeout(&at, Duration::from_secs(2)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(2))).expect("not zero");
        stream.write_all(request.as_bytes()).ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("an answer in time, and then the end");
        Some(text)
    })?;
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head: {text:?}"));
    let mut lines = head.lines();
    let first = lines.next().expect("a text has a first line");
    let status = first.split(' ').nth(1).and_then(|status| status.parse().ok());
    let header = |line: &str| {
        let (name, value) = line.split_once(": ").expect("headers have a colon");
        (name.to_lowercase(), value.to_owned())
    };
    Some(Answer {
        status: status.unwrap_or_else(|| panic!("no status: {first:?}")),
        headers: lines.map(header).collect(),
        body: body.to_owned(),
    })
}

/// Waits for this status: listeners follow the plan a moment after the kernel does.
#[track_caller]
fn answered(w: &World, (who, at): (Who, IpAddr), status: u16) -> Answer {
    let asked = || ask(w, who, at).is_some_and(|answer| answer.status == status);
    w.within(Duration::from_secs(1), asked);
    ask(w, who, at).expect("it has just answered")
}

#[track_caller]
fn says(answer: &Answer, endpoints: u32, healthy: bool) {
    let body = format!(
        r#"{{"service":{{"namespace":"default","name":"svc"}},"localEndpoints":{endpoints},"serviceProxyHealthy":{healthy}}}"#
    );
    assert_eq!(answer.body, body);
    let header = |name| answer.headers.get(name).map(String::as_str);
    assert_eq!(header("content-type"), Some("application/json"));
    assert_eq!(header("x-content-type-options"), Some("nosniff"));
    assert_eq!(header("x-load-balancing-endpoint-weight"), Some(&*endpoints.to_string()));
    assert_eq!(header("content-length"), Some(&*body.len().to_string()));
}

/// Given to the node by the case; within the ranges of [`RANGES`].
fn another(w: &World) -> IpAddr {
    let address = if w.family == V4 { "192.168.7.7" } else { "fd00:192:168:7::7" };
    address.parse().expect("an address")
}

const RANGES: &str = "192.168.0.0/16,fd00:192:168::/48";

pub fn cases() -> Vec<Case> {
    vec![
        case("28 200 with a ready endpoint here; 503 while it drains and is still served", |w| {
            let at = (Ext, w.address(Node));
            w.serve(balanced([ep(L1), ep(R1)]));
            says(&answered(w, at, 200), 1, true);
            w.tcp(Ext, w.address(Node), NODE_PORT).times(20).only([L1]);
            w.serve(balanced([draining(L1), ep(R1)]));
            says(&answered(w, at, 503), 0, true);
            w.tcp(Ext, w.address(Node), NODE_PORT).times(20).only([L1]);
            w.serve(balanced([ep(L1), ep(R1)]));
            says(&answered(w, at, 200), 1, true);
            w.serve(balanced([ep(L1), ep(L2), ep(R1)]));
            says(&ask(w, Ext, w.address(Node)).expect("it listens"), 2, true);
            w.serve(balanced([R1]));
            says(&ask(w, Ext, w.address(Node)).expect("it listens"), 0, true);
        }),
        case("28 any method and path is answered, on the loopback address too", |w| {
            w.serve(balanced([L1]));
            let at = (Node, w.family.loopback());
            says(&answered(w, at, 200), 1, true);
            let plain = "GET / HTTP/1.0\r\n\r\n";
            let posted = "POST /x HTTP/1.1\r\nHost: n\r\nContent-Length: 2\r\n\r\nhi";
            for request in [plain, posted] {
                says(&ask_with(w, Node, (at.1, request)).expect("it listens"), 1, true);
            }
            let head = ask_with(w, Node, (at.1, "HEAD / HTTP/1.1\r\nHost: n\r\n\r\n"));
            let head = head.expect("it listens");
            assert_eq!((head.status, &*head.body), (200, ""));
        }),
        case("28 at loopback too where all addresses of the family are named as a range", |w| {
            w.serve(balanced([L1]));
            for (who, at) in [(Ext, w.address(Node)), (Node, w.family.loopback())] {
                says(&answered(w, (who, at), 200), 1, true);
            }
        })
        .flag("--nodeport-addresses", "0.0.0.0/0,::/0"),
        case("28 connections that say nothing keep nobody from an answer", |w| {
            let at = (Ext, w.address(Node));
            w.serve(balanced([L1]));
            answered(w, at, 200);
            let to = SocketAddr::new(w.address(Node), HEALTH_PORT);
            let silent: Vec<TcpStream> = w.netns(Ext).enter(|| {
                (0..400).map(|_| TcpStream::connect(to).expect("somebody listens")).collect()
            });
            for _ in 0..10 {
                let since = Instant::now();
                answered(w, at, 200);
                // They are given up after three seconds, which would be too late.
                assert!(since.elapsed() < Duration::from_secs(2), "{:?}", since.elapsed());
            }
            drop(silent);
        }),
        case("28 a service that is gone or another type has no port any more", |w| {
            let at = w.address(Node);
            w.serve(balanced([L1]));
            answered(w, (Ext, at), 200);
            w.serve(svc().node_port(NODE_PORT).on([L1]));
            w.within(Duration::from_secs(1), || ask(w, Ext, at).is_none());
            w.serve(balanced([L1]));
            answered(w, (Ext, at), 200);
            w.withdraw(balanced([L1]));
            w.within(Duration::from_secs(1), || ask(w, Ext, at).is_none());
        }),
        case("28 servers follow the node's addresses as they come and go", |w| {
            let at = another(w);
            w.serve(balanced([L1]));
            answered(w, (Ext, w.address(Node)), 200);
            assert_eq!(ask(w, Node, at), None);
            let bits = if w.family == V4 { 32 } else { 128 };
            // IPv6 looks for duplicates for a second or two, in which nobody may listen there.
            w.sh(Node, "echo 1 > /proc/sys/net/ipv6/conf/up0/accept_dad");
            w.sh(Node, &format!("ip addr add {at}/{bits} dev up0"));
            w.within(Duration::from_secs(8), || ask(w, Ext, at).is_some());
            says(&answered(w, (Ext, at), 200), 1, true);
            assert!(!w.log().contains("cannot be answered"), "{}", w.log());
            w.sh(Node, &format!("ip addr del {at}/{bits} dev up0"));
            let listed = || w.sh(Node, "ss -Hltn").contains(&at.to_string());
            w.within(Duration::from_secs(2), || !listed());
            answered(w, (Ext, w.address(Node)), 200);
        })
        .flag("--nodeport-addresses", RANGES),
        case(
            "28 without an address to answer at the node says so, each time it comes to that",
            |w| {
                const LISTENERS: &str = "vipd_health_check_listeners";
                let (at, flag) = (another(w), "no address that --nodeport-addresses names");
                let told = || w.log().matches(flag).count();
                w.serve(balanced([L1]));
                w.within(Duration::from_secs(1), || told() == 1);
                let anywhere = [(Ext, w.address(Node)), (Node, w.family.loopback())];
                anywhere.iter().for_each(|(who, at)| assert_eq!(ask(w, *who, *at), None));
                assert_eq!(metric(w, LISTENERS), 0.0);
                w.serve(balanced([L1, L2]));
                w.serve(svc().named("other", 42).node_port(30_090).on([L1]));
                w.sleep(300);
                assert_eq!(told(), 1, "{}", w.log());
                let bits = if w.family == V4 { 32 } else { 128 };
                w.sh(Node, &format!("ip addr add {at}/{bits} dev up0"));
                says(&answered(w, (Ext, at), 200), 2, true);
                assert_eq!(metric(w, LISTENERS), 1.0);
                w.sh(Node, &format!("ip addr del {at}/{bits} dev up0"));
                w.within(Duration::from_secs(2), || told() == 2);
                w.within(Duration::from_secs(1), || metric(w, LISTENERS) == 0.0);
            },
        )
        .flag("--nodeport-addresses", "192.168.7.0/24,fd00:192:168:7::/64"),
        case("a node without IPv6 has nothing to complain of", |w| {
            w.sh(Node, "echo 1 > /proc/sys/net/ipv6/conf/lo/disable_ipv6");
            w.serve(balanced([L1]).dual_stack());
            answered(w, (Node, w.family.loopback()), 200);
            let refused = ask(w, Node, V6.loopback());
            assert_eq!(refused, None, "[::1] is there although lo has no IPv6");
            w.sleep(5000);
            assert!(!w.log().contains("cannot be answered"), "{}", w.log());
        })
        .kernel_only("local routes lead nowhere where the loopback interface has no IPv6")
        .once(),
        case(
            "58 a node whose object is deleted is going away, and what was known of it stays",
            |w| {
                let at = (Ext, w.address(Node));
                let known = || node(NODE_A, Some("z1"));
                w.serve(known());
                w.serve(balanced([L1]));
                answered(w, at, 200);
                w.withdraw(known());
                says(&answered(w, at, 503), 1, false);
                w.tcp(Ext, w.address(Node), NODE_PORT).times(10).only([L1]);
                // By default node ports are the Node's own addresses'.
                let outside = w.family.outside_gateway();
                w.servers(Node).listen([(Tcp, SocketAddr::new(outside, NODE_PORT))]);
                w.tcp(Ext, outside, NODE_PORT).times(3).left_to([Node]);
                w.serve(known());
                answered(w, at, 200);
            },
        ),
        case("58 a node that is being removed says 503 and serves on", |w| {
            let at = (Ext, w.address(Node));
            w.serve(balanced([L1]));
            answered(w, at, 200);
            let mut tainted = node(NODE_A, Some("z1"));
            tainted.objects[0]["spec"]["taints"] =
                json!([{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]);
            let mut deleted = node(NODE_A, Some("z1"));
            deleted.objects[0]["metadata"]["deletionTimestamp"] = json!("2026-11-24T10:00:00Z");
            for leaving in [tainted, deleted] {
                w.write(leaving);
                says(&answered(w, at, 503), 1, false);
                w.tcp(Ext, w.address(Node), NODE_PORT).times(10).only([L1]);
                w.write(node(NODE_A, Some("z1")));
                says(&answered(w, at, 200), 1, true);
            }
        }),
        case(
            "a port that a process of the host has is told of once, and had when it is free",
            |w| {
                let at = SocketAddr::new(w.address(Node), HEALTH_PORT);
                w.servers(Node).listen([(Tcp, at)]);
                w.serve(balanced([L1]));
                let told = || w.log().matches("healthCheckNodePort cannot be answered").count();
                w.within(Duration::from_secs(1), || told() == 1);
                for word in ["default/svc", &at.to_string(), "another process"] {
                    assert!(w.log().contains(word), "{word} is missing in {}", w.log());
                }
                w.sleep(1500);
                assert_eq!(told(), 1, "{}", w.log());
                w.servers(Node).close(Tcp, at);
                w.within(Duration::from_secs(4), || {
                    ask(w, Ext, at.ip()).is_some_and(|answer| answer.status == 200)
                });
            },
        ),
    ]
}
