//! Adoption: what the kernel holds becomes the state, and only the difference to the plan is
//! written. EDGE: it asks the kernel.

use super::changes::{Changes, Structure};
use super::classes::{ClassKey, FIRST_FREE_CLASS};
use super::error::Error;
use super::expr::Verdict;
use super::kernel::{ObservedChain, ObservedSet};
use super::layout::{Needs, class_chains, read_entry_name, skeleton};
use super::lower::{HeldFrontend, class_elements, fixed_class_elements, range_elements};
use super::set::{
    Bytes, Data, Element, Set, Value, address_element, endpoint_element, hairpin_element, index,
    pinned_element, read_frontend_key, read_set_address, read_slot_key, read_target, slot_key,
    token,
};
use super::state::{
    PoolKey, PoolState, State, endpoint_addresses, frontend_addresses, frontends, used_pools,
};
use super::types::Definition;
use super::{Nftables, SERVICES_AT_ONCE, frontend_of};
use crate::dataplane::Applied;
use crate::model::{Family, ServiceKey};
use crate::planner::{Action, FrontendAddress, Plan, ServicePlan};
use foldhash::{HashMap, HashSet};
use std::net::IpAddr;

/// One service with what the kernel was seen to hold of it.
struct Seen {
    key: ServiceKey,
    held: Vec<HeldFrontend>,
    pools: Vec<PoolState>,
}

/// Things that may have lost their last user while nobody looked.
#[derive(Default)]
struct Suspects {
    endpoints: Vec<IpAddr>,
    addresses: Vec<IpAddr>,
    /// Planned frontends that the kernel holds, per family: more there are somebody's past.
    frontends: [u64; 2],
}

impl Nftables {
    /// Reads the table back and writes the difference. `None` if it is missing or was made for
    /// another layout: then it must be made anew.
    pub(super) fn observe(&mut self, plan: &Plan) -> Result<Option<Applied>, Error> {
        self.state = State::default();
        let Some(table) = self.kernel.table()? else { return Ok(None) };
        if !has_our_sets(&self.kernel.sets()?) {
            return Ok(None);
        }
        for address in plan.services().flat_map(|service| frontend_addresses(&service)) {
            self.state.addresses.add(address);
        }
        let mut applied = Applied::default();
        let Some(structure) = self.observe_structure(plan)? else {
            return Ok(None);
        };
        applied += self.take_flags_back(table)?;
        applied += self.commit(&structure)?;

        let mut suspects = Suspects::default();
        let seen = self.observe_services(plan, &mut suspects)?;
        // First what nobody plans: numbers of its pools are given out anew below.
        applied += self.remove_unplanned_frontends(plan, &mut suspects)?;
        applied += self.remove_unowned_endpoints(&seen)?;
        let mut changes = Changes::default();
        for (done, seen) in seen.into_iter().enumerate() {
            if done > 0 && done % SERVICES_AT_ONCE == 0 {
                leave_pinned_out(&mut changes);
                applied += self.commit(&changes)?;
                changes = Changes::default();
                self.state.take_overdue(&mut changes);
            }
            let service = plan.service(&seen.key);
            for address in service.as_ref().map(endpoint_addresses).unwrap_or_default() {
                self.state.endpoints.add(address);
            }
            let known = (&seen.key, seen.pools);
            self.state.lower_from(known, seen.held, service.as_ref(), &mut changes);
        }
        leave_pinned_out(&mut changes);
        applied += self.commit(&changes)?;
        applied += self.observe_shared(suspects)?;
        let rest = Changes { removed_chains: self.unwanted_chains(plan), ..Changes::default() };
        applied += self.commit(&rest)?;
        Ok(Some(applied))
    }

    /// Chains, classes and ranges.
    fn observe_structure(&mut self, plan: &Plan) -> Result<Option<Changes>, Error> {
        let mut changes = Changes::default();
        let chains = self.kernel.chains()?;
        if hooks_differ(&chains, self.state.needs(&plan.node)) {
            return Ok(None);
        }
        self.state.chains = chains
            .into_iter()
            .map(|chain| (chain.name, chain.rules.into_iter().map(|f| f.unwrap_or(0)).collect()))
            .collect();
        self.observe_classes(&mut changes)?;
        let keys: Vec<_> = self.state.classes.iter().map(|(key, _)| key).collect();
        for chain in keys.into_iter().flat_map(class_chains) {
            self.state.ensure_chain(chain, &mut changes);
        }
        let before = self.state.node.replace(plan.node.clone());
        self.state.count_outside();
        self.state.ensure_skeleton(&plan.node, &mut changes);
        debug_assert!(before.is_none() || before.as_ref() == Some(&plan.node));
        self.observe_ranges(plan, &mut changes)?;
        self.observe_catch_alls(&mut changes)?;
        Ok(Some(changes))
    }

    /// Chains that nobody has use for, now that all services are written.
    fn unwanted_chains(&mut self, plan: &Plan) -> Vec<String> {
        let constant = skeleton(self.state.needs(&plan.node));
        let of_classes = self.state.classes.iter().flat_map(|(key, _)| class_chains(key));
        let wanted: HashSet<_> =
            constant.into_iter().chain(of_classes).map(|chain| chain.name).collect();
        let unwanted = |name: &&String| !wanted.contains(name.as_str());
        let unwanted: Vec<String> = self.state.chains.keys().filter(unwanted).cloned().collect();
        for name in &unwanted {
            self.state.chains.remove(name);
        }
        unwanted
    }

    /// An element that answers for all keys is in no count. Sets that are dumped anyway show it.
    fn observe_catch_alls(&mut self, changes: &mut Changes) -> Result<(), Error> {
        let dumped = |set: &Set| matches!(set, Set::Classes | Set::Recorders | Set::Pinned(_));
        for set in Set::ALL.into_iter().filter(|set| !dumped(set)) {
            match self.kernel.get(set, &[Bytes::new()]) {
                Ok(found) => {
                    let found = found.into_iter().flatten();
                    let element = |data| (set, Element { key: Bytes::new(), data });
                    changes.removed.extend(found.map(element));
                }
                // Kernels below 5.13 have none, and refuse the question.
                Err(Error::Read { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Adopts classes, and repairs the two maps that lead to their chains.
    fn observe_classes(&mut self, changes: &mut Changes) -> Result<(), Error> {
        let entries = self.kernel.dump(Set::Classes)?;
        for element in &entries {
            let number = class_number(element);
            if let (Some(number), Data::Verdict(Verdict::Goto(chain))) = (number, &element.data)
                && let Some(key) = read_entry_name(chain)
            {
                self.state.classes.adopt(key, number);
            }
        }
        let mut wanted: Vec<(Set, Element)> = fixed_class_elements().into();
        wanted.extend(
            self.state.classes.iter().flat_map(|(key, number)| class_elements(key, number)),
        );
        let recorders = self.kernel.dump(Set::Recorders)?;
        let seen = entries.into_iter().map(|e| (Set::Classes, e));
        let seen: Vec<_> = seen.chain(recorders.into_iter().map(|e| (Set::Recorders, e))).collect();
        changes.overdue.extend(seen.iter().filter(|e| !wanted.contains(e)).cloned());
        changes.new_targets.extend(wanted.into_iter().filter(|e| !seen.contains(e)));
        Ok(())
    }

    pub(super) fn observe_ranges(
        &mut self,
        plan: &Plan,
        changes: &mut Changes,
    ) -> Result<(), Error> {
        let wanted = range_elements(&plan.node.service_ranges);
        for family in Family::BOTH {
            let set = Set::Ranges(family);
            let seen = self.kernel.dump(set)?;
            let wanted: Vec<&Element> =
                wanted.iter().filter(|(s, _)| *s == set).map(|(_, e)| e).collect();
            let same =
                seen.len() == wanted.len() && wanted.iter().all(|element| seen.contains(element));
            if !same {
                changes.structure.push(Structure::FlushSet(set));
                changes.new_targets.extend(wanted.into_iter().map(|e| (set, e.clone())));
            }
        }
        Ok(())
    }

    /// Looks up every planned frontend, and the pools that it leads to.
    fn observe_services(
        &mut self,
        plan: &Plan,
        suspects: &mut Suspects,
    ) -> Result<Vec<Seen>, Error> {
        let mut values: [HashMap<Bytes, Value>; 2] = Default::default();
        for family in Family::BOTH {
            let keys: Vec<Bytes> =
                planned_frontends(plan).filter(|(f, _)| *f == family).map(|(_, key)| key).collect();
            let found = self.kernel.get(Set::Services(family), &keys)?;
            let known = keys.into_iter().zip(found).filter_map(|(key, data)| match data {
                Some(Data::Value(bytes)) => Some((key, Value(word(&bytes)?))),
                _ => None,
            });
            values[index(family)] = known.collect();
            suspects.frontends[index(family)] = values[index(family)].len() as u64;
        }
        let mut seen: Vec<Seen> =
            plan.services().map(|service| self.candidates(&service, &values)).collect();
        drop(values);
        self.read_slots(&mut seen, suspects)?;
        Ok(seen)
    }

    /// The pools that a service's frontends name; their slots are still to be read.
    fn candidates(&mut self, plan: &ServicePlan, values: &[HashMap<Bytes, Value>; 2]) -> Seen {
        let held: Vec<HeldFrontend> = frontends(plan, &[])
            .filter_map(|(family, key, _)| {
                let value = *values[index(family)].get(&key)?;
                Some((family, key, value))
            })
            .collect();
        let mut pools: Vec<PoolState> = Vec::new();
        for (port, scope) in used_pools(plan) {
            let value = plan.held().find_map(|(of, frontend)| {
                let FrontendAddress::Address(address) = frontend.at.at else { return None };
                let leads = matches!(&frontend.action, Action::Forward(f) if f.scope == scope);
                let at = super::set::frontend_key(address, frontend.at.protocol, frontend.at.port);
                let value = *values[index(port.family)].get(&at)?;
                (std::ptr::eq(of, port) && leads && value.class() >= FIRST_FREE_CLASS)
                    .then_some(value)
            });
            let Some(value) = value else { continue };
            let class = self.state.classes.key(value.class());
            let fits =
                |class: &ClassKey| (class.family, class.protocol) == (port.family, port.protocol);
            let Some(class) = class.filter(fits) else { continue };
            if self.state.numbers.adopt(value.pool(), &plan.key) {
                self.state.classes.acquire(class);
                pools.push(PoolState {
                    key: PoolKey::of(port, scope),
                    value,
                    affinity: class.affinity,
                    slots: Box::default(),
                });
            }
        }
        Seen { key: plan.key.clone(), held, pools }
    }

    fn read_slots(&mut self, seen: &mut [Seen], suspects: &mut Suspects) -> Result<(), Error> {
        for set in Set::all_endpoints() {
            let state = &self.state;
            let keys: Vec<Bytes> = seen
                .iter()
                .flat_map(|seen| &seen.pools)
                .filter(|pool| state.map_of(pool) == set)
                .flat_map(|pool| (0..state.size(pool)).map(|slot| slot_key(pool.number(), slot)))
                .collect();
            let mut found = self.kernel.get(set, &keys)?.into_iter();
            for pool in seen.iter_mut().flat_map(|seen| &mut seen.pools) {
                if self.state.map_of(pool) != set {
                    continue;
                }
                let size = self.state.size(pool) as usize;
                let read: Vec<_> = found.by_ref().take(size).collect();
                pool.slots = read
                    .iter()
                    .map_while(|data| match data {
                        Some(Data::Value(bytes)) => read_target(bytes),
                        _ => None,
                    })
                    .collect();
                self.state.slots[set.index()] += pool.slots.len() as u64;
                suspects.endpoints.extend(pool.slots.iter().map(|target| target.address));
                if pool.affinity.is_some() {
                    for target in &pool.slots {
                        self.state.tokens[index(pool.key.family)]
                            .insert(token(pool.number(), target), *target);
                    }
                }
            }
        }
        Ok(())
    }

    /// Frontends that no plan has (any more), with the pools behind them.
    fn remove_unplanned_frontends(
        &mut self,
        plan: &Plan,
        suspects: &mut Suspects,
    ) -> Result<Applied, Error> {
        let mut changes = Changes::default();
        for family in Family::BOTH {
            let set = Set::Services(family);
            if self.kernel.count(set)? == Some(suspects.frontends[index(family)]) {
                continue;
            }
            let keys: HashSet<Bytes> = planned_frontends(plan).map(|(_, key)| key).collect();
            for element in self.kernel.dump(set)? {
                if keys.contains(&element.key) {
                    continue;
                }
                suspects.addresses.extend(read_frontend_key(&element.key).map(|(ip, _, _)| ip));
                self.former.extend(frontend_of(&element.key));
                if let Data::Value(bytes) = &element.data {
                    self.abandon_pool(family, word(bytes).map(Value), suspects)?;
                }
                changes.removed.push((set, element));
            }
        }
        let applied = self.commit(&changes)?;
        let mut changes = Changes::default();
        self.state.take_overdue(&mut changes);
        Ok(applied + self.commit(&changes)?)
    }

    /// Queues the slots of a pool that lost its last frontend while nobody looked.
    fn abandon_pool(
        &mut self,
        family: Family,
        value: Option<Value>,
        suspects: &mut Suspects,
    ) -> Result<(), Error> {
        let Some(value) = value.filter(|v| self.state.numbers.owner(v.pool()).is_none()) else {
            return Ok(());
        };
        let size = self.state.classes.key(value.class()).map_or(0, |class| class.size);
        let keys: Vec<Bytes> = (0..size).map(|slot| slot_key(value.pool(), slot)).collect();
        let set = Set::endpoints(family, size);
        for (slot, data) in self.kernel.get(set, &keys)?.into_iter().enumerate() {
            let Some(Data::Value(bytes)) = data else { continue };
            let Some(target) = read_target(&bytes) else { continue };
            let element = endpoint_element(value.pool(), slot as u32, &target);
            if !self.state.deferred.iter().any(|(s, e)| *s == set && e.key == element.key) {
                suspects.endpoints.push(target.address);
                self.state.slots[set.index()] += 1;
                self.state.deferred.push((set, element));
            }
        }
        Ok(())
    }

    /// Addresses, hairpins and pins' endpoints: what is missing comes, what is too much goes.
    fn observe_shared(&mut self, mut suspects: Suspects) -> Result<Applied, Error> {
        let mut changes = Changes::default();
        suspects.endpoints.sort_unstable();
        suspects.endpoints.dedup();
        suspects.addresses.sort_unstable();
        suspects.addresses.dedup();
        for family in Family::BOTH {
            let addresses: Vec<IpAddr> = self.state.addresses.iter(family).collect();
            let set = Set::Addresses(family);
            let maybe = suspects.addresses.iter().copied();
            let maybe =
                maybe.filter(|a| Family::of(*a) == family && !self.state.addresses.contains(*a));
            let maybe: Vec<IpAddr> = maybe.collect();
            self.observe_addresses((set, address_element), addresses, maybe, &mut changes)?;

            let endpoints: Vec<IpAddr> = self.state.endpoints.iter(family).collect();
            let set = Set::Hairpin(family);
            let maybe = suspects.endpoints.iter().copied();
            let maybe =
                maybe.filter(|a| Family::of(*a) == family && !self.state.endpoints.contains(*a));
            let maybe: Vec<IpAddr> = maybe.collect();
            self.observe_addresses((set, hairpin_element), endpoints, maybe, &mut changes)?;

            let set = Set::Pinned(family);
            let wanted: Vec<Element> = self.state.tokens[index(family)]
                .iter()
                .map(|(token, target)| pinned_element(*token, target))
                .collect();
            let seen: HashMap<Bytes, Data> =
                self.kernel.dump(set)?.into_iter().map(|e| (e.key, e.data)).collect();
            let mut extra = seen.clone();
            for element in wanted {
                match extra.remove(&element.key) {
                    Some(data) if data == element.data => {}
                    Some(_) => changes.replaced_targets.push((set, element)),
                    None => changes.new_targets.push((set, element)),
                }
            }
            changes
                .removed
                .extend(extra.into_iter().map(|(key, data)| (set, Element { key, data })));
        }
        self.commit(&changes)
    }

    /// One set of addresses; `maybe` are those that may be there although unwanted.
    fn observe_addresses(
        &mut self,
        (set, element): (Set, fn(IpAddr) -> Element),
        wanted: Vec<IpAddr>,
        maybe: Vec<IpAddr>,
        changes: &mut Changes,
    ) -> Result<(), Error> {
        let keys: Vec<Bytes> = wanted.iter().map(|address| element(*address).key).collect();
        let found = self.kernel.get(set, &keys)?;
        let missing = wanted.iter().zip(&found).filter(|(_, data)| data.is_none());
        changes.new_targets.extend(missing.map(|(address, _)| (set, element(*address))));
        let mut present = found.iter().filter(|data| data.is_some()).count() as u64;

        let keys: Vec<Bytes> = maybe.iter().map(|address| element(*address).key).collect();
        let found = self.kernel.get(set, &keys)?;
        let extra = maybe.iter().zip(&found).filter(|(_, data)| data.is_some());
        let extra: Vec<_> = extra.map(|(address, _)| (set, element(*address))).collect();
        present += extra.len() as u64;
        if self.kernel.count(set)? == Some(present) {
            changes.removed.extend(extra);
            return Ok(());
        }
        let wanted: HashSet<IpAddr> = wanted.into_iter().collect();
        let seen = self.kernel.dump(set)?.into_iter();
        let unwanted = seen.filter(|e| {
            read_set_address(set, &e.key).is_none_or(|address| !wanted.contains(&address))
        });
        changes.removed.extend(unwanted.map(|element| (set, element)));
        Ok(())
    }

    /// Slots of pools that nobody owns: what a crash between two commits leaves.
    fn remove_unowned_endpoints(&mut self, seen: &[Seen]) -> Result<Applied, Error> {
        let mut changes = Changes::default();
        for set in Set::all_endpoints() {
            if self.kernel.count(set)? == Some(self.state.slots[set.index()]) {
                continue;
            }
            let mut owned: HashSet<Bytes> = HashSet::default();
            let pools = seen.iter().flat_map(|seen| &seen.pools);
            for pool in pools.filter(|pool| self.state.map_of(pool) == set) {
                owned
                    .extend((0..pool.slots.len() as u32).map(|slot| slot_key(pool.number(), slot)));
            }
            let deferred = self.state.deferred.iter().filter(|(s, _)| *s == set);
            owned.extend(deferred.map(|(_, element)| element.key.clone()));
            let seen = self.kernel.dump(set)?.into_iter();
            let unowned =
                seen.filter(|e| read_slot_key(&e.key).is_none() || !owned.contains(&e.key));
            changes.removed.extend(unowned.map(|element| (set, element)));
        }
        self.commit(&changes)
    }
}

/// What slots were seen to hold says nothing of what pins may name: that is looked at as a whole.
fn leave_pinned_out(changes: &mut Changes) {
    changes.removed.retain(|(set, _)| !matches!(set, Set::Pinned(_)));
    changes.new_targets.retain(|(set, _)| !matches!(set, Set::Pinned(_)));
}

/// Whether a base chain hangs elsewhere than it should, or lets less through.
pub(super) fn hooks_differ(chains: &[ObservedChain], needs: Needs<'_>) -> bool {
    const NF_ACCEPT: u32 = 1;
    skeleton(needs).iter().any(|chain| {
        let seen = chains.iter().find(|seen| seen.name == *chain.name);
        let hook = chain.hook.as_ref().map(|hook| (hook.number, hook.priority, NF_ACCEPT));
        seen.is_some_and(|seen| seen.hook != hook)
    })
}

/// The keys of all frontends that somebody holds: each claimed one has a holder.
fn planned_frontends(plan: &Plan) -> impl Iterator<Item = (Family, Bytes)> {
    plan.claims.iter().filter_map(|(at, _)| {
        let FrontendAddress::Address(address) = at.at else { return None };
        Some((Family::of(address), super::set::frontend_key(address, at.protocol, at.port)))
    })
}

fn word(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

fn class_number(element: &Element) -> Option<u32> {
    word(&element.key)
}

/// Whether every set is there, and made as this version makes it.
fn has_our_sets(sets: &[ObservedSet]) -> bool {
    Set::ALL.into_iter().all(|set| {
        let wanted = Definition::of(set);
        sets.iter().any(|seen| {
            seen.name == set.name()
                && seen.flags == wanted.flags
                && seen.key == (wanted.key_type, wanted.key_length)
                && seen.data == wanted.data
        })
    })
}
