//! Plans to elements. PURE: a function of the state of the table and the plans.
//!
//! In: what the kernel holds ([`State`]) and a service's plan. Out: [`Changes`].
//! Never: work beyond the service that changed.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use super::changes::{Changes, Structure};
use super::classes::{Acquired, CLASS_DROP, CLASS_REFUSE, ClassKey};
use super::expr::Verdict;
use super::layout::{ChainDefinition, class_chains, entry_name, record_name, skeleton};
use super::place::Wanted;
use super::set::{
    Bytes, Data, Element, Set, Value, address_element, class_element, hairpin_element, index,
    service_element,
};
use super::state::{
    PoolKey, PoolState, State, endpoint_addresses, frontend_addresses, frontends, targets,
    used_pools,
};
use crate::model::{Family, ServiceKey};
use crate::planner::{NodePlan, ServicePlan};
use foldhash::{HashMap, HashSet};
use ipnet::IpNet;
use std::net::IpAddr;
use std::sync::Arc;

/// A frontend that the kernel holds.
pub type HeldFrontend = (Family, Bytes, Value);

impl State {
    /// One service's difference, from the plan that the kernel follows to the new one.
    pub fn lower(
        &mut self,
        key: &ServiceKey,
        old: Option<&ServicePlan>,
        new: Option<&ServicePlan>,
        changes: &mut Changes,
    ) {
        let mut pools = self.services.remove(key).unwrap_or_default();
        for (pool, plan) in pools.iter_mut().filter_map(|pool| Some((pool, old?))) {
            pool.slots = pool.slots_under(plan);
        }
        let held = old.map_or_else(Vec::new, |plan| frontends(plan, &pools).collect());
        self.lower_from((key, pools.into_vec()), held, new, changes);
        let before = (
            old.map(frontend_addresses).unwrap_or_default(),
            old.map(endpoint_addresses).unwrap_or_default(),
        );
        let after = (
            new.map(frontend_addresses).unwrap_or_default(),
            new.map(endpoint_addresses).unwrap_or_default(),
        );
        self.count_frontends((&before.0, &after.0), changes);
        self.count_endpoints((&before.1, &after.1), changes);
    }

    /// As `lower`, but for shared addresses, and from what the kernel was seen to hold.
    pub fn lower_from(
        &mut self,
        (key, mut pools): (&ServiceKey, Vec<PoolState>),
        held: Vec<HeldFrontend>,
        new: Option<&ServicePlan>,
        changes: &mut Changes,
    ) {
        let mut next = Vec::new();
        let used = new.map(used_pools).unwrap_or_default();
        for (port, scope) in used {
            let old = pools.iter().position(|pool| pool.key.is(port, scope));
            let old = old.map(|at| pools.swap_remove(at));
            let wanted = Wanted {
                key: PoolKey::of(port, scope),
                affinity: port.affinity,
                targets: targets(port, scope),
            };
            next.extend(self.place(key, old, wanted, changes));
        }
        for pool in pools {
            self.drop_pool(pool, changes);
        }
        let wanted: Vec<HeldFrontend> =
            new.map_or_else(Vec::new, |plan| frontends(plan, &next).collect());
        frontend_difference(held, wanted, &self.moved, changes);
        for (pool, plan) in next.iter_mut().filter_map(|pool| Some((pool, new?))) {
            pool.forget_slots_of(plan);
        }
        if !next.is_empty() {
            self.services.insert(key.clone(), next.into());
        }
    }

    /// The number of a class with one more user; its chains are made if it is new.
    pub fn class(&mut self, key: ClassKey, changes: &mut Changes) -> Option<u32> {
        let was_sticky = self.classes.any_sticky(key.family);
        match self.classes.acquire(key)? {
            Acquired::Known(number) => Some(number),
            Acquired::New(number) => {
                for chain in class_chains(key) {
                    self.ensure_chain(chain, changes);
                }
                changes.new_targets.extend(class_elements(key, number));
                if let (Some(_), false, Some(node)) = (key.affinity, was_sticky, self.node.clone())
                {
                    self.ensure_skeleton(&node, changes);
                }
                Some(number)
            }
        }
    }

    /// Brings one chain to its definition.
    pub fn ensure_chain(&mut self, chain: ChainDefinition, changes: &mut Changes) {
        let fingerprints = chain.fingerprints();
        match self.chains.get(&*chain.name) {
            Some(known) if *known == fingerprints => {}
            known => {
                let structure = if known.is_some() {
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
        for chain in skeleton(self.needs(node)) {
            self.ensure_chain(chain, changes);
        }
        if !node.drop_invalid {
            for name in ["invalid", "stray"] {
                if self.chains.remove(name).is_some() {
                    changes.removed_chains.push(name.to_owned());
                }
            }
        }
    }

    pub fn count_frontends(&mut self, change: (&[IpAddr], &[IpAddr]), changes: &mut Changes) {
        let (gone, come) = difference(change);
        let before = self.outside;
        for address in come {
            if self.addresses.add(address) {
                let set = Set::Addresses(Family::of(address));
                changes.new_targets.push((set, address_element(address)));
                self.outside[index(Family::of(address))] += self.strays(address);
            }
        }
        for address in gone {
            if self.addresses.remove(address) {
                let set = Set::Addresses(Family::of(address));
                changes.removed.push((set, address_element(address)));
                self.outside[index(Family::of(address))] -= self.strays(address);
            }
        }
        self.reshape(before, changes);
    }

    /// Writes the skeleton again if the first frontend came to lie outside the service ranges, or
    /// the last one left.
    fn reshape(&mut self, before: [u64; 2], changes: &mut Changes) {
        if before.map(|count| count > 0) != self.outside.map(|count| count > 0)
            && let Some(node) = self.node.clone()
        {
            self.ensure_skeleton(&node, changes);
        }
    }

    pub fn count_endpoints(&mut self, change: (&[IpAddr], &[IpAddr]), changes: &mut Changes) {
        let (gone, come) = difference(change);
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

    /// What does not depend on services: chains and service ranges.
    pub fn lower_node(&mut self, node: &Arc<NodePlan>, changes: &mut Changes) {
        let old = self.node.replace(node.clone());
        self.count_outside();
        self.ensure_skeleton(node, changes);
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
            for chain in class_chains(key).into_iter().rev() {
                let name = chain.name.into_owned();
                if !needed.contains(&name) && self.chains.remove(&name).is_some() {
                    gone.push(name);
                }
            }
        }
        // References first: entries of sticky classes, then what they lead to.
        gone.sort_by_key(|name| (name.starts_with("spread"), name.starts_with("pinned")));
        changes.removed_chains.extend(gone);
        if let Some(node) = self.node.clone() {
            self.ensure_skeleton(&node, changes);
        }
    }
}

/// The elements that lead to a class.
pub fn class_elements(key: ClassKey, number: u32) -> Vec<(Set, Element)> {
    let entry = Verdict::Goto(entry_name(key).into());
    let mut elements = vec![(Set::Classes, class_element(number, entry))];
    if let Some(seconds) = key.affinity {
        let record = Verdict::Jump(record_name(key.family, seconds.get()).into());
        elements.push((Set::Recorders, class_element(number, record)));
    }
    elements
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

/// Elements of one sorted list that the other lacks: (only before, only after).
fn difference((before, after): (&[IpAddr], &[IpAddr])) -> (Vec<IpAddr>, Vec<IpAddr>) {
    let lacking = |of: &[IpAddr], other: &[IpAddr]| {
        of.iter().filter(|a| other.binary_search(a).is_err()).copied().collect()
    };
    (lacking(before, after), lacking(after, before))
}

/// Writes what differs between the frontends held and wanted. One that moves is replaced by the
/// service that it comes to, or its deletion would meet the new element.
fn frontend_difference(
    held: Vec<HeldFrontend>,
    wanted: Vec<HeldFrontend>,
    moved: &HashSet<Bytes>,
    changes: &mut Changes,
) {
    let write =
        |(family, key, value): HeldFrontend| (Set::Services(family), service_element(key, value));
    if held.is_empty() && moved.is_empty() {
        changes.new_frontends.extend(wanted.into_iter().map(write));
        return;
    }
    let mut held: HashMap<Bytes, (Family, Value)> =
        held.into_iter().map(|(family, key, value)| (key, (family, value))).collect();
    for (family, key, value) in wanted {
        match held.remove(&key) {
            Some((_, before)) if before == value => {}
            None if !moved.contains(&key) => {
                changes.new_frontends.push(write((family, key, value)))
            }
            _ => changes.replaced_frontends.push(write((family, key, value))),
        }
    }
    let gone = held.into_iter().filter(|(key, _)| !moved.contains(key));
    changes.removed.extend(gone.map(|(key, (family, value))| write((family, key, value))));
}
