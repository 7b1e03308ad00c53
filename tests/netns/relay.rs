//! What connections leave with vipd when they have ended, and what it holds for those that nobody reads.

use super::support::manifests::svc;
use super::support::plan::{L1, L2, Node};
use super::support::runner::{Case, case, skip, soak};
use super::support::world::World;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

const PORT: u16 = 9999;

/// What an endpoint does with a connection that it was given.
type Serve = fn(TcpStream, &AtomicU64);

/// Serves each connection on a thread of its own until the case ends; what it counts is told.
fn endpoint(w: &World, serve: Serve) -> Arc<AtomicU64> {
    let at = SocketAddr::new(w.address(L1), PORT);
    let listener = w.netns(L1).enter(|| TcpListener::bind(at)).expect("nobody has the port");
    let counted = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&counted);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let count = Arc::clone(&count);
            std::thread::spawn(move || serve(stream, &count));
        }
    });
    w.serve(svc().relayed().on([L1]).to(PORT));
    counted
}

fn open(w: &World) -> std::io::Result<TcpStream> {
    let to = SocketAddr::new(w.cip(), 80);
    w.netns(L2).enter(move || TcpStream::connect(to))
}

/// Sends until nobody takes it any more.
fn send(mut stream: TcpStream, sent: &AtomicU64) {
    let block = vec![7; 64 << 10];
    while let Ok(size) = stream.write(&block) {
        sent.fetch_add(size as u64, Ordering::Relaxed);
    }
}

/// Echoes, and closes when the client does or when it is told to.
fn answer(mut stream: TcpStream, _: &AtomicU64) {
    let mut byte = [0];
    while stream.read(&mut byte).is_ok_and(|size| size > 0) {
        if stream.write_all(&byte).is_err() || byte == *b"q" {
            return;
        }
    }
}

fn nobody_reads(w: &World) {
    const READERS: usize = 64;
    const EACH: u64 = 64 << 10;
    /// Beside what the connections hold: threads' stacks and the allocator's.
    const SLACK: u64 = 8 << 20;
    let sent = endpoint(w, send);
    open(w).and_then(|mut one| one.read_exact(&mut [0])).expect("it is relayed");
    let before = w.resident();
    let mut readers: Vec<TcpStream> =
        (0..READERS).map(|_| open(w).expect("it is relayed")).collect();
    // All buffers on the way are full.
    let stands_still = || {
        let at = sent.load(Ordering::Relaxed);
        w.sleep(700);
        at > 0 && sent.load(Ordering::Relaxed) == at
    };
    w.within(Duration::from_secs(60), stands_still);
    let grown = w.resident().saturating_sub(before);
    let held = sent.load(Ordering::Relaxed);
    assert!(
        grown <= READERS as u64 * EACH + SLACK,
        "{grown} bytes more, while endpoints sent {held}"
    );
    // Who reads at last gets what was sent, and what comes after it.
    let reader = readers.last_mut().expect("there are some");
    let mut rest: usize = 16 << 20;
    let mut buffer = vec![0; 256 << 10];
    while rest > 0 {
        let size = reader.read(&mut buffer).expect("it goes on");
        assert!(size > 0 && buffer[..size].iter().all(|byte| *byte == 7));
        rest = rest.saturating_sub(size);
    }
}

/// Opens this many connections, one after the other, whose ends close in turns, or reset.
fn pass(to: SocketAddr, count: usize) {
    let mut answer = [0];
    for number in 0..count {
        let mut stream = TcpStream::connect(to).expect("it is relayed");
        let how = number % 4;
        stream.write_all(if how == 1 { b"q" } else { b"e" }).expect("it is taken");
        stream.read_exact(&mut answer).expect("it is answered");
        match how {
            // The endpoint closes first.
            1 => assert_eq!(stream.read(&mut answer).expect("it ends"), 0),
            // Half open for a moment.
            2 => {
                stream.shutdown(Shutdown::Write).expect("it is open");
                assert_eq!(stream.read(&mut answer).expect("it ends"), 0);
            }
            // What has not been read makes it a reset.
            3 => {
                stream.write_all(b"e").expect("it is taken");
                stream.set_read_timeout(Some(Duration::from_secs(5))).expect("it is open");
                match stream.peek(&mut answer) {
                    Err(error) if error.kind() != ErrorKind::Interrupted => panic!("{error}"),
                    _ => {}
                }
            }
            _ => {}
        }
    }
}

/// Open files of vipd's, by kind.
fn files(w: &World) -> (usize, usize) {
    let directory = std::fs::read_dir(format!("/proc/{}/fd", w.pid())).expect("vipd runs");
    let targets = directory.flatten().filter_map(|entry| std::fs::read_link(entry.path()).ok());
    let mut files = (0, 0);
    for target in targets {
        match target.to_string_lossy().split(':').next() {
            Some("socket") => files.0 += 1,
            Some("pipe") => files.1 += 1,
            _ => {}
        }
    }
    files
}

/// Connections that vipd counts as open.
fn active(w: &World) -> f64 {
    let said = w.vipd("metrics").out;
    let lines = said.lines().filter(|line| line.starts_with("vipd_relay_connections{"));
    let values: Vec<f64> = lines.filter_map(|line| line.rsplit(' ').next()?.parse().ok()).collect();
    assert!(!values.is_empty(), "no relayed endpoint in:\n{said}");
    values.iter().sum()
}

/// Opens many more connections to one endpoint than there are ports towards it, half of which the
/// client closes first.
fn ports_are_used_again(w: &World) {
    endpoint(w, answer);
    w.sh(Node, "sysctl -qw net.ipv4.ip_local_port_range='40000 40099'");
    let to = SocketAddr::new(w.cip(), 80);
    w.netns(L2).enter(move || pass(to, 1_000));
}

fn nothing_is_left(w: &World) {
    const CLIENTS: usize = 8;
    let all = if soak() { 100_000 } else { 4_000 };
    endpoint(w, answer);
    let to = SocketAddr::new(w.cip(), 80);
    let several = |count: usize| {
        let clients: Vec<JoinHandle<()>> =
            (0..CLIENTS).map(|_| w.netns(L2).spawn(move || pass(to, count / CLIENTS))).collect();
        for client in clients {
            client.join().expect("every connection is served");
        }
    };
    let patience = Duration::from_secs(20);
    several(80);
    w.within(patience, || active(w) == 0.0);
    let before = files(w);
    several(all);
    w.within(patience, || active(w) == 0.0 && files(w).0 <= before.0);
    assert_eq!(files(w).1, before.1, "pipes");
}

/// BBR takes a timer of each socket's for each of its segments.
fn who_is_near_is_not_paced(w: &World) {
    const PACES: &str = "sysctl -qw net.ipv4.tcp_congestion_control=bbr 2>/dev/null; \
                         sysctl -n net.ipv4.tcp_congestion_control";
    if w.sh(Node, PACES).trim() != "bbr" {
        skip("the kernel has no BBR");
    }
    w.restart();
    endpoint(w, send);
    let mut reader = open(w).expect("it is relayed");
    let mut buffer = vec![0; 256 << 10];
    let mut read = 0;
    while read < 4 << 20 {
        read += reader.read(&mut buffer).expect("it goes on");
    }
    let said = w.sh(Node, "ss -Htin state established");
    let of = |name: &str| said.split_whitespace().filter(|word| *word == name).count();
    assert_eq!((of("reno"), of("bbr")), (2, 0), "both ends: {said}");
}

pub fn cases() -> Vec<Case> {
    vec![
        case("readers that do not read make vipd hold no more than buffers", nobody_reads),
        case("connections that ended leave no file and no task", nothing_is_left),
        case("a client that closes first does not use up the ports", ports_are_used_again),
        case("what goes to who is near is not paced", who_is_near_is_not_paced),
    ]
}
