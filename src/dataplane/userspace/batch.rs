//! Transactions of nf_tables over a socket of one's own. EDGE.
//!
//! In: messages. Out: what the kernel says, once it has carried all of them out or none.
//! Never: more than one transaction at a time.

use super::error::Error;
use crate::dataplane::Applied;
use crate::netlink::{
    Buffer, ExtendedError, NFNL_MSG_BATCH_BEGIN, NFNL_MSG_BATCH_END, NLM_F_ACK, NLM_F_APPEND,
    NLM_F_CREATE, NLM_F_REQUEST, SUBSYS_NFTABLES, Socket,
};
use crate::nft::write::{
    NFT_MSG_DELSETELEM, NFT_MSG_DELTABLE, NFT_MSG_NEWCHAIN, NFT_MSG_NEWRULE, NFT_MSG_NEWSET,
    NFT_MSG_NEWSETELEM, NFT_MSG_NEWTABLE, NFTA_SET_ELEM_LIST_ELEMENTS, NFTA_SET_ELEM_LIST_SET,
    NFTA_SET_ELEM_LIST_TABLE, message_type, put_chain, put_rule, put_set, put_table,
};
use crate::nft::{ChainDefinition, Definition, Element, With};
use std::io;
use std::os::fd::OwnedFd;

/// Elements of one list, which must stay below 64 KiB, and of one transaction.
pub(super) const AT_ONCE: usize = 1000;

/// A table of one family.
#[derive(Debug, Clone, Copy)]
pub(super) struct Table {
    pub family: u8,
    pub name: &'static str,
    /// `enum nft_table_flags`
    pub flags: u32,
}

/// A socket, in the namespace of the thread that opened it.
#[derive(Debug)]
pub(super) struct Link {
    socket: Socket,
    buffer: Buffer,
    table: Table,
}

/// One transaction under way.
pub(super) struct Transaction<'a> {
    link: &'a mut Link,
    operations: u64,
    /// Where the last message begins, and its number.
    last: (usize, u32),
}

/// Whether elements come or go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Move {
    Come,
    Go,
}

impl Link {
    pub(super) fn open(table: Table) -> Result<Self, Error> {
        let socket = Socket::open().map_err(Error::Nftables)?;
        socket.set_nonblocking(true).map_err(Error::Nftables)?;
        Ok(Self { socket, buffer: Buffer::default(), table })
    }

    /// Over another process's socket.
    pub(super) fn handed(socket: OwnedFd, table: Table) -> Result<Self, Error> {
        let socket = Socket::handed(socket).map_err(Error::Nftables)?;
        Ok(Self { socket, buffer: Buffer::default(), table })
    }

    pub(super) fn hand(&self) -> io::Result<OwnedFd> {
        self.socket.hand()
    }

    pub(super) fn begin(&mut self) -> Transaction<'_> {
        self.buffer.clear();
        let seq = self.socket.next_seq();
        self.buffer.begin(NFNL_MSG_BATCH_BEGIN, NLM_F_REQUEST, seq, 0, 0, SUBSYS_NFTABLES);
        Transaction { link: self, operations: 0, last: (0, seq) }
    }

    /// Removes the table, if it is there and nobody else owns it.
    pub(super) fn remove_table(&mut self) -> Result<(), Error> {
        let mut transaction = self.begin();
        transaction.remove_table();
        match transaction.commit() {
            Ok(_) | Err(Error::Table { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl Transaction<'_> {
    /// Begins a message.
    fn message(&mut self, kind: u16, flags: u16) -> &mut Buffer {
        let Link { socket, buffer, table } = &mut *self.link;
        buffer.end();
        self.last = (buffer.len(), socket.next_seq());
        self.operations += 1;
        let flags = NLM_F_REQUEST | flags;
        buffer.begin(message_type(kind), flags, self.last.1, table.family, 0, 0);
        buffer
    }

    pub(super) fn remove_table(&mut self) {
        let name = self.link.table.name;
        self.message(NFT_MSG_DELTABLE, 0).attr_str(1, name);
    }

    pub(super) fn table(&mut self) {
        let Table { name, flags, .. } = self.link.table;
        put_table(self.message(NFT_MSG_NEWTABLE, NLM_F_CREATE), name, flags);
    }

    /// `id`: its number within the transaction.
    pub(super) fn set(&mut self, (name, id): (&str, u32), definition: &Definition) {
        let table = self.link.table.name;
        put_set(self.message(NFT_MSG_NEWSET, NLM_F_CREATE), (table, name, id), definition);
    }

    pub(super) fn chain(&mut self, chain: &ChainDefinition) {
        let table = self.link.table.name;
        put_chain(self.message(NFT_MSG_NEWCHAIN, NLM_F_CREATE), table, chain);
        for rule in &chain.rules {
            let out = self.message(NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND);
            put_rule(out, (table, &*chain.name), rule);
        }
    }

    /// No more than [`AT_ONCE`].
    pub(super) fn elements<'e>(
        &mut self,
        what: Move,
        set: &str,
        elements: impl Iterator<Item = &'e Element>,
    ) {
        let table = self.link.table.name;
        let out = match what {
            Move::Come => self.message(NFT_MSG_NEWSETELEM, NLM_F_CREATE),
            Move::Go => self.message(NFT_MSG_DELSETELEM, 0),
        };
        out.attr_str(NFTA_SET_ELEM_LIST_TABLE, table);
        out.attr_str(NFTA_SET_ELEM_LIST_SET, set);
        let list = out.nest(NFTA_SET_ELEM_LIST_ELEMENTS);
        let mut count = 0;
        for element in elements {
            element.put(out, With::KeyOnly);
            count += 1;
        }
        out.close(list);
        self.operations += count;
    }

    /// All answers are there when `send` returns.
    pub(super) fn commit(self) -> Result<Applied, Error> {
        let Self { link: Link { socket, buffer, .. }, operations, last } = self;
        buffer.end();
        // Only the last is acknowledged; errors are told anyway.
        buffer.flag(last.0, NLM_F_ACK);
        let seq = socket.next_seq();
        buffer.begin(NFNL_MSG_BATCH_END, NLM_F_REQUEST, seq, 0, 0, SUBSYS_NFTABLES);
        buffer.end();
        socket.send(buffer.bytes()).map_err(Error::Nftables)?;
        let (mut refused, mut done) = (None, false);
        loop {
            match socket.receive() {
                Ok(messages) => {
                    for answer in messages.filter_map(|message| ExtendedError::of(&message)) {
                        if answer.errno == 0 {
                            done |= answer.seq == last.1;
                        } else {
                            refused.get_or_insert(answer);
                        }
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(Error::Nftables(error)),
            }
        }
        match refused {
            Some(error) => Err(Error::Table { error }),
            None if done => Ok(Applied {
                operations,
                transactions: 1,
                messages: buffer.count(),
                bytes: buffer.len() as u64,
            }),
            None => Err(Error::NoAnswer),
        }
    }
}
