//! The kernel's conntrack table. EDGE: all system calls of this room are here.

use super::query::{Original, Phase, Query};
use super::stale::Flow;
use crate::model::{Family, Protocol};
use crate::netlink::{
    Attributes, Buffer, ExtendedError, Message, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR,
    NLM_F_REQUEST, NLMSG_DONE, SUBSYS_CTNETLINK, Socket,
};
use crate::planner::Target;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;
use std::path::PathBuf;

/// `linux/netfilter/nfnetlink_conntrack.h`
const CT_NEW: u16 = SUBSYS_CTNETLINK << 8;
const CT_GET: u16 = CT_NEW | 1;
const CT_DELETE: u16 = CT_NEW | 2;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_PROTOINFO: u16 = 4;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_FILTER: u16 = 25;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_TUPLE_ZONE: u16 = 3;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
const CTA_FILTER_ORIG_FLAGS: u16 = 1;
const CTA_PROTOINFO_TCP: u16 = 1;
const CTA_PROTOINFO_TCP_STATE: u16 = 1;

/// `net/netfilter/nf_internals.h`: the kernel has no public name for these.
const FILTER_IP_SRC: u32 = 1 << 0;
const FILTER_IP_DST: u32 = 1 << 1;
const FILTER_PROTO_NUM: u32 = 1 << 3;
const FILTER_PROTO_SRC_PORT: u32 = 1 << 4;
const FILTER_PROTO_DST_PORT: u32 = 1 << 5;

/// `linux/netfilter/nf_conntrack_tcp.h`: ESTABLISHED, FIN_WAIT and CLOSE_WAIT. After these nobody has
/// anything left to say.
const OPEN_STATES: RangeInclusive<u8> = 3..=5;
/// SYN_SENT: the client tries on by itself.
const UNANSWERED_STATES: RangeInclusive<u8> = 1..=1;

/// `struct nfgenmsg` version that makes a deletion without a full tuple obey the family.
const NFNETLINK_V1: u8 = 1;

/// Deletions in one `sendmsg`; each that fails takes about 1 KiB of the receive buffer, which is
/// 208 KiB where the system-wide limit applies.
const BATCH: usize = 128;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no conntrack netlink socket ({0}); is the kernel module nf_conntrack_netlink there?")]
    Open(#[source] io::Error),
    #[error("conntrack request not sent: {0}")]
    Send(#[source] io::Error),
    #[error("conntrack answer not received: {0}")]
    Receive(#[source] io::Error),
    #[error("the kernel refuses to list conntrack entries: {0}; is CAP_NET_ADMIN missing?")]
    Dump(#[source] ExtendedError),
    #[error("the kernel refuses to delete conntrack entries: {0}; is CAP_NET_ADMIN missing?")]
    Delete(#[source] ExtendedError),
    #[error("the kernel refuses to delete conntrack entries by filter: {0}")]
    Filter(#[source] ExtendedError),
    #[error("a thread for conntrack does not start: {0}; check the limit of processes")]
    Thread(#[source] io::Error),
    #[error("{} is not set to {value}: {source}; {hint}", file.display())]
    Sysctl { file: PathBuf, value: u64, hint: &'static str, source: io::Error },
}

/// One conntrack entry. The id tells it from a later one of the same flow, unless the kernel put
/// that at the same place in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Entry {
    pub flow: Flow,
    pub id: u32,
}

/// Whether a listing can be relied on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "an interrupted listing may lack entries"]
pub enum Dump {
    Whole,
    /// The table changed shape under the walk: entries may be missing.
    Interrupted,
}

/// The conntrack table of one network namespace, zone 0: where traffic is that no rule put into a
/// zone, and the only one where vipd's translations are.
#[derive(Debug)]
pub struct Table {
    socket: Socket,
    buffer: Buffer,
}

impl Table {
    /// The table of the calling thread's namespace.
    pub fn open() -> Result<Self, Error> {
        let socket = Socket::open().map_err(Error::Open)?;
        // The kernel answers within `send` and within each `receive` of a listing. What is not
        // there then never comes, and waiting for it would be for ever.
        socket.set_nonblocking(true).map_err(Error::Open)?;
        Ok(Self { socket, buffer: Buffer::default() })
    }

    /// Has the kernel load what connection tracking needs: the first message does.
    pub fn load(&mut self) -> Result<(), Error> {
        let original = Original::ToPort(0);
        let query =
            Query { family: Family::V4, protocol: Protocol::Udp, original, phase: Phase::Open };
        self.dump(&query, |_| {}).map(|_| ())
    }

    /// A new socket, if there is one to be had: what the old one still holds is forgotten.
    pub fn reopen(&mut self) {
        if let Ok(table) = Self::open() {
            *self = table;
        }
    }

    /// Hands the entries to `each` that a query asks for, and possibly others of its protocol: the
    /// filter is the kernel's (≥ 5.8; older ones ignore it), judging stays with the caller. Of TCP
    /// only connections in the query's phase.
    pub fn dump(&mut self, query: &Query, mut each: impl FnMut(Entry)) -> Result<Dump, Error> {
        let seq = self.begin(CT_GET, NLM_F_DUMP, query.family, 0);
        put_filter(&mut self.buffer, query.protocol, query.original);
        self.send()?;
        let mut dump = Dump::Whole;
        loop {
            for message in self.socket.receive().map_err(Error::Receive)? {
                if message.seq != seq {
                    continue;
                }
                if message.flags & NLM_F_DUMP_INTR != 0 {
                    dump = Dump::Interrupted;
                }
                if let Some(error) = failure(&message) {
                    return Err(Error::Dump(error));
                }
                if message.kind == NLMSG_DONE {
                    return Ok(dump);
                }
                if let Some(entry) = parse(&message, query) {
                    each(entry);
                }
            }
        }
    }

    /// Deletes these entries; one that is gone, or replaced by another with the same tuple, is
    /// none of ours any more. How many were really deleted.
    pub fn delete(&mut self, entries: &[Entry]) -> Result<u64, Error> {
        let mut deleted = 0;
        for batch in entries.chunks(BATCH) {
            self.buffer.clear();
            let mut last = 0;
            for (index, entry) in batch.iter().enumerate() {
                // Failures are always reported; the last answer ends the batch.
                let flags = if index + 1 == batch.len() { NLM_F_ACK } else { 0 };
                last = self.socket.next_seq();
                let family = Family::of(entry.flow.destination.address);
                self.buffer.begin(CT_DELETE, NLM_F_REQUEST | flags, last, number(family), 0, 0);
                put_tuple(&mut self.buffer, &entry.flow);
                self.buffer.attr_u32(CTA_ID, entry.id);
            }
            self.send()?;
            deleted += batch.len() as u64 - self.missing(last)?;
        }
        Ok(deleted)
    }

    /// Reads answers up to the one to request `last`; how many say that there is no such entry.
    fn missing(&mut self, last: u32) -> Result<u64, Error> {
        let (mut missing, mut refused) = (0, None);
        loop {
            for message in self.socket.receive().map_err(Error::Receive)? {
                let Some(error) = ExtendedError::of(&message) else { continue };
                let is_last = error.seq == last;
                match error.errno {
                    0 => {}
                    libc::ENOENT => missing += 1,
                    _ => refused = Some(error),
                }
                if is_last {
                    return refused.map_or(Ok(missing), |error| Err(Error::Delete(error)));
                }
            }
        }
    }

    /// Deletes every UDP entry with this original destination, in one walk of the kernel.
    ///
    /// Kernel ≥ 6.12 only. 5.8 to 6.11 answer EOPNOTSUPP; older ones delete every entry there is.
    pub fn delete_all_to(&mut self, address: Ipv4Addr, port: u16) -> Result<(), Error> {
        let seq = self.begin(CT_DELETE, NLM_F_ACK, Family::V4, NFNETLINK_V1);
        put_filter(&mut self.buffer, Protocol::Udp, Original::To(address, port));
        self.buffer.attr_u16(CTA_ZONE, 0);
        self.send()?;
        loop {
            for message in self.socket.receive().map_err(Error::Receive)? {
                match ExtendedError::of(&message) {
                    Some(error) if error.seq != seq => {}
                    Some(error) if error.errno != 0 => return Err(Error::Filter(error)),
                    Some(_) => return Ok(()),
                    None => {}
                }
            }
        }
    }

    fn begin(&mut self, kind: u16, flags: u16, family: Family, version: u8) -> u32 {
        let seq = self.socket.next_seq();
        self.buffer.clear();
        self.buffer.begin(kind, NLM_F_REQUEST | flags, seq, number(family), version, 0);
        seq
    }

    fn send(&mut self) -> Result<(), Error> {
        self.buffer.end();
        self.socket.send(self.buffer.bytes()).map_err(Error::Send)
    }
}

fn number(family: Family) -> u8 {
    match family {
        Family::V4 => libc::AF_INET as u8,
        Family::V6 => libc::AF_INET6 as u8,
    }
}

/// A failed listing says so in an error or, once it has begun, in its end marker.
fn failure(message: &Message<'_>) -> Option<ExtendedError> {
    if message.kind == NLMSG_DONE {
        let code = i32::from_ne_bytes(message.payload.get(..4)?.try_into().ok()?);
        let seq = message.seq;
        return (code < 0).then_some(ExtendedError {
            errno: -code,
            message: None,
            offset: None,
            seq,
        });
    }
    ExtendedError::of(message).filter(|error| error.errno != 0)
}

/// The tuple of the original direction with what is to be compared, and which parts that is.
fn put_filter(buffer: &mut Buffer, protocol: Protocol, original: Original) {
    let (address, port) = match original {
        Original::Any => (None, None),
        Original::ToPort(port) | Original::FromPort(port) => (None, Some(port)),
        Original::To(address, port) | Original::From(address, port) => (Some(address), Some(port)),
    };
    let ((ip_kind, ip_flag), (port_kind, port_flag)) = match original {
        Original::From(..) | Original::FromPort(_) => {
            ((CTA_IP_V4_SRC, FILTER_IP_SRC), (CTA_PROTO_SRC_PORT, FILTER_PROTO_SRC_PORT))
        }
        Original::To(..) | Original::ToPort(_) | Original::Any => {
            ((CTA_IP_V4_DST, FILTER_IP_DST), (CTA_PROTO_DST_PORT, FILTER_PROTO_DST_PORT))
        }
    };
    let mut flags = FILTER_PROTO_NUM;
    let tuple = buffer.nest(CTA_TUPLE_ORIG);
    if let Some(address) = address {
        flags |= ip_flag;
        let ip = buffer.nest(CTA_TUPLE_IP);
        buffer.attr(ip_kind, &address.octets());
        buffer.close(ip);
    }
    let proto = buffer.nest(CTA_TUPLE_PROTO);
    buffer.attr_u8(CTA_PROTO_NUM, protocol as u8);
    if let Some(port) = port {
        flags |= port_flag;
        buffer.attr_u16(port_kind, port);
    }
    buffer.close(proto);
    buffer.close(tuple);
    let filter = buffer.nest(CTA_FILTER);
    // Host byte order, unlike conntrack's other integers.
    buffer.attr(CTA_FILTER_ORIG_FLAGS, &flags.to_ne_bytes());
    buffer.close(filter);
}

fn put_tuple(buffer: &mut Buffer, flow: &Flow) {
    let tuple = buffer.nest(CTA_TUPLE_ORIG);
    let ip = buffer.nest(CTA_TUPLE_IP);
    put_address(buffer, (CTA_IP_V4_SRC, CTA_IP_V6_SRC), flow.source.address);
    put_address(buffer, (CTA_IP_V4_DST, CTA_IP_V6_DST), flow.destination.address);
    buffer.close(ip);
    let proto = buffer.nest(CTA_TUPLE_PROTO);
    buffer.attr_u8(CTA_PROTO_NUM, flow.protocol as u8);
    buffer.attr_u16(CTA_PROTO_SRC_PORT, flow.source.port);
    buffer.attr_u16(CTA_PROTO_DST_PORT, flow.destination.port);
    buffer.close(proto);
    buffer.close(tuple);
}

fn put_address(buffer: &mut Buffer, (v4, v6): (u16, u16), address: IpAddr) {
    match address {
        IpAddr::V4(address) => buffer.attr(v4, &address.octets()),
        IpAddr::V6(address) => buffer.attr(v6, &address.octets()),
    }
}

/// `None` for what is of another protocol, not in zone 0, or TCP and in another phase.
fn parse(message: &Message<'_>, query: &Query) -> Option<Entry> {
    let protocol = query.protocol;
    let states = match query.phase {
        Phase::Open => OPEN_STATES,
        Phase::Unanswered => UNANSWERED_STATES,
    };
    if message.kind != CT_NEW {
        return None;
    }
    let (mut original, mut reply, mut id, mut wanted) = (None, None, None, false);
    for attribute in message.attributes() {
        match attribute.kind {
            CTA_TUPLE_ORIG => original = Some(parse_tuple(attribute.nested(), protocol)?),
            CTA_TUPLE_REPLY => reply = Some(parse_tuple(attribute.nested(), protocol)?),
            CTA_PROTOINFO => wanted = is_in(attribute.nested(), &states),
            CTA_ID => id = attribute.u32(),
            // Only there if it is not 0.
            CTA_ZONE => return None,
            _ => {}
        }
    }
    if protocol == Protocol::Tcp && !wanted {
        return None;
    }
    let (source, destination) = original?;
    let (answerer, asker) = reply?;
    let flow = Flow { protocol, source, destination, answerer, asker };
    Some(Entry { flow, id: id? })
}

fn is_in(attributes: Attributes<'_>, states: &RangeInclusive<u8>) -> bool {
    let tcp = attributes.find(CTA_PROTOINFO_TCP);
    let state =
        tcp.and_then(|tcp| tcp.nested().find(CTA_PROTOINFO_TCP_STATE)?.value.first().copied());
    state.is_some_and(|state| states.contains(&state))
}

/// Source and destination of a tuple of this protocol in zone 0.
fn parse_tuple(attributes: Attributes<'_>, protocol: Protocol) -> Option<(Target, Target)> {
    if attributes.find(CTA_TUPLE_ZONE).is_some() {
        return None;
    }
    let ip = attributes.find(CTA_TUPLE_IP)?.nested();
    let address = |v4, v6| -> Option<IpAddr> {
        if let Some(attribute) = ip.find(v4) {
            return Some(<[u8; 4]>::try_from(attribute.value).ok()?.into());
        }
        Some(<[u8; 16]>::try_from(ip.find(v6)?.value).ok()?.into())
    };
    let proto = attributes.find(CTA_TUPLE_PROTO)?.nested();
    if proto.find(CTA_PROTO_NUM)?.value != [protocol as u8] {
        return None;
    }
    let port = |kind| proto.find(kind)?.u16();
    Some((
        Target { address: address(CTA_IP_V4_SRC, CTA_IP_V6_SRC)?, port: port(CTA_PROTO_SRC_PORT)? },
        Target { address: address(CTA_IP_V4_DST, CTA_IP_V6_DST)?, port: port(CTA_PROTO_DST_PORT)? },
    ))
}
