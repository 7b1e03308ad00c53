//! Plans to elements. PURE: a function of the state of the table and the plans.
//!
//! In: what the kernel holds ([`State`]) and a service's plan. Out: [`Changes`].
//! Never: work beyond the service that changed.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use super::changes::{Changes, Structure};
use super::classes::{Acquired, CLASS_DROP, CLASS_REFUSE, ClassKey};
use super::difference::{difference, endpoint_addresses, endpoint_difference, frontend_addresses};
use super::expr::Verdict;
use super::layout::{ChainDefinition, Features, OPTIONAL, skeleton};
use super::place::{Former, Wanted};
use super::set::{
    Bytes, Data, Element, Set, Value, address_element, class_element, hairpin_element,
    local_element, read_frontend_key, service_element,
};
use super::state::{
    HeldFrontend, Moved, PoolKey, PoolState, State, UsedPool, frontend_place, frontends, guarded,
    locals, used_pools,
};
use super::treatment::{class_chains, entry, exit, inner, recorder};
use crate::model::{Family, ServiceKey};
use crate::planner::{FrontendAddress, FrontendKind, NodePlan, ServicePlan};
use foldhash::{HashMap, HashSet};
use ipnet::IpNet;
use smallvec::SmallVec;
use std::net::IpAddr;
use std::sync::Arc;

/// What several services may share, and the kernel holds once.
#[derive(Default)]
struct Shared {
    cluster_ips: Vec<IpAddr>,
    others: Vec<IpAddr>,
    /// Node ports per family.
    node_ports: [u64; 2],
    /// Addresses of frontends that not everybody may ask, as often as there are such frontends.
    guarded: Vec<IpAddr>,
    /// Lengths of the networks that may, as often as there are such networks.
    allowed: Vec<(Family, u8)>,
}

impl Shared {
    fn of(plan: &ServicePlan) -> Self {
        let mut shared = Self {
            cluster_ips: frontend_addresses(plan, true),
            others: frontend_addresses(plan, false),
            ..Self::default()
        };
        for (_, frontend) in plan.held() {
            let at = frontend.at.at.family().index();
            shared.node_ports[at] += u64::from(frontend.kind == FrontendKind::NodePort);
            if let (Some(_), FrontendAddress::Address(address)) = (&frontend.allow, frontend.at.at)
            {
                shared.guarded.push(address);
            }
            let networks = frontend.allow.iter().flat_map(|networks| networks.iter());
            let length = |net: &IpNet| (frontend.at.at.family(), net.prefix_len());
            shared.allowed.extend(networks.map(length));
        }
        shared
    }
}

impl State {
    /// One service's difference, from the plan that the kernel follows to the new one.
    pub fn lower(
        &mut self,
        key: &ServiceKey,
        old: Option<&ServicePlan>,
        new: Option<&ServicePlan>,
        changes: &mut Changes,
    ) {
        let features = self.features();
        let pools = self.services.remove(key).unwrap_or_default();
        let held = Held {
            frontends: old.map_or_else(Vec::new, |plan| frontends(plan, &pools).collect()),
            locals: old.map_or_else(Vec::new, |plan| locals(plan, &pools)),
            guards: held_guards(old, new, &self.moved),
        };
        let former = |pool| match old {
            Some(plan) => Former::planned(pool, plan),
            None => Former::seen(pool),
        };
        let pools = pools.into_iter().map(former).collect();
        self.lower_from((key, pools), held, new, changes);
        let before = old.map(Shared::of).unwrap_or_default();
        let after = new.map(Shared::of).unwrap_or_default();
        self.count_cluster_ips((&before.cluster_ips, &after.cluster_ips), changes);
        self.count_others((&before.others, &after.others));
        self.count_endpoints(endpoint_difference(old, new), changes);
        for at in [0, 1] {
            self.node_ports[at] =
                self.node_ports[at] + after.node_ports[at] - before.node_ports[at];
        }
        after.guarded.into_iter().for_each(|address| self.guard(address));
        before.guarded.into_iter().for_each(|address| self.unguard(address));
        self.count_allowed(&after.allowed);
        self.discount_allowed(&before.allowed);
        self.reshape(features, changes);
    }

    /// Counts what a plan needs of the table, for a table that is there already.
    pub fn count_present(&mut self, plan: &ServicePlan) {
        let shared = Shared::of(plan);
        for address in shared.cluster_ips {
            self.addresses.add(address);
        }
        for address in shared.others {
            self.external.add(address);
        }
        for address in endpoint_addresses(plan) {
            self.endpoints.add(address);
        }
        for at in [0, 1] {
            self.node_ports[at] += shared.node_ports[at];
        }
        shared.guarded.into_iter().for_each(|address| self.guard(address));
        self.count_allowed(&shared.allowed);
    }

    pub fn count_allowed(&mut self, lengths: &[(Family, u8)]) {
        for (family, length) in lengths {
            *self.allowed[family.index()].entry(*length).or_default() += 1;
        }
    }

    pub fn discount_allowed(&mut self, lengths: &[(Family, u8)]) {
        for (family, length) in lengths {
            let counts = &mut self.allowed[family.index()];
            if let Some(count) = counts.get_mut(length) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(length);
                }
            }
        }
    }

    /// Guards that go later: until then the skeleton must ask them.
    pub fn count_guards(&mut self, elements: &[(Set, Element)]) {
        guarded_addresses(elements).for_each(|address| self.guard(address));
        self.count_allowed(&lengths_of(elements));
    }

    pub fn discount_guards(&mut self, elements: &[(Set, Element)]) {
        guarded_addresses(elements).for_each(|address| self.unguard(address));
        self.discount_allowed(&lengths_of(elements));
    }

    /// One more frontend that not everybody may ask.
    fn guard(&mut self, address: IpAddr) {
        if self.guarded.add(address) {
            self.guarded_inside[Family::of(address).index()] += 1 - self.strays(address);
        }
    }

    fn unguard(&mut self, address: IpAddr) {
        if self.guarded.remove(address) {
            self.guarded_inside[Family::of(address).index()] -= 1 - self.strays(address);
        }
    }

    /// As `lower`, but for shared addresses and the skeleton, and from what the kernel was seen to
    /// hold.
    pub fn lower_from(
        &mut self,
        (key, mut pools): (&ServiceKey, Vec<Former>),
        held: Held,
        new: Option<&ServicePlan>,
        changes: &mut Changes,
    ) {
        let before: SmallVec<[u32; 2]> = pools.iter().map(|former| former.pool.number()).collect();
        let mut next: Vec<PoolState> = Vec::new();
        let used = new.map(used_pools).unwrap_or_default();
        for UsedPool { port, scope, inside, external } in used {
            let old = pools.iter().position(|former| former.pool.key.is(port, scope));
            let old = old.map(|at| pools.swap_remove(at));
            let others = pools.iter().map(|former| &former.pool);
            let mut siblings = next.iter().chain(others).filter(|pool| pool.key.is_of(port));
            let sibling = siblings.next().map(PoolState::number);
            let wanted = Wanted {
                key: PoolKey::of(port, scope),
                affinity: port.affinity,
                inside,
                external,
                targets: port.pool(scope).clone(),
            };
            let compare = old.as_ref().is_none_or(|former| former.may_be_in_order);
            let Some(mut pool) = self.place(key, old, (wanted, sibling), changes) else {
                continue;
            };
            if let Some(plan) = new.filter(|_| compare) {
                pool.forget_slots_of(plan);
            }
            next.push(pool);
        }
        for former in pools {
            self.drop_pool(former.pool, changes);
        }
        let kept = |number: &u32| next.iter().any(|pool| pool.number() == *number);
        self.freed_later.extend(before.iter().copied().filter(|number| !kept(number)));
        let wanted = Held {
            frontends: new.map_or_else(Vec::new, |plan| frontends(plan, &next).collect()),
            locals: new.map_or_else(Vec::new, |plan| locals(plan, &next)),
            guards: new.map_or_else(Vec::new, guard_elements),
        };
        self.write_held(held, wanted, changes);
        if !next.is_empty() {
            self.services.insert(key.clone(), next.into());
        }
    }

    /// Writes what differs between the frontends held and wanted, and what hangs on them.
    fn write_held(&mut self, held: Held, wanted: Held, changes: &mut Changes) {
        let unguarded = guard_difference(&held.guards, &wanted.guards, changes);
        local_difference(&held.locals, &wanted.locals, changes);
        frontend_difference(held.frontends, wanted.frontends, &self.moved, changes);
        changes.removed.extend(unguarded);
    }

    /// The number of a class with one more user; its chains are made if it is new.
    pub fn class(&mut self, key: ClassKey, changes: &mut Changes) -> Option<u32> {
        match self.classes.acquire(key)? {
            Acquired::Known(number) => Some(number),
            Acquired::New(number) => {
                for chain in class_chains(key) {
                    self.ensure_chain(chain, changes);
                }
                changes.new_targets.extend(class_elements(key, number));
                Some(number)
            }
        }
    }

    /// Brings one chain to its definition.
    pub fn ensure_chain(&mut self, chain: ChainDefinition, changes: &mut Changes) {
        if self.unhooked && chain.hook.is_some() {
            return;
        }
        let fingerprints = chain.fingerprints();
        match self.chains.get(&*chain.name) {
            Some(known) if *known == fingerprints => {}
            known => {
                // What is to go with the same changes is there still, and stays.
                let goes = changes.removed_chains.iter().position(|name| *name == chain.name);
                let goes = goes.map(|at| changes.removed_chains.swap_remove(at));
                let structure = if known.is_some() || goes.is_some() {
                    Structure::Rewrite(chain.clone())
                } else {
                    Structure::Chain(chain.clone())
                };
                changes.structure.push(structure);
                self.chains.insert(chain.name.into_owned(), fingerprints);
            }
        }
    }

    pub fn ensure_skeleton(&mut self, node: &NodePlan, changes: &mut Changes) {
        let chains = skeleton(self.needs(node));
        let unwanted = OPTIONAL.into_iter().filter(|name| chains.iter().all(|c| c.name != *name));
        for name in unwanted {
            if self.chains.remove(name).is_some() {
                changes.removed_chains.push(name.to_owned());
            }
        }
        for chain in chains {
            self.ensure_chain(chain, changes);
        }
    }

    pub fn count_cluster_ips(&mut self, change: (&[IpAddr], &[IpAddr]), changes: &mut Changes) {
        let (gone, come) = difference(change);
        for address in come {
            if self.addresses.add(address) {
                let set = Set::Addresses(Family::of(address));
                changes.new_targets.push((set, address_element(address)));
                self.cluster_outside[Family::of(address).index()] += self.strays(address);
            }
        }
        for address in gone {
            if self.addresses.remove(address) {
                let set = Set::Addresses(Family::of(address));
                changes.removed.push((set, address_element(address)));
                self.cluster_outside[Family::of(address).index()] -= self.strays(address);
            }
        }
    }

    /// Addresses that are not the service's alone: nothing is said of their other ports.
    pub fn count_others(&mut self, change: (&[IpAddr], &[IpAddr])) {
        let (gone, come) = difference(change);
        for address in come {
            if self.external.add(address) {
                self.outside[Family::of(address).index()] += self.strays(address);
                self.inside[Family::of(address).index()] += 1 - self.strays(address);
            }
        }
        for address in gone {
            if self.external.remove(address) {
                self.outside[Family::of(address).index()] -= self.strays(address);
                self.inside[Family::of(address).index()] -= 1 - self.strays(address);
            }
        }
    }

    /// Writes the skeleton again if services need other parts of it than before.
    pub fn reshape(&mut self, before: [Features; 2], changes: &mut Changes) {
        if before != self.features()
            && let Some(node) = self.node.clone()
        {
            self.ensure_skeleton(&node, changes);
        }
    }

    fn count_endpoints(&mut self, (gone, come): (Vec<IpAddr>, Vec<IpAddr>), changes: &mut Changes) {
        for address in come {
            if self.endpoints.add(address) {
                let set = Set::Hairpin(Family::of(address));
                changes.new_targets.push((set, hairpin_element(address)));
            }
        }
        for address in gone {
            if self.endpoints.remove(address) {
                let set = Set::Hairpin(Family::of(address));
                changes.removed.push((set, hairpin_element(address)));
            }
        }
    }

    /// What does not depend on services: chains, service ranges, where node ports answer.
    pub fn lower_node(&mut self, node: &Arc<NodePlan>, changes: &mut Changes) {
        let old = self.node.replace(node.clone());
        self.count_placed();
        self.ensure_skeleton(node, changes);
        let old_nodes = old.as_ref().map_or(&[][..], |node| &node.node_port_addresses);
        let (gone, come) = difference((old_nodes, &node.node_port_addresses));
        changes.overdue.extend(gone.into_iter().map(node_element));
        changes.new_targets.extend(come.into_iter().map(node_element));
        let old_ranges = old.as_ref().map_or(&[][..], |node| &node.service_ranges);
        if old_ranges != node.service_ranges {
            let old: Vec<_> = range_elements(old_ranges);
            let new: Vec<_> = range_elements(&node.service_ranges);
            // Both ends of an interval belong together: all of them in one transaction.
            changes.overdue.extend(old);
            changes.new_targets.extend(new);
        }
    }

    /// Removes classes that nobody uses any more, with their chains.
    pub fn trim(&mut self, changes: &mut Changes) {
        let unused = self.classes.take_unused();
        if unused.is_empty() {
            return;
        }
        let needed: HashSet<String> = self
            .classes
            .iter()
            .flat_map(|(key, _)| class_chains(key))
            .map(|chain| chain.name.into_owned())
            .collect();
        let mut gone: Vec<String> = Vec::new();
        for (key, number) in unused {
            changes.overdue.extend(class_elements(key, number));
            for chain in class_chains(key) {
                let name = chain.name.into_owned();
                if !needed.contains(&name) && self.chains.remove(&name).is_some() {
                    gone.push(name);
                }
            }
        }
        changes.removed_chains.extend(gone);
        if let Some(node) = self.node.clone() {
            self.ensure_skeleton(&node, changes);
        }
    }
}

/// The elements that lead to a class.
pub fn class_elements(key: ClassKey, number: u32) -> Vec<(Set, Element)> {
    let mut elements = vec![(Set::Classes, class_element(number, entry(key)))];
    let inner = inner(key).map(|verdict| (Set::Inners, class_element(number, verdict)));
    let exit = exit(key).map(|verdict| (Set::Exits, class_element(number, verdict)));
    let recorder = recorder(key).map(|verdict| (Set::Recorders, class_element(number, verdict)));
    elements.extend(inner.into_iter().chain(exit).chain(recorder));
    elements
}

/// An address at which node ports answer.
pub fn node_element(address: IpAddr) -> (Set, Element) {
    (Set::Nodes(Family::of(address)), address_element(address))
}

/// The classes that exist without being asked for.
pub fn fixed_class_elements() -> [(Set, Element); 2] {
    [
        (Set::Classes, class_element(CLASS_REFUSE, Verdict::Goto("refuse".into()))),
        (Set::Classes, class_element(CLASS_DROP, Verdict::Drop)),
    ]
}

/// Service ranges as the interval set wants them: begin, and where it ends.
pub fn range_elements(ranges: &[IpNet]) -> Vec<(Set, Element)> {
    let mut elements = Vec::new();
    for net in ranges {
        let set = Set::Ranges(Family::of(net.addr()));
        elements.push((set, address_element(net.network())));
        let end = match net {
            IpNet::V4(v4) => u32::from(v4.broadcast()).checked_add(1).map(|n| IpAddr::V4(n.into())),
            IpNet::V6(v6) => {
                u128::from(v6.broadcast()).checked_add(1).map(|n| IpAddr::V6(n.into()))
            }
        };
        if let Some(end) = end {
            elements.push((set, Element { data: Data::IntervalEnd, ..address_element(end) }));
        }
    }
    elements
}

/// What the kernel holds of a service beside its pools, or shall hold.
#[derive(Default)]
pub struct Held {
    pub frontends: Vec<HeldFrontend>,
    /// Pools whose clients from outside go elsewhere.
    pub locals: Vec<(u32, Value)>,
    /// Elements of `guarded` and `allowed`.
    pub guards: Vec<(Set, Element)>,
}

/// What keeps clients from frontends that not everybody may ask.
pub fn guard_elements(plan: &ServicePlan) -> Vec<(Set, Element)> {
    guarded(plan).flat_map(|(_, elements)| elements).collect()
}

/// The elements that guard what a service holds, and what it comes to hold: who loses a frontend
/// leaves its guard to who gets it.
fn held_guards(
    old: Option<&ServicePlan>,
    new: Option<&ServicePlan>,
    moved: &Moved,
) -> Vec<(Set, Element)> {
    if moved.is_empty() {
        return old.map_or_else(Vec::new, guard_elements);
    }
    let kept = old.into_iter().flat_map(guarded).filter(|(place, _)| !moved.contains_key(place));
    let places = new.into_iter().flat_map(ServicePlan::held).map(|(_, f)| frontend_place(f.at));
    let got = places.filter_map(|place| moved.get(&place)).flatten().cloned();
    kept.flat_map(|(_, elements)| elements).chain(got).collect()
}

fn guarded_addresses(elements: &[(Set, Element)]) -> impl Iterator<Item = IpAddr> + '_ {
    let guarded = elements.iter().filter(|(set, _)| matches!(set, Set::Guarded(_)));
    guarded.filter_map(|(_, element)| read_frontend_key(&element.key)).map(|(address, ..)| address)
}

/// The lengths of networks that may ask. An element that vipd did not write may say anything.
fn lengths_of(elements: &[(Set, Element)]) -> Vec<(Family, u8)> {
    let length = |(set, element): &(Set, Element)| match (set, &element.data) {
        (Set::Allowed(family), Data::Value(value)) => {
            let longest = if *family == Family::V4 { 32 } else { 128 };
            let length = u32::from_ne_bytes(value.as_slice().try_into().ok()?);
            (1..=longest).contains(&length).then_some((*family, length as u8))
        }
        _ => None,
    };
    elements.iter().filter_map(length).collect()
}

/// Guards come before what they guard, and go after it.
fn guard_difference(
    held: &[(Set, Element)],
    wanted: &[(Set, Element)],
    changes: &mut Changes,
) -> Vec<(Set, Element)> {
    if held.is_empty() && wanted.is_empty() {
        return Vec::new();
    }
    let mut before: HashMap<_, &Element> = held.iter().map(|(s, e)| ((*s, &e.key), e)).collect();
    for (set, element) in wanted {
        match before.remove(&(*set, &element.key)) {
            Some(held) if held == element => {}
            // The same address with another length: a wider network, or a narrower one.
            Some(_) => changes.replaced_targets.push((*set, element.clone())),
            None => changes.new_targets.push((*set, element.clone())),
        }
    }
    before.into_iter().map(|((set, _), element)| (set, element.clone())).collect()
}

fn local_difference(held: &[(u32, Value)], wanted: &[(u32, Value)], changes: &mut Changes) {
    let element = |&(pool, value): &(u32, Value)| (Set::Locals, local_element(pool, value));
    for local in wanted.iter().filter(|local| !held.contains(local)) {
        match held.iter().any(|(pool, _)| *pool == local.0) {
            true => changes.replaced_targets.push(element(local)),
            false => changes.new_targets.push(element(local)),
        }
    }
    let gone = held.iter().filter(|(pool, _)| wanted.iter().all(|(other, _)| other != pool));
    changes.removed.extend(gone.map(element));
}

/// Writes what differs between the frontends held and wanted. One that moves is replaced by the
/// service that it comes to, or its deletion would meet the new element.
fn frontend_difference(
    held: Vec<HeldFrontend>,
    wanted: Vec<HeldFrontend>,
    moved: &Moved,
    changes: &mut Changes,
) {
    let write = |((set, key), value): ((Set, Bytes), Value)| (set, service_element(key, value));
    let place = |(set, key, value): HeldFrontend| ((set, key), value);
    if held.is_empty() && moved.is_empty() {
        changes.new_frontends.extend(wanted.into_iter().map(place).map(write));
        return;
    }
    let mut held: HashMap<(Set, Bytes), Value> = held.into_iter().map(place).collect();
    for (at, value) in wanted.into_iter().map(place) {
        match held.remove(&at) {
            Some(before) if before == value => {}
            None if !moved.contains_key(&at) => changes.new_frontends.push(write((at, value))),
            _ => changes.replaced_frontends.push(write((at, value))),
        }
    }
    let gone = held.into_iter().filter(|(at, _)| !moved.contains_key(at));
    changes.removed.extend(gone.map(write));
}
