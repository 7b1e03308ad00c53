//! Class numbers: how a connection is treated, in 12 bits. PURE.

use super::set::CLASS_MASK;
use crate::model::{Family, Protocol};
use crate::planner::{Action, Forward, Frontend, FrontendKind, PortPlan, Reach, Scope};
use foldhash::{HashMap, HashMapExt as _};
use std::collections::BTreeMap;
use std::num::NonZeroU32;

/// What one class does: spread over `size` slots, after a look at the client's pin if sticky.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClassKey {
    pub family: Family,
    /// nft maps ports only where the rule names the protocol.
    pub protocol: Protocol,
    pub scope: Scope,
    pub size: u32,
    /// Seconds that a pin lasts.
    pub affinity: Option<NonZeroU32>,
    pub approach: Approach,
}

/// How a connection comes to be translated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Approach {
    pub way: Way,
    /// Only where the relay has not taken it.
    pub relayed: bool,
}

impl Approach {
    pub const INSIDE: Approach = Approach { way: Way::Inside, relayed: false };

    pub fn of(port: &PortPlan, frontend: &Frontend) -> Self {
        Self { way: Way::of(frontend), relayed: port.relay_of(frontend).is_some() }
    }
}

/// How a connection came to the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Way {
    /// By a cluster IP: masqueraded as the local detector says.
    Inside,
    /// By an external address or a node port: always masqueraded.
    Outside,
    /// The same under policy Local: clients from outside go to local endpoints and keep their
    /// address; only what the node itself sends is masqueraded.
    OutsideLocal,
}

impl Way {
    pub fn of(frontend: &Frontend) -> Self {
        match (frontend.kind, &frontend.action) {
            (FrontendKind::ClusterIp, _) => Way::Inside,
            (_, Action::Forward(Forward { reach: Reach::LocalFromOutside, .. })) => {
                Way::OutsideLocal
            }
            _ => Way::Outside,
        }
    }
}

/// Class numbers that are not made on demand.
pub const CLASS_REFUSE: u32 = 1;
pub const CLASS_DROP: u32 = 2;
pub const FIRST_FREE_CLASS: u32 = 3;

/// Pools with this many endpoints or fewer always get a class of their exact size.
const ALWAYS_EXACT: u32 = 32;
/// Sizes with classes of their own, per family. Adding an element costs more with each rule bound
/// to its map, hence a bound.
const EXACT_SIZES: usize = 64;

#[derive(Debug)]
pub struct Classes {
    by_key: HashMap<ClassKey, Entry>,
    by_number: Vec<Option<ClassKey>>,
    free: Vec<u32>,
    /// Classes in use per (family, size).
    sizes: HashMap<(Family, u32), u32>,
    /// Classes per family that are sticky, external, and local from outside.
    special: [[u32; 3]; 2],
}

#[derive(Debug)]
struct Entry {
    number: u32,
    users: u32,
}

impl Default for Classes {
    fn default() -> Self {
        Self {
            by_key: HashMap::new(),
            by_number: vec![None; FIRST_FREE_CLASS as usize],
            free: Vec::new(),
            sizes: HashMap::new(),
            special: [[0; 3]; 2],
        }
    }
}

/// Whether a class had to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acquired {
    New(u32),
    Known(u32),
}

fn special(key: &ClassKey) -> [bool; 3] {
    let way = key.approach.way;
    [key.affinity.is_some(), way != Way::Inside, way == Way::OutsideLocal]
}

/// Slots of one pool and of all of its kind, given how many pools there are of each number of
/// endpoints.
pub fn slots(pools: &BTreeMap<u32, u64>) -> impl Iterator<Item = (u32, u64)> {
    let exact = |size: u32| size <= ALWAYS_EXACT || pools.len() <= EXACT_SIZES;
    let slots = move |size: u32| if exact(size) { size } else { table_size(size) };
    pools.iter().map(move |(size, count)| (slots(*size), u64::from(slots(*size)) * count))
}

/// A power of two, so large that no endpoint gets over 8 % more than another.
fn table_size(endpoints: u32) -> u32 {
    (endpoints * 12).next_power_of_two()
}

impl Classes {
    /// Slots for a pool of `endpoints`: as many, or a power of two ≥ 12 times as many where too
    /// many exact sizes are in use already.
    pub fn size_for(&self, family: Family, endpoints: u32) -> u32 {
        let exact = self.sizes.keys().filter(|(f, _)| *f == family).count();
        let fits = endpoints <= ALWAYS_EXACT
            || self.sizes.contains_key(&(family, endpoints))
            || exact < EXACT_SIZES;
        if fits { endpoints } else { table_size(endpoints) }
    }

    /// One more user of a class. `None`: all 12 bits are in use.
    pub fn acquire(&mut self, key: ClassKey) -> Option<Acquired> {
        if let Some(entry) = self.by_key.get_mut(&key) {
            entry.users += 1;
            return Some(Acquired::Known(entry.number));
        }
        let number = match self.free.pop() {
            Some(number) => number,
            None if self.by_number.len() as u32 <= CLASS_MASK => {
                self.by_number.push(None);
                self.by_number.len() as u32 - 1
            }
            None => return None,
        };
        self.insert(key, number, 1);
        Some(Acquired::New(number))
    }

    fn insert(&mut self, key: ClassKey, number: u32, users: u32) {
        self.by_number[number as usize] = Some(key);
        self.by_key.insert(key, Entry { number, users });
        *self.sizes.entry((key.family, key.size)).or_default() += 1;
        for (count, is) in self.special[key.family.index()].iter_mut().zip(special(&key)) {
            *count += u32::from(is);
        }
    }

    /// A class that the kernel holds already, not used by anyone yet. False if the number or the
    /// key is taken.
    pub fn adopt(&mut self, key: ClassKey, number: u32) -> bool {
        if !(FIRST_FREE_CLASS..=CLASS_MASK).contains(&number) || self.by_key.contains_key(&key) {
            return false;
        }
        while self.by_number.len() as u32 <= number {
            self.by_number.push(None);
            self.free.push(self.by_number.len() as u32 - 1);
        }
        if self.by_number[number as usize].is_some() {
            return false;
        }
        self.free.retain(|free| *free != number);
        self.insert(key, number, 0);
        true
    }

    /// One user less. The class stays until `take_unused`.
    pub fn release(&mut self, key: ClassKey) {
        if let Some(entry) = self.by_key.get_mut(&key) {
            entry.users = entry.users.saturating_sub(1);
        }
    }

    pub fn key(&self, number: u32) -> Option<ClassKey> {
        self.by_number.get(number as usize).copied().flatten()
    }

    pub fn iter(&self) -> impl Iterator<Item = (ClassKey, u32)> {
        self.by_key.iter().map(|(key, entry)| (*key, entry.number))
    }

    /// The number of a class that is there.
    pub fn number(&self, key: ClassKey) -> Option<u32> {
        self.by_key.get(&key).map(|entry| entry.number)
    }

    /// Whether there are classes of a family that are sticky, external, local from outside.
    pub fn special(&self, family: Family) -> [bool; 3] {
        self.special[family.index()].map(|count| count > 0)
    }

    /// Forgets the classes without users and returns them.
    pub fn take_unused(&mut self) -> Vec<(ClassKey, u32)> {
        let mut unused: Vec<_> = self
            .by_key
            .iter()
            .filter(|(_, entry)| entry.users == 0)
            .map(|(key, entry)| (*key, entry.number))
            .collect();
        unused.sort_unstable();
        for (key, number) in &unused {
            self.by_key.remove(key);
            self.by_number[*number as usize] = None;
            self.free.push(*number);
            for (count, is) in self.special[key.family.index()].iter_mut().zip(special(key)) {
                *count -= u32::from(is);
            }
            if let Some(count) = self.sizes.get_mut(&(key.family, key.size)) {
                *count -= 1;
                if *count == 0 {
                    self.sizes.remove(&(key.family, key.size));
                }
            }
        }
        unused
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::nftables::set::PoolSize;

    #[test]
    fn tables_of_several_slots_per_endpoint_are_large() {
        for endpoints in ALWAYS_EXACT + 1..200 {
            assert_eq!(PoolSize::of(table_size(endpoints)), PoolSize::Large);
        }
        let sizes: Vec<(u32, u64)> = slots(&(1..=65).map(|size| (size, 2)).collect()).collect();
        assert_eq!(sizes[31..33], [(32, 64), (512, 1024)]);
    }
}
