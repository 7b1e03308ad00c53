//! Tells clients that nobody takes their datagrams.

use super::refusal::port_unreachable;
use socket2::{Domain, Protocol, Socket, Type};
use std::net::SocketAddr;

/// IPPROTO_RAW: whole packets, and nothing is received.
const WHOLE_PACKETS: i32 = 255;

/// Sockets for packets of our own making, of each family. They take CAP_NET_RAW; without it, or
/// where a family is not there, its clients get silence.
#[derive(Debug)]
pub(super) struct Refusals {
    v4: Option<Socket>,
    v6: Option<Socket>,
}

impl Refusals {
    pub(super) fn open() -> Self {
        let open = |domain| {
            let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(WHOLE_PACKETS)));
            let socket = socket.and_then(|socket| socket.set_nonblocking(true).map(|()| socket));
            socket
                .inspect_err(|error| {
                    tracing::debug!(%error, "refused datagrams are not told to clients");
                })
                .ok()
        };
        Self { v4: open(Domain::IPV4), v6: open(Domain::IPV6) }
    }

    /// About a datagram of `size` bytes from a client to a frontend.
    pub(super) fn send(&self, client: SocketAddr, frontend: SocketAddr, size: usize) {
        let socket = if client.is_ipv4() { &self.v4 } else { &self.v6 };
        let packet = port_unreachable(client, frontend, size);
        let (Some(socket), Some(packet)) = (socket, packet) else { return };
        // The kernel takes a port here for a protocol.
        let mut to = client;
        to.set_port(0);
        if let Err(error) = socket.send_to(&packet, &to.into()) {
            tracing::debug!(%client, %error, "a refused datagram is not told to its client");
        }
    }

    #[cfg(test)]
    pub(super) fn can_send(&self) -> bool {
        self.v4.is_some()
    }
}
