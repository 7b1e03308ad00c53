//! What runs inside a namespace: a pod's server, and a client.

use super::Result;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

const CONNECT_WITHIN: Duration = Duration::from_millis(500);
/// While the service is not there yet, nobody answers a SYN.
const TRY_WITHIN: Duration = Duration::from_millis(20);
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// Answers every connection with its name and the peer that it saw. On SIGTERM it closes its
/// listener, so that the kernel refuses from then on, and finishes what it has accepted.
pub fn serve(name: &str, at: &str) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("no runtime: {error}"))?;
    runtime.block_on(async {
        use tokio::io::AsyncWriteExt;
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate()).map_err(|e| format!("SIGTERM: {e}"))?;
        let listener = tokio::net::TcpListener::bind(at).await.map_err(|e| format!("{at}: {e}"))?;
        println!("listening");
        loop {
            let accepted = tokio::select! {
                biased;
                accepted = listener.accept() => accepted,
                _ = terminate.recv() => return Ok(()),
            };
            if let Ok((mut stream, peer)) = accepted {
                // Some bytes fit any send buffer: this waits for nobody.
                let _ = stream.write_all(format!("{name} {}\n", peer.ip()).as_bytes()).await;
                let _ = stream.shutdown().await;
            }
        }
    })
}

/// One new connection after the other, never a second try; a line for each. `count` 0: until
/// nobody reads the lines any more.
pub fn client(target: &str, count: &str, pause_ms: &str) -> Result<()> {
    let target = address(target)?;
    let count: u64 = count.parse().map_err(|_| "count: a number".to_owned())?;
    let pause: u64 = pause_ms.parse().map_err(|_| "pause: milliseconds".to_owned())?;
    let mut out = std::io::stdout();
    let mut sent = 0;
    while count == 0 || sent < count {
        let start = Instant::now();
        let outcome = ask(target, CONNECT_WITHIN);
        let took = start.elapsed().as_micros();
        if writeln!(out, "{took} {outcome}").is_err() {
            return Ok(());
        }
        sent += 1;
        std::thread::sleep(Duration::from_millis(pause));
    }
    Ok(())
}

/// Tries until the first answer.
pub fn until_answered(target: &str) -> Result<()> {
    let target = address(target)?;
    let start = Instant::now();
    loop {
        let outcome = ask(target, TRY_WITHIN);
        if outcome.starts_with("ok ") {
            println!("{outcome}");
            return Ok(());
        }
        if start.elapsed() > Duration::from_secs(10) {
            return Err(format!("{target}: {outcome}"));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn address(text: &str) -> Result<SocketAddr> {
    text.parse().map_err(|error| format!("{text}: {error}"))
}

fn ask(target: SocketAddr, connect_within: Duration) -> String {
    let start = Instant::now();
    let mut stream = match TcpStream::connect_timeout(&target, connect_within) {
        Ok(stream) => stream,
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => return "refused".to_owned(),
        Err(error) => return format!("failed connect: {error}"),
    };
    let mut answer = Vec::new();
    let mut part = [0; 256];
    loop {
        let left = ANSWER_WITHIN.saturating_sub(start.elapsed());
        if left.is_zero() || stream.set_read_timeout(Some(left)).is_err() {
            return "failed answer: none within a second".to_owned();
        }
        match stream.read(&mut part) {
            Ok(0) => break,
            Ok(length) => answer.extend_from_slice(&part[..length]),
            Err(error) => return format!("failed answer: {error}"),
        }
    }
    match String::from_utf8_lossy(&answer).trim() {
        "" => "failed answer: empty".to_owned(),
        text => format!("ok {text}"),
    }
}
