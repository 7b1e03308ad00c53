//! Routes of vipd's that others removed, as the kernel reports them. EDGE.
//!
//! In: notifications of rtnetlink. Out: [`Departed`].
//! Never: a notification of another's route, or of vipd's own doing: a socket filter keeps them out, so
//! that a node whose routes change by the thousands wakes nobody here.

use super::error::Error;
use super::route::{PROTOCOL, RTM_DELROUTE, read_departed};
use crate::netlink::Socket;
use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};

/// `RTNLGRP_IPV4_ROUTE`, `RTNLGRP_IPV6_ROUTE`
const GROUPS: [u32; 2] = [7, 11];

#[derive(Debug)]
pub(super) struct Departures {
    socket: Socket,
    /// While there are routes.
    listening: bool,
}

/// Whose routes went.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Departed {
    Of(BTreeSet<IpAddr>),
    /// Notifications were lost.
    Unknown,
}

impl AsFd for Departures {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Departures {
    /// Hears nothing yet. `own`: the socket whose removals are vipd's.
    pub(super) fn open(own: &Socket) -> Result<Self, Error> {
        let socket = Socket::open_route().map_err(Error::Route)?;
        socket.set_nonblocking(true).map_err(Error::Route)?;
        filter(&socket, own.port_id()).map_err(Error::Route)?;
        Ok(Self { socket, listening: false })
    }

    /// Hears from now on what goes, or no more.
    pub(super) fn listen(&mut self, listening: bool) -> Result<(), Error> {
        if self.listening == listening {
            return Ok(());
        }
        for group in GROUPS {
            let done = if listening { self.socket.join(group) } else { self.socket.leave(group) };
            done.map_err(Error::Route)?;
        }
        self.listening = listening;
        Ok(())
    }

    /// Everything that has arrived.
    pub(super) fn read(&mut self) -> Result<Departed, Error> {
        let (mut gone, mut lost) = (BTreeSet::new(), false);
        loop {
            match self.socket.receive() {
                Ok(messages) => gone.extend(messages.filter_map(|message| read_departed(&message))),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => lost = true,
                Err(error) => return Err(Error::Route(error)),
            }
        }
        Ok(if lost { Departed::Unknown } else { Departed::Of(gone) })
    }
}

/// Lets pass what says that a route of vipd's went, and that another socket than `own` did it. The
/// kernel sends each such message alone.
fn filter(socket: &Socket, own: u32) -> io::Result<()> {
    const LOAD_WORD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
    const LOAD_HALF: u16 = 0x28; // BPF_LD | BPF_H | BPF_ABS
    const LOAD_BYTE: u16 = 0x30; // BPF_LD | BPF_B | BPF_ABS
    const JUMP_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
    const RETURN: u16 = 0x06; // BPF_RET | BPF_K
    // In `struct nlmsghdr`, in `struct rtmsg` behind it, and in the header again.
    const KIND_AT: u32 = 4;
    const PROTOCOL_AT: u32 = 16 + 5;
    const PORT_ID_AT: u32 = 12;
    let op = socket2::SockFilter::new;
    // Loads read network order, headers are in host order.
    let kind = u16::from_be_bytes(RTM_DELROUTE.to_ne_bytes());
    let own = u32::from_be_bytes(own.to_ne_bytes());
    let program = [
        op(LOAD_HALF, 0, 0, KIND_AT),
        op(JUMP_EQUAL, 0, 5, u32::from(kind)),
        op(LOAD_BYTE, 0, 0, PROTOCOL_AT),
        op(JUMP_EQUAL, 0, 3, u32::from(PROTOCOL)),
        op(LOAD_WORD, 0, 0, PORT_ID_AT),
        op(JUMP_EQUAL, 1, 0, own),
        op(RETURN, 0, 0, u32::MAX),
        op(RETURN, 0, 0, 0),
    ];
    socket2::SockRef::from(socket).attach_filter(&program)
}
