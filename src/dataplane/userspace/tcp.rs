//! Connections: accepted, dialled on, relayed.

use super::abort::reset;
use super::choose::Chosen;
use super::connecting;
use super::counts::Held;
use super::dials::{Dials, Failure};
use super::header::header;
use super::original;
use super::relay::{Broken, SilentEnd, relay};
use super::requests::{self, Session};
use super::served::{Caller, Served, Way};
use super::shared::{Admitted, Shared};
use crate::listen::Acceptor;
use crate::model::{HttpVersion, Protocol};
use crate::planner::Target;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A connection has this end and the endpoint's.
const FILES: u32 = 2;

/// One of which the requests are balanced has this end; what they are sent on is others' too.
const FILES_OF_CLIENT: u32 = 1;

/// Accepts until `stop`, and returns the socket; what is accepted goes on after that.
pub(super) async fn serve(
    listener: TcpListener,
    shared: Arc<Shared>,
    connections: TaskTracker,
    stop: CancellationToken,
) -> TcpListener {
    let port = listener.local_addr().ok().map(|at| at.port());
    let mut acceptor = Acceptor::new(listener);
    while let Some((stream, client)) = stop.run_until_cancelled(acceptor.next()).await {
        take((stream, client), port, (&shared, &connections, &stop));
    }
    acceptor.into_listener()
}

/// Accepts what waits in a socket that nobody listens at any more: closing it would reset those.
pub(super) fn take_waiting(
    listener: TcpListener,
    shared: &Arc<Shared>,
    connections: &TaskTracker,
    stop: &CancellationToken,
) {
    let Ok(listener) = listener.into_std() else { return };
    let port = listener.local_addr().ok().map(|at| at.port());
    while let Ok((stream, client)) = listener.accept() {
        let stream = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
        if let Ok(stream) = stream {
            take((stream, client), port, (shared, connections, stop));
        }
    }
}

/// `port`: where it was accepted.
fn take(
    (stream, client): (TcpStream, SocketAddr),
    port: Option<u16>,
    (shared, connections, stop): (&Arc<Shared>, &TaskTracker, &CancellationToken),
) {
    let frontend = original::destination(&stream, port);
    let accepted = frontend.and_then(|frontend| accept(shared, frontend, client));
    let Some(accepted) = accepted else {
        reset(&stream);
        return;
    };
    let shared = Arc::clone(shared);
    match accepted.requests {
        None => {
            connections.spawn(pass_on(shared, accepted, stream));
        }
        Some(version) => {
            let (accepted, tunnels) = (Arc::new(accepted), connections.clone());
            let session = Session { shared, accepted, version, tunnels };
            connections.spawn(requests::serve(session, stream, stop.clone()));
        }
    }
}

/// A connection that is somebody's, and has room.
pub(super) struct Accepted {
    pub served: Arc<Served>,
    pub client: SocketAddr,
    /// They are balanced, as long as the connection lasts.
    requests: Option<HttpVersion>,
    /// Where the client connected to.
    frontend: SocketAddr,
    _admitted: Admitted,
}

fn accept(shared: &Shared, frontend: SocketAddr, client: SocketAddr) -> Option<Accepted> {
    let Some(served) = shared.frontends.find_accepted(frontend, Instant::now()) else {
        shared.frontends.strays.add(1);
        return None;
    };
    if !served.admits(client.ip()) {
        return None;
    }
    let requests = served.requests();
    let files = match requests {
        None => FILES,
        Some(_) => FILES_OF_CLIENT,
    };
    let admitted = shared.admit(&served, files).ok()?;
    Some(Accepted { served, client, requests, frontend, _admitted: admitted })
}

/// Until both ends have said that they are done. A reset of one end is one of the other.
async fn pass_on(shared: Arc<Shared>, accepted: Accepted, mut client: TcpStream) {
    let mut dials = Dials::default();
    let mut met_silence = false;
    let means = shared.means();
    let quiet = || accepted.served.port.limits().into();
    // In a box: what dialling takes is not kept while the connection lasts.
    while let Some((mut stream, endpoint)) = Box::pin(connect(&shared, &accepted, &mut dials)).await
    {
        let target = endpoint.target;
        let silent = match !met_silence && accepted.served.has_others(target) {
            true => SilentEnd::MayBeAnAccident,
            false => SilentEnd::Counts,
        };
        match relay(&mut client, &mut stream, &endpoint, (quiet, silent), &means).await {
            Ok(()) => return,
            // Nothing against the endpoint; a Service of which two do so is one that does so.
            Err(Broken::Untouched(error)) if error.kind() == ErrorKind::UnexpectedEof => {
                tracing::debug!(%target, "an endpoint closed at once");
                met_silence = true;
                dials.failed(target, Failure::Refused);
            }
            // It had a place in the queue of a process that ended, say.
            Err(Broken::Untouched(error)) => {
                tracing::debug!(%target, %error, "an endpoint broke off at once");
                broke_off(&shared, &accepted, target);
                dials.failed(target, Failure::Refused);
            }
            Err(Broken::Unanswered(error)) => {
                tracing::debug!(%target, %error, "an endpoint broke off without an answer");
                broke_off(&shared, &accepted, target);
                break;
            }
            Err(Broken::Off(error)) => {
                tracing::trace!(%target, %error, "a connection broke off");
                reset(&stream);
                break;
            }
        }
    }
    reset(&client);
}

/// The endpoint that takes the connection, told who the client is if it wants to know. `None`: no
/// endpoint does.
async fn connect(
    shared: &Shared,
    accepted: &Accepted,
    dials: &mut Dials,
) -> Option<(TcpStream, Held)> {
    let Accepted { served, client, frontend, .. } = accepted;
    loop {
        let (mut stream, endpoint) = dial(shared, accepted, dials).await?;
        let Some(version) = served.proxy_protocol() else { return Some((stream, endpoint)) };
        match stream.write_all(&header(version, *client, *frontend)).await {
            Ok(()) => return Some((stream, endpoint)),
            Err(error) => {
                tracing::debug!(endpoint = %endpoint.target, %error, "an endpoint broke off at once");
                broke_off(shared, accepted, endpoint.target);
                dials.failed(endpoint.target, Failure::Refused);
            }
        }
    }
}

fn broke_off(shared: &Shared, accepted: &Accepted, target: Target) {
    let node = shared.frontends.node();
    let caller = Caller { client: accepted.client.ip(), node: &node };
    accepted.served.broke_off(&caller, target);
}

async fn dial(
    shared: &Shared,
    accepted: &Accepted,
    dials: &mut Dials,
) -> Option<(TcpStream, Held)> {
    let Accepted { served, client, .. } = accepted;
    loop {
        let node = shared.frontends.node();
        let caller = Caller { client: client.ip(), node: &node };
        let Some(chosen) = served.choose(&caller, dials) else { break };
        let began = Instant::now();
        if let Some(stream) = dial_once((shared, served), &caller, dials, &chosen).await {
            served.connected(&chosen.endpoint, began.elapsed());
            return Some((stream, chosen.endpoint));
        }
    }
    served.port.unserved.add(1);
    tracing::debug!(service = %served.port.service, "no endpoint takes a connection");
    None
}

/// How long the endpoint that was chosen has to take a connection.
pub(super) fn patience(served: &Served, dials: &Dials, chosen: &Chosen) -> Duration {
    let within = served.port.limits().connect;
    dials.patience_within(within, chosen.endpoint.target, chosen.candidates)
}

/// The endpoint that was chosen. If it does not take the connection, this is told; if it does, the
/// caller tells, for whom that may be too early.
pub(super) async fn dial_once(
    (shared, served): (&Shared, &Served),
    caller: &Caller<'_>,
    dials: &mut Dials,
    chosen: &Chosen,
) -> Option<TcpStream> {
    let target = chosen.endpoint.target;
    if shared.frontends.leads_back(Protocol::Tcp, target) {
        tracing::debug!(%target, "an endpoint is a relayed Service's own address");
        served.failed(caller, target, Failure::Refused);
        dials.failed(target, Failure::Refused);
        return None;
    }
    let patience = patience(served, dials, chosen);
    let to = SocketAddr::new(target.address, target.port);
    let connecting = connecting::connect(to, &shared.congestion);
    let failure = match tokio::time::timeout(patience, connecting).await {
        Ok(Ok(stream)) => return Some(stream),
        Ok(Err(error)) if is_of_this_node(&error) => {
            tracing::debug!(%target, %error, "this node cannot dial");
            served.port.refused.add(1);
            dials.failed(target, Failure::Refused);
            return None;
        }
        Ok(Err(error)) => {
            tracing::debug!(%target, %error, "an endpoint does not take a connection");
            Failure::Refused
        }
        Err(_) => {
            tracing::debug!(%target, "an endpoint does not answer in time");
            Failure::Slow
        }
    };
    if served.way == Way::OwnSocket {
        shared.loopback_failed_dials.add(1);
    }
    served.failed(caller, target, failure);
    dials.failed(target, failure);
    None
}

/// Says nothing about the endpoint: no file, port or memory is left, or a rule of this node forbids
/// the packet.
pub(super) fn is_of_this_node(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::EMFILE
                | libc::ENFILE
                | libc::ENOBUFS
                | libc::ENOMEM
                | libc::EADDRNOTAVAIL
                | libc::EAGAIN
                | libc::EPERM
                | libc::EACCES
        )
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn future_size<A, B, C, F: Future>(_: impl Fn(A, B, C) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_connection_that_waits_takes_little_memory() {
        let size = future_size(pass_on);
        assert!(size <= 1280, "{size} bytes");
    }
}
