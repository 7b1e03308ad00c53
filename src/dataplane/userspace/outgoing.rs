//! A socket towards an endpoint, and its first step.

use super::acks;
use super::congestion::Congestion;
use socket2::{Domain, SockAddr, Socket, Type};
use std::io;
use std::net::SocketAddr;

pub(super) fn socket(to: SocketAddr, congestion: &Congestion) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM.nonblocking(), None)?;
    // Nobody waits for a second small segment to fill up the first one; the client's end has it from
    // the listener.
    socket.set_tcp_nodelay(true)?;
    // When it has ended, its port can be had again: see `ports`.
    socket.set_reuse_address(true)?;
    acks::wait(&socket);
    congestion.begin(&socket);
    Ok(socket)
}

/// Sends the SYN; what comes of it is to be waited for.
pub(super) fn connect_soon(socket: &Socket, to: &SockAddr) -> io::Result<()> {
    match socket.connect(to) {
        Err(error) if is_under_way(&error) => Ok(()),
        connected => connected,
    }
}

pub(super) fn is_under_way(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINPROGRESS | libc::EALREADY))
}
