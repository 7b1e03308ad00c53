//! Congestion control of relayed connections. EDGE.
//!
//! In: sockets. Out: sockets that do not pace what goes to who is near.
//! Never: another congestion control than the node's (`net.ipv4.tcp_congestion_control`) where that does
//! not pace, or towards who is far.
//!
//! BBR paces. Where no `fq` does it, a timer of each connection does (`tcp_pace_kick`, 6.18), and takes a
//! relay on a fast link up to half of its CPU time per byte. The kernel never takes pacing back from a
//! socket that connected with it (`sk_pacing_status`), so a connection begins with what the kernel always
//! has and allows, Reno, which in so short a round trip behaves as CUBIC does. Is the other end far, it
//! gets the node's once it has moved much.

use super::round_trip::Asking;
use socket2::{Domain, SockRef, Socket, Type};
use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::net::TcpStream;

const UNPACED: &[u8] = b"reno";

/// Names of what paces begin so: `bbr`, and its later versions, which kernels outside mainline have.
const PACES: &[u8] = b"bbr";

/// Who is no further away than this is in the same place. More than a round trip between a region's
/// zones, and less than one to the next city.
const NEAR: Duration = Duration::from_millis(2);

#[derive(Debug)]
pub(super) struct Congestion {
    /// The node's.
    node: Vec<u8>,
    paces: bool,
    near: Duration,
    asking: Mutex<Asking>,
}

impl Congestion {
    /// As the calling thread's network namespace has it.
    pub(super) fn of_node() -> Self {
        let node = Socket::new(Domain::IPV4, Type::STREAM, None)
            .and_then(|socket| socket.tcp_congestion())
            .map(|name| name.split(|byte| *byte == 0).next().unwrap_or_default().to_owned());
        let node = node.unwrap_or_default();
        Self { paces: node.starts_with(PACES), ..Self::new(node, NEAR) }
    }

    fn new(node: Vec<u8>, near: Duration) -> Self {
        Self { node, paces: true, near, asking: Mutex::default() }
    }

    /// For a socket that has not connected yet. What a listener has, those that it accepts have too.
    pub(super) fn begin(&self, socket: &impl AsFd) {
        if self.paces {
            let _ = SockRef::from(socket).set_tcp_congestion(UNPACED);
        }
    }

    /// For a listener of a former process, which may have found another congestion control on the node.
    pub(super) fn begin_again(&self, listener: &impl AsFd) {
        let name = if self.paces { UNPACED } else { &self.node };
        let _ = SockRef::from(listener).set_tcp_congestion(name);
    }

    /// For one that is about to send much. Is it unknown how far the other end is, it is far.
    pub(super) fn settle(&self, stream: &TcpStream) {
        if !self.paces {
            return;
        }
        let mut asking = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        let round_trip = asking.least(stream).unwrap_or(Duration::MAX);
        if round_trip > self.near {
            let _ = SockRef::from(stream).set_tcp_congestion(&self.node);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    fn is(stream: &TcpStream, name: &[u8]) -> bool {
        SockRef::from(stream).tcp_congestion().unwrap().starts_with(name)
    }

    /// Which congestion control is loaded here is not this test's to say, but that the one it has is asked for.
    #[tokio::test]
    async fn who_is_far_has_the_nodes_again() {
        let default = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let default = default.tcp_congestion().unwrap();
        for (near, changes) in [(Duration::from_secs(3600), false), (Duration::ZERO, true)] {
            let congestion = Congestion::new(default.clone(), near);
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            congestion.begin(&listener);
            let at = listener.local_addr().unwrap();
            let (client, accepted) = tokio::join!(TcpStream::connect(at), listener.accept());
            let (client, accepted) = (client.unwrap(), accepted.unwrap().0);
            assert!(is(&client, &default) && is(&accepted, UNPACED));
            congestion.settle(&accepted);
            assert!(is(&accepted, if changes { &default } else { UNPACED }));
        }
    }

    #[tokio::test]
    async fn what_does_not_pace_is_left() {
        let of = |listener: &TcpListener| SockRef::from(listener).tcp_congestion().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let default = of(&listener);
        let paces = Congestion::new(default.clone(), NEAR);
        let does_not = Congestion { paces: false, ..Congestion::new(default.clone(), NEAR) };
        does_not.begin(&listener);
        assert_eq!(of(&listener), default);
        paces.begin_again(&listener);
        assert!(of(&listener).starts_with(UNPACED));
        does_not.begin_again(&listener);
        assert_eq!(of(&listener), default);
    }
}
