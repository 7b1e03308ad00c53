//! Where an accepted connection was to go. EDGE.

use nix::sys::socket::{getsockopt, sockopt};
use socket2::SockRef;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use tokio::net::TcpStream;

/// The client's word for the frontend. tproxy leaves it at the packet; what came to the relay's own
/// `port` was translated there, which conntrack knows (`SO_ORIGINAL_DST`, `IP6T_SO_ORIGINAL_DST`), or
/// was sent there by a client that has no business with it.
pub(super) fn destination(stream: &TcpStream, port: Option<u16>) -> Option<SocketAddr> {
    let local = stream.local_addr().ok()?;
    if port != Some(local.port()) {
        return Some(local);
    }
    let socket = SockRef::from(stream);
    let (opaque, asked) = match local {
        SocketAddr::V4(_) => {
            let asked = getsockopt(stream, sockopt::OriginalDst).map(|to| {
                let address = Ipv4Addr::from(u32::from_be(to.sin_addr.s_addr));
                SocketAddrV4::new(address, u16::from_be(to.sin_port)).into()
            });
            (socket.set_ip_transparent_v4(false), asked)
        }
        SocketAddr::V6(_) => {
            let asked = getsockopt(stream, sockopt::Ip6tOriginalDst).map(|to| {
                let address = Ipv6Addr::from(to.sin6_addr.s6_addr);
                SocketAddrV6::new(address, u16::from_be(to.sin6_port), 0, 0).into()
            });
            (socket.set_ip_transparent_v6(false), asked)
        }
    };
    // Two frontends have this port: where a client connects to both from one port of its own, conntrack
    // gives it another towards here, on the way in, behind where packets find their sockets. The kernel
    // then looks again, unless the one that it found is transparent (`nf_nat_ipv4_local_in`, 6.18).
    opaque.ok()?;
    Some(asked.unwrap_or(local))
}
