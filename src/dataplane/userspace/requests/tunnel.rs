//! What a connection is after 101: bytes both ways.

use super::super::abort::reset;
use super::super::budget::Files;
use super::super::counts::Held;
use super::super::relay::{Broken, SilentEnd, relay};
use super::super::shared::Shared;
use super::super::tcp::Accepted;
use super::wire::Hand;
use hyper::body::Bytes;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use std::sync::Arc;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

pub(super) struct Tunnel {
    pub client: OnUpgrade,
    pub endpoint: OnUpgrade,
    /// It is one of the endpoint's as long as it lasts.
    pub held: Held,
    pub shared: Arc<Shared>,
    /// The client's place, as long.
    pub accepted: Arc<Accepted>,
}

/// Until both ends are done, or one breaks off. It stays with its endpoint, whatever becomes of that.
pub(super) async fn pass(tunnel: Tunnel) {
    let Tunnel { client, endpoint, held, shared, accepted } = tunnel;
    let (client, endpoint) = match tokio::try_join!(client, endpoint) {
        Ok(ends) => ends,
        Err(error) => {
            tracing::debug!(target = %held.target, %error, "a connection ended before its upgrade");
            return;
        }
    };
    let (Some((mut client, said)), Some((mut endpoint, answered, _files))) =
        (of_client(client), of_endpoint(endpoint))
    else {
        tracing::error!("an upgraded connection is none of those that were made");
        return;
    };
    // What hyper read beyond the heads.
    let passed = async {
        tokio::try_join!(endpoint.write_all(&said), client.write_all(&answered)).map(|_| ())
    };
    let passed = passed.await;
    drop((said, answered));
    let done = match passed {
        Ok(()) => {
            let how = (|| accepted.served.port.limits().into(), SilentEnd::Counts);
            relay(&mut client, &mut endpoint, &held, how, &shared.means()).await
        }
        Err(error) => Err(Broken::Off(error)),
    };
    if let Err(error) = done {
        tracing::trace!(target = %held.target, ?error, "a tunnel broke off");
        reset(&endpoint);
        reset(&client);
    }
}

/// The socket, and what was read of it already.
fn of_client(upgraded: Upgraded) -> Option<(TcpStream, Bytes)> {
    let parts = upgraded.downcast::<TokioIo<TcpStream>>().ok()?;
    Some((parts.io.into_inner(), parts.read_buf))
}

fn of_endpoint(upgraded: Upgraded) -> Option<(TcpStream, Bytes, Files)> {
    let parts = upgraded.downcast::<TokioIo<Hand>>().ok()?;
    let (stream, files) = parts.io.into_inner().into_stream()?;
    Some((stream, parts.read_buf, files))
}
