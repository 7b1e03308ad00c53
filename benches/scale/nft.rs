//! The few nf_tables messages that the harness speaks itself. EDGE.
//!
//! In: what to write, a table's name. Out: commits; what the kernel says it holds.
//! Never: anything of vipd's but its netlink messages and socket: this is the witness.

use crate::Outcome;
use crate::world::Namespace;
use std::collections::BTreeMap;
use vipd::netlink::{self, Buffer, ExtendedError, Socket};

/// `linux/netfilter/nf_tables.h`
pub const NFT_MSG_NEWTABLE: u16 = 0;
pub const NFT_MSG_GETSET: u16 = 10;
pub const NFT_MSG_NEWSETELEM: u16 = 12;
pub const NFT_MSG_DELSETELEM: u16 = 14;
pub const NFT_MSG_NEWGEN: u16 = 15;
const NFTA_TABLE_NAME: u16 = 1;
const NFTA_TABLE_FLAGS: u16 = 2;
const NFT_TABLE_F_DORMANT: u32 = 1;
const NFTA_SET_TABLE: u16 = 1;
const NFTA_SET_NAME: u16 = 2;
/// Elements in use; told by kernels ≥ 6.17.
const NFTA_SET_COUNT: u16 = 20;
const NFPROTO_INET: u8 = 1;

/// Writes transactions, one after the other.
pub struct Transactions {
    socket: Socket,
    buffer: Buffer,
    /// Start of the last message that changes something: it asks for the ACK.
    last: usize,
}

impl Transactions {
    pub fn open(namespace: &Namespace) -> Outcome<Self> {
        let socket = namespace.run(|| Ok(Socket::open()?))?;
        Ok(Self { socket, buffer: Buffer::default(), last: 0 })
    }

    pub fn begin(&mut self) {
        self.buffer.clear();
        let (kind, seq) = (netlink::NFNL_MSG_BATCH_BEGIN, self.socket.next_seq());
        self.buffer.begin(kind, netlink::NLM_F_REQUEST, seq, 0, 0, netlink::SUBSYS_NFTABLES);
    }

    /// A message for the inet family; the caller adds its attributes.
    pub fn message(&mut self, kind: u16) -> &mut Buffer {
        self.buffer.end();
        self.last = self.buffer.len();
        let kind = netlink::SUBSYS_NFTABLES << 8 | kind;
        let flags = netlink::NLM_F_REQUEST | netlink::NLM_F_CREATE;
        self.buffer.begin(kind, flags, self.socket.next_seq(), NFPROTO_INET, 0, 0);
        &mut self.buffer
    }

    /// Only the last message is acknowledged: one ACK per message would overflow the receive
    /// buffer.
    pub fn commit(&mut self) -> Outcome<()> {
        self.buffer.end();
        self.buffer.flag(self.last, netlink::NLM_F_ACK);
        let (kind, seq) = (netlink::NFNL_MSG_BATCH_END, self.socket.next_seq());
        self.buffer.begin(kind, netlink::NLM_F_REQUEST, seq, 0, 0, netlink::SUBSYS_NFTABLES);
        self.buffer.end();
        self.socket.send(self.buffer.bytes())?;
        for message in self.socket.receive()? {
            match ExtendedError::of(&message) {
                Some(error) if error.errno != 0 => return Err(error.into()),
                _ => {}
            }
        }
        Ok(())
    }

    /// Takes all of `tables` off their hooks but `active`.
    pub fn wake_only(&mut self, tables: &[&str], active: Option<&str>) -> Outcome<()> {
        self.begin();
        for table in tables {
            let dormant = if active == Some(*table) { 0 } else { NFT_TABLE_F_DORMANT };
            let buffer = self.message(NFT_MSG_NEWTABLE);
            buffer.attr_str(NFTA_TABLE_NAME, table);
            buffer.attr_u32(NFTA_TABLE_FLAGS, dormant);
        }
        self.commit()
    }
}

/// Asks how many elements each set of a table has: cheap, however many there are.
pub struct Census {
    socket: Socket,
    table: &'static str,
    family: u8,
}

impl Census {
    pub fn open(namespace: &Namespace, table: &'static str) -> Outcome<Self> {
        Self::of_family(namespace, table, NFPROTO_INET)
    }

    /// Of a table that is not in the inet family.
    pub fn of_family(namespace: &Namespace, table: &'static str, family: u8) -> Outcome<Self> {
        Ok(Self { socket: namespace.run(|| Ok(Socket::open()?))?, table, family })
    }

    /// By set; empty if there is no such table.
    pub fn sets(&mut self) -> Outcome<BTreeMap<String, u64>> {
        let mut request = Buffer::default();
        let kind = netlink::SUBSYS_NFTABLES << 8 | NFT_MSG_GETSET;
        let flags = netlink::NLM_F_REQUEST | netlink::NLM_F_DUMP;
        let seq = self.socket.next_seq();
        request.begin(kind, flags, seq, self.family, 0, 0);
        request.attr_str(NFTA_SET_TABLE, self.table);
        request.end();
        self.socket.send(request.bytes())?;
        let mut sets = BTreeMap::new();
        loop {
            for message in self.socket.receive()? {
                if message.seq != seq {
                    continue;
                }
                match ExtendedError::of(&message) {
                    Some(error) if error.errno == libc::ENOENT => return Ok(BTreeMap::new()),
                    Some(error) if error.errno != 0 => return Err(error.into()),
                    _ => {}
                }
                if message.kind == netlink::NLMSG_DONE {
                    return Ok(sets);
                }
                let attributes = message.attributes();
                let (Some(table), Some(name)) =
                    (attributes.find(NFTA_SET_TABLE), attributes.find(NFTA_SET_NAME))
                else {
                    continue;
                };
                if table.str() == self.table {
                    let count = attributes
                        .find(NFTA_SET_COUNT)
                        .and_then(|a| a.u32())
                        .ok_or("this kernel does not tell element counts (needs 6.17)")?;
                    sets.insert(name.str().to_owned(), u64::from(count));
                }
            }
        }
    }

    pub fn total(&mut self) -> Outcome<u64> {
        Ok(self.sets()?.values().sum())
    }
}
