//! A TCP connection to an endpoint, from this node's address.

use super::congestion::Congestion;
use super::outgoing::{connect_soon, is_under_way, socket};
use super::ports;
use socket2::{SockRef, Socket};
use std::io;
use std::net::SocketAddr;
use tokio::net::TcpStream;

/// Connects. The acknowledgement that ends the handshake waits for what is sent first: see
/// [`acks`](super::acks).
pub(super) async fn connect(to: SocketAddr, congestion: &Congestion) -> io::Result<TcpStream> {
    let socket = match ports::are_used_up(to) {
        true => ports::begin_again(to, congestion)?,
        false => match begin(to, congestion) {
            Err(error) if ports::is_used_up(&error) => {
                ports::note(to);
                ports::begin_again(to, congestion)?
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

fn begin(to: SocketAddr, congestion: &Congestion) -> io::Result<Socket> {
    let socket = socket(to, congestion)?;
    connect_soon(&socket, &to.into())?;
    Ok(socket)
}
