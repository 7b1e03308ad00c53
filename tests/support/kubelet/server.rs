//! A pod's web server.
//!
//! In: a namespace, ports. Out: `Welcome to nginx!`, and who says so to whom.
//! Never: a connection that it has accepted and does not answer.

use super::network::Place;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener as Listener};
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Listens in the place's namespace; the kernel accepts from then on. Blocks.
pub fn listen(place: &Place, ports: &[u16]) -> io::Result<Vec<Listener>> {
    place.netns.enter(|| {
        let listeners = ports.iter().map(|port| {
            let listener = Listener::bind((place.address, *port))?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        });
        listeners.collect()
    })
}

/// Serves until dropped, and what it has accepted a little longer.
pub struct Server {
    refusing: CancellationToken,
    tasks: TaskTracker,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.refusing.cancel();
    }
}

impl Server {
    /// `who`: the pod's name and image.
    pub fn start(listeners: Vec<Listener>, who: &str) -> io::Result<Self> {
        let server = Self { refusing: CancellationToken::new(), tasks: TaskTracker::new() };
        let who: Arc<str> = who.into();
        for listener in listeners {
            let listener = TcpListener::from_std(listener)?;
            let accepting =
                accept(listener, who.clone(), server.refusing.clone(), server.tasks.clone());
            server.tasks.spawn(accepting);
        }
        Ok(server)
    }

    /// Closes its listeners, so that the kernel refuses, and answers what it has accepted.
    pub async fn stop(&self) {
        self.refusing.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

async fn accept(
    listener: TcpListener,
    who: Arc<str>,
    refusing: CancellationToken,
    tasks: TaskTracker,
) {
    loop {
        let accepted = tokio::select! {
            // Whom the kernel has let in is served.
            biased;
            accepted = listener.accept() => accepted,
            () = refusing.cancelled() => return,
        };
        if let Ok((stream, peer)) = accepted {
            tasks.spawn(answer(stream, peer, who.clone()));
        }
    }
}

async fn answer(stream: TcpStream, peer: SocketAddr, who: Arc<str>) {
    let page = service_fn(move |_: Request<Incoming>| {
        let text = format!("Welcome to nginx!\nThis is {who}; you are {}.\n", peer.ip());
        async { Ok::<_, Infallible>(Response::new(text)) }
    });
    // A client that goes away is its own affair.
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), page)
        .await;
}
