//! What each set of the table is made as, and with how much room. PURE.

use super::set::Set;
use crate::model::Family;
use crate::nft::{Definition, Part, frontend_parts};

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

const NFT_SET_INTERVAL: u32 = 0x4;
const NFT_SET_TIMEOUT: u32 = 0x10;
const NFT_SET_EVAL: u32 = 0x20;
/// Pins of one family.
const MAX_PINS: u32 = 1 << 20;

/// A set as the kernel is asked to make it.
pub fn definition(set: Set) -> Definition {
    let frontend = frontend_parts;
    let target = |f| vec![Part::Destination(f), Part::Port];
    let (key, data, flags) = match set {
        Set::Services(f) => (frontend(f), vec![Part::Priority], 0),
        Set::Endpoints(f, _) => (vec![Part::Priority, Part::Number], target(f), 0),
        Set::Addresses(f) | Set::Nodes(f) | Set::Routed(f) => {
            (vec![Part::Destination(f)], vec![], 0)
        }
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
    Definition {
        size: matches!(set, Set::Affinity(_)).then_some(MAX_PINS),
        // Ended elements match nothing: there is no hurry.
        collect_ms: set.is_remembered().then_some(60_000),
        ..Definition::new(&key, &data, flags)
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
        let services = definition(Set::Services(Family::V4));
        assert_eq!(
            hex(&services.user_data),
            "000400000000010401000000034400040d000000013c0014000407000000010c00040c00000001040c000000\
             010e00040900000001060004100000000214000407000000010c00040b00000001040200000004\
             0e0004090000000106000402000000060400000000"
        );
        assert_eq!((services.key_type, services.key_length), (0x730d, 12));
        assert_eq!(services.data, Some((0x17, 4)));
        let endpoints = definition(Set::endpoints(Family::V6, 1));
        assert_eq!(
            hex(&endpoints.user_data),
            "000400000000010400000000033400040d000000012c000e0004090000000106000402000000011a00041700\
             00000112000401000000010402000000020400000000043400040d000000012c0014000407000000010c0004\
             0d0000000104090000000114000407000000010c00040b000000010402000000060400000000"
        );
        assert_eq!((endpoints.key_type, endpoints.key_length), (0x5c4, 8));
        assert_eq!(endpoints.data, Some((0x20d, 20)));
        let classes = definition(Set::Classes);
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
