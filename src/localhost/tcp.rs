//! Connections: accepted, dialled on, copied.

use super::served::Served;
use crate::dataplane::userspace::{Budget, Dials, Failure, KEEPALIVE};
use crate::listen::Acceptor;
use socket2::SockRef;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Of one listener; more wait in the socket's backlog.
const CONNECTIONS: usize = 1024;

/// A connection has this end and the endpoint's.
const FILES: u32 = 2;

/// Accepts until `stop`, and returns the socket; what is accepted goes on after that, as tasks of `connections`.
pub(super) async fn serve(
    mut acceptor: Acceptor,
    served: Arc<Served>,
    budget: Arc<Budget>,
    (connections, stop): (TaskTracker, CancellationToken),
) -> Option<OwnedFd> {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let next = async {
            let (client, _) = acceptor.next().await;
            let place = Arc::clone(&places).acquire_owned().await;
            let files = budget.files_at_last(FILES).await;
            (client, place, files)
        };
        let Some((client, place, files)) = stop.run_until_cancelled(next).await else { break };
        let served = Arc::clone(&served);
        connections.spawn(async move {
            pass_on(client, &served).await;
            drop((place, files));
        });
    }
    acceptor.into_listener().into_std().ok().map(OwnedFd::from)
}

/// Copies both ways until both ends have said that they are done. A reset of one end is one of the
/// other.
async fn pass_on(mut client: TcpStream, served: &Served) {
    let Some(mut endpoint) = dial(served).await else {
        reset(&client);
        return;
    };
    for end in [&client, &endpoint] {
        let _ = end.set_nodelay(true);
        let _ = SockRef::from(end).set_tcp_keepalive(&KEEPALIVE);
    }
    if copy_bidirectional(&mut client, &mut endpoint).await.is_err() {
        reset(&client);
        reset(&endpoint);
    }
}

/// Closing sends RST instead of FIN from now on.
fn reset(stream: &TcpStream) {
    let _ = stream.set_zero_linger();
}

/// `None`: no endpoint answers.
pub(super) async fn dial(served: &Served) -> Option<TcpStream> {
    let mut dials = Dials::default();
    while let Some((target, candidates)) = served.choose(|targets| dials.candidates(targets)) {
        let patience = dials.patience(target, candidates.len());
        let connecting = TcpStream::connect(SocketAddr::new(target.address, target.port));
        let failure = match tokio::time::timeout(patience, connecting).await {
            Ok(Ok(stream)) => return Some(stream),
            Ok(Err(error)) => {
                tracing::debug!(%target, %error, "an endpoint does not take a connection");
                Failure::Refused
            }
            Err(_) => {
                tracing::debug!(%target, "an endpoint does not answer in time");
                Failure::Slow
            }
        };
        served.failed_dials.add(1);
        dials.failed(target, failure);
    }
    tracing::debug!(service = %served.port().service, "no endpoint takes a connection");
    None
}
