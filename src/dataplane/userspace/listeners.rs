//! The sockets that interception leads to.

use super::budget::Budget;
use super::congestion::Congestion;
use super::error::StartError;
use super::handed::{HandedSession, Listeners};
use super::raw::RawSockets;
use super::relay::KEEPALIVE;
use super::replies::Replies;
use crate::listen;
use crate::model::Family;
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Socket, Type};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::sync::Arc;

/// Connections that the kernel completes before anybody asks for them; it takes no more than
/// `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// Datagrams that wait, in bytes; the kernel takes no more than `net.core.rmem_max`.
const RECEIVED: usize = 4 << 20;

/// Ports that are tried: the kernel chooses one for the first socket, and somebody may have it in
/// another protocol or family.
const TRIES: usize = 32;

/// How packets for frontends come to these sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Interception {
    /// With the address that they were sent to.
    Tproxy,
    /// They do not: frontends are what the sockets are bound to. For tests without privileges.
    #[cfg(test)]
    None,
}

/// One thread's.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    pub tcp: Vec<std::net::TcpListener>,
    pub udp: Vec<Datagrams>,
}

#[derive(Debug)]
pub(super) struct Datagrams {
    pub socket: std::net::UdpSocket,
    pub replies: Replies,
    /// Of clients whose datagrams this socket gets.
    pub sessions: Vec<HandedSession>,
}

/// Those of a former process, over as many threads as there are sockets for. All of them: each has
/// connections and datagrams of its own waiting.
pub(super) fn handed(
    listeners: Vec<Listeners>,
    threads: NonZeroUsize,
    (budget, congestion): (&Arc<Budget>, &Congestion),
) -> Vec<Sockets> {
    let raw = Arc::new(RawSockets::new(Arc::clone(budget)));
    let mut all: Vec<Sockets> = Vec::new();
    all.resize_with(threads.get().min(listeners.len()), Sockets::default);
    for (number, Listeners { tcp, udp }) in listeners.into_iter().enumerate() {
        let count = all.len();
        let sockets = &mut all[number % count];
        tcp.iter().for_each(|listener| congestion.begin_again(listener));
        sockets.tcp.extend(tcp.into_iter().map(std::net::TcpListener::from));
        for (socket, sessions) in udp {
            let replies = Replies::transparent(Arc::clone(budget), Arc::clone(&raw));
            sockets.udp.push(Datagrams { socket: socket.into(), replies, sessions });
        }
    }
    all
}

const LOOPBACK: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// In the calling thread's network namespace, on one port, at the loopback addresses of the
/// families that there are: nobody outside reaches those.
pub(super) fn open(
    threads: NonZeroUsize,
    interception: Interception,
    (budget, congestion): (&Arc<Budget>, &Congestion),
) -> Result<(u16, Vec<Sockets>), StartError> {
    let raw = &Arc::new(RawSockets::new(Arc::clone(budget)));
    let opening = Opening { threads, interception, budget, raw, congestion };
    let mut last = None;
    for _ in 0..TRIES {
        match opening.all() {
            Err(error)
                if matches!(&error, StartError::Listen { error: listen::Error::InUse, .. }) =>
            {
                last = Some(error);
            }
            done => return done,
        }
    }
    Err(last.expect("there is at least one try"))
}

/// With each datagram the kernel says where it was sent to.
pub(super) fn tell_destination(socket: &impl AsFd, family: Family) -> io::Result<()> {
    match family {
        Family::V4 => setsockopt(socket, sockopt::Ipv4OrigDstAddr, &true)?,
        Family::V6 => setsockopt(socket, sockopt::Ipv6OrigDstAddr, &true)?,
    }
    Ok(())
}

struct Opening<'a> {
    threads: NonZeroUsize,
    interception: Interception,
    budget: &'a Arc<Budget>,
    raw: &'a Arc<RawSockets>,
    congestion: &'a Congestion,
}

impl Opening<'_> {
    fn all(&self) -> Result<(u16, Vec<Sockets>), StartError> {
        let mut all: Vec<Sockets> = Vec::new();
        all.resize_with(self.threads.get(), Sockets::default);
        let mut port = 0;
        for address in LOOPBACK {
            for sockets in &mut all {
                let at = SocketAddr::new(address, port);
                let listener = match self.tcp(at).map_err(listen::Error::from) {
                    Err(error) if error.is_of_unused_family(at) => break,
                    Err(error) => return Err(StartError::Listen { at, error }),
                    Ok(listener) => listener,
                };
                let bound = listener.local_addr().map_err(StartError::Socket)?;
                let at = SocketAddr::new(address, bound.port());
                port = bound.port();
                let udp = self.udp(at);
                let udp = udp.map_err(|error| StartError::Listen { at, error: error.into() })?;
                sockets.tcp.push(listener);
                let (socket, replies) = udp;
                sockets.udp.push(Datagrams { socket, replies, sessions: Vec::new() });
            }
        }
        if port == 0 {
            return Err(StartError::NoLoopback);
        }
        Ok((port, all))
    }

    /// What is set here accepted connections inherit.
    fn tcp(&self, at: SocketAddr) -> io::Result<std::net::TcpListener> {
        let socket = self.socket(at, Type::STREAM)?;
        // Else what is accepted for a node port of a loopback address keeps a socket of its own from
        // being bound there, when the kernel carries the Service from then on.
        socket.set_reuse_address(true)?;
        socket.set_tcp_nodelay(true)?;
        socket.set_tcp_keepalive(&KEEPALIVE)?;
        self.congestion.begin(&socket);
        socket.bind(&at.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    }

    fn udp(&self, at: SocketAddr) -> io::Result<(std::net::UdpSocket, Replies)> {
        let socket = self.socket(at, Type::DGRAM)?;
        let _ = socket.set_recv_buffer_size(RECEIVED);
        tell_destination(&socket, Family::of(at.ip()))?;
        socket.bind(&at.into())?;
        let budget = Arc::clone(self.budget);
        let replies = match self.interception {
            Interception::Tproxy => Replies::transparent(budget, Arc::clone(self.raw)),
            #[cfg(test)]
            Interception::None => Replies::listening(budget),
        };
        Ok((socket.into(), replies))
    }

    /// Each thread has one at the same address: the kernel spreads connections over them, and sends
    /// a client's datagrams to the same one always.
    fn socket(&self, at: SocketAddr, kind: Type) -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(at), kind, None)?;
        socket.set_nonblocking(true)?;
        socket.set_reuse_port(true)?;
        if at.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        if self.interception == Interception::Tproxy {
            match at {
                SocketAddr::V4(_) => socket.set_ip_transparent_v4(true)?,
                SocketAddr::V6(_) => socket.set_ip_transparent_v6(true)?,
            }
        }
        Ok(socket)
    }
}
