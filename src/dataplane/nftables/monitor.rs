//! Foreign edits of the table, as the kernel reports them. EDGE.
//!
//! In: notifications of other programs' commits. Out: [`Edits`].
//! Never: vipd's own commits, to this table or to another one of its own; a socket filter keeps them out.

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
use socket2::SockFilter;
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
    /// Listens to all commits but those of the socket `own`, and those to the table `other` of this
    /// family, which its owner alone can write to, in transactions of its own. Subscribing costs every
    /// commit about as much again, so it is done after the first load.
    pub fn open(own: u32, other: Option<&str>) -> Result<Self, Error> {
        let socket = Socket::open().map_err(Error::Open)?;
        socket.set_nonblocking(true).map_err(Error::Open)?;
        socket2::SockRef::from(&socket).attach_filter(&filter(own, other)).map_err(Error::Open)?;
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

/// Drops datagrams whose first message says that the socket `own` caused them, that a transaction has
/// ended, or that it is about the table `other`. A datagram is of one transaction.
fn filter(own: u32, other: Option<&str>) -> Vec<SockFilter> {
    const LOAD_WORD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
    const LOAD_HALF: u16 = 0x28; // BPF_LD | BPF_H | BPF_ABS
    const LOAD_BYTE: u16 = 0x30; // BPF_LD | BPF_B | BPF_ABS
    // In `struct nlmsghdr`, in `struct nfgenmsg` behind it, and in the attribute behind that, which in
    // every message of a ruleset is the table's name.
    const KIND_AT: u32 = 4;
    const PORT_ID_AT: u32 = 12;
    const FAMILY_AT: u32 = 16;
    const LENGTH_AT: u32 = 20;
    const NAME_AT: u32 = 24;
    let half = |value: u16| u32::from(u16::from_be_bytes(value.to_ne_bytes()));
    // Loads read network order, headers are in host order.
    let mut dropped = vec![
        vec![(LOAD_WORD, PORT_ID_AT, u32::from_be_bytes(own.to_ne_bytes()))],
        vec![(LOAD_HALF, KIND_AT, half(SUBSYS_NFTABLES << 8 | NFT_MSG_NEWGEN))],
    ];
    if let Some(name) = other {
        let bytes = name.bytes().chain([0]);
        let length = u16::try_from(4 + name.len() + 1).expect("a table's name is short");
        let mut named = vec![
            (LOAD_BYTE, FAMILY_AT, u32::from(NFPROTO_INET)),
            (LOAD_HALF, LENGTH_AT, half(length)),
        ];
        named.extend((NAME_AT..).zip(bytes).map(|(at, byte)| (LOAD_BYTE, at, u32::from(byte))));
        dropped.push(named);
    }
    let mut program: Vec<SockFilter> = dropped.iter().flat_map(|all| drop_if(all)).collect();
    program.push(SockFilter::new(RETURN, 0, 0, u32::MAX));
    program
}

/// `BPF_RET | BPF_K`
const RETURN: u16 = 0x06;

/// Drops what compares equal everywhere, and goes on behind this with what does not.
fn drop_if(all: &[(u16, u32, u32)]) -> Vec<SockFilter> {
    const JUMP_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
    let behind = |at: usize| u8::try_from(2 * (all.len() - at) - 1).expect("a short program");
    let compared = all.iter().enumerate().flat_map(|(at, (load, offset, value))| {
        [SockFilter::new(*load, 0, 0, *offset), SockFilter::new(JUMP_EQUAL, 0, behind(at), *value)]
    });
    compared.chain([SockFilter::new(RETURN, 0, 0, 0)]).collect()
}

fn note(edits: &mut Edits, message: &Message<'_>) {
    let kind = message.kind & 0xff;
    if message.kind >> 8 != SUBSYS_NFTABLES {
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
