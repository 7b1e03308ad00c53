//! Local ports towards an endpoint of which every one is in TIME_WAIT.
//!
//! Where the client closes first, so does the relay towards the endpoint, and keeps the port for a
//! minute: some 28,000 ports (`net.ipv4.ip_local_port_range`) are used up by 470 connections per second
//! to one endpoint. connect() then says EADDRNOTAVAIL, having looked at all of them. A socket that is
//! bound to a port by name takes one over that is in TIME_WAIT, if both have SO_REUSEADDR and the
//! former connection had timestamps, by which the endpoint tells old segments from new
//! (`tcp_twsk_unique`, RFC 6191), whatever `net.ipv4.tcp_tw_reuse` says.

use super::congestion::Congestion;
use super::outgoing::{connect_soon, socket};
use foldhash::HashMap;
use socket2::Socket;
use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// How long ports are taken by name, without asking the kernel to look for a free one.
const LASTS: Duration = Duration::from_secs(1);

/// Endpoints that are remembered; when there are more, all are forgotten.
const MOST: usize = 1024;

/// Ports that are tried for one connection: others may use them.
const TRIES: usize = 64;

/// In turns, so that each has been left alone for as long as can be.
static NEXT: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static USED_UP: RefCell<HashMap<SocketAddr, Instant>> = RefCell::default();
}

pub(super) fn is_used_up(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EADDRNOTAVAIL)
}

/// Whether the kernel found no port towards this endpoint a moment ago.
pub(super) fn are_used_up(to: SocketAddr) -> bool {
    USED_UP.with_borrow_mut(|known| {
        if known.is_empty() {
            return false;
        }
        let used_up = known.get(&to).is_some_and(|noted| noted.elapsed() < LASTS);
        if !used_up {
            known.remove(&to);
        }
        used_up
    })
}

pub(super) fn note(to: SocketAddr) {
    USED_UP.with_borrow_mut(|known| {
        if known.len() >= MOST {
            known.clear();
        }
        known.insert(to, Instant::now());
    });
}

/// Begins a connection from a port that former ones have left.
pub(super) fn begin_again(to: SocketAddr, congestion: &Congestion) -> io::Result<Socket> {
    let unspecified: IpAddr =
        if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let range = range();
    let count = usize::from(range.end() - range.start()) + 1;
    for _ in 0..TRIES.min(count) {
        let place = NEXT.fetch_add(1, Ordering::Relaxed) % count;
        let port = range.start() + u16::try_from(place).expect("a place among the ports");
        let socket = socket(to, congestion)?;
        if to.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        let bound = socket.bind(&SocketAddr::new(unspecified, port).into());
        match bound.and_then(|()| connect_soon(&socket, &to.into())) {
            Ok(()) => return Ok(socket),
            Err(error) if is_used_up(&error) || error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::from_raw_os_error(libc::EADDRNOTAVAIL))
}

/// Of IPv6 too.
fn range() -> &'static RangeInclusive<u16> {
    const DEFAULT: RangeInclusive<u16> = 32_768..=60_999;
    static RANGE: OnceLock<RangeInclusive<u16>> = OnceLock::new();
    RANGE.get_or_init(|| {
        let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
        text.ok().as_deref().and_then(parsed).unwrap_or(DEFAULT)
    })
}

fn parsed(text: &str) -> Option<RangeInclusive<u16>> {
    let mut ports = text.split_whitespace().map(str::parse::<u16>);
    let (first, last) = (ports.next()?.ok()?, ports.next()?.ok()?);
    (first <= last).then_some(first..=last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_range_is_read_as_the_kernel_writes_it() {
        assert_eq!(parsed("32768\t60999\n"), Some(32_768..=60_999));
        assert_eq!(parsed("60999\t32768\n"), None);
        assert_eq!(parsed(""), None);
    }

    #[test]
    fn an_endpoint_is_remembered_for_itself() {
        let [one, other] = ["192.0.2.1:80", "192.0.2.1:81"].map(|at| at.parse().unwrap());
        assert!(!are_used_up(one));
        note(one);
        assert!(are_used_up(one) && !are_used_up(other));
    }
}
