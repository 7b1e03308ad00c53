//! HTTP/2 with prior knowledge, and gRPC.

use super::*;
use futures_util::future::join_all;
use http_body_util::BodyExt;
use hyper::body::{Bytes, Frame};
use hyper::{HeaderMap, Request};
use std::error::Error;

#[tokio::test]
async fn streams_of_one_connection_reach_every_endpoint_on_few() {
    let mut world = world(H2c);
    let all = [Endpoint::new("a", H2c).await, Endpoint::new("b", H2c).await];
    world.serve(&all.each_ref().map(|one| one.target));
    let client = multiplexed(&world).await;
    let names = join_all((0..90).map(|_| ask(&client, "/"))).await;
    let names = tally(names.into_iter().map(Result::unwrap));
    assert_eq!(names, [("a".to_owned(), 45), ("b".to_owned(), 45)].into());
    for one in &all {
        assert_eq!(one.opened(), 1, "those that come at once wait for one connection");
    }
}

#[tokio::test]
async fn no_endpoint_is_asked_more_at_a_time_than_it_allows() {
    let mut world = world(H2c);
    let one = Endpoint::allowing("a", H2c, 5).await;
    world.serve(&[one.target]);
    let client = multiplexed(&world).await;
    let held = (0..50).map(|_| ask(&client, "/held"));
    let releasing = async {
        one.until("all its connections are full", |one| one.requests() == 20).await;
        // The rest wait.
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!((one.requests(), one.opened()), (20, 4));
        one.answer_held(50);
    };
    let (answers, ()) = tokio::join!(join_all(held), releasing);
    assert!(answers.into_iter().all(|answer| answer.unwrap() == "a"));
    assert_eq!(one.requests(), 50);
}

#[tokio::test]
async fn an_endpoint_that_speaks_no_http_2_is_asked_nothing() {
    let mut world = world(H2c);
    let (old, one) = (Endpoint::new("old", Http1).await, Endpoint::new("a", H2c).await);
    // One that says nothing at all.
    let mute = tokio::net::TcpListener::bind(LOOPBACK).await.unwrap();
    world.serve(&[old.target, one.target, target_at(mute.local_addr().unwrap())]);
    assert_eq!(tally(in_turn(&world, H2c, 12).await).get("a"), Some(&12));
    assert_eq!(old.requests(), 0);
    assert!(world.count(old.target).failed > 0);
    let mute = world
        .counts()
        .endpoints
        .iter()
        .find(|one| one.target.port == mute.local_addr().unwrap().port())
        .copied();
    assert_eq!(mute.unwrap().opened, 0, "what says nothing has taken nothing");
    let client = multiplexed(&world).await;
    world.serve(&[old.target]);
    let answer = client.clone().send_request(post("/", nothing())).await.unwrap();
    assert_eq!(answer.status(), 503);
}

#[tokio::test]
async fn bodies_and_trailers_pass_both_ways_as_they_come() {
    let mut world = world(H2c);
    let one = Endpoint::new("a", H2c).await;
    world.serve(&[one.target]);
    let mut client = multiplexed(&world).await;
    let (send, body) = in_parts();
    let request = post("/echo", body);
    let mut echo = client.send_request(request).await.unwrap().into_body();
    // A conversation: each part is back before the next one is sent.
    for n in 0..20u8 {
        send.send(Frame::data(Bytes::from(vec![n; 1000]))).await.unwrap();
        let mut heard = 0;
        while heard < 1000 {
            let part = echo.frame().await.unwrap().unwrap().into_data().unwrap();
            assert!(part.iter().all(|byte| *byte == n));
            heard += part.len();
        }
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    send.send(Frame::trailers(trailers.clone())).await.unwrap();
    drop(send);
    let last = loop {
        let frame = echo.frame().await.unwrap().unwrap();
        if let Ok(last) = frame.into_trailers() {
            break last;
        }
    };
    assert_eq!(last, trailers);
    assert!(echo.frame().await.is_none());
}

#[tokio::test]
async fn a_large_body_passes_whole() {
    let mut world = world(H2c);
    let one = Endpoint::new("a", H2c).await;
    world.serve(&[one.target]);
    let mut client = multiplexed(&world).await;
    let sent: Vec<u8> = (0..20_000_000u32).map(|n| (n ^ n >> 9).to_le_bytes()[1]).collect();
    let echo = client.send_request(post("/echo", bytes(sent.clone()))).await.unwrap();
    let echo = echo.into_body().collect().await.unwrap().to_bytes();
    assert!(echo == sent, "{} bytes came back", echo.len());
}

#[tokio::test]
async fn lengths_of_answers_to_head_stay() {
    let mut world = world(H2c);
    let one = Endpoint::new("name", H2c).await;
    world.serve(&[one.target]);
    let mut client = multiplexed(&world).await;
    let request = Request::head("http://web/").body(nothing()).unwrap();
    let response = client.send_request(request).await.unwrap();
    assert_eq!(response.headers()["content-length"], "4");
    assert_eq!(text(response).await, "");
    assert_eq!(ask(&client, "/").await.unwrap(), "name");
}

#[tokio::test]
async fn heads_pass_and_say_who_the_client_is() {
    let mut world = world(H2c);
    let one = Endpoint::new("a", H2c).await;
    world.serve(&[one.target]);
    let mut client = multiplexed(&world).await;
    let request = Request::get("http://web.example:81/heads?a=b")
        .header("te", "trailers")
        .header("cookie", "c")
        .header("x-forwarded-for", "1.1.1.1");
    let response = client.send_request(request.body(nothing()).unwrap()).await.unwrap();
    let seen = text(response).await;
    assert_eq!(
        seen,
        "http://web.example:81/heads?a=b\ncookie: c\nte: trailers\nx-forwarded-for: 1.1.1.1, 127.0.0.1\n"
    );
}

#[tokio::test]
async fn grpc_is_told_that_there_is_no_endpoint() {
    let mut world = world(H2c);
    world.serve(&[refusing().await]);
    let mut client = multiplexed(&world).await;
    let request = Request::post("http://web/a.B/C").header("content-type", "application/grpc");
    let response = client.send_request(request.body(nothing()).unwrap()).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["grpc-status"], "14");
    assert_eq!(text(response).await, "");
    let response = client.send_request(post("/", nothing())).await.unwrap();
    assert_eq!(response.status(), 503);
}

fn reason(error: &hyper::Error) -> Option<h2::Reason> {
    error.source()?.downcast_ref::<h2::Error>()?.reason()
}

#[tokio::test]
async fn what_a_stream_is_reset_for_is_told_on() {
    let mut world = world(H2c);
    let one = Endpoint::new("a", H2c).await;
    world.serve(&[one.target]);
    let client = multiplexed(&world).await;
    let error = ask(&client, "/reset").await.unwrap_err();
    assert_eq!(reason(&error), Some(h2::Reason::ENHANCE_YOUR_CALM));
    assert_eq!(ask(&client, "/").await.unwrap(), "a", "the connections are as good as before");
    assert_eq!(one.opened(), 1);
    // And the other way: who does not want the answer any more.
    let mut given_up = client.clone();
    let asking = tokio::spawn(async move { given_up.send_request(post("/held", nothing())).await });
    one.until("the request arrives", |one| one.requests() == 3).await;
    asking.abort();
    one.until("it is given up", |one| one.given_up() == 1).await;
    assert_eq!((ask(&client, "/").await.unwrap(), one.opened()), ("a".to_owned(), 1));
    world.wait_until(|port| port.active() == 0).await;
}

#[tokio::test]
async fn an_endpoint_that_goes_away_answers_what_it_was_asked() {
    let mut world = world(H2c);
    let (one, other) = (Endpoint::new("a", H2c).await, Endpoint::new("b", H2c).await);
    world.serve(&[one.target]);
    let client = multiplexed(&world).await;
    let held = join_all((0..10).map(|_| ask(&client, "/held")));
    let going = async {
        one.until("they have arrived", |one| one.requests() == 10).await;
        world.serve(&[one.target, other.target]);
        one.stop();
        // GOAWAY is on its way; what is asked now is asked of the other one, or was never sent.
        for _ in 0..30 {
            tokio::time::sleep(Duration::from_millis(2)).await;
            match ask(&client, "/").await {
                Ok(name) => assert!(["a", "b"].contains(&name.as_str())),
                Err(error) => assert_eq!(reason(&error), Some(h2::Reason::REFUSED_STREAM)),
            }
        }
        one.answer_held(10);
    };
    let (held, ()) = tokio::join!(held, going);
    assert!(held.into_iter().all(|answer| answer.unwrap() == "a"));
}

#[tokio::test]
async fn slow_readers_hold_up_nobody_on_the_same_connection() {
    let mut world = world(H2c);
    let one = Endpoint::new("a", H2c).await;
    world.serve(&[one.target]);
    let client = multiplexed(&world).await;
    let mut unread = Vec::new();
    for _ in 0..40 {
        let response = client.clone().send_request(post("/endless", nothing())).await.unwrap();
        unread.push(response.into_body());
    }
    settled(&world).await;
    let other = multiplexed(&world).await;
    let answer = tokio::time::timeout(LONG, ask(&other, "/")).await;
    assert_eq!(answer.expect("an answer in time").unwrap(), "a");
    drop(unread);
    world.wait_until(|port| port.active() == 0).await;
}

#[tokio::test]
async fn an_upload_stops_where_nobody_reads() {
    let mut world = world(H2c);
    let one = Endpoint::new("a", H2c).await;
    world.serve(&[one.target]);
    let client = multiplexed(&world).await;
    let mut uploading = client.clone();
    let uploading =
        tokio::spawn(async move { uploading.send_request(post("/deaf", endless())).await });
    one.until("the request arrives", |one| one.requests() == 1).await;
    let sent = || world.counts().endpoints[0].sent;
    let mut before = 0;
    while sent() != before {
        before = sent();
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    assert!(before < 16 << 20, "{before} bytes");
    assert_eq!(ask(&client, "/").await.unwrap(), "a");
    uploading.abort();
    world.wait_until(|port| port.active() == 0).await;
}
