//! One netlink socket. EDGE: all system calls of this room are here.

use super::{Message, Messages, NLM_F_ACK_TLVS, NLM_F_CAPPED, NLMSG_ERROR};
use netlink_sys::constants::{NETLINK_NETFILTER, NETLINK_ROUTE, NETLINK_SOCK_DIAG};
use rustix::buffer::spare_capacity;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{RecvFlags, SendFlags, sockopt};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

/// Large enough for any datagram of a dump: the kernel fills at most 32 KiB at a time.
const RECEIVE: usize = 64 * 1024;
/// Asked for; what was granted is `send_capacity`.
/// A limit, no memory: nf_tables' largest transaction carries a whole set.
const WANTED_SEND_BUFFER: usize = 256 << 20;
const WANTED_RECEIVE_BUFFER: usize = 8 << 20;

pub struct Socket {
    inner: Inner,
    port_id: u32,
    seq: u32,
    buffer: Vec<u8>,
}

enum Inner {
    Own(netlink_sys::Socket),
    /// Another process made it and set it up.
    Handed(OwnedFd),
}

impl AsFd for Inner {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Inner::Own(socket) => socket.as_fd(),
            Inner::Handed(fd) => fd.as_fd(),
        }
    }
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Socket").field("port_id", &self.port_id).finish_non_exhaustive()
    }
}

impl Socket {
    /// A netfilter socket of the namespace of the calling thread.
    pub fn open() -> io::Result<Self> {
        Self::open_of(NETLINK_NETFILTER)
    }

    /// An rtnetlink socket of that namespace. Its dumps hold what was asked for only.
    pub fn open_route() -> io::Result<Self> {
        let socket = Self::open_of(NETLINK_ROUTE)?;
        // Without it a dump holds more, which whoever reads it must leave out anyway.
        if let Inner::Own(inner) = &socket.inner {
            let _ = inner.set_netlink_get_strict_chk(true);
        }
        Ok(socket)
    }

    /// One of that namespace that is asked about sockets, sock_diag(7).
    pub fn open_diag() -> io::Result<Self> {
        Self::open_of(NETLINK_SOCK_DIAG)
    }

    fn open_of(protocol: isize) -> io::Result<Self> {
        let mut inner = netlink_sys::Socket::new(protocol)?;
        let address = inner.bind_auto()?;
        // Both are refused only by kernels far below vipd's minimum; errors are then less clear.
        let _ = inner.set_ext_ack(true);
        let _ = inner.set_cap_ack(true);
        // FORCE passes the system-wide limits but needs CAP_NET_ADMIN in the first user namespace.
        let fd = inner.as_fd();
        if sockopt::set_socket_send_buffer_size_force(fd, WANTED_SEND_BUFFER).is_err() {
            sockopt::set_socket_send_buffer_size(fd, WANTED_SEND_BUFFER)?;
        }
        if sockopt::set_socket_recv_buffer_size_force(fd, WANTED_RECEIVE_BUFFER).is_err() {
            sockopt::set_socket_recv_buffer_size(fd, WANTED_RECEIVE_BUFFER)?;
        }
        let (port_id, inner) = (address.port_number(), Inner::Own(inner));
        Ok(Self { port_id, inner, seq: 0, buffer: Vec::new() })
    }

    /// A socket that another process opened, which is what the kernel knows it by; of no group. What
    /// it was asked before must have been read.
    pub fn handed(fd: OwnedFd) -> io::Result<Self> {
        let address = SocketAddrNetlink::try_from(rustix::net::getsockname(&fd)?)?;
        Ok(Self { port_id: address.pid(), inner: Inner::Handed(fd), seq: 0, buffer: Vec::new() })
    }

    /// The same socket, to be handed to another process: it lives while one of both has it.
    pub fn hand(&self) -> io::Result<OwnedFd> {
        self.inner.as_fd().try_clone_to_owned()
    }

    /// The `nlmsg_pid` that the kernel's notifications of our own changes carry.
    pub fn port_id(&self) -> u32 {
        self.port_id
    }

    /// The next sequence number.
    pub fn next_seq(&mut self) -> u32 {
        self.seq = self.seq.wrapping_add(1);
        self.seq
    }

    /// Bytes that one `send` may have. The kernel reports twice what it grants, the other half
    /// being for its bookkeeping; a datagram also carries a `struct skb_shared_info`.
    pub fn send_capacity(&self) -> io::Result<usize> {
        let doubled = sockopt::socket_send_buffer_size(self.inner.as_fd())?;
        Ok((doubled / 2).saturating_sub(4096))
    }

    /// The last sequence number given out.
    pub fn seq(&self) -> u32 {
        self.seq
    }

    /// Goes on behind sequence numbers that were used without asking.
    pub fn set_seq(&mut self, seq: u32) {
        self.seq = seq;
    }

    /// Bytes of answers that may wait to be read.
    pub fn receive_capacity(&self) -> io::Result<usize> {
        Ok(sockopt::socket_recv_buffer_size(self.inner.as_fd())?)
    }

    /// Limits the send buffer, as an unprivileged daemon's is limited.
    pub fn limit_send_buffer(&self, bytes: usize) -> io::Result<()> {
        Ok(sockopt::set_socket_send_buffer_size(self.inner.as_fd(), bytes)?)
    }

    /// Joins a multicast group; from now on its notifications arrive.
    pub fn join(&self, group: u32) -> io::Result<()> {
        self.own()?.add_membership(group)
    }

    /// Leaves a multicast group; what it said already can still be read.
    pub fn leave(&self, group: u32) -> io::Result<()> {
        self.own()?.drop_membership(group)
    }

    fn own(&self) -> io::Result<&netlink_sys::Socket> {
        match &self.inner {
            Inner::Own(socket) => Ok(socket),
            Inner::Handed(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    pub fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        Ok(rustix::io::ioctl_fionbio(&self.inner, nonblocking)?)
    }

    /// Hands the messages to the kernel; for nf_tables and conntrack they are carried out before
    /// this returns.
    pub fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let sent = rustix::net::send(&self.inner, bytes, SendFlags::empty())?;
        if sent == bytes.len() {
            Ok(())
        } else {
            Err(io::Error::new(io::ErrorKind::WriteZero, "netlink took part of a datagram"))
        }
    }

    /// One datagram. `ENOBUFS` means that notifications were lost.
    pub fn receive(&mut self) -> io::Result<Messages<'_>> {
        self.buffer.clear();
        self.buffer.reserve(RECEIVE);
        rustix::net::recv(&self.inner, spare_capacity(&mut self.buffer), RecvFlags::empty())?;
        Ok(Messages(&self.buffer))
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.inner.as_fd().as_raw_fd()
    }
}

/// What an NLMSG_ERROR says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtendedError {
    /// Positive errno; 0 is an acknowledgement.
    pub errno: i32,
    /// The kernel's explanation, where it gives one.
    pub message: Option<String>,
    /// Offset in the request, from its header on, of the attribute it stumbled over.
    pub offset: Option<u32>,
    /// Sequence number of the request.
    pub seq: u32,
}

impl ExtendedError {
    /// `None` if the message is no error or acknowledgement.
    pub fn of(message: &Message<'_>) -> Option<Self> {
        const NLMSGERR_ATTR_MSG: u16 = 1;
        const NLMSGERR_ATTR_OFFS: u16 = 2;
        if message.kind != NLMSG_ERROR || message.payload.len() < 20 {
            return None;
        }
        let errno = i32::from_ne_bytes(message.payload[..4].try_into().ok()?);
        let mut error = Self { errno: -errno, message: None, offset: None, seq: message.seq };
        if message.flags & NLM_F_ACK_TLVS != 0 {
            // The request's header always follows the errno, its body only without CAPPED.
            let request = u32::from_ne_bytes(message.payload[4..8].try_into().ok()?) as usize;
            let skip = 4 + if message.flags & NLM_F_CAPPED != 0 { 16 } else { (request + 3) & !3 };
            for attribute in super::Attributes(message.payload.get(skip..).unwrap_or(&[])) {
                match attribute.kind {
                    NLMSGERR_ATTR_MSG => error.message = Some(attribute.str().to_owned()),
                    // Host byte order: an attribute of netlink's core, not of netfilter.
                    NLMSGERR_ATTR_OFFS => {
                        error.offset = attribute.value.try_into().ok().map(u32::from_ne_bytes);
                    }
                    _ => {}
                }
            }
        }
        Some(error)
    }
}

impl fmt::Display for ExtendedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", io::Error::from_raw_os_error(self.errno))?;
        if let Some(message) = &self.message {
            write!(f, ": {message}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ExtendedError {}
