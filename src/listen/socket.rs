//! One socket each.

use super::Error;
use socket2::{Domain, Socket, Type};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream, UdpSocket};

/// Connections that the kernel completes before anybody asks for them; it takes no more than
/// `net.core.somaxconn`.
const BACKLOG: i32 = 1024;

/// Pause after a refused accept, which is nearly always a lack of file descriptors: the connection
/// stays in the backlog, so that the next accept would fail at once again.
const PAUSE: Duration = Duration::from_millis(100);

/// Listens. What is left of former connections (TIME_WAIT) does not count; a socket of another
/// process that listens there, or at all addresses, does.
pub fn tcp(at: SocketAddr) -> Result<TcpListener, Error> {
    listening(socket(at, Type::STREAM)?, at)
}

/// The same, also where no interface has the address yet, or for now.
pub fn tcp_ahead(at: SocketAddr) -> Result<TcpListener, Error> {
    listening(ahead(socket(at, Type::STREAM)?, at)?, at)
}

fn listening(socket: Socket, at: SocketAddr) -> Result<TcpListener, Error> {
    socket.set_reuse_address(true)?;
    socket.bind(&at.into())?;
    socket.listen(BACKLOG)?;
    Ok(TcpListener::from_std(socket.into())?)
}

/// Receives, also where no interface has the address yet, or for now. Without SO_REUSEADDR, which for UDP
/// would share the port with whoever sets it too.
pub fn udp_ahead(at: SocketAddr) -> Result<UdpSocket, Error> {
    let socket = ahead(socket(at, Type::DGRAM)?, at)?;
    socket.bind(&at.into())?;
    Ok(UdpSocket::from_std(socket.into())?)
}

fn ahead(socket: Socket, at: SocketAddr) -> io::Result<Socket> {
    match at {
        SocketAddr::V4(_) => socket.set_freebind_v4(true)?,
        SocketAddr::V6(_) => socket.set_freebind_v6(true)?,
    }
    Ok(socket)
}

fn socket(at: SocketAddr, kind: Type) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(at), kind, None)?;
    socket.set_nonblocking(true)?;
    if at.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

/// Takes connections from a socket, with a pause after each failure.
pub struct Acceptor {
    listener: TcpListener,
    failing: bool,
}

impl Acceptor {
    pub fn new(listener: TcpListener) -> Self {
        Self { listener, failing: false }
    }

    /// The socket, with what waits in its backlog.
    pub fn into_listener(self) -> TcpListener {
        self.listener
    }

    /// The next connection. Nothing is lost if nobody waits for it to the end.
    pub async fn next(&mut self) -> (TcpStream, SocketAddr) {
        loop {
            match self.listener.accept().await {
                Ok(accepted) => {
                    self.failing = false;
                    return accepted;
                }
                Err(error) => {
                    if !std::mem::replace(&mut self.failing, true) {
                        let at = self.listener.local_addr().ok();
                        tracing::warn!(?at, "cannot accept connections: {}", Error::from(error));
                    }
                    // In a box: who waits for a connection, which is what all do, has no room for it.
                    Box::pin(tokio::time::sleep(PAUSE)).await;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    fn loopback() -> SocketAddr {
        "127.0.0.1:0".parse().unwrap()
    }

    #[tokio::test]
    async fn a_port_that_somebody_listens_on_is_in_use() {
        let first = tcp(loopback()).unwrap();
        let at = first.local_addr().unwrap();
        assert!(matches!(tcp(at), Err(Error::InUse)));
        let first = udp_ahead(loopback()).unwrap();
        let at = first.local_addr().unwrap();
        assert!(matches!(udp_ahead(at), Err(Error::InUse)));
    }

    #[tokio::test]
    async fn a_port_with_former_connections_can_be_had_again() {
        let mut acceptor = Acceptor::new(tcp(loopback()).unwrap());
        let at = acceptor.listener.local_addr().unwrap();
        let mut client = TcpStream::connect(at).await.unwrap();
        let (mut server, _) = acceptor.next().await;
        // Who closes first is left with TIME_WAIT.
        server.shutdown().await.unwrap();
        client.shutdown().await.unwrap();
        drop((server, client, acceptor));
        tcp(at).unwrap();
    }

    #[tokio::test]
    async fn an_address_of_nobody_is_said_to_be_one() {
        assert!(matches!(tcp("192.0.2.1:0".parse().unwrap()), Err(Error::NoSuchAddress)));
    }

    #[tokio::test]
    async fn an_address_that_is_to_come_can_be_had_before() {
        for at in ["192.0.2.1:0", "[2001:db8::1]:0"] {
            let at = at.parse().unwrap();
            tcp_ahead(at).unwrap();
            udp_ahead(at).unwrap();
        }
    }
}
