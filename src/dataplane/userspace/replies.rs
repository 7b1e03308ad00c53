//! Sockets that answer clients as the frontend that they asked.

use super::budget::{Budget, Files};
use super::bursts::{self, Sending};
use super::raw::{RawSocket, RawSockets, bind_to};
use foldhash::HashMap;
use socket2::{Domain, SockRef, Socket, Type};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use tokio::net::UdpSocket;

/// Of one thread; shared by the sessions of a frontend.
#[derive(Debug)]
pub(super) enum Replies {
    /// A socket at each frontend's address, whosever address that is.
    Transparent {
        budget: Arc<Budget>,
        raw: Arc<RawSockets>,
        known: HashMap<SocketAddr, Weak<Reply>>,
    },
    /// The listening socket itself, where the frontend is what it is bound to. A file of its own while there
    /// are sessions.
    Listening { budget: Arc<Budget>, known: Weak<Reply> },
}

#[derive(Debug)]
pub(super) enum Reply {
    Bound {
        socket: Socket,
        _file: Files,
    },
    /// Another process has the port.
    Raw {
        socket: Arc<RawSocket>,
        frontend: SocketAddr,
    },
}

impl Replies {
    pub(super) fn transparent(budget: Arc<Budget>, raw: Arc<RawSockets>) -> Self {
        Replies::Transparent { budget, raw, known: HashMap::default() }
    }

    pub(super) fn listening(budget: Arc<Budget>) -> Self {
        Replies::Listening { budget, known: Weak::new() }
    }

    /// For answers of `frontend` to what came by `listening`.
    pub(super) fn of(
        &mut self,
        listening: &UdpSocket,
        frontend: SocketAddr,
    ) -> io::Result<Arc<Reply>> {
        let open = |budget: &Budget, socket: &dyn Fn() -> io::Result<Socket>| {
            let file = budget.files(1);
            let file = file.ok_or_else(|| io::Error::from_raw_os_error(libc::EMFILE))?;
            Ok::<_, io::Error>(Arc::new(Reply::Bound { socket: socket()?, _file: file }))
        };
        match self {
            Replies::Transparent { budget, raw, known } => {
                if let Some(reply) = known.get(&frontend).and_then(Weak::upgrade) {
                    return Ok(reply);
                }
                let reply = match open(budget, &|| bound(frontend)) {
                    // Not kept: by the next session the port may be free.
                    Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                        return Ok(Arc::new(Reply::Raw { socket: raw.of(frontend)?, frontend }));
                    }
                    opened => opened?,
                };
                known.retain(|_, reply| reply.strong_count() > 0);
                known.insert(frontend, Arc::downgrade(&reply));
                Ok(reply)
            }
            Replies::Listening { budget, known } => {
                if let Some(reply) = known.upgrade() {
                    return Ok(reply);
                }
                let reply = open(budget, &|| SockRef::from(listening).try_clone())?;
                *known = Arc::downgrade(&reply);
                Ok(reply)
            }
        }
    }
}

/// Each thread has its own, so they share the address. Nothing is read from it: tproxy hands
/// datagrams to listening sockets, and passes over one that is not connected to the client.
fn bound(frontend: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(frontend), Type::DGRAM, None)?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    let _ = socket.set_recv_buffer_size(0);
    if frontend.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    bind_to(&socket, frontend)?;
    Ok(socket)
}

impl Reply {
    /// What the socket has no room for is lost, as in any full queue.
    pub(super) fn send(&self, client: SocketAddr, datagrams: &[&[u8]], sending: &mut Sending) {
        let lost = match self {
            Reply::Bound { socket, .. } => {
                let sent = bursts::send(socket, Some(client), datagrams, sending);
                sent.refused.map(|(_, error)| error)
            }
            Reply::Raw { socket, frontend } => socket.send((*frontend, client), datagrams).err(),
        };
        if let Some(error) = lost {
            tracing::trace!(%client, %error, "an answer is lost");
        }
    }
}
