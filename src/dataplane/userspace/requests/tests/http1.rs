//! HTTP/1.1 and 1.0.

use super::*;
use rstest::rstest;
use std::io;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;

/// A server that says what it is told to, and what it is asked.
pub(super) struct Scripted {
    listener: TcpListener,
}

impl Scripted {
    pub async fn new(world: &mut World) -> Self {
        let listener = TcpListener::bind(LOOPBACK).await.unwrap();
        world.serve(&[target_at(listener.local_addr().unwrap())]);
        Self { listener }
    }

    pub async fn accept(&self) -> Plain {
        let accepted = tokio::time::timeout(LONG, self.listener.accept()).await;
        Plain(BufReader::new(accepted.expect("somebody connects").unwrap().0))
    }
}

/// What an endpoint is asked, and what its client is answered.
async fn exchanged(asked: &str, answered: &str) -> (String, String) {
    let mut world = world(Http1);
    let scripted = Scripted::new(&mut world).await;
    let mut client = Plain::new(&world).await;
    client.say(asked).await;
    let mut endpoint = scripted.accept().await;
    let head = endpoint.head().await.unwrap();
    endpoint.say(answered).await;
    let answer = client.head().await.unwrap();
    (head, answer)
}

#[tokio::test]
async fn heads_pass_as_they_are_written() {
    let (asked, answered) = exchanged(
        "GET http://Web.example/a?b HTTP/1.1\r\nHOST: Web\r\nX-Own-Case: 1\r\nCookie: c\r\n\
         Connection: keep-alive\r\n\r\n",
        "HTTP/1.1 204 Nothing\r\nX-Some-Case: 2\r\nServer: s\r\nKeep-Alive: timeout=5\r\n\r\n",
    )
    .await;
    assert_eq!(
        asked,
        "GET http://Web.example/a?b HTTP/1.1\r\nHOST: Web\r\nX-Own-Case: 1\r\nCookie: c\r\n\
         x-forwarded-for: 127.0.0.1\r\n\r\n"
    );
    let (line, rest) = answered.split_once("\r\n").unwrap();
    assert!(line.starts_with("HTTP/1.1 204"), "{line}");
    assert_eq!(rest, "X-Some-Case: 2\r\nServer: s\r\n\r\n");
}

#[tokio::test]
async fn http_1_0_is_served_and_ends_with_its_answer() {
    let mut world = world(Http1);
    let scripted = Scripted::new(&mut world).await;
    let mut client = Plain::new(&world).await;
    client.say("GET / HTTP/1.0\r\n\r\n").await;
    let mut endpoint = scripted.accept().await;
    assert_eq!(
        endpoint.head().await.unwrap(),
        "GET / HTTP/1.0\r\nx-forwarded-for: 127.0.0.1\r\n\r\n"
    );
    endpoint.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n").await;
    let mut said = String::new();
    client.0.read_to_string(&mut said).await.unwrap();
    assert!(said.ends_with("\r\n\r\nok"), "no chunks for who knows none, and an end: {said}");
}

#[tokio::test]
async fn who_speaks_http_2_where_http_1_is_spoken_is_hung_up_on() {
    let mut world = world(Http1);
    let one = Endpoint::new("a", Http1).await;
    let mut client = Plain::new_after(&mut world, &[one.target]).await;
    client.say("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    assert!(client.is_closed().await);
    assert_eq!(one.requests(), 0);
}

#[rstest]
#[case::no_host("GET / HTTP/1.1\r\n\r\n", 400)]
#[case::two_hosts("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400)]
#[case::two_lengths(
    "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    400
)]
#[case::lengths_in_one("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\na", 400)]
#[case::no_number("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\na", 400)]
#[case::coded(
    "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    501
)]
#[case::not_chunked("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", 400)]
#[case::disguised(
    "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    400
)]
#[case::of_1_0("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400)]
#[case::space_in_name("GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400)]
#[case::folded("GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\n\r\n", 400)]
#[case::no_http("hello\r\n\r\n", 400)]
#[case::connect("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", 501)]
#[tokio::test]
async fn what_is_malformed_is_refused_and_the_connection_ends(
    #[case] asked: &str,
    #[case] status: u16,
) {
    let mut world = world(Http1);
    let one = Endpoint::new("a", Http1).await;
    let mut client = Plain::new_after(&mut world, &[one.target]).await;
    client.say(asked).await;
    let head = client.head().await.unwrap();
    assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
    let mut rest = Vec::new();
    let end = tokio::time::timeout(LONG, client.0.read_to_end(&mut rest)).await;
    let end = end.expect("an end in time").map_err(|error| error.kind());
    assert!(matches!(end, Ok(_) | Err(io::ErrorKind::ConnectionReset)), "{end:?}");
    assert_eq!(one.requests(), 0);
}

const LENGTH_AND_CHUNKS: [&str; 2] = [
    "Content-Length: 4\r\nTransfer-Encoding: chunked",
    "Transfer-Encoding: chunked\r\nContent-Length: 4",
];

fn has_chunks_alone(head: &str) {
    assert!(head.contains("transfer-encoding: chunked"), "{head}");
    assert!(!head.contains("content-length"), "{head}");
}

/// Two readers could see two requests here: the endpoint is asked the one that the chunks make, and
/// nothing of the rest.
#[tokio::test]
async fn a_length_beside_chunks_counts_for_nothing() {
    for fields in LENGTH_AND_CHUNKS {
        let mut world = world(Http1);
        let scripted = Scripted::new(&mut world).await;
        let mut client = Plain::new(&world).await;
        let smuggled = "GET /other HTTP/1.1\r\nHost: a\r\n\r\n";
        client
            .say(&format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n0\r\n\r\n{smuggled}"))
            .await;
        let mut endpoint = scripted.accept().await;
        let head = endpoint.head().await.unwrap().to_lowercase();
        has_chunks_alone(&head);
        let mut body = [0; 5];
        endpoint.0.read_exact(&mut body).await.unwrap();
        assert_eq!(&body, b"0\r\n\r\n");
        endpoint.say("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        assert_eq!(client.answer().await.unwrap().status, 200);
        assert!(client.is_closed().await, "what follows is not taken for a request");
        let more = tokio::time::timeout(Duration::from_millis(100), endpoint.0.read_u8()).await;
        assert!(!matches!(more, Ok(Ok(_))), "{more:?}");
    }
}

/// The same of an answer.
#[tokio::test]
async fn a_length_beside_chunks_of_an_answer_counts_for_nothing() {
    for fields in LENGTH_AND_CHUNKS {
        let mut world = world(Http1);
        let scripted = Scripted::new(&mut world).await;
        let mut client = Plain::new(&world).await;
        let ask = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        client.say(ask).await;
        let mut endpoint = scripted.accept().await;
        endpoint.head().await.unwrap();
        let said = "2\r\nok\r\n0\r\n\r\n";
        endpoint.say(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n{said}")).await;
        let head = client.head().await.unwrap().to_lowercase();
        has_chunks_alone(&head);
        let mut body = vec![0; said.len()];
        client.0.read_exact(&mut body).await.unwrap();
        assert_eq!(body, said.as_bytes());
        client.say(ask).await;
        assert!(endpoint.is_closed().await, "what follows is not taken for an answer");
        let mut another = scripted.accept().await;
        another.head().await.unwrap();
        another.say("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na").await;
        assert_eq!(client.answer().await.unwrap().body, "a");
    }
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let mut world = world(Http1);
    let one = Endpoint::new("a", Http1).await;
    world.serve(&[one.target]);
    let sized =
        |size: usize| format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(size));
    let mut client = Plain::new(&world).await;
    client.say(&sized(super::super::HEAD_MOST / 2)).await;
    assert_eq!(client.answer().await.unwrap().body, "a");
    // What it does not read is no reason for the client not to hear.
    let _ = client.0.write_all(sized(super::super::HEAD_MOST * 2).as_bytes()).await;
    let answered = client.answer().await;
    assert!(!answered.is_ok_and(|answer| answer.status != 431));
    let many: String = (0..101).map(|n| format!("X-{n}: x\r\n")).collect();
    let mut client = Plain::new(&world).await;
    client.say(&format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n")).await;
    assert_eq!(client.answer().await.unwrap().status, 431);
    assert_eq!(one.requests(), 1);
}

#[tokio::test]
async fn bodies_pass_whole_both_ways() {
    let mut world = world(Http1);
    let one = Endpoint::new("a", Http1).await;
    world.serve(&[one.target]);
    let (read, mut write) = world.connect().await.into_split();
    let block: Vec<u8> = (0..1u32 << 16).map(|n| (n ^ n >> 8).to_le_bytes()[0]).collect();
    let sent = block.clone();
    let sending = tokio::spawn(async move {
        let head = "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        write.write_all(head.as_bytes()).await.unwrap();
        for _ in 0..200 {
            write.write_all(b"10000\r\n").await.unwrap();
            write.write_all(&sent).await.unwrap();
            write.write_all(b"\r\n").await.unwrap();
        }
        write.write_all(b"0\r\n\r\n").await.unwrap();
        write
    });
    let mut read = BufReader::new(read);
    let mut whole = Vec::new();
    let mut line = String::new();
    use tokio::io::AsyncBufReadExt;
    while line != "\r\n" {
        line.clear();
        read.read_line(&mut line).await.unwrap();
    }
    loop {
        line.clear();
        read.read_line(&mut line).await.unwrap();
        let size = usize::from_str_radix(line.trim(), 16).unwrap();
        if size == 0 {
            break;
        }
        let before = whole.len();
        whole.resize(before + size, 0);
        read.read_exact(&mut whole[before..]).await.unwrap();
        read.read_exact(&mut [0; 2]).await.unwrap();
    }
    assert!(whole.chunks(block.len()).all(|one| one == block), "{} bytes came back", whole.len());
    assert_eq!(whole.len(), 200 * block.len());
    sending.await.unwrap();
}

#[tokio::test]
async fn trailers_of_requests_pass() {
    let mut world = world(Http1);
    let scripted = Scripted::new(&mut world).await;
    let mut client = Plain::new(&world).await;
    client
        .say("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n1\r\na\r\n0\r\nX-Sum: 7\r\n\r\n")
        .await;
    let mut endpoint = scripted.accept().await;
    endpoint.head().await.unwrap();
    let mut body = [0; 21];
    endpoint.0.read_exact(&mut body).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&body).to_lowercase(), "1\r\na\r\n0\r\nx-sum: 7\r\n\r\n");
}

#[tokio::test]
async fn trailers_pass_to_who_wants_them() {
    let mut world = world(Http1);
    let scripted = Scripted::new(&mut world).await;
    let mut client = Plain::new(&world).await;
    client.say("GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: TE\r\n\r\n").await;
    let mut endpoint = scripted.accept().await;
    assert!(endpoint.head().await.unwrap().to_lowercase().contains("te: trailers"));
    endpoint
        .say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n1\r\na\r\n0\r\nX-Sum: 7\r\n\r\n")
        .await;
    client.head().await.unwrap();
    let mut rest = [0; 21];
    client.0.read_exact(&mut rest).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&rest).to_lowercase(), "1\r\na\r\n0\r\nx-sum: 7\r\n\r\n");
}

#[tokio::test]
async fn who_waits_for_100_is_told_to_go_on() {
    let mut world = world(Http1);
    let one = Endpoint::new("a", Http1).await;
    world.serve(&[one.target]);
    let mut client = Plain::new(&world).await;
    client
        .say("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        .await;
    assert!(client.head().await.unwrap().starts_with("HTTP/1.1 100 "));
    client.say("hi").await;
    assert_eq!(client.answer().await.unwrap().body, "hi");
}

#[tokio::test]
async fn lengths_of_answers_to_head_stay() {
    let mut world = world(Http1);
    let one = Endpoint::new("name", Http1).await;
    world.serve(&[one.target]);
    let mut client = Plain::new(&world).await;
    client.say("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let head = client.head().await.unwrap().to_lowercase();
    assert!(head.contains("content-length: 4\r\n"), "{head}");
    assert_eq!(client.get("/").await.body, "name");
}

#[tokio::test]
async fn a_websocket_passes_both_ways_and_counts_for_its_endpoint() {
    let mut world = world(Http1);
    let all = [Endpoint::new("one", Http1).await, Endpoint::new("two", Http1).await];
    world.serve(&all.each_ref().map(|one| one.target));
    let mut client = Plain::new(&world).await;
    let first = client.get("/").await.body;
    client
        .say("GET /websocket HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello")
        .await;
    let head = client.head().await.unwrap().to_lowercase();
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    assert!(head.contains("upgrade: websocket\r\n") && head.contains("connection: upgrade\r\n"));
    // What came with the request's head is not lost.
    let mut said = [0; 8];
    client.0.read_exact(&mut said).await.unwrap();
    let expected = if first == "one" { "twohello" } else { "onehello" };
    assert_eq!(String::from_utf8_lossy(&said), expected);
    let sent: Vec<u8> = (0..3_000_000u32).map(|n| n.to_le_bytes()[1]).collect();
    let (read, mut write) = client.0.into_inner().into_split();
    let expected = sent.clone();
    let receiving = tokio::spawn(async move {
        let mut received = Vec::new();
        BufReader::new(read).read_to_end(&mut received).await.unwrap();
        assert!(received == expected, "{} bytes came back", received.len());
    });
    assert_eq!(world.counts().active(), 1);
    // Its endpoints may go: it stays.
    world.serve(&[]);
    write.write_all(&sent).await.unwrap();
    write.shutdown().await.unwrap();
    tokio::time::timeout(LONG, receiving).await.expect("it ends").unwrap();
    world.wait_until(|port| port.active() == 0).await;
}

#[tokio::test]
async fn a_websocket_that_is_refused_is_an_answer_like_others() {
    let mut world = world(Http1);
    let one = Endpoint::new("a", Http1).await;
    world.serve(&[one.target]);
    let mut client = Plain::new(&world).await;
    for _ in 0..3 {
        client
            .say("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
            .await;
        assert_eq!(client.answer().await.unwrap().body, "a");
    }
    assert_eq!(one.opened(), 1);
}

/// It was sent: who knows what the endpoint did with it.
#[tokio::test]
async fn what_was_sent_is_not_sent_again() {
    let mut world = world(Http1);
    let one = Endpoint::new("a", Http1).await;
    world.serve(&[one.target]);
    let mut client = Plain::new(&world).await;
    assert_eq!(client.get("/").await.status, 200);
    assert_eq!(client.get("/reset").await.status, 502);
    assert_eq!(one.requests(), 2);
    let counts = world.count(one.target);
    assert_eq!((counts.requests, counts.broken, counts.retried), (2, 1, 0));
    assert_eq!(client.get("/").await.body, "a");
}

#[tokio::test]
async fn an_answer_that_breaks_off_does_so_for_the_client() {
    let mut world = world(Http1);
    let scripted = Scripted::new(&mut world).await;
    let mut client = Plain::new(&world).await;
    client.say("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut endpoint = scripted.accept().await;
    endpoint.head().await.unwrap();
    endpoint.say("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf").await;
    client.head().await.unwrap();
    drop(endpoint);
    let mut said = Vec::new();
    let _ = tokio::time::timeout(LONG, client.0.read_to_end(&mut said)).await.expect("an end");
    assert_eq!(said, b"half");
    world.wait_until(|port| port.endpoints[0].broken == 1 && port.active() == 0).await;
}

#[tokio::test]
async fn a_client_that_goes_takes_its_request_along() {
    let mut world = world(Http1);
    let one = Endpoint::new("a", Http1).await;
    world.serve(&[one.target]);
    let mut client = Plain::new(&world).await;
    client.say("GET /held HTTP/1.1\r\nHost: a\r\n\r\n").await;
    one.until("the request arrives", |one| one.requests() == 1).await;
    drop(client);
    one.until("it is given up", |one| one.given_up() == 1 && one.open() == 0).await;
    world.wait_until(|port| port.active() == 0).await;
}

#[tokio::test]
async fn a_client_that_half_closes_withdraws_its_request() {
    let mut world = world(Http1);
    let one = Endpoint::new("a", Http1).await;
    world.serve(&[one.target]);
    let mut client = Plain::new(&world).await;
    client.say("GET /held HTTP/1.1\r\nHost: a\r\n\r\n").await;
    one.until("the request arrives", |one| one.requests() == 1).await;
    client.0.shutdown().await.unwrap();
    assert!(client.is_closed().await);
    one.until("it is given up", |one| one.given_up() == 1 && one.open() == 0).await;
}

/// Closed by the endpoint, and hyper has not looked since: the socket is asked.
#[tokio::test]
async fn a_connection_that_ended_while_idle_is_not_used() {
    let mut world = world(Http1);
    let scripted = Scripted::new(&mut world).await;
    let serving = tokio::spawn(async move {
        let mut served = 0;
        while served < 300 {
            let mut endpoint = scripted.accept().await;
            endpoint.head().await.unwrap();
            // It keeps the connection, says so, and hangs up at once.
            endpoint.say("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na").await;
            served += 1;
        }
    });
    let mut client = Plain::new(&world).await;
    for _ in 0..300 {
        assert_eq!(client.get("/").await.body, "a");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    serving.await.unwrap();
}

#[tokio::test]
async fn an_upload_waits_for_an_endpoint_that_does_not_read() {
    let mut world = world(Http1);
    let one = Endpoint::new("a", Http1).await;
    world.serve(&[one.target]);
    let client = world.connect().await;
    let (_read, mut write) = client.into_split();
    let head = b"POST /deaf HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\n";
    write.write_all(head).await.unwrap();
    let mut taken = 0;
    let block = [0; 64 << 10];
    while let Ok(written) =
        tokio::time::timeout(Duration::from_millis(500), write.write(&block)).await
    {
        taken += written.unwrap();
        assert!(taken < 64 << 20, "somebody keeps what nobody reads");
    }
    assert!(taken > 0);
}

#[tokio::test]
async fn a_stream_of_requests_at_once_is_answered_in_order() {
    let mut world = world(Http1);
    let all = [Endpoint::new("a", Http1).await, Endpoint::new("b", Http1).await];
    world.serve(&all.each_ref().map(|one| one.target));
    let mut client = Plain::new(&world).await;
    client.say(&"GET / HTTP/1.1\r\nHost: web\r\n\r\n".repeat(10)).await;
    let mut names = Vec::new();
    for _ in 0..10 {
        names.push(client.answer().await.unwrap().body);
    }
    assert_eq!(tally(names), [("a".to_owned(), 5), ("b".to_owned(), 5)].into());
}
