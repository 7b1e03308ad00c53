//! Datagrams that are there at the same time, received and sent in fewer pieces than there are of them.
//! EDGE.
//!
//! The way through the kernel's stack is what a datagram costs most. It takes several of one size as one
//! (`UDP_SEGMENT`, Linux 4.18), and gives them so (`UDP_GRO`, 5.0) where they came so: udp(7).

use super::handed::Ends;
use super::passing;
use super::tcp::is_of_this_node;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt,
    sockopt,
};
use socket2::SockRef;
use std::cell::RefCell;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd};
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// Received in one go; then others of this thread have their turn.
const TURN: usize = 64;

/// What is sent as one: UDP_MAX_SEGMENTS of Linux before 6.9, and what a packet holds beside its headers.
const SEGMENTS: usize = 64;
const TOGETHER: usize = 65_000;

thread_local! {
    static ROOM: RefCell<Room> = RefCell::new(Room::new());
}

/// Of one thread, for all its sockets. Not to be used within itself.
struct Room {
    /// What is received lies end to end. Twice as much as ends a turn: the last piece may be as large as one
    /// can be.
    bytes: Box<[u8]>,
    control: Vec<u8>,
    pieces: Vec<Piece>,
}

/// Where in the room something lies that was received as one.
struct Piece {
    /// Where they are asked for, until they have been taken.
    ends: Option<Ends>,
    at: Range<usize>,
    /// Of each datagram in it; the last one may be shorter.
    size: usize,
}

/// Whether a socket says whom a datagram is from and where it was sent to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tells {
    Ends,
    /// It is connected.
    Nothing,
}

impl Room {
    fn new() -> Self {
        Self {
            bytes: vec![0; 2 * passing::SIZE].into(),
            control: nix::cmsg_space!(
                nix::libc::sockaddr_in6,
                nix::libc::sockaddr_in6,
                [u64; 4],
                i32
            ),
            pieces: Vec::new(),
        }
    }

    /// What is there, up to a turn's worth. An error (there is nothing more, for one) leaves what came
    /// before it.
    fn fill(&mut self, socket: &UdpSocket, tells: Tells) -> io::Result<()> {
        self.pieces.clear();
        let mut used = 0;
        while self.pieces.len() < TURN && used < passing::SIZE {
            let room = &mut self.bytes[used..used + passing::SIZE];
            let control = &mut self.control;
            let (ends, length, size) =
                socket.try_io(Interest::READABLE, || receive(socket, room, control))?;
            let ends = match (tells, ends) {
                (Tells::Nothing, _) => None,
                (Tells::Ends, Some(ends)) => Some(ends),
                (Tells::Ends, None) => {
                    let reason = "the kernel does not say where a datagram was sent to";
                    return Err(io::Error::other(reason));
                }
            };
            self.pieces.push(Piece { ends, at: used..used + length, size });
            used += length;
        }
        Ok(())
    }
}

impl Piece {
    fn datagrams<'r>(&self, bytes: &'r [u8]) -> impl Iterator<Item = &'r [u8]> + use<'r> {
        let bytes = &bytes[self.at.clone()];
        // One without a byte is one too.
        let empty = bytes.is_empty().then_some(bytes);
        empty.into_iter().chain(bytes.chunks(self.size.max(1)))
    }
}

/// Asks a socket to give as one what came as one. A kernel that does not know how gives them one by one.
pub(super) fn take_together(socket: &impl AsFd) {
    let _ = setsockopt(&socket.as_fd(), sockopt::UdpGroSegment, &true);
}

/// What a listening socket has been sent: `take` gets the datagrams of each client to a frontend, in their
/// order.
pub(super) fn from_clients(
    socket: &UdpSocket,
    mut take: impl FnMut(Ends, &[&[u8]]),
) -> io::Result<()> {
    ROOM.with_borrow_mut(|room| {
        let filled = room.fill(socket, Tells::Ends);
        let Room { bytes, pieces, .. } = room;
        for first in 0..pieces.len() {
            let Some(ends) = pieces[first].ends.take() else { continue };
            let mut datagrams: Vec<&[u8]> = pieces[first].datagrams(bytes).collect();
            for piece in &mut pieces[first + 1..] {
                if piece.ends == Some(ends) {
                    piece.ends = None;
                    datagrams.extend(piece.datagrams(bytes));
                }
            }
            take(ends, &datagrams);
        }
        filled
    })
}

/// The same of a socket that is connected to an endpoint.
pub(super) fn from_endpoint(socket: &UdpSocket, take: impl FnOnce(&[&[u8]])) -> io::Result<()> {
    ROOM.with_borrow_mut(|room| {
        let filled = room.fill(socket, Tells::Nothing);
        let pieces = room.pieces.iter();
        let datagrams: Vec<&[u8]> = pieces.flat_map(|piece| piece.datagrams(&room.bytes)).collect();
        if !datagrams.is_empty() {
            take(&datagrams);
        }
        filled
    })
}

/// How long it is, and each datagram in it.
fn receive(
    socket: &UdpSocket,
    room: &mut [u8],
    control: &mut [u8],
) -> io::Result<(Option<Ends>, usize, usize)> {
    let mut parts = [IoSliceMut::new(room)];
    let flags = MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut parts, Some(control), flags)?;
    let (mut frontend, mut size) = (None, message.bytes);
    for part in message.cmsgs()? {
        match part {
            ControlMessageOwned::Ipv4OrigDstAddr(to) => {
                let address = Ipv4Addr::from(u32::from_be(to.sin_addr.s_addr));
                frontend = Some(SocketAddrV4::new(address, u16::from_be(to.sin_port)).into());
            }
            ControlMessageOwned::Ipv6OrigDstAddr(to) => {
                let address = Ipv6Addr::from(to.sin6_addr.s6_addr);
                let port = u16::from_be(to.sin6_port);
                frontend = Some(SocketAddrV6::new(address, port, 0, 0).into());
            }
            ControlMessageOwned::UdpGroSegments(each) => {
                size = usize::try_from(each).ok().filter(|each| *each > 0).unwrap_or(size);
            }
            _ => {}
        }
    }
    let client = message.address.as_ref().and_then(socket_address);
    let ends = client.zip(frontend).map(|(client, frontend)| Ends { client, frontend });
    Ok((ends, message.bytes, size))
}

fn socket_address(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| SocketAddr::V4((*v4).into()));
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| SocketAddr::V6((*v6).into())))
}

/// Whether the kernel is asked to send several datagrams as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sending {
    Together,
    /// It did not: one is larger than what the path carries in one piece, say.
    Apart,
}

/// What came of sending some.
#[derive(Debug, Default)]
pub(super) struct Sent {
    pub bytes: u64,
    /// Which one the other end does not take; it and those behind it have not been sent.
    pub refused: Option<(usize, io::Error)>,
}

/// Sends datagrams in their order, past tokio, which knows of a socket that it can be written to only after
/// a look at all sockets. What there is no room for is lost, as in any full queue. `to`: of a socket that
/// is not connected.
pub(super) fn send(
    socket: &impl AsFd,
    to: Option<SocketAddr>,
    datagrams: &[&[u8]],
    sending: &mut Sending,
) -> Sent {
    let (mut sent, mut at) = (Sent::default(), 0);
    while at < datagrams.len() {
        let several = match sending {
            Sending::Together => of_one_size(&datagrams[at..]),
            Sending::Apart => 1,
        };
        let some = &datagrams[at..at + several];
        let outcome = match several {
            1 => send_one(socket, to, some[0]),
            _ => send_together(socket, to, some),
        };
        match outcome {
            Ok(()) => sent.bytes += some.iter().map(|one| one.len() as u64).sum::<u64>(),
            Err(error) if several > 1 && is_no_way(&error) => {
                *sending = Sending::Apart;
                continue;
            }
            Err(error) if says_nothing(&error) => {}
            Err(error) => {
                sent.refused = Some((at, error));
                return sent;
            }
        }
        at += several;
    }
    sent
}

/// How many datagrams the kernel can take as one: the last may be shorter.
fn of_one_size(datagrams: &[&[u8]]) -> usize {
    let size = datagrams[0].len();
    let most = TOGETHER.checked_div(size).map_or(1, |fit| fit.clamp(1, SEGMENTS));
    let alike = datagrams.iter().take(most).take_while(|one| one.len() == size).count();
    let shorter = datagrams.get(alike).filter(|one| !one.is_empty() && one.len() < size);
    if alike < most && shorter.is_some() { alike + 1 } else { alike }
}

fn send_together(
    socket: &impl AsFd,
    to: Option<SocketAddr>,
    datagrams: &[&[u8]],
) -> io::Result<()> {
    let parts: Vec<IoSlice<'_>> = datagrams.iter().map(|one| IoSlice::new(one)).collect();
    let size = u16::try_from(datagrams[0].len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let (to, flags) = (to.map(SockaddrStorage::from), MsgFlags::MSG_DONTWAIT);
    let together = [ControlMessage::UdpGsoSegments(&size)];
    let socket = socket.as_fd().as_raw_fd();
    sendmsg(socket, &parts, &together, flags, to.as_ref())?;
    Ok(())
}

/// Fails also for an ICMP error about an earlier datagram, and has sent nothing then.
fn send_one(socket: &impl AsFd, to: Option<SocketAddr>, datagram: &[u8]) -> io::Result<()> {
    let socket = SockRef::from(socket);
    let send = || match to {
        None => socket.send(datagram),
        Some(to) => socket.send_to(datagram, &to.into()),
    };
    let mut sent = send();
    // The kernel has learned the path's MTU, and sends the next one in fragments.
    if sent.as_ref().is_err_and(is_too_big) {
        sent = send();
    }
    sent.map(drop)
}

/// They may go one by one: a piece would not fit the path's MTU (EINVAL; EMSGSIZE where the kernel has just
/// learned it), or IPsec or the lack of a checksum is in the way (EIO).
fn is_no_way(error: &io::Error) -> bool {
    let no_way = [libc::EINVAL, libc::EMSGSIZE, libc::EIO, libc::EOPNOTSUPP, libc::ENOPROTOOPT];
    error.raw_os_error().is_some_and(|code| no_way.contains(&code))
}

/// An error that says nothing against who is sent to: the datagram is lost, if it is about one.
pub(super) fn says_nothing(error: &io::Error) -> bool {
    let repeat = matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted);
    repeat || is_too_big(error) || is_of_this_node(error)
}

fn is_too_big(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EMSGSIZE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    async fn bound() -> UdpSocket {
        UdpSocket::bind("127.0.0.1:0").await.unwrap()
    }

    /// Until so many datagrams have come.
    async fn received(socket: &UdpSocket, count: usize) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        while all.len() < count {
            let ready = tokio::time::timeout(Duration::from_secs(10), socket.readable());
            ready.await.expect("all of them come").unwrap();
            let take = |some: &[&[u8]]| all.extend(some.iter().map(|one| one.to_vec()));
            let filled = from_endpoint(socket, take);
            assert!(filled.is_ok() || filled.is_err_and(|error| says_nothing(&error)));
        }
        all
    }

    fn of_sizes(sizes: &[usize]) -> Vec<Vec<u8>> {
        let numbered = sizes.iter().enumerate();
        numbered.map(|(number, size)| vec![number as u8; *size]).collect()
    }

    #[test]
    fn what_is_sent_as_one_is_of_one_size_but_for_its_end() {
        for (sizes, expected) in [
            (&[5, 5, 5][..], 3),
            (&[5, 5, 3, 5], 3),
            (&[5, 5, 6], 2),
            (&[5, 5, 0, 5], 2),
            (&[5, 4, 4], 2),
            (&[0, 0], 1),
            (&[9], 1),
            (&[7; 200], SEGMENTS),
            (&[30_000; 4], 2),
            (&[65_507; 2], 1),
        ] {
            let all = of_sizes(sizes);
            let all: Vec<&[u8]> = all.iter().map(|one| &one[..]).collect();
            assert_eq!(of_one_size(&all), expected, "{:?}", &sizes[..sizes.len().min(5)]);
        }
    }

    #[tokio::test]
    async fn datagrams_stay_what_they_were() {
        let sizes = [64, 64, 64, 10, 1400, 1400, 0, 0, 3, 64, 64, 9000, 60_000, 60_000, 1];
        for (ask, ways) in
            [(true, Sending::Together), (false, Sending::Together), (true, Sending::Apart)]
        {
            let (from, to) = (bound().await, bound().await);
            if ask {
                take_together(&to);
            }
            let all = of_sizes(&sizes);
            let slices: Vec<&[u8]> = all.iter().map(|one| &one[..]).collect();
            from.connect(to.local_addr().unwrap()).await.unwrap();
            let mut sending = ways;
            let sent = send(&from, None, &slices, &mut sending);
            assert!(sent.refused.is_none() && sending == ways, "{sent:?}");
            assert_eq!(sent.bytes, sizes.iter().sum::<usize>() as u64);
            assert_eq!(received(&to, sizes.len()).await, all);
        }
    }

    #[tokio::test]
    async fn what_came_as_one_is_one_piece() {
        let (from, to) = (bound().await, bound().await);
        take_together(&to);
        let all = of_sizes(&[100; 20]);
        let slices: Vec<&[u8]> = all.iter().map(|one| &one[..]).collect();
        let mut sending = Sending::Together;
        let sent = send(&from, Some(to.local_addr().unwrap()), &slices, &mut sending);
        assert_eq!((sent.bytes, sending), (2000, Sending::Together));
        to.readable().await.unwrap();
        let mut room = Room::new();
        let filled = room.fill(&to, Tells::Nothing);
        assert_eq!(filled.unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let pieces: Vec<usize> = room.pieces.iter().map(|piece| piece.at.len()).collect();
        assert_eq!(pieces, [2000]);
        assert_eq!(room.pieces[0].datagrams(&room.bytes).count(), 20);
    }

    #[tokio::test]
    async fn who_does_not_take_them_is_told_with_what_is_left() {
        let (from, gone) = (bound().await, bound().await);
        from.connect(gone.local_addr().unwrap()).await.unwrap();
        drop(gone);
        let all = of_sizes(&[10, 10, 20]);
        let slices: Vec<&[u8]> = all.iter().map(|one| &one[..]).collect();
        let sent = send(&from, None, &slices, &mut Sending::Together);
        let (at, error) = sent.refused.expect("an ICMP error comes at once on loopback");
        assert_eq!((at, error.kind()), (2, io::ErrorKind::ConnectionRefused));
        assert_eq!(sent.bytes, 20);
    }
}
