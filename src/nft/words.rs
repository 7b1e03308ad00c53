//! Parts of rules, in the words of nft's language.
//!
//! A part of a concatenation goes to the register that nft itself would use: the first to 1, the
//! next to the following 4-byte register (9, 10, …; behind an IPv6 address 2, 13, …).

use super::expr::{Comparison, Expr, Meta, NFPROTO_IPV4, NFPROTO_IPV6, PayloadBase, Reg};
use crate::model::{Family, Protocol};

/// Registers for a concatenation that begins with an address: (address, second, third).
pub fn registers(family: Family) -> (Reg, Reg, Reg) {
    match family {
        Family::V4 => (1, 9, 10),
        Family::V6 => (1, 2, 13),
    }
}

pub fn nfproto(family: Family) -> u8 {
    match family {
        Family::V4 => NFPROTO_IPV4,
        Family::V6 => NFPROTO_IPV6,
    }
}

pub fn is_family(family: Family) -> [Expr; 2] {
    [Expr::MetaLoad(Meta::Family, 1), Expr::Compare(Comparison::Equal, 1, vec![nfproto(family)])]
}

pub fn source(family: Family, to: Reg) -> Expr {
    let (offset, length) = match family {
        Family::V4 => (12, 4),
        Family::V6 => (8, 16),
    };
    Expr::Payload { base: PayloadBase::Network, offset, length, to }
}

pub fn destination(family: Family, to: Reg) -> Expr {
    let (offset, length) = match family {
        Family::V4 => (16, 4),
        Family::V6 => (24, 16),
    };
    Expr::Payload { base: PayloadBase::Network, offset, length, to }
}

pub fn destination_port(to: Reg) -> Expr {
    Expr::Payload { base: PayloadBase::Transport, offset: 2, length: 2, to }
}

pub fn source_port(to: Reg) -> Expr {
    Expr::Payload { base: PayloadBase::Transport, offset: 0, length: 2, to }
}

/// `ip daddr . meta l4proto . th dport`, into these registers.
pub fn frontend(family: Family, (address, protocol, port): (Reg, Reg, Reg)) -> [Expr; 3] {
    [destination(family, address), Expr::MetaLoad(Meta::Protocol, protocol), destination_port(port)]
}

/// `ip saddr . meta l4proto . th sport`: of an answer, the frontend that gives it.
pub fn answering_frontend(family: Family, (address, protocol, port): (Reg, Reg, Reg)) -> [Expr; 3] {
    [source(family, address), Expr::MetaLoad(Meta::Protocol, protocol), source_port(port)]
}

/// `tcp flags & syn == 0`: nothing that opens a connection.
pub fn opens_nothing() -> [Expr; 5] {
    const FLAGS: u32 = 13;
    const SYN: u8 = 1 << 1;
    let [tcp, is_tcp] = is_protocol(Protocol::Tcp);
    let flags = Expr::Payload { base: PayloadBase::Transport, offset: FLAGS, length: 1, to: 1 };
    [
        tcp,
        is_tcp,
        flags,
        Expr::Mask { register: 1, mask: vec![SYN] },
        Expr::Compare(Comparison::Equal, 1, vec![0]),
    ]
}

/// The transport match that nft asks for where ports are mapped.
pub fn is_protocol(protocol: Protocol) -> [Expr; 2] {
    [Expr::MetaLoad(Meta::Protocol, 1), Expr::Compare(Comparison::Equal, 1, vec![protocol as u8])]
}

/// `icmp type destination-unreachable icmp code 4`, `icmpv6 type packet-too-big`: a router's word that a
/// packet is larger than what its link takes in one piece.
pub fn too_big(family: Family) -> Vec<Expr> {
    let (protocol, kinds) = match family {
        Family::V4 => (1, &[3, 4][..]),
        Family::V6 => (58, &[2][..]),
    };
    let mut out = is_family(family).to_vec();
    out.extend([
        Expr::MetaLoad(Meta::Protocol, 1),
        Expr::Compare(Comparison::Equal, 1, vec![protocol]),
    ]);
    for (offset, kind) in (0..).zip(kinds) {
        out.push(Expr::Payload { base: PayloadBase::Transport, offset, length: 1, to: 1 });
        out.push(Expr::Compare(Comparison::Equal, 1, vec![*kind]));
    }
    out
}
