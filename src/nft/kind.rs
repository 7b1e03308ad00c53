//! What nft calls the type of a set: lengths and type numbers for the kernel's record, and the
//! user data from which `nft list` prints `typeof …`.
//!
//! Written byte for byte as nft 1.0.6 does it, or listings show keys in the wrong byte order.

use crate::model::Family;

/// One part of a key or of a value, as an expression of nft's language.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Source(Family),
    Destination(Family),
    /// `meta l4proto`
    Protocol,
    /// `th dport`
    Port,
    /// `meta priority`
    Priority,
    /// `numgen random mod 2`; stands for any 4-byte number
    Number,
    Verdict,
}

/// nft's numbers: expression kinds, protocol descriptions with their fields, data types.
impl Part {
    fn expression(self) -> (u32, Vec<u8>) {
        let payload = |description: u32, field: u32| {
            let mut data = tlv(0, &description.to_ne_bytes());
            data.extend(tlv(1, &field.to_ne_bytes()));
            (7, data)
        };
        let meta = |key: u32| (9, tlv(0, &key.to_ne_bytes()));
        match self {
            Part::Source(Family::V4) => payload(12, 11),
            Part::Destination(Family::V4) => payload(12, 12),
            Part::Source(Family::V6) => payload(13, 8),
            Part::Destination(Family::V6) => payload(13, 9),
            Part::Port => payload(11, 2),
            Part::Protocol => meta(16),
            Part::Priority => meta(2),
            Part::Number => {
                let mut data = tlv(0, &1u32.to_ne_bytes());
                data.extend(tlv(1, &2u32.to_ne_bytes()));
                data.extend(tlv(2, &0u32.to_ne_bytes()));
                (23, data)
            }
            Part::Verdict => (1, Vec::new()),
        }
    }

    fn type_number(self) -> u32 {
        match self {
            Part::Source(Family::V4) | Part::Destination(Family::V4) => 7,
            Part::Source(Family::V6) | Part::Destination(Family::V6) => 8,
            Part::Protocol => 12,
            Part::Port => 13,
            Part::Priority => 23,
            Part::Number => 4,
            Part::Verdict => 0xffff_ff00,
        }
    }

    /// Bytes in registers, 4-byte padded.
    fn length(self) -> u32 {
        match self {
            Part::Source(Family::V6) | Part::Destination(Family::V6) | Part::Verdict => 16,
            _ => 4,
        }
    }

    /// 1 host, 2 network order; what nft stores for a type of one part.
    fn byte_order(self) -> u32 {
        match self {
            Part::Source(_) | Part::Destination(_) | Part::Port => 2,
            Part::Protocol | Part::Priority | Part::Number => 1,
            Part::Verdict => 0,
        }
    }
}

fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
    let mut out = vec![kind, value.len() as u8];
    out.extend_from_slice(value);
    out
}

fn typeof_expression(parts: &[Part]) -> Vec<u8> {
    let (kind, data) = match parts {
        [one] => one.expression(),
        many => {
            let each = many.iter().enumerate().flat_map(|(i, part)| {
                let (kind, data) = part.expression();
                tlv(i as u8, &expression(kind, &data))
            });
            (13, each.collect())
        }
    };
    expression(kind, &data)
}

fn expression(kind: u32, data: &[u8]) -> Vec<u8> {
    let mut out = tlv(0, &kind.to_ne_bytes());
    out.extend(tlv(1, data));
    out
}

fn byte_order(parts: &[Part]) -> u32 {
    match parts {
        [one] => one.byte_order(),
        _ => 0,
    }
}

fn type_number(parts: &[Part]) -> u32 {
    parts.iter().fold(0, |number, part| number << 6 | part.type_number())
}

fn length(parts: &[Part]) -> u32 {
    parts.iter().map(|part| part.length()).sum()
}

/// A set as the kernel is asked to make it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definition {
    pub flags: u32,
    pub key_type: u32,
    pub key_length: u32,
    /// Type and length, of maps.
    pub data: Option<(u32, u32)>,
    /// Most elements; only where the packet path adds them.
    pub size: Option<u32>,
    /// How often the kernel looks for elements that have ended; each second if it is not told.
    pub collect_ms: Option<u32>,
    pub user_data: Vec<u8>,
}

const NFT_SET_MAP: u32 = 0x8;

impl Definition {
    /// `data`: what it maps to; a set maps to nothing.
    pub fn new(key: &[Part], data: &[Part], flags: u32) -> Self {
        let mut user_data = tlv(0, &byte_order(key).to_ne_bytes());
        let map = !data.is_empty();
        if map {
            user_data.extend(tlv(1, &byte_order(data).to_ne_bytes()));
        }
        user_data.extend(tlv(3, &typeof_expression(key)));
        if map {
            user_data.extend(tlv(4, &typeof_expression(data)));
            user_data.extend(tlv(6, &0u32.to_ne_bytes()));
        }
        Self {
            flags: flags | if map { NFT_SET_MAP } else { 0 },
            key_type: type_number(key),
            key_length: length(key),
            data: map.then(|| (type_number(data), length(data))),
            size: None,
            collect_ms: None,
            user_data,
        }
    }
}

/// `ip daddr . meta l4proto . th dport`
pub fn frontend_parts(family: Family) -> Vec<Part> {
    vec![Part::Destination(family), Part::Protocol, Part::Port]
}
