//! The relay between loopback sockets.

use super::budget::Budget;
use super::congestion::Congestion;
use super::counts::Endpoint;
use super::pipes::Pipes;
use super::relay::{Broken, Means, Quiet, SilentEnd, relay};
use crate::planner::Target;
use socket2::SockRef;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

const LONG: Duration = Duration::from_secs(20);

/// A client and an endpoint with a relay between them.
struct Relayed {
    client: TcpStream,
    endpoint: TcpStream,
    pipes: Arc<Pipes>,
    counts: Arc<Endpoint>,
    relay: JoinHandle<Result<(), Broken>>,
}

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (one, other) =
        tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    (one.unwrap(), other.unwrap().0)
}

impl Relayed {
    async fn new(quiet: Quiet) -> Self {
        Self::with(SilentEnd::Counts, quiet, pipes()).await
    }

    async fn with_pipes(quiet: Quiet, pipes: Arc<Pipes>) -> Self {
        Self::with(SilentEnd::Counts, quiet, pipes).await
    }

    async fn with(silent: SilentEnd, quiet: Quiet, pipes: Arc<Pipes>) -> Self {
        let ((client, mut near), (mut far, endpoint)) = (pair().await, pair().await);
        let at = endpoint.local_addr().unwrap();
        let counts = Arc::new(Endpoint::new(Target { address: at.ip(), port: at.port() }));
        let (own_pipes, own_counts) = (Arc::clone(&pipes), Arc::clone(&counts));
        let relay = tokio::spawn(async move {
            let means = Means { pipes: &own_pipes, congestion: &Congestion::of_node() };
            relay(&mut near, &mut far, &own_counts, (move || quiet, silent), &means).await
        });
        Self { client, endpoint, pipes, counts, relay }
    }
}

fn pipes() -> Arc<Pipes> {
    Arc::new(Pipes::new(Arc::new(Budget::of(4096))))
}

const PATIENT: Quiet = Quiet { open: LONG, half_closed: LONG };

/// Bytes that tell where in the stream they stand.
fn pattern(size: usize) -> Vec<u8> {
    (0..size).map(|at| (at ^ at >> 8 ^ at >> 16) as u8).collect()
}

async fn sent_and_received(from: &mut TcpStream, to: &mut TcpStream, size: usize) {
    let bytes = pattern(size);
    let mut received = vec![0; size];
    let (sent, read) = tokio::join!(from.write_all(&bytes), to.read_exact(&mut received));
    sent.unwrap();
    read.unwrap();
    assert!(received == bytes, "{size} bytes arrived as others");
}

fn is_too_quiet(ended: &Result<(), Broken>) -> bool {
    matches!(ended, Err(Broken::Off(error)) if error.kind() == io::ErrorKind::TimedOut)
}

#[tokio::test]
async fn all_sizes_arrive_both_ways_and_are_counted() {
    let mut relayed = Relayed::new(PATIENT).await;
    let mut total = 0;
    for size in [1, 100, 8192, 8193, 65_536, 300_000, 1, 5_000_000, 3, 2 << 20] {
        sent_and_received(&mut relayed.client, &mut relayed.endpoint, size).await;
        sent_and_received(&mut relayed.endpoint, &mut relayed.client, size).await;
        total += size as u64;
    }
    assert_eq!((relayed.counts.sent.get(), relayed.counts.received.get()), (total, total));
    assert!(relayed.pipes.made() > 0, "what is large is spliced");
    assert_eq!(relayed.pipes.idle(), relayed.pipes.made(), "each is given back");
    drop((relayed.client, relayed.endpoint));
    relayed.relay.await.unwrap().unwrap();
}

#[tokio::test]
async fn without_pipes_bytes_are_copied() {
    let pipes = Arc::new(Pipes::new(Arc::new(Budget::of(0))));
    let mut relayed = Relayed::with_pipes(PATIENT, pipes).await;
    sent_and_received(&mut relayed.client, &mut relayed.endpoint, 10_000_000).await;
    assert_eq!(relayed.pipes.made(), 0);
}

#[tokio::test]
async fn talk_needs_no_pipe() {
    let mut relayed = Relayed::new(PATIENT).await;
    for _ in 0..2000 {
        sent_and_received(&mut relayed.client, &mut relayed.endpoint, 200).await;
        sent_and_received(&mut relayed.endpoint, &mut relayed.client, 300).await;
    }
    assert_eq!(relayed.pipes.made(), 0);
}

#[tokio::test]
async fn an_end_that_is_done_may_still_be_answered() {
    for size in [10, 3_000_000] {
        let mut relayed = Relayed::new(PATIENT).await;
        let (mut client, mut endpoint) = (relayed.client, relayed.endpoint);
        let asking = async {
            client.write_all(&pattern(size)).await.unwrap();
            client.shutdown().await.unwrap();
        };
        let mut asked = Vec::new();
        let hearing = async { endpoint.read_to_end(&mut asked).await.unwrap() };
        tokio::join!(asking, hearing);
        assert!(asked == pattern(size));
        sent_and_received(&mut endpoint, &mut client, size).await;
        drop(endpoint);
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
        timeout(LONG, &mut relayed.relay).await.unwrap().unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_half_closed_pair_that_says_nothing_ends() {
    let quiet = Quiet { open: LONG, half_closed: Duration::from_millis(200) };
    let mut relayed = Relayed::new(quiet).await;
    relayed.client.shutdown().await.unwrap();
    for _ in 0..4 {
        sleep(Duration::from_millis(150)).await;
        relayed.endpoint.write_all(b"on").await.unwrap();
    }
    let began = Instant::now();
    let ended = timeout(LONG, relayed.relay).await.unwrap().unwrap();
    assert!(is_too_quiet(&ended), "{ended:?}");
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn an_open_pair_that_says_nothing_ends() {
    let quiet = Quiet { open: Duration::from_millis(100), half_closed: LONG };
    let relayed = Relayed::new(quiet).await;
    let ended = timeout(LONG, relayed.relay).await.unwrap().unwrap();
    assert!(is_too_quiet(&ended), "{ended:?}");
}

#[tokio::test]
async fn a_pair_that_says_something_now_and_then_goes_on() {
    let quiet = Quiet { open: Duration::from_millis(400), half_closed: LONG };
    let mut relayed = Relayed::new(quiet).await;
    for _ in 0..10 {
        sleep(Duration::from_millis(100)).await;
        sent_and_received(&mut relayed.client, &mut relayed.endpoint, 1).await;
    }
    assert!(!relayed.relay.is_finished());
    let ended = timeout(LONG, relayed.relay).await.unwrap().unwrap();
    assert!(is_too_quiet(&ended), "{ended:?}");
}

#[tokio::test]
async fn one_end_may_be_done_after_a_long_time_of_silence() {
    let quiet = Quiet { open: LONG, half_closed: Duration::from_millis(500) };
    let mut relayed = Relayed::new(quiet).await;
    sleep(Duration::from_millis(700)).await;
    relayed.client.shutdown().await.unwrap();
    sleep(Duration::from_millis(100)).await;
    relayed.endpoint.write_all(b"on").await.unwrap();
    relayed.client.read_exact(&mut [0; 2]).await.unwrap();
}

#[tokio::test]
async fn how_long_nothing_may_pass_can_change_meanwhile() {
    let quiet = Arc::new(std::sync::Mutex::new(PATIENT));
    let ((_client, mut near), (mut far, _endpoint)) = (pair().await, pair().await);
    let at = far.peer_addr().unwrap();
    let counts = Arc::new(Endpoint::new(Target { address: at.ip(), port: at.port() }));
    let (own, own_counts, pipes) = (Arc::clone(&quiet), Arc::clone(&counts), pipes());
    let relay = tokio::spawn(async move {
        let quiet = move || *own.lock().unwrap();
        let means = Means { pipes: &pipes, congestion: &Congestion::of_node() };
        relay(&mut near, &mut far, &own_counts, (quiet, SilentEnd::Counts), &means).await
    });
    sleep(Duration::from_millis(100)).await;
    let short = Quiet { open: Duration::from_millis(200), ..PATIENT };
    *quiet.lock().unwrap() = short;
    counts.deadline.tell();
    let ended = timeout(LONG / 2, relay).await.unwrap().unwrap();
    assert!(is_too_quiet(&ended), "{ended:?}");
}

#[tokio::test]
async fn an_end_that_breaks_off_is_an_error() {
    for (said, client_first) in [(0, false), (1, false), (0, true), (1, true)] {
        let mut relayed = Relayed::new(PATIENT).await;
        if said > 0 {
            sent_and_received(&mut relayed.client, &mut relayed.endpoint, said).await;
        }
        let [first, _second] = match client_first {
            true => [relayed.client, relayed.endpoint],
            false => [relayed.endpoint, relayed.client],
        };
        first.set_zero_linger().unwrap();
        drop(first);
        let ended = timeout(LONG, relayed.relay).await.unwrap().unwrap();
        match ended.unwrap_err() {
            Broken::Untouched(_) => assert!(said == 0 && !client_first),
            Broken::Unanswered(_) => assert!(said > 0 && !client_first),
            Broken::Off(_) => assert!(client_first),
        }
    }
    let mut relayed = Relayed::new(PATIENT).await;
    sent_and_received(&mut relayed.endpoint, &mut relayed.client, 1).await;
    relayed.endpoint.set_zero_linger().unwrap();
    drop(relayed.endpoint);
    let ended = timeout(LONG, relayed.relay).await.unwrap().unwrap();
    assert!(matches!(ended, Err(Broken::Off(_))), "it has answered: {ended:?}");
}

/// A health check, say, that wants to know no more than whether somebody listens.
#[tokio::test]
async fn a_client_that_breaks_off_is_no_fault_of_an_endpoint_that_speaks_first() {
    let Relayed { client, endpoint, relay, .. } = Relayed::new(PATIENT).await;
    tokio::task::yield_now().await;
    // Both before the relay looks again.
    endpoint.try_write(b"220 hello").unwrap();
    client.set_zero_linger().unwrap();
    drop(client);
    let ended = timeout(LONG, relay).await.unwrap().unwrap();
    assert!(matches!(ended, Err(Broken::Off(_))), "{ended:?}");
}

#[tokio::test]
async fn an_endpoint_that_closes_before_a_word_may_have_met_its_end() {
    for (silent, says, fails) in [
        (SilentEnd::MayBeAnAccident, &b""[..], true),
        (SilentEnd::MayBeAnAccident, b"bye", false),
        (SilentEnd::Counts, b"", false),
    ] {
        let relayed = Relayed::with(silent, PATIENT, pipes()).await;
        let Relayed { mut client, mut endpoint, relay, .. } = relayed;
        endpoint.write_all(says).await.unwrap();
        drop(endpoint);
        if fails {
            let ended = timeout(LONG, relay).await.unwrap().unwrap();
            assert!(matches!(ended, Err(Broken::Untouched(_))), "{ended:?}");
        } else {
            let mut heard = Vec::new();
            timeout(LONG, client.read_to_end(&mut heard)).await.unwrap().unwrap();
            assert_eq!(heard, says);
        }
    }
}

#[tokio::test]
async fn a_slow_reader_holds_its_writer_back() {
    let mut relayed = Relayed::new(PATIENT).await;
    for end in [&relayed.client, &relayed.endpoint] {
        let _ = SockRef::from(end).set_recv_buffer_size(64 << 10);
    }
    // Nobody reads at the endpoint: what is taken from the client is what sockets and one pipe hold.
    let bytes = pattern(1 << 20);
    let mut taken = 0;
    loop {
        let writing = relayed.client.write(&bytes[taken % bytes.len()..]);
        let Ok(written) = timeout(Duration::from_millis(500), writing).await else { break };
        taken += written.unwrap();
        assert!(taken < 64 << 20, "there is no end to what is taken");
    }
    let held = relayed.pipes.made() - relayed.pipes.idle();
    assert!(held <= 1, "{held} pipes");
    let read = relayed.counts.sent.get();
    sleep(Duration::from_millis(200)).await;
    assert_eq!(relayed.counts.sent.get(), read, "nothing more is read");
    // It goes on where it stopped.
    let mut received = vec![0; taken];
    timeout(LONG, relayed.endpoint.read_exact(&mut received)).await.unwrap().unwrap();
    let all = bytes.iter().cycle();
    assert!(received.iter().zip(all).all(|(one, other)| one == other));
}

#[tokio::test]
async fn many_connections_share_a_few_pipes() {
    let pipes = Arc::new(Pipes::new(Arc::new(Budget::of(4096))));
    let mut all = Vec::new();
    for _ in 0..100 {
        let mut relayed = Relayed::with_pipes(PATIENT, Arc::clone(&pipes)).await;
        all.push(tokio::spawn(async move {
            sent_and_received(&mut relayed.client, &mut relayed.endpoint, 2_000_000).await;
            drop((relayed.client, relayed.endpoint));
            relayed.relay.await.unwrap().unwrap();
        }));
    }
    for one in all {
        timeout(LONG, one).await.unwrap().unwrap();
    }
    assert!(pipes.made() < 50, "{}", pipes.made());
    assert_eq!(pipes.idle(), pipes.made());
}

#[tokio::test]
async fn a_deadline_of_the_endpoint_ends_a_connection_unless_it_is_lifted() {
    const SOON: Duration = Duration::from_millis(150);
    let mut relayed = Relayed::new(PATIENT).await;
    sent_and_received(&mut relayed.client, &mut relayed.endpoint, 10).await;
    let after = |time| std::time::Instant::now() + time;
    // Over and over, so that each change must find the connection waiting for it.
    for _ in 0..3 {
        relayed.counts.deadline.set(after(SOON));
        relayed.counts.deadline.set(after(Duration::ZERO));
        sleep(SOON / 3).await;
        relayed.counts.deadline.lift();
        sleep(SOON).await;
        assert!(!relayed.relay.is_finished());
        sent_and_received(&mut relayed.endpoint, &mut relayed.client, 10).await;
    }
    let began = Instant::now();
    relayed.counts.deadline.set(after(SOON));
    let ended = timeout(LONG / 2, relayed.relay).await.unwrap().unwrap();
    assert!(is_too_quiet(&ended) && began.elapsed() >= SOON);
}

#[tokio::test]
async fn a_deadline_from_before_counts_too() {
    let relayed = Relayed::new(PATIENT).await;
    relayed.counts.deadline.set(std::time::Instant::now());
    let ended = timeout(LONG / 2, relayed.relay).await.unwrap().unwrap();
    assert!(is_too_quiet(&ended));
}
