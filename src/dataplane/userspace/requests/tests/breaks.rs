//! What breaks off, and whom it is counted against.

use super::http1::Scripted;
use super::*;
use hyper::body::Frame;
use rstest::rstest;
use std::io;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

type Target = crate::planner::Target;

/// An endpoint that reads the first bytes of each connection, if it does, and breaks off; those that
/// `answers` picks by their number it answers first.
async fn breaking(reads: bool, answers: fn(usize) -> bool) -> Target {
    let listener = TcpListener::bind(LOOPBACK).await.unwrap();
    let target = target_at(listener.local_addr().unwrap());
    tokio::spawn(async move {
        for number in 0.. {
            let mut stream = listener.accept().await.unwrap().0;
            if reads {
                let _ = stream.read(&mut [0; 4096]).await;
            }
            if answers(number) {
                let answer = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\nb";
                stream.write_all(answer).await.unwrap();
            }
        }
    });
    target
}

/// An endpoint that takes connections, and all that is said on them, without a word.
async fn mute() -> Target {
    let listener = TcpListener::bind(LOOPBACK).await.unwrap();
    let target = target_at(listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let mut stream = listener.accept().await.unwrap().0;
            tokio::spawn(async move { tokio::io::copy(&mut stream, &mut tokio::io::sink()).await });
        }
    });
    target
}

#[tokio::test]
async fn who_breaks_off_before_a_word_is_left_out() {
    for reads in [true, false] {
        let mut world = world(Http1);
        let all = [Endpoint::new("a", Http1).await, Endpoint::new("a", Http1).await];
        let broken = breaking(reads, |_| false).await;
        world.serve(&[all[0].target, broken, all[1].target]);
        let mut failed = 0;
        for _ in 0..9 {
            let answer = Plain::new(&world).await.get("/").await;
            failed += u64::from(answer.status == 502);
            assert!(answer.status == 502 || answer.body == "a", "{answer:?}");
        }
        let counts = world.count(broken);
        assert!(counts.ejections >= 1 && counts.failed >= 3, "{counts:?}");
        assert_eq!(counts.broken, failed, "{counts:?}");
    }
}

#[tokio::test]
async fn who_breaks_off_before_http_2_is_spoken_is_left_out() {
    for reads in [true, false] {
        let mut world = world(H2c);
        let one = Endpoint::new("a", H2c).await;
        let broken = breaking(reads, |_| false).await;
        world.serve(&[one.target, broken]);
        assert_eq!(tally(in_turn(&world, H2c, 12).await).get("a"), Some(&12));
        let counts = world.count(broken);
        assert!(counts.ejections >= 1 && counts.failed >= 3, "{counts:?}");
    }
}

#[tokio::test]
async fn an_answer_ends_the_row() {
    let mut world = world(Http1);
    let one = Endpoint::new("a", Http1).await;
    let now_and_then = breaking(true, |number| number % 3 == 2).await;
    world.serve(&[one.target, now_and_then]);
    let mut client = Plain::new(&world).await;
    for _ in 0..24 {
        client.get("/").await;
    }
    let counts = world.count(now_and_then);
    assert_eq!((counts.requests, counts.failed, counts.ejections), (12, 8, 0), "{counts:?}");
}

/// It may have been idle for too long.
#[tokio::test]
async fn a_used_connection_that_breaks_off_is_nothing_against_its_endpoint() {
    let mut world = world(Http1);
    let scripted = Scripted::new(&mut world).await;
    let serving = tokio::spawn(async move {
        for _ in 0..4 {
            let mut endpoint = scripted.accept().await;
            endpoint.head().await.unwrap();
            endpoint.say("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na").await;
            endpoint.head().await.unwrap();
        }
        scripted
    });
    let mut client = Plain::new(&world).await;
    for _ in 0..4 {
        assert_eq!(client.get("/").await.body, "a");
        assert_eq!(client.get("/").await.status, 502);
    }
    serving.await.unwrap();
    let counts = &world.counts().endpoints[0];
    assert_eq!((counts.broken, counts.failed, counts.ejections), (4, 0, 0));
}

/// Nothing is counted against the endpoint that has all `requests`, the client's by affinity.
async fn blameless(world: &World, requests: u64) {
    world.wait_until(|port| port.active() == 0).await;
    let endpoints = world.counts().endpoints;
    let all: Vec<_> = endpoints.iter().map(|one| one.requests).filter(|all| *all > 0).collect();
    assert_eq!(all, [requests], "{endpoints:?}");
    for one in &endpoints {
        assert_eq!((one.failed, one.broken, one.ejections), (0, 0, 0), "{one:?}");
    }
}

/// A client that has a pin, where endpoints take what they are told and say nothing.
async fn pinned() -> World {
    let mut world = world(Http1);
    world.relayed.affinity = NonZeroU32::new(600);
    world.serve(&[mute().await, mute().await]);
    world
}

#[rstest]
#[case::no_size("zz\r\n")]
#[case::no_end("3\r\nabcXX0\r\n\r\n")]
#[case::too_large("3\r\nabc\r\n10000000000000003\r\nabc")]
#[tokio::test]
async fn a_malformed_body_is_the_clients_fault(#[case] body: &str) {
    let world = pinned().await;
    for _ in 0..6 {
        let mut client = Plain::new(&world).await;
        client.say("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        client.say(body).await;
        assert_eq!(client.answer().await.unwrap().status, 400);
        assert!(client.is_closed().await);
    }
    blameless(&world, 6).await;
}

#[tokio::test]
async fn an_upload_that_ends_early_is_the_clients_fault() {
    let world = pinned().await;
    for number in 0..6 {
        let mut client = Plain::new(&world).await;
        client.say("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nabc").await;
        world.wait_until(|port| port.active() == 1).await;
        if number % 2 == 0 {
            client.0.get_ref().set_zero_linger().unwrap();
            drop(client);
        } else {
            client.0.shutdown().await.unwrap();
            assert_eq!(client.answer().await.unwrap().status, 400);
        }
        world.wait_until(|port| port.active() == 0).await;
    }
    let endpoints = world.counts().endpoints;
    assert!(endpoints.iter().all(|one| (one.failed, one.broken) == (0, 0)), "{endpoints:?}");
    assert_eq!(endpoints.iter().filter(|one| one.opened > 0).count(), 1, "{endpoints:?}");
}

/// The same, once the endpoint has begun to answer.
#[tokio::test]
async fn an_answer_to_a_malformed_body_breaks_off_by_the_clients_fault() {
    let mut world = world(Http1);
    let one = Endpoint::new("a", Http1).await;
    world.serve(&[one.target]);
    let mut client = Plain::new(&world).await;
    client.say("POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    client.say("2\r\nhi\r\n").await;
    client.head().await.unwrap();
    let mut said = [0; 7];
    client.0.read_exact(&mut said).await.unwrap();
    assert_eq!(&said, b"2\r\nhi\r\n");
    client.say("zz\r\n").await;
    assert!(client.is_closed().await);
    blameless(&world, 1).await;
}

/// A stream that ends before as much was sent as its head says.
#[tokio::test]
async fn a_stream_that_breaks_off_is_the_clients_fault() {
    for _ in 0..3 {
        let mut world = world(H2c);
        let one = Endpoint::new("a", H2c).await;
        world.serve(&[one.target]);
        let mut client = multiplexed(&world).await;
        let (send, body) = in_parts();
        let mut request = post("/deaf", body);
        request.headers_mut().insert("content-length", 5.into());
        let asking = tokio::spawn(async move { client.send_request(request).await });
        one.until("the request arrives", |one| one.requests() == 1).await;
        send.send(Frame::data("hi".into())).await.unwrap();
        drop(send);
        assert!(asking.await.unwrap().is_err());
        world.wait_until(|port| port.active() == 0).await;
        let counts = world.count(one.target);
        assert_eq!((counts.failed, counts.broken, counts.opened), (0, 0, 1), "{counts:?}");
    }
}

/// What a client of this version hears of an answer that breaks off after `said`, whose body is `half`
/// to it, and how that ends.
async fn cut(version: &str, said: &str, half: &str) -> (String, io::Result<()>) {
    let mut world = world(Http1);
    let scripted = Scripted::new(&mut world).await;
    let mut client = Plain::new(&world).await;
    client.say(&format!("GET / HTTP/{version}\r\nHost: a\r\n\r\n")).await;
    let mut endpoint = scripted.accept().await;
    endpoint.head().await.unwrap();
    endpoint.say(said).await;
    let head = client.head().await.unwrap();
    let mut body = vec![0; half.len()];
    client.0.read_exact(&mut body).await.unwrap();
    assert_eq!(String::from_utf8(body).unwrap(), half);
    let stream: BufReader<TcpStream> = endpoint.0;
    stream.get_ref().set_zero_linger().unwrap();
    drop(stream);
    let mut rest = Vec::new();
    let end = tokio::time::timeout(LONG, client.0.read_to_end(&mut rest)).await;
    assert!(rest.is_empty(), "{rest:?}");
    world.wait_until(|port| port.endpoints[0].broken == 1 && port.active() == 0).await;
    (head, end.expect("an end in time").map(drop))
}

const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n";
const TO_THE_END: &str = "HTTP/1.1 200 OK\r\n\r\nhalf";
const LENGTH: &str = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf";

#[rstest]
#[case::chunked(CHUNKED)]
#[case::to_the_end(TO_THE_END)]
#[tokio::test]
async fn where_the_end_is_the_connections_a_broken_answer_ends_with_a_reset(#[case] said: &str) {
    let (head, end) = cut("1.0", said, "half").await;
    assert!(!head.to_lowercase().contains("content-length"), "{head}");
    assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}

/// As much as came arrives: a reset could overtake it.
#[rstest]
#[case::chunked("1.1", CHUNKED, "4\r\nhalf\r\n")]
#[case::to_the_end("1.1", TO_THE_END, "4\r\nhalf\r\n")]
#[case::length("1.1", LENGTH, "half")]
#[case::length_of_1_0("1.0", LENGTH, "half")]
#[tokio::test]
async fn where_an_answer_shows_its_end_a_broken_one_needs_no_reset(
    #[case] version: &str,
    #[case] said: &str,
    #[case] half: &str,
) {
    let (_, end) = cut(version, said, half).await;
    end.expect("no reset");
}
