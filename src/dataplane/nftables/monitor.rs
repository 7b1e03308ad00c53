//! Foreign edits of the table, as the kernel reports them. EDGE.
//!
//! In: notifications of other programs' commits. Out: [`Edits`].
//! Never: our own commits; a socket filter keeps them out.

use super::error::Error;
use super::expr::NFPROTO_INET;
use super::layout::TABLE;
use super::set::{Bytes, Element, Set};
use crate::netlink::{Message, SUBSYS_NFTABLES, Socket};
use crate::nft::write::{
    NFT_MSG_DELSET, NFT_MSG_DELSETELEM, NFT_MSG_DELTABLE, NFT_MSG_NEWGEN, NFT_MSG_NEWSET,
    NFT_MSG_NEWSETELEM, NFTA_SET_ELEM_LIST_ELEMENTS, NFTA_SET_ELEM_LIST_SET,
};
use foldhash::HashSet;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

/// `NFNLGRP_NFTABLES`
const GROUP: u32 = 7;

/// What others did to the table since it was asked last.
#[derive(Debug, Default)]
pub struct Edits {
    pub scope: Scope,
    pub elements: HashSet<(Set, Bytes)>,
}

/// How far the damage may go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// At most the elements listed.
    #[default]
    Elements,
    /// Chains or rules too.
    Chains,
    /// Anything: notifications were lost, or a set changed.
    Unknown,
    /// The table is gone.
    Table,
}

impl Edits {
    pub fn is_empty(&self) -> bool {
        self.scope == Scope::Elements && self.elements.is_empty()
    }
}

#[derive(Debug)]
pub struct Monitor {
    socket: Socket,
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Monitor {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl Monitor {
    /// Listens to all commits but those of the socket `own`. Subscribing costs every commit about
    /// as much again, so it is done after the first load.
    pub fn open(own: u32) -> Result<Self, Error> {
        let socket = Socket::open().map_err(Error::Open)?;
        socket.set_nonblocking(true).map_err(Error::Open)?;
        filter(&socket, own).map_err(Error::Open)?;
        socket.join(GROUP).map_err(Error::Open)?;
        Ok(Self { socket })
    }

    /// Hears nothing until `resume`, and costs nothing meanwhile.
    pub fn pause(&self) -> Result<(), Error> {
        self.socket.leave(GROUP).map_err(Error::Open)
    }

    pub fn resume(&self) -> Result<(), Error> {
        self.socket.join(GROUP).map_err(Error::Open)
    }

    /// Everything that has arrived.
    pub fn read(&mut self) -> Result<Edits, Error> {
        let mut edits = Edits::default();
        loop {
            match self.socket.receive() {
                Ok(messages) => messages.for_each(|message| note(&mut edits, &message)),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(edits),
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => {
                    edits.scope = edits.scope.max(Scope::Unknown);
                }
                Err(e) => return Err(Error::Receive(e)),
            }
        }
    }
}

/// Drops datagrams whose first message says that the socket `own` caused them.
fn filter(socket: &Socket, own: u32) -> io::Result<()> {
    const LOAD_WORD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
    const JUMP_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
    const RETURN: u16 = 0x06; // BPF_RET | BPF_K
    const PORT_ID_AT: u32 = 12;
    let op = socket2::SockFilter::new;
    let program = [
        // The load reads network order, the header is in host order.
        op(LOAD_WORD, 0, 0, PORT_ID_AT),
        op(JUMP_EQUAL, 0, 1, own.swap_bytes_if_little()),
        op(RETURN, 0, 0, 0),
        op(RETURN, 0, 0, u32::MAX),
    ];
    socket2::SockRef::from(socket).attach_filter(&program)
}

trait HostOrder {
    fn swap_bytes_if_little(self) -> Self;
}

impl HostOrder for u32 {
    fn swap_bytes_if_little(self) -> Self {
        u32::from_be_bytes(self.to_ne_bytes())
    }
}

fn note(edits: &mut Edits, message: &Message<'_>) {
    let kind = message.kind & 0xff;
    if message.kind >> 8 != SUBSYS_NFTABLES || kind == NFT_MSG_NEWGEN {
        return;
    }
    // Attribute 1 names the table in every message of a ruleset.
    let ours = message.family() == NFPROTO_INET
        && message.attributes().find(1).is_some_and(|table| table.str() == TABLE);
    if !ours {
        return;
    }
    match kind {
        NFT_MSG_NEWSETELEM | NFT_MSG_DELSETELEM => {
            let attributes = message.attributes();
            let set = attributes.find(NFTA_SET_ELEM_LIST_SET).and_then(|a| Set::by_name(a.str()));
            let Some(set) = set else { return };
            if let Some(list) = attributes.find(NFTA_SET_ELEM_LIST_ELEMENTS) {
                let elements = list.nested().filter_map(|e| Element::read(e.nested()));
                edits.elements.extend(elements.map(|element| (set, element.key)));
            }
        }
        NFT_MSG_DELTABLE => edits.scope = Scope::Table,
        NFT_MSG_NEWSET | NFT_MSG_DELSET => edits.scope = edits.scope.max(Scope::Unknown),
        _ => edits.scope = edits.scope.max(Scope::Chains),
    }
}
