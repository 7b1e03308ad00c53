//! How far the other end of a connection is. EDGE.
//!
//! In: a connected socket. Out: its least round trip, which `tcp_info` has (`tcpi_min_rtt`, Linux 4.6), by
//! sock_diag(7).
//! Never: a look at other sockets.

use crate::netlink::{Attributes, Buffer, ExtendedError, Message, NLM_F_REQUEST, Socket};
use std::io;
use std::mem::offset_of;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::net::TcpStream;

/// `linux/sock_diag.h`
const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// `linux/inet_diag.h`
const INET_DIAG_INFO: u16 = 2;
const INET_DIAG_NOCOOKIE: u32 = !0;
/// Length of `struct inet_diag_msg`.
const INET_DIAG_MSG: usize = 72;

/// The socket that is asked by, from the first question on.
#[derive(Debug, Default)]
pub(super) struct Asking {
    socket: Option<Socket>,
    /// The kernel has no answer for a connection that there is: it was built without `tcp_diag`, and would
    /// look for the module with each question.
    in_vain: bool,
}

impl Asking {
    /// `None`: the kernel does not say, or has not measured it.
    pub(super) fn least(&mut self, stream: &TcpStream) -> Option<Duration> {
        if self.in_vain {
            return None;
        }
        match self.ask(stream) {
            Ok(least) => least,
            Err(error) => {
                self.in_vain =
                    error.raw_os_error() == Some(libc::ENOENT) && stream.peer_addr().is_ok();
                tracing::debug!(%error, "the kernel does not say how far the end of a connection is");
                // What may still be answered must not be taken for the next answer.
                self.socket = None;
                None
            }
        }
    }

    fn ask(&mut self, stream: &TcpStream) -> io::Result<Option<Duration>> {
        let question = question(stream.local_addr()?, stream.peer_addr()?);
        let socket = match &mut self.socket {
            Some(socket) => socket,
            none => none.insert(Socket::open_diag()?),
        };
        socket.send(question.bytes())?;
        // Answered within the call.
        let Some(answer) = socket.receive()?.next() else { return Ok(None) };
        match ExtendedError::of(&answer) {
            Some(error) => Err(io::Error::from_raw_os_error(error.errno)),
            None => Ok(read(&answer)),
        }
    }
}

/// `struct inet_diag_req_v2`, about one socket.
fn question(local: SocketAddr, peer: SocketAddr) -> Buffer {
    let family = match local {
        SocketAddr::V4(_) => libc::AF_INET as u8,
        SocketAddr::V6(_) => libc::AF_INET6 as u8,
    };
    let mut request = vec![family, libc::IPPROTO_TCP as u8, 1 << (INET_DIAG_INFO - 1), 0];
    let any_state = !0_u32;
    request.extend(any_state.to_ne_bytes());
    request.extend(local.port().to_be_bytes());
    request.extend(peer.port().to_be_bytes());
    for address in [local.ip(), peer.ip()] {
        let mut octets = [0; 16];
        match address {
            IpAddr::V4(v4) => octets[..4].copy_from_slice(&v4.octets()),
            IpAddr::V6(v6) => octets = v6.octets(),
        }
        request.extend(octets);
    }
    let any_interface = 0_u32;
    request.extend(
        [any_interface, INET_DIAG_NOCOOKIE, INET_DIAG_NOCOOKIE].map(u32::to_ne_bytes).concat(),
    );
    let mut out = Buffer::default();
    out.begin_with(SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST, 0, &request);
    out.end();
    out
}

fn read(message: &Message<'_>) -> Option<Duration> {
    const UNKNOWN: u32 = !0;
    const AT: usize = offset_of!(libc::tcp_info, tcpi_min_rtt);
    if message.kind != SOCK_DIAG_BY_FAMILY {
        return None;
    }
    let attributes = message.payload.get(INET_DIAG_MSG..)?;
    let info = Attributes(attributes).find(INET_DIAG_INFO)?.value;
    let micros = u32::from_ne_bytes(info.get(AT..AT + 4)?.try_into().ok()?);
    (micros != UNKNOWN).then(|| Duration::from_micros(micros.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn the_kernel_says_how_far_the_other_end_is() {
        let mut asking = Asking::default();
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address).await else {
                eprintln!("SKIPPED: there is no {address}");
                continue;
            };
            let at = listener.local_addr().unwrap();
            let (client, accepted) = tokio::join!(TcpStream::connect(at), listener.accept());
            let (mut client, (accepted, _)) = (client.unwrap(), accepted.unwrap());
            client.write_all(b"x").await.unwrap();
            for stream in [&client, &accepted] {
                let least = asking.least(stream).expect("it is measured");
                assert!(least < Duration::from_secs(5), "{address}: {least:?}");
            }
        }
        assert!(asking.socket.is_some() && !asking.in_vain);
    }

    #[tokio::test]
    async fn a_connection_that_is_gone_is_nowhere() {
        let (one, other) = ("127.0.0.1:1".parse().unwrap(), "127.0.0.1:2".parse().unwrap());
        let mut socket = Socket::open_diag().unwrap();
        socket.send(question(one, other).bytes()).unwrap();
        let answer = socket.receive().unwrap().next().unwrap();
        assert_eq!(ExtendedError::of(&answer).map(|error| error.errno), Some(libc::ENOENT));
    }
}
