//! What the kernel holds, as vipd knows it: everything that depends on history. PURE.

use super::changes::Changes;
use super::classes::{CLASS_DROP, CLASS_REFUSE, Classes};
use super::layout::Needs;
use super::pools::PoolNumbers;
use super::set::{Bytes, Element, Set, Value, frontend_key, read_set_address};
use crate::model::{Family, PortName, Protocol, ServiceKey};
use crate::planner::{
    Action, FrontendAddress, NodePlan, PortPlan, Scope, ServiceDelta, ServicePlan, Target,
};
use foldhash::{HashMap, HashSet};
use std::hash::Hash;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;

/// Which pool of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolKey {
    pub name: PortName,
    pub protocol: Protocol,
    pub family: Family,
    pub scope: Scope,
}

impl PoolKey {
    pub fn of(port: &PortPlan, scope: Scope) -> Self {
        Self { name: port.name.clone(), protocol: port.protocol, family: port.family, scope }
    }

    pub fn is(&self, port: &PortPlan, scope: Scope) -> bool {
        self.scope == scope
            && self.family == port.family
            && self.protocol == port.protocol
            && self.name == port.name
    }
}

/// A pool as the kernel holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolState {
    pub key: PoolKey,
    /// What leads here: number and class.
    pub value: Value,
    pub affinity: Option<NonZeroU32>,
    /// One target a slot. In [`State::services`] empty where slots and targets are the same list:
    /// then the plan has it.
    pub slots: Box<[Target]>,
}

impl PoolState {
    pub fn number(&self) -> u32 {
        self.value.pool()
    }

    pub fn class(&self) -> u32 {
        self.value.class()
    }

    /// What the slots hold, given the plan that they were made from.
    pub fn slots_under(&self, plan: &ServicePlan) -> Box<[Target]> {
        if !self.slots.is_empty() {
            return self.slots.clone();
        }
        let of = |port: &&PortPlan| self.key.is(port, self.key.scope);
        let port = plan.ports.iter().find(of);
        port.map(|port| targets(port, self.key.scope)).unwrap_or_default()
    }

    /// Leaves to the plan what the plan has.
    pub fn forget_slots_of(&mut self, plan: &ServicePlan) {
        let planned = plan.ports.iter().find(|port| self.key.is(port, self.key.scope));
        let planned = planned.map(|port| port.pool(self.key.scope).iter().map(|e| &e.target));
        if planned.is_some_and(|planned| planned.eq(self.slots.iter())) {
            self.slots = Box::default();
        }
    }
}

/// Counts of what several services may share, and mostly do not.
#[derive(Debug, Default)]
pub struct Counts {
    v4: Count<[u8; 4]>,
    v6: Count<[u8; 16]>,
}

#[derive(Debug, Default)]
struct Count<K> {
    present: HashSet<K>,
    /// How many more times than once, where that is so.
    again: HashMap<K, u32>,
}

impl<K: Copy + Eq + Hash> Count<K> {
    fn add(&mut self, key: K) -> bool {
        let first = self.present.insert(key);
        if !first {
            *self.again.entry(key).or_default() += 1;
        }
        first
    }

    fn remove(&mut self, key: K) -> bool {
        match self.again.get_mut(&key) {
            None => return self.present.remove(&key),
            Some(1) => drop(self.again.remove(&key)),
            Some(again) => *again -= 1,
        }
        false
    }
}

impl Counts {
    /// True if it is the first.
    pub fn add(&mut self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(v4) => self.v4.add(v4.octets()),
            IpAddr::V6(v6) => self.v6.add(v6.octets()),
        }
    }

    /// True if it was the last.
    pub fn remove(&mut self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(v4) => self.v4.remove(v4.octets()),
            IpAddr::V6(v6) => self.v6.remove(v6.octets()),
        }
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(v4) => self.v4.present.contains(&v4.octets()),
            IpAddr::V6(v6) => self.v6.present.contains(&v6.octets()),
        }
    }

    pub fn iter(&self, family: Family) -> Box<dyn Iterator<Item = IpAddr> + '_> {
        match family {
            Family::V4 => Box::new(self.v4.present.iter().map(|octets| IpAddr::from(*octets))),
            Family::V6 => Box::new(self.v6.present.iter().map(|octets| IpAddr::from(*octets))),
        }
    }
}

/// A pool with another affinity timeout, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retimed {
    pub family: Family,
    pub number: u32,
    pub before: u32,
    pub after: u32,
}

#[derive(Debug, Default)]
pub struct State {
    pub services: HashMap<ServiceKey, Box<[PoolState]>>,
    pub numbers: PoolNumbers,
    pub classes: Classes,
    /// Addresses with a frontend.
    pub addresses: Counts,
    /// How many of these lie outside the service ranges, per family.
    pub outside: [u64; 2],
    /// Addresses of endpoints.
    pub endpoints: Counts,
    /// Endpoints that pins may name.
    pub tokens: [HashMap<u32, Target>; 2],
    /// Deletions left to the next commit, and the pool numbers that are free after it.
    pub deferred: Vec<(Set, Element)>,
    pub freed_later: Vec<u32>,
    /// Fingerprints of the rules of every chain of the table.
    pub chains: HashMap<String, Vec<u64>>,
    pub node: Option<Arc<NodePlan>>,
    /// Frontends that one service of the deltas under way hands to another.
    pub moved: HashSet<Bytes>,
    /// Pools whose pins last for another time than they were written with.
    pub retimed: Vec<Retimed>,
    /// Elements that each map of endpoints holds, deferred ones too; 0 for every other set.
    pub slots: [u64; Set::ALL.len()],
}

/// The elements of `services` that a plan asks for, given its pools.
pub fn frontends<'a>(
    plan: &'a ServicePlan,
    pools: &'a [PoolState],
) -> impl Iterator<Item = (Family, Bytes, Value)> + 'a {
    plan.held().filter_map(move |(port, frontend)| {
        let FrontendAddress::Address(address) = frontend.at.at else { return None };
        let value = match &frontend.action {
            Action::Reject => Value::new(0, CLASS_REFUSE),
            Action::Drop => Value::new(0, CLASS_DROP),
            Action::Forward(forward) => pools
                .iter()
                .find(|pool| pool.key.is(port, forward.scope))
                .map_or(Value::new(0, CLASS_DROP), |pool| pool.value),
        };
        let key = frontend_key(address, frontend.at.protocol, frontend.at.port);
        Some((Family::of(address), key, value))
    })
}

/// Frontends that these deltas take from one service and give to another.
pub fn moved_frontends(deltas: &[ServiceDelta]) -> HashSet<Bytes> {
    let mut moved = HashSet::default();
    if deltas.len() < 2 {
        return moved;
    }
    let keys = |plan: &Option<Arc<ServicePlan>>| -> Vec<Bytes> {
        plan.iter().flat_map(|plan| frontends(plan, &[])).map(|(_, key, _)| key).collect()
    };
    for delta in deltas.iter().filter(|delta| delta.old.is_some()) {
        let (old, new) = (keys(&delta.old), keys(&delta.new));
        moved.extend(old.into_iter().filter(|key| !new.contains(key)));
    }
    if !moved.is_empty() {
        let taken: HashSet<Bytes> = deltas.iter().flat_map(|delta| keys(&delta.new)).collect();
        moved.retain(|key| taken.contains(key));
    }
    moved
}

pub fn targets(port: &PortPlan, scope: Scope) -> Box<[Target]> {
    port.pool(scope).iter().map(|endpoint| endpoint.target).collect()
}

/// The pools that a plan's frontends use: each once.
pub fn used_pools(plan: &ServicePlan) -> Vec<(&PortPlan, Scope)> {
    let mut used: Vec<(&PortPlan, Scope)> = Vec::new();
    for (port, frontend) in plan.held() {
        if let Action::Forward(forward) = &frontend.action {
            let known =
                used.iter().any(|(p, scope)| std::ptr::eq(*p, port) && *scope == forward.scope);
            if !known {
                used.push((port, forward.scope));
            }
        }
    }
    used
}

/// Addresses that the plan has frontends at, sorted, each once.
pub fn frontend_addresses(plan: &ServicePlan) -> Vec<IpAddr> {
    let mut addresses: Vec<IpAddr> = plan
        .held()
        .filter_map(|(_, frontend)| match frontend.at.at {
            FrontendAddress::Address(address) => Some(address),
            FrontendAddress::NodePort(_) => None,
        })
        .collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

/// Addresses of the endpoints in use, sorted, each once.
pub fn endpoint_addresses(plan: &ServicePlan) -> Vec<IpAddr> {
    let mut addresses: Vec<IpAddr> = used_pools(plan)
        .into_iter()
        .flat_map(|(port, scope)| port.pool(scope).iter().map(|e| e.target.address))
        .collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

impl State {
    /// How many slots a pool has by its class.
    pub fn size(&self, pool: &PoolState) -> u32 {
        self.classes.key(pool.class()).map_or(0, |class| class.size)
    }

    /// The map that holds a pool's slots.
    pub fn map_of(&self, pool: &PoolState) -> Set {
        Set::endpoints(pool.key.family, self.size(pool))
    }

    /// Deletions come last in a transaction: what one service gave up and another took up in the
    /// same one must not be among them.
    pub fn keep_shared(&self, changes: &mut Changes) {
        changes.removed.retain(|(set, element)| {
            let counts = match set {
                Set::Addresses(_) => &self.addresses,
                Set::Hairpin(_) => &self.endpoints,
                _ => return true,
            };
            read_set_address(*set, &element.key).is_none_or(|address| !counts.contains(address))
        });
    }

    /// What the skeleton of this node depends on now.
    pub fn needs<'a>(&self, node: &'a NodePlan) -> Needs<'a> {
        Needs {
            node,
            sticky: Family::BOTH.map(|family| self.classes.any_sticky(family)),
            outside: self.outside.map(|count| count > 0),
        }
    }

    /// 1 for an address outside the service ranges.
    pub fn strays(&self, address: IpAddr) -> u64 {
        let node = self.node.iter();
        let inside = node.flat_map(|node| &node.service_ranges).any(|net| net.contains(&address));
        u64::from(!inside)
    }

    /// Counts `outside` anew, for other ranges.
    pub fn count_outside(&mut self) {
        self.outside = Family::BOTH
            .map(|family| self.addresses.iter(family).map(|address| self.strays(address)).sum());
    }

    /// Queues the deletions that the last commit left behind.
    pub fn take_overdue(&mut self, changes: &mut Changes) {
        for (set, _) in &self.deferred {
            if let Set::Endpoints(..) = set {
                self.slots[set.index()] -= 1;
            }
        }
        changes.overdue.append(&mut self.deferred);
        for number in self.freed_later.drain(..) {
            self.numbers.free(number);
        }
    }
}
