//! What the kernel holds, as vipd knows it: everything that depends on history. PURE.

use super::changes::Changes;
use super::classes::{Approach, CLASS_DROP, CLASS_REFUSE, Classes, Way};
use super::layout::{Features, Lengths, Needs};
use super::pools::PoolNumbers;
use super::set::{
    Bytes, Element, PerSet, Set, Value, address_element, allowed_element, frontend_key,
    guarded_element, hairpin_element, node_port_key, read_frontend_key, read_node_port_key,
    read_set_address, remembered_element,
};
use crate::model::{Family, PortName, Protocol, ServiceKey};
use crate::planner::{
    Action, Carrier, Frontend, FrontendAddress, FrontendKey, NodePlan, Pool, PortPlan, Reach,
    Scope, ServiceDelta, ServicePlan, Target,
};
use foldhash::{HashMap, HashSet};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::{NonZeroU16, NonZeroU32};
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
        self.scope == scope && self.is_of(port)
    }

    /// In whichever scope.
    pub fn is_of(&self, port: &PortPlan) -> bool {
        self.family == port.family && self.protocol == port.protocol && self.name == port.name
    }
}

/// A pool as the kernel holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolState {
    pub key: PoolKey,
    /// What leads here from a cluster IP: number and class.
    pub value: Value,
    /// The class for connections that come otherwise, where there are any.
    pub external: Option<NonZeroU16>,
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

    pub fn external_class(&self) -> Option<u32> {
        self.external.map(|class| class.get().into())
    }

    /// What leads here by a frontend of this kind.
    fn value_for(&self, way: Way) -> Option<Value> {
        match way {
            Way::Inside => Some(self.value),
            Way::Outside | Way::OutsideLocal => {
                Some(Value::new(self.number(), self.external_class()?))
            }
        }
    }

    /// Leaves to the plan what the plan has.
    pub fn forget_slots_of(&mut self, plan: &ServicePlan) {
        if pool_of(&self.key, plan).is_some_and(|pool| pool.keys().eq(self.slots.iter())) {
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

    pub fn is_empty(&self, family: Family) -> bool {
        match family {
            Family::V4 => self.v4.present.is_empty(),
            Family::V6 => self.v6.present.is_empty(),
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

/// What becomes of an address that a route leads here by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Routed {
    Comes,
    Goes,
}

#[derive(Debug, Default)]
pub struct State {
    pub services: HashMap<ServiceKey, Box<[PoolState]>>,
    pub numbers: PoolNumbers,
    pub classes: Classes,
    /// Cluster IPs.
    pub addresses: Counts,
    /// Other addresses with a frontend.
    pub external: Counts,
    /// How many of the former lie outside the service ranges, per family, and of the latter.
    pub cluster_outside: [u64; 2],
    pub outside: [u64; 2],
    /// How many of the latter lie inside.
    pub inside: [u64; 2],
    /// Node ports per family.
    pub node_ports: [u64; 2],
    /// Addresses of frontends that not everybody may ask.
    pub guarded: Counts,
    /// How many of them lie inside the service ranges, per family.
    pub guarded_inside: [u64; 2],
    /// Networks that may, by the length of their prefix, per family.
    pub allowed: [BTreeMap<u8, u64>; 2],
    /// Addresses that a route of vipd's leads to this node by, and those that the next write adds and
    /// takes away.
    pub routed: BTreeSet<IpAddr>,
    pub routed_next: Vec<(IpAddr, Routed)>,
    /// Addresses of endpoints.
    pub endpoints: Counts,
    /// Endpoints that pins may name, by family and scope.
    pub tokens: [[HashMap<u32, Target>; 2]; 2],
    /// Deletions left to the next commit, and the pool numbers that are free after it.
    pub deferred: Vec<(Set, Element)>,
    pub freed_later: Vec<u32>,
    /// Fingerprints of the rules of every chain of the table.
    pub chains: HashMap<String, Vec<u64>>,
    pub node: Option<Arc<NodePlan>>,
    /// Chains with hooks are left out for now.
    pub unhooked: bool,
    /// Frontends that one service of the deltas under way hands to another.
    pub moved: Moved,
    /// Pools whose pins last for another time than they were written with.
    pub retimed: Vec<Retimed>,
    /// Elements that each map of endpoints holds, deferred ones too; 0 for every other set.
    pub slots: PerSet<u64>,
}

/// A frontend that the kernel holds, or shall hold: the map, the key, and what it means.
pub type HeldFrontend = (Set, Bytes, Value);

/// Where the kernel holds a frontend.
pub fn frontend_place(at: FrontendKey) -> (Set, Bytes) {
    match at.at {
        FrontendAddress::Address(address) => {
            let set = Set::Services(Family::of(address));
            (set, frontend_key(address, at.protocol, at.port))
        }
        FrontendAddress::NodePort(family) => {
            (Set::NodePorts(family), node_port_key(at.protocol, at.port))
        }
    }
}

/// The frontend that a key of such a map stands for.
pub fn read_frontend(set: Set, key: &[u8]) -> Option<FrontendKey> {
    match set {
        Set::Services(_) => {
            let (address, protocol, port) = read_frontend_key(key)?;
            Some(FrontendKey { at: FrontendAddress::Address(address), protocol, port })
        }
        Set::NodePorts(family) => {
            let (protocol, port) = read_node_port_key(key)?;
            Some(FrontendKey { at: FrontendAddress::NodePort(family), protocol, port })
        }
        _ => None,
    }
}

/// The pool that a frontend's element names.
pub fn named_scope(reach: Reach) -> Scope {
    match reach {
        Reach::Cluster | Reach::LocalFromOutside => Scope::Cluster,
        Reach::Local => Scope::Local,
    }
}

/// The frontends that a plan asks for, given its pools.
pub fn frontends<'a>(
    plan: &'a ServicePlan,
    pools: &'a [PoolState],
) -> impl Iterator<Item = HeldFrontend> + 'a {
    plan.held().map(move |(port, frontend)| {
        let value = match &frontend.action {
            Action::Reject => Value::new(0, CLASS_REFUSE),
            Action::Drop => Value::new(0, CLASS_DROP),
            Action::Forward(forward) => pools
                .iter()
                .find(|pool| pool.key.is(port, named_scope(forward.reach)))
                .and_then(|pool| pool.value_for(Way::of(frontend)))
                .unwrap_or(Value::new(0, CLASS_DROP)),
        };
        let (set, key) = frontend_place(frontend.at);
        (set, key, value)
    })
}

/// Frontends that change hands, each with the elements that guard it until then: who comes to hold
/// it replaces them with its own.
pub type Moved = HashMap<(Set, Bytes), Vec<(Set, Element)>>;

/// Frontends that these deltas take from one service and give to another.
pub fn moved_frontends(deltas: &[ServiceDelta]) -> Moved {
    let mut moved = Moved::default();
    if deltas.len() < 2 {
        return moved;
    }
    let keys = |plan: &Option<Arc<ServicePlan>>| -> Vec<(Set, Bytes)> {
        let held = plan.iter().flat_map(|plan| plan.held());
        held.map(|(_, frontend)| frontend_place(frontend.at)).collect()
    };
    for delta in deltas.iter().filter(|delta| delta.old.is_some()) {
        let (old, new) = (keys(&delta.old), keys(&delta.new));
        let gone = old.into_iter().filter(|key| !new.contains(key));
        moved.extend(gone.map(|key| (key, Vec::new())));
    }
    if !moved.is_empty() {
        let taken: HashSet<_> = deltas.iter().flat_map(|delta| keys(&delta.new)).collect();
        moved.retain(|key, _| taken.contains(key));
    }
    if !moved.is_empty() {
        let old = deltas.iter().filter_map(|delta| delta.old.as_deref());
        for (place, elements) in old.flat_map(guarded) {
            moved.entry(place).and_modify(|held| *held = elements);
        }
    }
    moved
}

/// The endpoints that a plan has for a pool.
pub fn pool_of<'a>(key: &PoolKey, plan: &'a ServicePlan) -> Option<&'a Pool> {
    used(plan)
        .find(|(port, _, scope)| key.is(port, *scope))
        .map(|(port, _, scope)| port.pool(scope))
}

/// Every frontend that leads to endpoints, with each of the pools that it leads to.
fn used(plan: &ServicePlan) -> impl Iterator<Item = (&PortPlan, &Frontend, Scope)> {
    let forwards = plan.held().filter_map(|(port, frontend)| match frontend.action {
        Action::Forward(forward) => Some((port, frontend, forward.reach.scopes())),
        _ => None,
    });
    forwards
        .flat_map(|(port, frontend, scopes)| scopes.iter().map(move |s| (port, frontend, *s)))
        .filter(|(port, _, scope)| !port.pool(*scope).is_empty())
}

/// A pool that a plan's frontends use.
#[derive(Debug, Clone, Copy)]
pub struct UsedPool<'a> {
    pub port: &'a PortPlan,
    pub scope: Scope,
    /// How connections come by a cluster IP.
    pub inside: Approach,
    /// How connections come that do not.
    pub external: Option<Approach>,
}

/// The pools that a plan's frontends use: each once. (The API wants other names for other ports; two
/// of one name and protocol lead to the same endpoints.)
pub fn used_pools(plan: &ServicePlan) -> Vec<UsedPool<'_>> {
    let mut pools: Vec<UsedPool<'_>> = Vec::new();
    for (port, frontend, scope) in used(plan) {
        let approach = Approach::of(port, frontend);
        let named = matches!(&frontend.action, Action::Forward(f) if named_scope(f.reach) == scope);
        let external = Some(approach).filter(|one| named && one.way != Way::Inside);
        match pools.iter_mut().find(|u| u.scope == scope && same_name(u.port, port)) {
            Some(known) => known.external = both(known.external, external),
            None => {
                let relayed = matches!(port.carrier, Carrier::Relay(_));
                let inside = Approach { way: Way::Inside, relayed };
                pools.push(UsedPool { port, scope, inside, external });
            }
        }
    }
    pools
}

/// A pool has one class for all that comes from outside: that the relay may have it costs those nothing
/// that it never has.
fn both(one: Option<Approach>, other: Option<Approach>) -> Option<Approach> {
    let relayed = one.is_some_and(|one| one.relayed) || other.is_some_and(|other| other.relayed);
    one.or(other).map(|one| Approach { relayed, ..one })
}

fn same_name(one: &PortPlan, other: &PortPlan) -> bool {
    (&one.name, one.protocol, one.family) == (&other.name, other.protocol, other.family)
}

/// Where the clients from outside go that a pool's frontends send to local endpoints.
pub fn locals(plan: &ServicePlan, pools: &[PoolState]) -> Vec<(u32, Value)> {
    let mut locals = Vec::new();
    for port in &plan.ports {
        let pool = |scope| pools.iter().find(|pool| pool.key.is(port, scope));
        let asked = port.frontends.iter().any(|frontend| Way::of(frontend) == Way::OutsideLocal);
        if let (true, Some(cluster), Some(local)) =
            (asked, pool(Scope::Cluster), pool(Scope::Local))
            && !locals.contains(&(cluster.number(), local.value))
        {
            locals.push((cluster.number(), local.value));
        }
    }
    locals
}

/// The frontends that not everybody may ask, with the elements that say who may.
pub fn guarded(
    plan: &ServicePlan,
) -> impl Iterator<Item = ((Set, Bytes), Vec<(Set, Element)>)> + '_ {
    plan.held().filter_map(|(_, frontend)| {
        let networks = frontend.allow.as_deref()?;
        let (family, place) = (frontend.at.at.family(), frontend_place(frontend.at));
        let key = &place.1;
        let allow = |net: &IpNet| (Set::Allowed(family), allowed_element(key, *net));
        let mut elements: Vec<_> = networks.iter().map(allow).collect();
        elements.push((Set::Guarded(family), guarded_element(key.clone())));
        Some((place, elements))
    })
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

    /// Connections of who is removed may go on, and their strays must still be told from others. To
    /// be called when it is known what is removed. Frontends in a service range are nobody else's, and
    /// an address of this node has other uses.
    pub fn remember_removed(&self, changes: &mut Changes) {
        if !self.node.as_ref().is_some_and(|node| node.drop_invalid) {
            return;
        }
        let remembered = |(set, Element { key, .. }): &(Set, Element)| match *set {
            Set::Hairpin(family) => {
                let address = read_set_address(*set, key)?;
                let element = remembered_element(address_element(address).key);
                let former = *key == hairpin_element(address).key && !self.is_of_this_node(address);
                former.then_some((Set::Departed(family), element))
            }
            Set::Services(family) => {
                let (address, ..) = read_frontend_key(key)?;
                let outside = self.strays(address) == 1;
                outside.then(|| (Set::Closed(family), remembered_element(key.clone())))
            }
            Set::NodePorts(family) => {
                Some((Set::ClosedPorts(family), remembered_element(key.clone())))
            }
            _ => None,
        };
        let remembered: Vec<_> = changes.removed.iter().filter_map(remembered).collect();
        changes.new_targets.extend(remembered);
    }

    /// Deletions come last in a transaction: what one service gave up and another took up in the
    /// same one must not be among them. What then is removed is remembered.
    pub fn keep_shared(&self, changes: &mut Changes) {
        changes.removed.retain(|(set, element)| {
            let counts = match set {
                Set::Addresses(_) => &self.addresses,
                Set::Hairpin(_) => &self.endpoints,
                _ => return true,
            };
            read_set_address(*set, &element.key).is_none_or(|address| !counts.contains(address))
        });
        self.remember_removed(changes);
    }

    /// What the skeleton of this node depends on now.
    pub fn needs<'a>(&self, node: &'a NodePlan) -> Needs<'a> {
        Needs { node, features: self.features() }
    }

    pub fn features(&self) -> [Features; 2] {
        Family::BOTH.map(|family| {
            let [sticky, external, local] = self.classes.special(family);
            let any = |counts: [u64; 2]| counts[family.index()] > 0;
            Features {
                sticky,
                outside: any(self.outside),
                external,
                local,
                routed: self.routed_of(family).next().is_some(),
                external_inside: any(self.inside),
                cluster_outside: any(self.cluster_outside),
                node_ports: any(self.node_ports),
                guarded: !self.guarded.is_empty(family),
                guarded_inside: any(self.guarded_inside),
                allowed: {
                    let mut lengths = Lengths::default();
                    self.allowed[family.index()].keys().for_each(|length| lengths.insert(*length));
                    lengths
                },
            }
        })
    }

    /// As long as there is one address, the first or the last of all tells the family.
    pub fn routed_of(&self, family: Family) -> impl DoubleEndedIterator<Item = IpAddr> {
        let (first, last) = match family {
            Family::V4 => (Ipv4Addr::UNSPECIFIED.into(), IpAddr::from(Ipv4Addr::BROADCAST)),
            Family::V6 => (Ipv6Addr::UNSPECIFIED.into(), IpAddr::from(u128::MAX.to_be_bytes())),
        };
        self.routed.range(first..=last).copied()
    }

    /// Writes who is led here by a route from now on.
    pub fn take_routed(&mut self, changes: &mut Changes) {
        if self.routed_next.is_empty() {
            return;
        }
        let before = self.features();
        for (address, what) in std::mem::take(&mut self.routed_next) {
            let element = (Set::Routed(Family::of(address)), address_element(address));
            match what {
                Routed::Comes if self.routed.insert(address) => changes.new_targets.push(element),
                Routed::Goes if self.routed.remove(&address) => changes.removed.push(element),
                Routed::Comes | Routed::Goes => {}
            }
        }
        self.reshape(before, changes);
    }

    /// Of a table that is not known: what does not follow from plans is kept.
    pub fn anew(&mut self) -> Self {
        let routed = std::mem::take(&mut self.routed);
        let routed_next = std::mem::take(&mut self.routed_next);
        Self { routed, routed_next, ..Self::default() }
    }

    /// 1 for an address outside the service ranges.
    pub fn strays(&self, address: IpAddr) -> u64 {
        let node = self.node.iter();
        let inside = node.flat_map(|node| &node.service_ranges).any(|net| net.contains(&address));
        u64::from(!inside)
    }

    fn is_of_this_node(&self, address: IpAddr) -> bool {
        self.node.iter().any(|node| node.own_addresses.binary_search(&address).is_ok())
    }

    /// Counts what depends on the service ranges anew.
    pub fn count_placed(&mut self) {
        let with = |addresses: &Counts, stray: u64| {
            Family::BOTH.map(|family| {
                let all = addresses.iter(family);
                all.filter(|address| self.strays(*address) == stray).count() as u64
            })
        };
        let inside = (with(&self.external, 0), with(&self.guarded, 0));
        let outside = (with(&self.addresses, 1), with(&self.external, 1));
        (self.inside, self.guarded_inside) = inside;
        (self.cluster_outside, self.outside) = outside;
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
