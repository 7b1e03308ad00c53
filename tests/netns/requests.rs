//! Requests that are balanced one by one: what clients and pods see of it on the wire.

use super::http::{
    AnyBody, Asking, End, Kept, PORT, Pod, Reply, Spoken, at_once, bytes, exchange, in_turn, tally,
};
use super::metrics::metric;
use super::support::clients::runtime;
use super::support::manifests::{Svc, slice, svc, tcp};
use super::support::plan::{Ext, L1, L2, L3, NODE_PORT, Node, R1, V4, Who};
use super::support::runner::{Case, case};
use super::support::world::World;
use futures_util::StreamExt;
use http_body_util::{BodyExt, StreamBody};
use hyper::HeaderMap;
use hyper::body::{Bytes, Frame};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};

fn pod(w: &World, who: Who, spoken: Spoken) -> Pod {
    Pod::start(w.netns(who), SocketAddr::new(w.address(who), PORT), spoken)
}

/// A Service of these pods that asks for requests.
fn balanced(spoken: &'static str, pods: &[Who]) -> Svc {
    let service = svc().speaking(spoken).relayed().annotated("requests", "true");
    service.annotated("balancer", "round-robin").on(pods.iter().copied()).to(PORT)
}

fn at(w: &World) -> SocketAddr {
    SocketAddr::new(w.cip(), 80)
}

fn evenly(pods: &[Who], each: usize) -> BTreeMap<String, usize> {
    pods.iter().map(|pod| (pod.name().to_owned(), each)).collect()
}

/// A sample of the case's Service, of an endpoint.
fn counted(w: &World, name: &str, pod: Who) -> f64 {
    let ip = if w.family == V4 { "IPv4" } else { "IPv6" };
    let endpoint = SocketAddr::new(w.address(pod), PORT);
    metric(
        w,
        &format!(
            "{name}{{namespace=\"default\",service=\"svc\",port=\"\",protocol=\"TCP\",\
             ip_family=\"{ip}\",endpoint=\"{endpoint}\"}}"
        ),
    )
}

/// An endpoint that is killed in the middle of a load. Nothing is sent twice, and what fails was sent
/// to the one that was killed, before that.
fn killed(w: &World, (name, spoken): (&'static str, Spoken)) {
    const CLIENTS: usize = 16;
    let pods = [L1, L3, R1];
    let [mut one, two, three] = pods.map(|who| Some(pod(w, who, spoken)));
    w.serve(balanced(name, &pods));
    let asking = Asking::start(w.netns(L2), at(w), spoken, CLIENTS);
    asking.go_on(CLIENTS * 10);
    let of_killed = one.take().expect("it runs").end(End::Killed);
    asking.go_on(CLIENTS * 20);
    let replies = asking.stop();
    let failed: Vec<&Reply> = replies.iter().filter(|reply| reply.ending.is_err()).collect();
    // Each client has one request under way.
    assert!(failed.len() <= CLIENTS, "{} of {} failed: {failed:?}", failed.len(), replies.len());
    let broken = pods.map(|who| counted(w, "vipd_relay_requests_failed_total", who));
    assert_eq!(broken, [failed.len() as f64, 0.0, 0.0]);
    let mut seen: Vec<String> = of_killed.clone();
    for pod in [&two, &three] {
        seen.extend(pod.as_ref().expect("it runs").seen());
    }
    let each_once: BTreeSet<&String> = seen.iter().collect();
    assert_eq!(each_once.len(), seen.len(), "a request was sent twice");
    let mut answered = replies.iter().filter(|reply| reply.ending.is_ok());
    assert!(answered.all(|reply| each_once.contains(&reply.path)));
    drop((two, three));
}

/// An endpoint that takes connections, and breaks them off when it has heard something.
fn broken(w: &World, (name, spoken): (&'static str, Spoken)) {
    let bound = SocketAddr::new(w.address(L1), PORT);
    let listener = w.netns(L1).enter(|| TcpListener::bind(bound)).expect("nobody has the port");
    // It ends with the process.
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let _ = stream.read(&mut [0]);
        }
    });
    let pods = [L3, R1].map(|who| pod(w, who, spoken));
    w.serve(balanced(name, &[L1, L3, R1]));
    let replies = in_turn(w.netns(L2), at(w), spoken, 30);
    let failed = replies.iter().filter(|reply| reply.ending.is_err()).count() as f64;
    assert!(counted(w, "vipd_relay_ejections_total", L1) >= 1.0, "{replies:?}");
    match spoken {
        Spoken::Http1 => assert_eq!(counted(w, "vipd_relay_requests_failed_total", L1), failed),
        // Nothing was sent to who did not say that it takes any.
        Spoken::Http2 => assert_eq!(failed, 0.0, "{replies:?}"),
    }
    let counts = [L3, R1].map(|who| counted(w, "vipd_relay_failed_total", who));
    assert_eq!(counts, [0.0, 0.0]);
    drop(pods);
}

/// The same, where it ends as servers do that are told to.
fn ended(w: &World, (name, spoken): (&'static str, Spoken)) {
    let pods = [L1, L3, R1];
    let [mut one, two, three] = pods.map(|who| Some(pod(w, who, spoken)));
    w.serve(balanced(name, &pods));
    let asking = Asking::start(w.netns(L2), at(w), spoken, 8);
    asking.go_on(100);
    w.serve(slice([L3, R1]).ports([tcp("", PORT)]));
    let of_ended = one.take().expect("it runs").end(End::Served).len();
    asking.go_on(100);
    let replies = asking.stop();
    let servers = tally(&replies);
    assert_eq!(servers["L1"], of_ended);
    assert_eq!(servers.len(), 3, "{servers:?}");
    drop((two, three));
}

fn come_and_gone(w: &World, (name, spoken): (&'static str, Spoken)) {
    let pods = [L1, R1].map(|who| pod(w, who, spoken));
    w.serve(balanced(name, &[L1]));
    let (to, netns) = (at(w), w.netns(L2).clone());
    let runtime = runtime();
    let kept = netns.enter(|| runtime.block_on(Kept::open(to, spoken)));
    let ask = |count: usize| -> Vec<Reply> {
        let asking = async {
            let mut replies = Vec::new();
            for number in 0..count {
                replies.push(kept.ask(&format!("/{number}")).await);
            }
            replies
        };
        netns.enter(|| runtime.block_on(asking))
    };
    assert_eq!(tally(&ask(10)), evenly(&[L1], 10));
    w.serve(slice([L1, R1]).ports([tcp("", PORT)]));
    assert_eq!(tally(&ask(20)), evenly(&[L1, R1], 10), "the open connection reaches it");
    w.serve(slice([R1]).ports([tcp("", PORT)]));
    assert_eq!(tally(&ask(10)), evenly(&[R1], 10));
    drop(pods);
}

fn websocket(w: &World) {
    let pods = [L1, R1].map(|who| pod(w, who, Spoken::Http1));
    w.serve(balanced("http", &[L1, R1]));
    let to = at(w);
    let mut names = BTreeSet::new();
    let mut open = Vec::new();
    for _ in 0..2 {
        let stream = w.netns(L2).enter(|| TcpStream::connect(to)).expect("it is relayed");
        (&stream)
            .write_all(
                b"GET /websocket HTTP/1.1\r\nHost: web\r\nConnection: Upgrade\r\n\
                  Upgrade: websocket\r\n\r\n",
            )
            .expect("it is taken");
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            head += &exchange(&stream, 1);
        }
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        names.insert(exchange(&stream, 3));
        open.push(stream);
    }
    assert_eq!(names, ["L1\n", "R1\n"].map(str::to_owned).into());
    // What is open stays, whatever becomes of its endpoint.
    w.serve(slice([R1]).ports([tcp("", PORT)]));
    for mut stream in open {
        let sent: Vec<u8> = (0..1_000_000u32).map(|n| (n ^ n >> 8).to_le_bytes()[0]).collect();
        let mut received = Vec::new();
        std::thread::scope(|scope| {
            let mut write = stream.try_clone().expect("it is open");
            let sent = &sent;
            scope.spawn(move || {
                write.write_all(sent).expect("it is taken");
                write.shutdown(Shutdown::Write).expect("it is open");
            });
            stream.read_to_end(&mut received).expect("it comes back");
        });
        assert!(received == sent, "{} bytes came back", received.len());
    }
    drop(pods);
}

/// Bodies of both ways that nobody reads, many at a time: what they leave in vipd has a bound.
fn unread(w: &World, (name, spoken): (&'static str, Spoken)) {
    const STREAMS: usize = 20;
    let one = pod(w, L1, spoken);
    w.serve(balanced(name, &[L1]));
    assert_eq!(tally(&in_turn(w.netns(L2), at(w), spoken, 5)), evenly(&[L1], 5));
    let before = w.resident();
    let (to, netns, runtime) = (at(w), w.netns(L2).clone(), runtime());
    let mut kept = netns.enter(|| {
        runtime.block_on(async {
            let mut kept = Vec::new();
            for _ in 0..STREAMS {
                let client = Kept::open(to, spoken).await;
                let response = client.send("/endless", bytes("")).await.expect("it begins");
                kept.push((client, response));
            }
            kept
        })
    });
    // Longer than buffers take to be full.
    w.sleep(2000);
    let grown = w.resident().saturating_sub(before);
    assert!(grown < 12 << 20, "{grown} bytes are kept for {STREAMS} that do not read");
    let replies = in_turn(&netns, to, spoken, 5);
    assert_eq!(tally(&replies), evenly(&[L1], 5), "others are not held up");
    let (_client, response) = kept.swap_remove(0);
    let frames = response.into_body().into_data_stream().take(500);
    let read = frames.fold(0, async |sum, frame| sum + frame.expect("it goes on").len());
    let read = runtime.block_on(read);
    assert!(read > 1 << 20, "{read} bytes");
    drop(one);
}

/// 64 MiB there and back, with trailers at the end.
fn whole(w: &World, (name, spoken): (&'static str, Spoken)) {
    const SIZE: usize = 64 << 20;
    let one = pod(w, R1, spoken);
    w.serve(balanced(name, &[R1]));
    let block: Bytes =
        (0..1u32 << 16).map(|n| (n ^ n >> 8).to_le_bytes()[0]).collect::<Vec<u8>>().into();
    let sent = block.clone();
    let trailers: HeaderMap =
        [("x-sum".parse().expect("a name"), "7".parse().expect("a value"))].into_iter().collect();
    let (last, expected) = (Frame::trailers(trailers.clone()), trailers);
    let to = at(w);
    let passing = async {
        let kept = Kept::open(to, spoken).await;
        let data = futures_util::stream::repeat_with(move || Ok(Frame::data(sent.clone())));
        let frames = data.take(SIZE / block.len()).chain(futures_util::stream::iter([Ok(last)]));
        let body: AnyBody = BodyExt::boxed(StreamBody::new(frames));
        let response = kept.send("/echo", body).await.expect("it is answered");
        assert_eq!(response.status(), 200);
        let mut body = response.into_body();
        let (mut received, mut trailers) = (0, None);
        while let Some(frame) = body.frame().await {
            let frame = frame.expect("it goes on to the end");
            match frame.into_data() {
                Ok(data) => {
                    let good =
                        |(n, byte): (usize, &u8)| *byte == block[(received + n) % block.len()];
                    assert!(data.iter().enumerate().all(good), "after {received} bytes");
                    received += data.len();
                }
                Err(frame) => trailers = frame.into_trailers().ok(),
            }
        }
        assert_eq!(received, SIZE);
        if spoken == Spoken::Http2 {
            assert_eq!(trailers, Some(expected));
        }
    };
    let runtime = runtime();
    w.netns(L2).enter(|| runtime.block_on(passing));
    drop(one);
}

pub fn cases() -> Vec<Case> {
    let cases = vec![
        case("HTTP: a client that keeps its connection reaches every endpoint, as itself", |w| {
            let pods = [L1, L3, R1].map(|who| pod(w, who, Spoken::Http1));
            w.serve(balanced("http", &[L1, L3, R1]).node_port(NODE_PORT));
            let node_port = SocketAddr::new(w.address(Node), NODE_PORT);
            for (who, to) in [(L2, at(w)), (Ext, at(w)), (Ext, node_port), (Node, at(w))] {
                let replies = in_turn(w.netns(who), to, Spoken::Http1, 60);
                assert_eq!(tally(&replies), evenly(&[L1, L3, R1], 20), "{who}");
                let client = w.address(who);
                let clients: BTreeSet<&str> = replies.iter().map(|one| &*one.client).collect();
                assert_eq!(clients, [&*client.to_string()].into(), "{who}");
            }
            drop(pods);
        }),
        case("gRPC, h2c: streams of one connection reach every endpoint", |w| {
            let pods = [L1, L3, R1].map(|who| pod(w, who, Spoken::Http2));
            for spoken in ["grpc", "kubernetes.io/h2c"] {
                w.serve(balanced(spoken, &[L1, L3, R1]));
                for who in [L2, Ext] {
                    let replies = at_once(w.netns(who), at(w), 90);
                    assert_eq!(tally(&replies), evenly(&[L1, L3, R1], 30), "{spoken} from {who}");
                    let client = w.address(who);
                    assert!(replies.iter().all(|reply| reply.client == client.to_string()));
                }
            }
            drop(pods);
        }),
        case(
            "HTTP: an endpoint that comes is used by an open connection, one that goes is not",
            |w| {
                come_and_gone(w, ("http", Spoken::Http1));
            },
        ),
        case(
            "h2c: an endpoint that comes is used by an open connection, one that goes is not",
            |w| {
                come_and_gone(w, ("kubernetes.io/h2c", Spoken::Http2));
            },
        ),
        case("HTTP: of a killed endpoint's requests those fail that it had been sent", |w| {
            killed(w, ("http", Spoken::Http1));
        }),
        case("gRPC: of a killed endpoint's requests those fail that it had been sent", |w| {
            killed(w, ("grpc", Spoken::Http2));
        }),
        case("HTTP: an endpoint that breaks off before a word is left out", |w| {
            broken(w, ("http", Spoken::Http1));
        }),
        case("gRPC: an endpoint that breaks off before a word is left out", |w| {
            broken(w, ("grpc", Spoken::Http2));
        }),
        case("HTTP: an endpoint that is withdrawn and ends costs no request", |w| {
            ended(w, ("http", Spoken::Http1));
        }),
        case("gRPC: an endpoint that is withdrawn and ends costs no request", |w| {
            ended(w, ("grpc", Spoken::Http2));
        }),
        case("affinity holds for requests, and for connections after them", |w| {
            let pods = [L1, L3, R1].map(|who| pod(w, who, Spoken::Http1));
            w.serve(balanced("http", &[L1, L3, R1]).sticky(600));
            let mut replies = in_turn(w.netns(L2), at(w), Spoken::Http1, 20);
            replies.extend(in_turn(w.netns(L2), at(w), Spoken::Http1, 20));
            assert_eq!(tally(&replies).len(), 1);
            drop(pods);
        }),
        case("a WebSocket passes both ways, and stays with its endpoint", websocket),
        case("HTTP: what nobody reads stays with who says it", |w| {
            unread(w, ("http", Spoken::Http1));
        }),
        case("gRPC: what nobody reads stays with who says it", |w| {
            unread(w, ("grpc", Spoken::Http2));
        }),
        case("HTTP: a large body arrives whole, there and back", |w| {
            whole(w, ("http", Spoken::Http1))
        }),
        case("gRPC: a large body arrives whole, there and back, with its trailers", |w| {
            whole(w, ("grpc", Spoken::Http2));
        }),
        case("without the annotation, or an appProtocol, connections are balanced", |w| {
            let pods = [L1, L3].map(|who| pod(w, who, Spoken::Http1));
            let one_by_connection = || {
                let replies = in_turn(w.netns(L2), at(w), Spoken::Http1, 20);
                assert_eq!(tally(&replies).len(), 1, "one connection, one endpoint");
                assert!(replies.iter().all(|reply| reply.client.is_empty()), "no header is added");
                w.vipd("describe service svc").out
            };
            let service = svc().speaking("http").relayed().on([L1, L3]).to(PORT);
            w.serve(service);
            assert!(!one_by_connection().contains("Requests:"));
            let told = |service: Svc, why: &str| {
                w.serve(service.annotated("requests", "true").on([L1, L3]).to(PORT));
                let said = one_by_connection();
                let line = said.lines().find(|line| line.contains("Requests:")).unwrap_or_default();
                let expected = format!("Requests:   connections are balanced: {why}");
                assert!(line.contains(&expected), "{why}: {said}");
            };
            told(svc().relayed(), "the Service's port has no appProtocol");
            told(svc().relayed().speaking("https"), "its appProtocol is https");
            told(svc().relayed().speaking("kubernetes.io/wss"), "its appProtocol is none of http");
            told(svc().speaking("http"), "the kernel carries it");
            w.serve(
                svc().relayed().speaking("http").annotated("requests", "yes").on([L1, L3]).to(PORT),
            );
            let said = one_by_connection();
            let warning = "metadata.annotations[vipd.io/requests]: \"yes\" is none of true, false";
            assert!(said.contains(warning), "{said}");
            drop(pods);
        }),
        case("describe and metrics tell of requests", |w| {
            let pods = [L1, L3].map(|who| pod(w, who, Spoken::Http1));
            w.serve(balanced("http", &[L1, L3]));
            in_turn(w.netns(L2), at(w), Spoken::Http1, 20);
            let said = w.vipd("describe service svc").out;
            for part in [
                "vipd.io/requests: true",
                "Requests:   balanced one by one, HTTP/1.1; an endpoint finds the client in X-Forwarded-For",
                "relayed: 0 open, 1 in all, 0 failed, 10 requests, 0 broken off",
            ] {
                assert!(said.contains(part), "{part} is missing: {said}");
            }
            assert_eq!(counted(w, "vipd_relay_requests_total", L1), 10.0);
            assert_eq!(counted(w, "vipd_relay_requests_failed_total", L1), 0.0);
            assert_eq!(counted(w, "vipd_relay_requests_retried_total", L1), 0.0);
            assert_eq!(counted(w, "vipd_relay_opened_total", L1), 1.0, "one for all");
            let plan = w.vipd("plan").out;
            assert!(plan.contains("relayed by round-robin, HTTP/1.1 request by request"), "{plan}");
            drop(pods);
        }),
        case("a service that goes over to the kernel ends connections after what was asked", |w| {
            let pods = [L1, L3].map(|who| pod(w, who, Spoken::Http1));
            w.serve(balanced("http", &[L1, L3]));
            let (to, asked) = (at(w), AtomicU64::new(0));
            let netns = w.netns(L2).clone();
            let runtime = runtime();
            let kept = netns.enter(|| runtime.block_on(Kept::open(to, Spoken::Http1)));
            let ask = || {
                let path = format!("/{}", asked.fetch_add(1, Ordering::Relaxed));
                netns.enter(|| runtime.block_on(kept.ask(&path)))
            };
            assert!(ask().ending.is_ok());
            w.serve(svc().speaking("http").on([L1, L3]).to(PORT));
            assert!(ask().ending.is_err(), "the client is told to connect anew");
            assert_eq!(
                tally(&in_turn(&netns, to, Spoken::Http1, 10)).len(),
                1,
                "the kernel has it"
            );
            drop(pods);
        }),
    ];
    cases.into_iter().map(Case::names_its_carrier).collect()
}
