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
//! ```
//! Elements of `affinity`, `departed`, `closed` and `closedports` end by themselves.
//! All but `locals` and the last four exist once per family, `endpoints` once per family and size
//! of pools, `pinned` once per family and scope. A service port has one pool number, whatever the
//! scope: slots of local endpoints are counted from [`LOCAL_SLOTS`].

use super::expr::Verdict;
use crate::model::{Family, Protocol};
use crate::netlink::Buffer;
use crate::planner::{Scope, Target};
use ipnet::IpNet;
use smallvec::SmallVec;
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
    pub const ALL: [Set; 39] = {
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

/// Bytes of a key or of a value, as the registers hold them.
pub type Bytes = SmallVec<[u8; 24]>;

/// What an element maps to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Data {
    None,
    Value(Bytes),
    /// A value that ends by itself (a pin).
    Timed {
        value: Bytes,
        timeout_ms: u64,
        expires_ms: u64,
    },
    Verdict(Verdict),
    /// None, and the element ends by itself.
    Expiring {
        timeout_ms: u64,
    },
    /// A verdict that vipd never writes.
    Foreign,
    /// No data, and the flag that the interval begun before ends here.
    IntervalEnd,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Element {
    /// Empty for the element that answers for every key that is not there; never vipd's.
    pub key: Bytes,
    pub data: Data,
}

/// An element with the set that it is in.
pub type Placed = (Set, Element);

fn put_address(out: &mut Bytes, address: IpAddr) {
    match address {
        IpAddr::V4(v4) => out.extend_from_slice(&v4.octets()),
        IpAddr::V6(v6) => out.extend_from_slice(&v6.octets()),
    }
}

/// Network byte order, padded to a register's 4 bytes.
fn put_port(out: &mut Bytes, port: u16) {
    out.extend_from_slice(&port.to_be_bytes());
    out.extend_from_slice(&[0, 0]);
}

pub fn frontend_key(address: IpAddr, protocol: Protocol, port: u16) -> Bytes {
    let mut key = Bytes::new();
    put_address(&mut key, address);
    key.extend_from_slice(&[protocol as u8, 0, 0, 0]);
    put_port(&mut key, port);
    key
}

/// What `frontend_key` wrote.
pub fn read_frontend_key(key: &[u8]) -> Option<(IpAddr, Protocol, u16)> {
    let (address, rest) = read_address(key, key.len().checked_sub(8)?)?;
    let protocol = Protocol::from_number(rest[0])?;
    Some((address, protocol, u16::from_be_bytes([rest[4], rest[5]])))
}

fn read_address(bytes: &[u8], length: usize) -> Option<(IpAddr, &[u8])> {
    let (address, rest) = bytes.split_at_checked(length)?;
    let address = match length {
        4 => IpAddr::from(<[u8; 4]>::try_from(address).ok()?),
        16 => IpAddr::from(<[u8; 16]>::try_from(address).ok()?),
        _ => return None,
    };
    Some((address, rest))
}

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

pub fn address_element(address: IpAddr) -> Element {
    let mut key = Bytes::new();
    put_address(&mut key, address);
    Element { key, data: Data::None }
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

pub fn node_port_key(protocol: Protocol, port: u16) -> Bytes {
    let mut key = Bytes::from_slice(&[protocol as u8, 0, 0, 0]);
    put_port(&mut key, port);
    key
}

/// What `node_port_key` wrote.
pub fn read_node_port_key(key: &[u8]) -> Option<(Protocol, u16)> {
    let &[protocol, _, _, _, high, low, _, _] = key else { return None };
    Some((Protocol::from_number(protocol)?, u16::from_be_bytes([high, low])))
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

/// The address of an `addresses`, `nodes` or `hairpin` key.
pub fn read_set_address(set: Set, key: &[u8]) -> Option<IpAddr> {
    let length = match set {
        Set::Addresses(_) | Set::Nodes(_) => key.len(),
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

const NFTA_LIST_ELEM: u16 = 1;
const NFTA_DATA_VALUE: u16 = 1;
const NFTA_SET_ELEM_KEY: u16 = 1;
const NFTA_SET_ELEM_DATA: u16 = 2;
const NFTA_SET_ELEM_FLAGS: u16 = 3;
const NFTA_SET_ELEM_TIMEOUT: u16 = 4;
const NFTA_SET_ELEM_EXPIRATION: u16 = 5;
const NFT_SET_ELEM_INTERVAL_END: u32 = 1;
const NFT_SET_ELEM_CATCHALL: u32 = 2;

/// Whether an element is written with what it maps to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum With {
    Data,
    /// For deletions and look-ups; a wrong datum would make a deletion fail.
    KeyOnly,
}

impl Element {
    pub fn put(&self, out: &mut Buffer, with: With) {
        let element = out.nest(NFTA_LIST_ELEM);
        if self.data == Data::IntervalEnd {
            out.attr_u32(NFTA_SET_ELEM_FLAGS, NFT_SET_ELEM_INTERVAL_END);
        }
        if self.key.is_empty() {
            out.attr_u32(NFTA_SET_ELEM_FLAGS, NFT_SET_ELEM_CATCHALL);
        } else {
            let key = out.nest(NFTA_SET_ELEM_KEY);
            out.attr(NFTA_DATA_VALUE, &self.key);
            out.close(key);
        }
        if with == With::Data {
            match &self.data {
                Data::None | Data::IntervalEnd | Data::Foreign => {}
                Data::Expiring { timeout_ms } => {
                    out.attr_u64(NFTA_SET_ELEM_TIMEOUT, *timeout_ms);
                    // One that is there begins anew by it (Linux 6.12).
                    out.attr_u64(NFTA_SET_ELEM_EXPIRATION, *timeout_ms);
                }
                Data::Value(bytes) => {
                    let data = out.nest(NFTA_SET_ELEM_DATA);
                    out.attr(NFTA_DATA_VALUE, bytes);
                    out.close(data);
                }
                Data::Timed { value, timeout_ms, expires_ms } => {
                    let data = out.nest(NFTA_SET_ELEM_DATA);
                    out.attr(NFTA_DATA_VALUE, value);
                    out.close(data);
                    out.attr_u64(NFTA_SET_ELEM_TIMEOUT, *timeout_ms);
                    out.attr_u64(NFTA_SET_ELEM_EXPIRATION, *expires_ms);
                }
                Data::Verdict(verdict) => {
                    let data = out.nest(NFTA_SET_ELEM_DATA);
                    super::expr::put_verdict(out, verdict);
                    out.close(data);
                }
            }
        }
        out.close(element);
    }

    /// One element of a list that the kernel sent.
    pub fn read(attributes: crate::netlink::Attributes<'_>) -> Option<Self> {
        let flags = attributes.find(NFTA_SET_ELEM_FLAGS).and_then(|a| a.u32()).unwrap_or(0);
        let key = match attributes.find(NFTA_SET_ELEM_KEY) {
            Some(key) => key.nested().find(NFTA_DATA_VALUE)?.value,
            None if flags & NFT_SET_ELEM_CATCHALL != 0 => &[],
            None => return None,
        };
        let time = |kind| attributes.find(kind).and_then(|a| a.u64());
        let data = match attributes.find(NFTA_SET_ELEM_DATA) {
            Some(data) => match data.nested().find(NFTA_DATA_VALUE) {
                Some(value) => {
                    let value = Bytes::from_slice(value.value);
                    match (time(NFTA_SET_ELEM_TIMEOUT), time(NFTA_SET_ELEM_EXPIRATION)) {
                        (Some(timeout_ms), Some(expires_ms)) => {
                            Data::Timed { value, timeout_ms, expires_ms }
                        }
                        _ => Data::Value(value),
                    }
                }
                None => {
                    super::expr::read_verdict(data.nested()).map_or(Data::Foreign, Data::Verdict)
                }
            },
            None if flags & NFT_SET_ELEM_INTERVAL_END != 0 => Data::IntervalEnd,
            None => match time(NFTA_SET_ELEM_TIMEOUT) {
                Some(timeout_ms) => Data::Expiring { timeout_ms },
                None => Data::None,
            },
        };
        Some(Self { key: Bytes::from_slice(key), data })
    }
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
