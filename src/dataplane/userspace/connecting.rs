//! A TCP connection to an endpoint, from this node's address.

use super::acks;
use super::ports;
use socket2::{Domain, SockAddr, SockRef, Socket, Type};
use std::io;
use std::net::SocketAddr;
use tokio::net::TcpStream;

/// Connects. The acknowledgement that ends the handshake waits for what is sent first: see
/// [`acks::now`].
pub(super) async fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let socket = match ports::are_used_up(to) {
        true => ports::begin_again(to)?,
        false => match begin(to) {
            Err(error) if ports::is_used_up(&error) => {
                ports::note(to);
                ports::begin_again(to)?
            }
            begun => begun?,
        },
    };
    let stream = TcpStream::from_std(socket.into())?;
    // Who is on this node has answered within the call; a round of the reactor costs more than to ask.
    match SockRef::from(&stream).connect(&to.into()) {
        Err(error) if is_under_way(&error) => {}
        connected => return connected.map(|()| stream),
    }
    stream.writable().await?;
    match stream.take_error()? {
        None => Ok(stream),
        Some(error) => Err(error),
    }
}

fn begin(to: SocketAddr) -> io::Result<Socket> {
    let socket = socket(to)?;
    connect_soon(&socket, &to.into())?;
    Ok(socket)
}

pub(super) fn socket(to: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    // Nobody waits for a second small segment to fill up the first one; the client's end has it from
    // the listener.
    socket.set_tcp_nodelay(true)?;
    // When it has ended, its port can be had again: see `ports`.
    socket.set_reuse_address(true)?;
    acks::wait(&socket);
    Ok(socket)
}

/// Sends the SYN; what comes of it is to be waited for.
pub(super) fn connect_soon(socket: &Socket, to: &SockAddr) -> io::Result<()> {
    match socket.connect(to) {
        Err(error) if is_under_way(&error) => Ok(()),
        connected => connected,
    }
}

fn is_under_way(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINPROGRESS | libc::EALREADY))
}
