//! What nft calls the type of a set: lengths and type numbers for the kernel's record, and the
//! user data from which `nft list` prints `typeof …`. PURE.
//!
//! Written byte for byte as nft 1.0.6 does it, or listings show keys in the wrong byte order.

use super::set::Set;
use crate::model::Family;

/// One part of a key or of a value, as an expression of nft's language.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
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

/// Elements that a set has room for; as many as memory holds, if it does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Room(Option<u32>);

impl Room {
    pub const ANY: Room = Room(None);

    /// Room for twice as many elements, or a little less than that. The kernel makes a power of two
    /// of 4⁄3 of the size: one that uses it up wastes no memory.
    pub fn to_grow(elements: u64) -> Self {
        const LEAST: u64 = 1 << 13;
        const MOST: u64 = 1 << 31;
        let buckets = (2 * elements).next_power_of_two().clamp(LEAST, MOST);
        Room(Some((buckets / 4 * 3) as u32))
    }

    pub fn size(self) -> Option<u32> {
        self.0
    }
}

/// A set as the kernel is asked to make it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definition {
    pub set: Set,
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

const NFT_SET_INTERVAL: u32 = 0x4;
const NFT_SET_MAP: u32 = 0x8;
const NFT_SET_TIMEOUT: u32 = 0x10;
const NFT_SET_EVAL: u32 = 0x20;
/// Pins of one family.
const MAX_PINS: u32 = 1 << 20;

impl Definition {
    pub fn of(set: Set) -> Self {
        let frontend = |f| vec![Part::Destination(f), Part::Protocol, Part::Port];
        let target = |f| vec![Part::Destination(f), Part::Port];
        let (key, data, flags) = match set {
            Set::Services(f) => (frontend(f), vec![Part::Priority], 0),
            Set::Endpoints(f, _) => (vec![Part::Priority, Part::Number], target(f), 0),
            Set::Addresses(f) | Set::Nodes(f) => (vec![Part::Destination(f)], vec![], 0),
            Set::NodePorts(_) => (vec![Part::Protocol, Part::Port], vec![Part::Priority], 0),
            Set::Guarded(f) => (frontend(f), vec![], 0),
            Set::Allowed(f) => {
                let key = [vec![Part::Source(f)], frontend(f)].concat();
                (key, vec![Part::Priority], 0)
            }
            Set::Locals => (vec![Part::Priority], vec![Part::Priority], 0),
            Set::Hairpin(f) => (vec![Part::Source(f), Part::Destination(f)], vec![], 0),
            Set::Departed(f) => (vec![Part::Source(f)], vec![], NFT_SET_TIMEOUT),
            Set::Closed(f) => (frontend(f), vec![], NFT_SET_TIMEOUT),
            Set::ClosedPorts(_) => (vec![Part::Protocol, Part::Port], vec![], NFT_SET_TIMEOUT),
            Set::Ranges(f) => (vec![Part::Destination(f)], vec![], NFT_SET_INTERVAL),
            Set::Affinity(Family::V4) => (
                vec![Part::Source(Family::V4), Part::Priority],
                vec![Part::Priority],
                NFT_SET_TIMEOUT | NFT_SET_EVAL,
            ),
            // The client's address as a hash: with all 16 bytes of it, the rule that writes pins
            // has more in registers than nft 1.0.6 can lay out (it aborts).
            Set::Affinity(Family::V6) => (
                vec![Part::Number, Part::Priority],
                vec![Part::Priority],
                NFT_SET_TIMEOUT | NFT_SET_EVAL,
            ),
            Set::Pinned(f, _) => (vec![Part::Priority], target(f), 0),
            Set::Classes | Set::Inners | Set::Exits | Set::Recorders => {
                (vec![Part::Priority], vec![Part::Verdict], 0)
            }
        };
        let mut user_data = tlv(0, &byte_order(&key).to_ne_bytes());
        let map = !data.is_empty();
        if map {
            user_data.extend(tlv(1, &byte_order(&data).to_ne_bytes()));
        }
        user_data.extend(tlv(3, &typeof_expression(&key)));
        if map {
            user_data.extend(tlv(4, &typeof_expression(&data)));
            user_data.extend(tlv(6, &0u32.to_ne_bytes()));
        }
        Self {
            set,
            flags: flags | if map { NFT_SET_MAP } else { 0 },
            key_type: type_number(&key),
            key_length: length(&key),
            data: map.then(|| (type_number(&data), length(&data))),
            size: matches!(set, Set::Affinity(_)).then_some(MAX_PINS),
            // Ended elements match nothing: there is no hurry.
            collect_ms: set.is_remembered().then_some(60_000),
            user_data,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    /// Bytes that nft 1.0.6 was seen to write for the same declarations.
    #[test]
    fn user_data_is_what_nft_writes() {
        let services = Definition::of(Set::Services(Family::V4));
        assert_eq!(
            hex(&services.user_data),
            "000400000000010401000000034400040d000000013c0014000407000000010c00040c00000001040c000000\
             010e00040900000001060004100000000214000407000000010c00040b00000001040200000004\
             0e0004090000000106000402000000060400000000"
        );
        assert_eq!((services.key_type, services.key_length), (0x730d, 12));
        assert_eq!(services.data, Some((0x17, 4)));
        let endpoints = Definition::of(Set::endpoints(Family::V6, 1));
        assert_eq!(
            hex(&endpoints.user_data),
            "000400000000010400000000033400040d000000012c000e0004090000000106000402000000011a00041700\
             00000112000401000000010402000000020400000000043400040d000000012c0014000407000000010c0004\
             0d0000000104090000000114000407000000010c00040b000000010402000000060400000000"
        );
        assert_eq!((endpoints.key_type, endpoints.key_length), (0x5c4, 8));
        assert_eq!(endpoints.data, Some((0x20d, 20)));
        let classes = Definition::of(Set::Classes);
        assert_eq!(
            hex(&classes.user_data),
            "000401000000010400000000030e0004090000000106000402000000040800040100000001000604\
             00000000"
        );
    }

    #[test]
    fn there_is_room_for_growth_and_no_bucket_is_wasted() {
        for elements in [0, 1, 5_000, 100_000, 200_000, 3_000_000] {
            let size = Room::to_grow(elements).size().unwrap();
            assert!(u64::from(size) * 2 >= 3 * elements, "{size} for {elements}");
            assert!(u64::from(size) * 4 / 3 % 2 == 0);
            assert!((u64::from(size) * 4 / 3).is_power_of_two());
        }
        assert_eq!(Room::to_grow(100_000).size(), Some(196_608));
    }
}
