//! nf_tables expressions and rules, as values that can be compared, hashed and encoded. PURE.
//!
//! In: nothing. Out: netlink attributes.
//! Never: a register use that nft's own language cannot print (nft 1.0.6 aborts on such rules for
//! every user of the namespace).

use crate::netlink::Buffer;
use std::borrow::Cow;
use xxhash_rust::xxh3::xxh3_64;

/// A register as netlink numbers them: 1–4 are 16 bytes wide, 8–23 are their 4-byte parts.
pub type Reg = u32;

/// Meta keys (`enum nft_meta_keys`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Meta {
    Priority = 2,
    InputIndex = 4,
    OutputIndex = 5,
    InputName = 6,
    Family = 15,
    Protocol = 16,
    /// `iifkind`: what made the interface, 16 bytes (Linux 5.5).
    InputKind = 26,
}

/// Conntrack keys (`enum nft_ct_keys`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Ct {
    State = 0,
    /// 0: as the connection was opened; 1: back.
    Direction = 1,
    Status = 2,
    OriginalPort = 12,
    OriginalAddress4 = 20,
    OriginalAddress6 = 22,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum PayloadBase {
    Network = 1,
    Transport = 2,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Comparison {
    Equal = 0,
    NotEqual = 1,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Verdict {
    Accept,
    Drop,
    Return,
    Jump(Cow<'static, str>),
    Goto(Cow<'static, str>),
}

/// What a rule wants of a look-up to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Find {
    /// The key is in the set.
    Present,
    /// The key is not in the set.
    Absent,
    /// The map has the key; what it holds goes here. Verdict maps use register 0.
    Data(Reg),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum DynamicSet {
    Update = 1,
    Delete = 2,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expr {
    MetaLoad(Meta, Reg),
    MetaSet(Meta, Reg),
    CtLoad(Ct, Reg),
    Payload {
        base: PayloadBase,
        offset: u32,
        length: u32,
        to: Reg,
    },
    Compare(Comparison, Reg, Vec<u8>),
    /// `to = from & mask`
    Mask {
        register: Reg,
        mask: Vec<u8>,
    },
    Lookup {
        set: Cow<'static, str>,
        from: Reg,
        find: Find,
    },
    ImmediateValue(Reg, Vec<u8>),
    Verdict(Verdict),
    Random {
        to: Reg,
        modulus: u32,
        offset: u32,
    },
    Hash {
        from: Reg,
        length: u32,
        to: Reg,
    },
    Dynamic {
        op: DynamicSet,
        set: Cow<'static, str>,
        key: Reg,
        data: Reg,
        timeout_ms: u64,
    },
    Dnat {
        family: u8,
        address: Reg,
        /// None: it stays.
        port: Option<Reg>,
    },
    Snat {
        family: u8,
        address: Reg,
    },
    /// The packet is a socket's that listens at this address, whatever its destination.
    Tproxy {
        family: u8,
        address: Reg,
        port: Reg,
    },
    /// `socket transparent`, `socket wildcard`: whether it is so of the packet's socket. Ends the rule
    /// where there is no socket, `Wildcard` also where its connection has ended.
    Socket {
        is: SocketIs,
        to: Reg,
    },
    /// `fib saddr type`
    SourceType {
        to: Reg,
    },
    /// Conntrack is not to see the packet. Only before it does.
    NoTrack,
    MasqueradeRandom,
    RejectWithReset,
    RejectWithUnreachable,
    Counter,
}

/// Seed and modulus of every hash in the ruleset; 2^32 − 1 keeps nearly the full range.
pub const HASH_SEED: u32 = 1;
pub const HASH_MODULUS: u32 = u32::MAX;

/// `enum nf_inet_protocols`-independent family numbers.
pub const NFPROTO_INET: u8 = 1;
pub const NFPROTO_IPV4: u8 = 2;
pub const NFPROTO_IPV6: u8 = 10;

const NFTA_LIST_ELEM: u16 = 1;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_DATA_VALUE: u16 = 1;
const NFTA_DATA_VERDICT: u16 = 2;
const NFTA_VERDICT_CODE: u16 = 1;
const NFTA_VERDICT_CHAIN: u16 = 2;
const NF_DROP: i32 = 0;
const NF_ACCEPT: i32 = 1;
const NFT_JUMP: i32 = -3;
const NFT_GOTO: i32 = -4;
const NFT_RETURN: i32 = -5;

/// Writes a verdict as the value of a data attribute.
pub fn put_verdict(out: &mut Buffer, verdict: &Verdict) {
    let (code, chain) = match verdict {
        Verdict::Accept => (NF_ACCEPT, None),
        Verdict::Drop => (NF_DROP, None),
        Verdict::Return => (NFT_RETURN, None),
        Verdict::Jump(chain) => (NFT_JUMP, Some(chain)),
        Verdict::Goto(chain) => (NFT_GOTO, Some(chain)),
    };
    let nest = out.nest(NFTA_DATA_VERDICT);
    out.attr(NFTA_VERDICT_CODE, &code.to_be_bytes());
    if let Some(chain) = chain {
        out.attr_str(NFTA_VERDICT_CHAIN, chain);
    }
    out.close(nest);
}

/// Reads what `put_verdict` wrote; `None` for verdicts that vipd never writes there.
pub fn read_verdict(data: crate::netlink::Attributes<'_>) -> Option<Verdict> {
    let verdict = data.find(NFTA_DATA_VERDICT)?.nested();
    let code = verdict.find(NFTA_VERDICT_CODE)?.u32()? as i32;
    let chain = || verdict.find(NFTA_VERDICT_CHAIN).map(|a| Cow::Owned(a.str().to_owned()));
    match code {
        NF_ACCEPT => Some(Verdict::Accept),
        NF_DROP => Some(Verdict::Drop),
        NFT_JUMP => Some(Verdict::Jump(chain()?)),
        NFT_GOTO => Some(Verdict::Goto(chain()?)),
        _ => None,
    }
}

fn put_value(out: &mut Buffer, kind: u16, value: &[u8]) {
    let nest = out.nest(kind);
    out.attr(NFTA_DATA_VALUE, value);
    out.close(nest);
}

impl Expr {
    fn name(&self) -> &'static str {
        match self {
            Expr::MetaLoad(..) | Expr::MetaSet(..) => "meta",
            Expr::CtLoad(..) => "ct",
            Expr::Payload { .. } => "payload",
            Expr::Compare(..) => "cmp",
            Expr::Mask { .. } => "bitwise",
            Expr::Lookup { .. } => "lookup",
            Expr::ImmediateValue(..) | Expr::Verdict(..) => "immediate",
            Expr::Random { .. } => "numgen",
            Expr::Hash { .. } => "hash",
            Expr::Dynamic { .. } => "dynset",
            Expr::Dnat { .. } | Expr::Snat { .. } => "nat",
            Expr::Tproxy { .. } => "tproxy",
            Expr::Socket { .. } => "socket",
            Expr::SourceType { .. } => "fib",
            Expr::NoTrack => "notrack",
            Expr::MasqueradeRandom => "masq",
            Expr::RejectWithReset | Expr::RejectWithUnreachable => "reject",
            Expr::Counter => "counter",
        }
    }

    fn put(&self, out: &mut Buffer) {
        let element = out.nest(NFTA_LIST_ELEM);
        out.attr_str(NFTA_EXPR_NAME, self.name());
        let data = out.nest(NFTA_EXPR_DATA);
        self.put_data(out);
        out.close(data);
        out.close(element);
    }

    /// Attribute numbers are those of `linux/netfilter/nf_tables.h`, in its order.
    fn put_data(&self, out: &mut Buffer) {
        match self {
            Expr::MetaLoad(key, to) => {
                out.attr_u32(2, *key as u32);
                out.attr_u32(1, *to);
            }
            Expr::MetaSet(key, from) => {
                out.attr_u32(2, *key as u32);
                out.attr_u32(3, *from);
            }
            Expr::CtLoad(key, to) => {
                out.attr_u32(2, *key as u32);
                out.attr_u32(1, *to);
                if !matches!(key, Ct::State | Ct::Direction | Ct::Status) {
                    out.attr_u8(3, 0); // IP_CT_DIR_ORIGINAL
                }
            }
            Expr::Payload { base, offset, length, to } => {
                out.attr_u32(1, *to);
                out.attr_u32(2, *base as u32);
                out.attr_u32(3, *offset);
                out.attr_u32(4, *length);
            }
            Expr::Compare(comparison, register, value) => {
                out.attr_u32(1, *register);
                out.attr_u32(2, *comparison as u32);
                put_value(out, 3, value);
            }
            Expr::Mask { register, mask } => {
                out.attr_u32(1, *register);
                out.attr_u32(2, *register);
                out.attr_u32(3, mask.len() as u32);
                put_value(out, 4, mask);
                put_value(out, 5, &vec![0; mask.len()]);
            }
            Expr::Lookup { set, from, find } => {
                out.attr_str(1, set);
                out.attr_u32(2, *from);
                match find {
                    Find::Present => {}
                    Find::Absent => out.attr_u32(5, 1), // NFT_LOOKUP_F_INV
                    Find::Data(to) => out.attr_u32(3, *to),
                }
            }
            Expr::ImmediateValue(to, value) => {
                out.attr_u32(1, *to);
                put_value(out, 2, value);
            }
            Expr::Verdict(verdict) => {
                out.attr_u32(1, 0);
                let nest = out.nest(2);
                put_verdict(out, verdict);
                out.close(nest);
            }
            Expr::Random { to, modulus, offset } => {
                out.attr_u32(1, *to);
                out.attr_u32(2, *modulus);
                out.attr_u32(3, 1); // NFT_NG_RANDOM
                out.attr_u32(4, *offset);
            }
            Expr::Hash { from, length, to } => {
                out.attr_u32(1, *from);
                out.attr_u32(2, *to);
                out.attr_u32(3, *length);
                out.attr_u32(4, HASH_MODULUS);
                out.attr_u32(5, HASH_SEED);
                out.attr_u32(7, 0); // NFT_HASH_JENKINS
            }
            Expr::Dynamic { op, set, key, data, timeout_ms } => {
                out.attr_u32(4, *key);
                out.attr_u32(5, *data);
                out.attr_u32(3, *op as u32);
                if *timeout_ms > 0 {
                    out.attr_u64(6, *timeout_ms);
                }
                out.attr_str(1, set);
            }
            Expr::Dnat { family, address, port } => {
                out.attr_u32(1, 1); // NFT_NAT_DNAT
                out.attr_u32(2, u32::from(*family));
                out.attr_u32(3, *address);
                if let Some(port) = port {
                    out.attr_u32(5, *port);
                }
            }
            Expr::Snat { family, address } => {
                out.attr_u32(1, 0); // NFT_NAT_SNAT
                out.attr_u32(2, u32::from(*family));
                out.attr_u32(3, *address);
            }
            Expr::Tproxy { family, address, port } => {
                out.attr_u32(1, u32::from(*family));
                out.attr_u32(2, *address);
                out.attr_u32(3, *port);
            }
            Expr::Socket { is, to } => {
                let key = match is {
                    SocketIs::Transparent => 0, // NFT_SOCKET_TRANSPARENT
                    SocketIs::Wildcard => 2,    // NFT_SOCKET_WILDCARD
                };
                out.attr_u32(1, key);
                out.attr_u32(2, *to);
            }
            Expr::SourceType { to } => {
                out.attr_u32(1, *to);
                out.attr_u32(2, 3); // NFT_FIB_RESULT_ADDRTYPE
                out.attr_u32(3, 1); // NFTA_FIB_F_SADDR
            }
            Expr::NoTrack => {}
            Expr::MasqueradeRandom => out.attr_u32(1, 0x10), // NF_NAT_RANGE_PROTO_RANDOM_FULLY
            Expr::RejectWithReset => {
                out.attr_u32(1, 1); // NFT_REJECT_TCP_RST
                out.attr_u8(2, 0);
            }
            Expr::RejectWithUnreachable => {
                out.attr_u32(1, 2); // NFT_REJECT_ICMPX_UNREACH
                out.attr_u8(2, 1); // NFT_REJECT_ICMPX_PORT_UNREACH
            }
            Expr::Counter => {
                out.attr_u64(1, 0);
                out.attr_u64(2, 0);
            }
        }
    }
}

/// What a socket may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketIs {
    /// It takes any destination.
    Transparent,
    /// It is bound to no address of its own.
    Wildcard,
}

/// One rule of a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule(pub Vec<Expr>);

impl Rule {
    pub fn put(&self, out: &mut Buffer) {
        for expr in &self.0 {
            expr.put(out);
        }
    }

    /// Identifies the rule's meaning. It is stored with the rule in the kernel, so that a later
    /// process knows what is there without understanding it.
    pub fn fingerprint(&self) -> u64 {
        let mut buffer = Buffer::default();
        self.put(&mut buffer);
        xxh3_64(buffer.bytes())
    }
}
