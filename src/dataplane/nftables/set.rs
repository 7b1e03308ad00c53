//! The sets and maps of the table, and their elements. PURE.
//!
//! ```text
//! services   address . protocol . port → pool:class      what a destination means
//! nodes      address                                     where node ports answer
//! nodeports  protocol . port → pool:class                what a port means there
//! guarded    address . protocol . port                   destinations that not everybody may ask
//! allowed    client network . address . protocol . port → its length   who may
//! endpoints  pool . slot → address . port                where a pool's slots lead ([`PoolSize`])
//! locals     pool → pool:class                           where its port's clients from outside go
//! addresses  address                                     active cluster IPs
//! hairpin    address . address                           endpoint addresses, twice each
//! departed   address                                     which were until lately
//! closed     address . protocol . port                   destinations that lately were frontends
//! closedports protocol . port                            node ports that lately were
//! ranges     address interval                            service ranges
//! affinity   client . pool → token                       pins, written by the packet path
//! pinned     token → address . port                      endpoints that a pin may name
//! classes    class → goto chain                          how a class treats a connection
//! inners     class → goto chain                          the same once its origin is known
//! exits      class → goto chain                          what it does on the way out
//! recorders  class → jump chain                          how a sticky class writes its pins
//! routed     address                                     which a route of vipd's leads here by
//! ```
//! Elements of `affinity`, `departed`, `closed` and `closedports` end by themselves.
//! All but `locals` and those of classes exist once per family, `endpoints` once per family and size
//! of pools, `pinned` once per family and scope. A service port has one pool number, whatever the
//! scope: slots of local endpoints are counted from [`LOCAL_SLOTS`].

use super::expr::Verdict;
use crate::model::Family;
pub use crate::nft::{
    Bytes, Data, Element, With, address_element, frontend_key, node_port_key, read_frontend_key,
    read_node_port_key,
};
use crate::nft::{put_address, put_port, read_address};
use crate::planner::{Scope, Target};
use ipnet::IpNet;
use std::net::IpAddr;
use std::ops::{Deref, DerefMut};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Set {
    Services(Family),
    Endpoints(Family, PoolSize),
    Addresses(Family),
    Hairpin(Family),
    Departed(Family),
    Closed(Family),
    ClosedPorts(Family),
    Ranges(Family),
    Affinity(Family),
    Pinned(Family, Scope),
    Nodes(Family),
    NodePorts(Family),
    Guarded(Family),
    Allowed(Family),
    Locals,
    Classes,
    Inners,
    Exits,
    Recorders,
    Routed(Family),
}

/// Pools of like sizes share a map. An element costs the more to add the more rules are bound to
/// its map (21 ns each, Linux 6.18), and each number of slots has its rule. With pools of 1 to 64
/// slots an element meets 20 rules on average, and would meet 64 in a single map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PoolSize {
    /// Up to 32 slots.
    Small,
    /// Up to 48.
    Medium,
    /// More, so all tables with several slots per endpoint.
    Large,
}

impl PoolSize {
    pub fn of(slots: u32) -> Self {
        match slots {
            ..=32 => PoolSize::Small,
            33..=48 => PoolSize::Medium,
            49.. => PoolSize::Large,
        }
    }
}

impl Set {
    pub const ALL: [Set; 41] = {
        use Family::{V4, V6};
        use PoolSize::{Large, Medium, Small};
        [
            Set::Services(V4),
            Set::Services(V6),
            Set::Endpoints(V4, Small),
            Set::Endpoints(V6, Small),
            Set::Endpoints(V4, Medium),
            Set::Endpoints(V6, Medium),
            Set::Endpoints(V4, Large),
            Set::Endpoints(V6, Large),
            Set::Addresses(V4),
            Set::Addresses(V6),
            Set::Hairpin(V4),
            Set::Hairpin(V6),
            Set::Departed(V4),
            Set::Departed(V6),
            Set::Closed(V4),
            Set::Closed(V6),
            Set::ClosedPorts(V4),
            Set::ClosedPorts(V6),
            Set::Ranges(V4),
            Set::Ranges(V6),
            Set::Affinity(V4),
            Set::Affinity(V6),
            Set::Pinned(V4, Scope::Cluster),
            Set::Pinned(V6, Scope::Cluster),
            Set::Pinned(V4, Scope::Local),
            Set::Pinned(V6, Scope::Local),
            Set::Nodes(V4),
            Set::Nodes(V6),
            Set::NodePorts(V4),
            Set::NodePorts(V6),
            Set::Guarded(V4),
            Set::Guarded(V6),
            Set::Allowed(V4),
            Set::Allowed(V6),
            Set::Locals,
            Set::Classes,
            Set::Inners,
            Set::Exits,
            Set::Recorders,
            Set::Routed(V4),
            Set::Routed(V6),
        ]
    };

    pub fn name(self) -> &'static str {
        use Family::{V4, V6};
        use PoolSize::{Large, Medium, Small};
        match self {
            Set::Services(V4) => "services4",
            Set::Services(V6) => "services6",
            Set::Endpoints(V4, Small) => "endpoints4",
            Set::Endpoints(V6, Small) => "endpoints6",
            Set::Endpoints(V4, Medium) => "endpoints4-33",
            Set::Endpoints(V6, Medium) => "endpoints6-33",
            Set::Endpoints(V4, Large) => "endpoints4-49",
            Set::Endpoints(V6, Large) => "endpoints6-49",
            Set::Addresses(V4) => "addresses4",
            Set::Addresses(V6) => "addresses6",
            Set::Hairpin(V4) => "hairpin4",
            Set::Hairpin(V6) => "hairpin6",
            Set::Departed(V4) => "departed4",
            Set::Departed(V6) => "departed6",
            Set::Closed(V4) => "closed4",
            Set::Closed(V6) => "closed6",
            Set::ClosedPorts(V4) => "closedports4",
            Set::ClosedPorts(V6) => "closedports6",
            Set::Ranges(V4) => "ranges4",
            Set::Ranges(V6) => "ranges6",
            Set::Affinity(V4) => "affinity4",
            Set::Affinity(V6) => "affinity6",
            Set::Pinned(V4, Scope::Cluster) => "pinned4",
            Set::Pinned(V6, Scope::Cluster) => "pinned6",
            Set::Pinned(V4, Scope::Local) => "pinned4-local",
            Set::Pinned(V6, Scope::Local) => "pinned6-local",
            Set::Nodes(V4) => "nodes4",
            Set::Nodes(V6) => "nodes6",
            Set::NodePorts(V4) => "nodeports4",
            Set::NodePorts(V6) => "nodeports6",
            Set::Guarded(V4) => "guarded4",
            Set::Guarded(V6) => "guarded6",
            Set::Allowed(V4) => "allowed4",
            Set::Allowed(V6) => "allowed6",
            Set::Locals => "locals",
            Set::Classes => "classes",
            Set::Inners => "inners",
            Set::Exits => "exits",
            Set::Recorders => "recorders",
            Set::Routed(V4) => "routed4",
            Set::Routed(V6) => "routed6",
        }
    }

    /// The map for pools of so many slots.
    pub fn endpoints(family: Family, slots: u32) -> Self {
        Set::Endpoints(family, PoolSize::of(slots))
    }

    /// All maps of frontends.
    pub fn all_frontends() -> impl Iterator<Item = Self> {
        let is = |set: &Self| matches!(set, Set::Services(_) | Set::NodePorts(_));
        Self::ALL.into_iter().filter(is)
    }

    /// All maps of endpoints.
    pub fn all_endpoints() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|set| matches!(set, Set::Endpoints(..)))
    }

    /// Whether its elements tell what lately was.
    pub fn is_remembered(self) -> bool {
        matches!(self, Set::Departed(_) | Set::Closed(_) | Set::ClosedPorts(_))
    }

    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|set| set.name() == name)
    }

    /// Its place in `ALL`.
    pub fn index(self) -> usize {
        let of = |first: usize, family: Family| first + family.index();
        match self {
            Set::Services(f) => of(0, f),
            Set::Endpoints(f, PoolSize::Small) => of(2, f),
            Set::Endpoints(f, PoolSize::Medium) => of(4, f),
            Set::Endpoints(f, PoolSize::Large) => of(6, f),
            Set::Addresses(f) => of(8, f),
            Set::Hairpin(f) => of(10, f),
            Set::Departed(f) => of(12, f),
            Set::Closed(f) => of(14, f),
            Set::ClosedPorts(f) => of(16, f),
            Set::Ranges(f) => of(18, f),
            Set::Affinity(f) => of(20, f),
            Set::Pinned(f, Scope::Cluster) => of(22, f),
            Set::Pinned(f, Scope::Local) => of(24, f),
            Set::Nodes(f) => of(26, f),
            Set::NodePorts(f) => of(28, f),
            Set::Guarded(f) => of(30, f),
            Set::Allowed(f) => of(32, f),
            Set::Locals => 34,
            Set::Classes => 35,
            Set::Inners => 36,
            Set::Exits => 37,
            Set::Recorders => 38,
            Set::Routed(f) => of(39, f),
        }
    }
}

/// One thing for each set, in the order of `Set::ALL`.
#[derive(Debug, Clone)]
pub struct PerSet<T>([T; Set::ALL.len()]);

impl<T: Default> Default for PerSet<T> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| T::default()))
    }
}

impl<T> Deref for PerSet<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T> DerefMut for PerSet<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.0
    }
}

/// The largest pool number: 20 bits of the 32 that a packet carries in its priority.
pub const MAX_POOL: u32 = (1 << 20) - 1;
/// Bits of the priority that hold the class.
pub const CLASS_BITS: u32 = 12;
pub const CLASS_MASK: u32 = (1 << CLASS_BITS) - 1;

/// The slot that the local endpoints of a pool begin at (nft prints larger offsets of `numgen` as
/// negative numbers in JSON).
pub const LOCAL_SLOTS: u32 = 1 << 30;

/// The slot that a scope's endpoints begin at.
pub fn first_slot(scope: Scope) -> u32 {
    match scope {
        Scope::Cluster => 0,
        Scope::Local => LOCAL_SLOTS,
    }
}

/// What a frontend's element holds: a pool and the class that treats it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Value(pub u32);

impl Value {
    pub fn new(pool: u32, class: u32) -> Self {
        debug_assert!(pool <= MAX_POOL && class <= CLASS_MASK);
        Self(pool << CLASS_BITS | class)
    }

    pub fn pool(self) -> u32 {
        self.0 >> CLASS_BITS
    }

    pub fn class(self) -> u32 {
        self.0 & CLASS_MASK
    }
}

/// An element with the set that it is in.
pub type Placed = (Set, Element);

pub fn service_element(key: Bytes, value: Value) -> Element {
    Element { key, data: Data::Value(Bytes::from_slice(&value.0.to_ne_bytes())) }
}

/// A pool as the packet's priority shows it once the class is stripped.
fn pool_word(pool: u32) -> [u8; 4] {
    (pool << CLASS_BITS).to_ne_bytes()
}

pub fn slot_key(pool: u32, slot: u32) -> Bytes {
    let mut key = Bytes::from_slice(&pool_word(pool));
    key.extend_from_slice(&slot.to_ne_bytes());
    key
}

/// (pool, slot) of an endpoint element.
pub fn read_slot_key(key: &[u8]) -> Option<(u32, u32)> {
    let pool = u32::from_ne_bytes(key.get(..4)?.try_into().ok()?);
    let slot = u32::from_ne_bytes(key.get(4..8)?.try_into().ok()?);
    Some((pool >> CLASS_BITS, slot))
}

fn target_bytes(target: &Target) -> Bytes {
    let mut bytes = Bytes::new();
    put_address(&mut bytes, target.address);
    put_port(&mut bytes, target.port);
    bytes
}

pub fn read_target(bytes: &[u8]) -> Option<Target> {
    let (address, port) = read_address(bytes, bytes.len().checked_sub(4)?)?;
    Some(Target { address, port: u16::from_be_bytes([port[0], port[1]]) })
}

pub fn endpoint_element(pool: u32, slot: u32, target: &Target) -> Element {
    Element { key: slot_key(pool, slot), data: Data::Value(target_bytes(target)) }
}

/// How long it is remembered who was an endpoint or a frontend. A compromise: connections may last
/// longer, and who has the address next loses INVALID packets meanwhile.
const REMEMBERED_MS: u64 = 3_600_000;

/// An element that says what was and is not any more.
pub fn remembered_element(key: Bytes) -> Element {
    Element { key, data: Data::Expiring { timeout_ms: REMEMBERED_MS } }
}

pub fn hairpin_element(address: IpAddr) -> Element {
    let mut key = Bytes::new();
    put_address(&mut key, address);
    put_address(&mut key, address);
    Element { key, data: Data::None }
}

pub fn guarded_element(frontend: Bytes) -> Element {
    Element { key: frontend, data: Data::None }
}

/// Clients of a network may ask at a frontend. The rule for networks of each length looks with as
/// much of the client's address for an element that says this length: of the networks that are
/// allowed at a frontend none lies inside another, so no two have the same address.
pub fn allowed_element(frontend: &[u8], clients: IpNet) -> Element {
    let mut key = Bytes::new();
    put_address(&mut key, clients.network());
    key.extend_from_slice(frontend);
    let length = u32::from(clients.prefix_len());
    Element { key, data: Data::Value(Bytes::from_slice(&length.to_ne_bytes())) }
}

/// The frontend that an `allowed` key is about.
pub fn allowed_frontend(family: Family, key: &[u8]) -> Option<&[u8]> {
    let address = match family {
        Family::V4 => 4,
        Family::V6 => 16,
    };
    key.get(address..)
}

/// Clients of a port that come from outside go to this pool.
pub fn local_element(pool: u32, value: Value) -> Element {
    let key = Bytes::from_slice(&pool_word(pool));
    Element { key, data: Data::Value(Bytes::from_slice(&value.0.to_ne_bytes())) }
}

/// The address of an `addresses`, `nodes`, `routed` or `hairpin` key.
pub fn read_set_address(set: Set, key: &[u8]) -> Option<IpAddr> {
    let length = match set {
        Set::Addresses(_) | Set::Nodes(_) | Set::Routed(_) => key.len(),
        Set::Hairpin(_) => key.len() / 2,
        _ => return None,
    };
    read_address(key, length).map(|(address, _)| address)
}

/// The name under which affinity remembers an endpoint of a pool: what the rules compute with
/// `jhash meta priority . ip daddr . th dport`.
pub fn token(pool: u32, target: &Target) -> u32 {
    let mut key = Bytes::from_slice(&pool_word(pool));
    key.extend_from_slice(&target_bytes(target));
    super::hash::jhash_scaled(&key)
}

/// What no endpoint is called: the hash stays below its modulus. A pin that holds it is still to be
/// written.
pub const NO_TOKEN: u32 = u32::MAX;

/// The pool that a pin belongs to.
pub fn read_pin_pool(key: &[u8]) -> Option<u32> {
    let word = u32::from_ne_bytes(key.get(4..8)?.try_into().ok()?);
    Some(word >> CLASS_BITS)
}

pub fn pinned_element(token: u32, target: &Target) -> Element {
    Element {
        key: Bytes::from_slice(&token.to_ne_bytes()),
        data: Data::Value(target_bytes(target)),
    }
}

pub fn class_element(class: u32, verdict: Verdict) -> Element {
    Element { key: Bytes::from_slice(&class.to_ne_bytes()), data: Data::Verdict(verdict) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_set_has_its_place_and_its_name() {
        for (place, set) in Set::ALL.into_iter().enumerate() {
            assert_eq!(set.index(), place);
            assert_eq!(Set::by_name(set.name()), Some(set));
        }
        assert_eq!(Set::all_endpoints().count(), 6);
    }

    #[test]
    fn pools_of_like_sizes_share_a_map() {
        let names = |slots| Family::BOTH.map(|family| Set::endpoints(family, slots).name());
        for slots in [1, 2, 31, 32] {
            assert_eq!(names(slots), ["endpoints4", "endpoints6"]);
        }
        for slots in [33, 34, 47, 48] {
            assert_eq!(names(slots), ["endpoints4-33", "endpoints6-33"]);
        }
        for slots in [49, 50, 64, 512, 1 << 20] {
            assert_eq!(names(slots), ["endpoints4-49", "endpoints6-49"]);
        }
    }

    /// One pool of each number of slots from 1 to 64, each with its rule.
    #[test]
    fn an_element_meets_few_rules() {
        let bound = |slots| (1..=64).filter(|n| PoolSize::of(*n) == PoolSize::of(slots)).count();
        let met: usize = (1..=64).map(|slots| slots as usize * bound(slots)).sum();
        let elements: usize = (1..=64).sum();
        assert_eq!(met / elements, 20);
    }
}
