//! Adoption: what the kernel holds becomes the state, and only the difference to the plan is
//! written. EDGE: it asks the kernel.

use super::changes::Changes;
use super::classes::{Approach, ClassKey, FIRST_FREE_CLASS, Way};
use super::error::Error;
use super::kernel::{ObservedChain, ObservedSet};
use super::layout::{Needs, skeleton};
use super::lower::{Held, guard_elements};
use super::place::Former;
use super::set::{
    Bytes, Data, Element, PerSet, Placed, Set, Value, address_element, endpoint_element,
    first_slot, hairpin_element, local_element, read_set_address, read_slot_key, read_target,
    slot_key, token,
};
use super::state::{
    HeldFrontend, PoolKey, PoolState, UsedPool, frontend_place, frontends, named_scope,
    read_frontend, used_pools,
};
use super::treatment::class_chains;
use super::types::definition;
use super::whole::{is_dumped, planned_guards};
use super::{Nftables, SERVICES_AT_ONCE};
use crate::dataplane::Applied;
use crate::model::{Family, ServiceKey};
use crate::planner::{Action, Forward, FrontendAddress, Plan, PortPlan, Scope, ServicePlan};
use foldhash::{HashMap, HashSet};
use std::net::IpAddr;
use std::num::NonZeroU16;

/// One service with what the kernel was seen to hold of it.
struct Seen {
    key: ServiceKey,
    held: Held,
    pools: Vec<PoolState>,
}

/// What the kernel holds under the keys of planned frontends, and in `locals`.
#[derive(Default)]
struct Leads {
    frontends: HashMap<(Set, Bytes), Value>,
    locals: HashMap<u32, Value>,
}

/// Things that may have lost their last user while nobody looked.
#[derive(Default)]
struct Suspects {
    endpoints: Vec<IpAddr>,
    addresses: Vec<IpAddr>,
    /// Planned frontends that the kernel holds, per map: more there are somebody's past.
    frontends: PerSet<u64>,
}

impl Nftables {
    /// Reads the table back and writes the difference. `None` if it is missing or was made for
    /// another layout: then it must be made anew.
    pub(super) fn observe(&mut self, plan: &Plan) -> Result<Option<Applied>, Error> {
        self.state = self.state.anew();
        let Some(table) = self.kernel.table()? else { return Ok(None) };
        if !has_our_sets(&self.kernel.sets()?) {
            return Ok(None);
        }
        plan.services().for_each(|service| self.state.count_present(&service));
        let mut applied = Applied::default();
        let Some((structure, unguarded)) = self.observe_structure(plan)? else {
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
            let pools = seen.pools.into_iter().map(Former::seen).collect();
            let known = (&seen.key, pools);
            let features = self.state.features();
            self.state.lower_from(known, seen.held, service.as_ref(), &mut changes);
            self.state.reshape(features, &mut changes);
        }
        leave_pinned_out(&mut changes);
        applied += self.commit(&changes)?;
        applied += self.observe_shared(suspects)?;
        let mut rest = Changes::default();
        let features = self.state.features();
        self.state.discount_guards(&unguarded);
        self.state.reshape(features, &mut rest);
        rest.removed = unguarded;
        rest.removed_chains.extend(self.unwanted_chains(plan));
        applied += self.commit(&rest)?;
        Ok(Some(applied))
    }

    /// Chains, classes, ranges and guards; with what guards nothing that is planned.
    fn observe_structure(&mut self, plan: &Plan) -> Result<Option<(Changes, Vec<Placed>)>, Error> {
        let mut changes = Changes::default();
        let chains = self.kernel.chains()?;
        // Without its first hook a table serves nobody: a first load did not come to its end.
        let hooked = self.monitor.is_some() || is_hooked(&chains);
        if !hooked || hooks_differ(&chains, self.state.needs(&plan.node)) {
            return Ok(None);
        }
        let unguarded = self.observe_guards(&planned_guards(plan), &mut changes)?;
        self.state.count_guards(&unguarded);
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
        self.state.count_placed();
        self.state.ensure_skeleton(&plan.node, &mut changes);
        debug_assert!(before.is_none() || before.as_ref() == Some(&plan.node));
        self.observe_ranges(plan, &mut changes)?;
        self.observe_nodes(plan, &mut changes)?;
        self.observe_catch_alls(&mut changes)?;
        Ok(Some((changes, unguarded)))
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
        for set in Set::ALL.into_iter().filter(|set| !is_dumped(*set)) {
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

    /// Looks up every planned frontend, and the pools that it leads to.
    fn observe_services(
        &mut self,
        plan: &Plan,
        suspects: &mut Suspects,
    ) -> Result<Vec<Seen>, Error> {
        let mut leads = Leads::default();
        for set in Set::all_frontends() {
            let keys: Vec<Bytes> =
                planned_frontends(plan).filter(|(of, _)| *of == set).map(|(_, key)| key).collect();
            let found = self.kernel.get(set, &keys)?;
            let known = keys.into_iter().zip(found).filter_map(|(key, data)| match data {
                Some(Data::Value(bytes)) => Some(((set, key), Value(word(&bytes)?))),
                _ => None,
            });
            let before = leads.frontends.len();
            leads.frontends.extend(known);
            suspects.frontends[set.index()] = (leads.frontends.len() - before) as u64;
        }
        for element in self.kernel.dump(Set::Locals)? {
            if let (Some(pool), Data::Value(bytes)) = (word(&element.key), &element.data)
                && let Some(value) = word(bytes)
            {
                leads.locals.insert(Value(pool).pool(), Value(value));
            }
        }
        let mut seen: Vec<Seen> =
            plan.services().map(|service| self.candidates(&service, &mut leads)).collect();
        let mut nobodys = Changes::default();
        let rest = leads.locals.into_iter();
        nobodys.removed.extend(rest.map(|(pool, value)| (Set::Locals, local_element(pool, value))));
        self.commit(&nobodys)?;
        self.read_slots(&mut seen, suspects)?;
        Ok(seen)
    }

    /// The pools that a service's frontends name; their slots are still to be read.
    fn candidates(&mut self, plan: &ServicePlan, leads: &mut Leads) -> Seen {
        let held: Vec<HeldFrontend> = frontends(plan, &[])
            .filter_map(|(set, key, _)| {
                let place = (set, key);
                let value = *leads.frontends.get(&place)?;
                Some((place.0, place.1, value))
            })
            .collect();
        let mut pools: Vec<PoolState> = Vec::new();
        let mut locals = Vec::new();
        for UsedPool { port, scope, .. } in used_pools(plan) {
            let named: Vec<Value> = plan
                .held()
                .filter(|(of, frontend)| {
                    let names = |f: &Forward| named_scope(f.reach) == scope;
                    std::ptr::eq(*of, port)
                        && matches!(&frontend.action, Action::Forward(f) if names(f))
                })
                .filter_map(|(_, frontend)| {
                    leads.frontends.get(&frontend_place(frontend.at)).copied()
                })
                .filter(|value| value.class() >= FIRST_FREE_CLASS)
                .collect();
            let cluster = pools.iter().find(|pool| pool.key.is(port, Scope::Cluster));
            let by_local = cluster.filter(|_| scope == Scope::Local);
            let by_local = by_local.and_then(|pool| leads.locals.get(&pool.number()).copied());
            let Some(value) = named.first().copied().or(by_local) else { continue };
            pools.extend(self.adopt_pool(&plan.key, (port, scope), (value, &named), &pools));
        }
        for pool in pools.iter().filter(|pool| pool.key.scope == Scope::Cluster) {
            locals.extend(leads.locals.remove(&pool.number()).map(|value| (pool.number(), value)));
        }
        let held = Held { frontends: held, locals, guards: guard_elements(plan) };
        Seen { key: plan.key.clone(), held, pools }
    }

    /// A pool that the kernel holds under this number, with the classes that lead to it.
    fn adopt_pool(
        &mut self,
        owner: &ServiceKey,
        (port, scope): (&PortPlan, Scope),
        (value, named): (Value, &[Value]),
        others: &[PoolState],
    ) -> Option<PoolState> {
        let classes = &self.state.classes;
        let class = classes.key(value.class()).filter(|class| {
            (class.family, class.protocol, class.scope) == (port.family, port.protocol, scope)
        })?;
        // The relay may have what comes by a cluster IP, and not what comes otherwise.
        let inside = [class.approach.relayed, !class.approach.relayed].into_iter();
        let mut inside = inside.map(|relayed| Approach { way: Way::Inside, relayed });
        let inside = inside.find_map(|approach| classes.number(ClassKey { approach, ..class }))?;
        let external =
            named.iter().filter(|other| other.pool() == value.pool()).find_map(|other| {
                let key = classes.key(other.class())?;
                let plain = |key| ClassKey { approach: Approach::INSIDE, ..key };
                let same = plain(key) == plain(class);
                (same && key.approach.way != Way::Inside).then_some(other.class())
            });
        // Both pools of a port have one number.
        let mut siblings = others.iter().filter(|pool| pool.key.is_of(port));
        let known = siblings.any(|pool| pool.number() == value.pool());
        if !known && !self.state.numbers.adopt(value.pool(), owner) {
            return None;
        }
        for number in [Some(inside), external].into_iter().flatten() {
            if let Some(key) = self.state.classes.key(number) {
                self.state.classes.acquire(key);
            }
        }
        Some(PoolState {
            key: PoolKey::of(port, scope),
            value: Value::new(value.pool(), inside),
            external: external.and_then(|class| NonZeroU16::new(class as u16)),
            affinity: class.affinity,
            slots: Box::default(),
        })
    }

    fn read_slots(&mut self, seen: &mut [Seen], suspects: &mut Suspects) -> Result<(), Error> {
        for set in Set::all_endpoints() {
            let state = &self.state;
            let keys: Vec<Bytes> = seen
                .iter()
                .flat_map(|seen| &seen.pools)
                .filter(|pool| state.map_of(pool) == set)
                .flat_map(|pool| slot_keys(pool, state.size(pool)))
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
                        self.state.tokens[pool.key.family.index()][pool.key.scope as usize]
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
        for set in Set::all_frontends() {
            if self.kernel.count(set)? == Some(suspects.frontends[set.index()]) {
                continue;
            }
            let of_set = planned_frontends(plan).filter(|(of, _)| *of == set);
            let keys: HashSet<Bytes> = of_set.map(|(_, key)| key).collect();
            for element in self.kernel.dump(set)? {
                if keys.contains(&element.key) {
                    continue;
                }
                let frontend = read_frontend(set, &element.key);
                self.former.extend(frontend);
                if let Some(FrontendAddress::Address(address)) = frontend.map(|at| at.at) {
                    suspects.addresses.push(address);
                }
                if let Data::Value(bytes) = &element.data {
                    self.abandon_pool(word(bytes).map(Value), suspects)?;
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
    fn abandon_pool(&mut self, value: Option<Value>, suspects: &mut Suspects) -> Result<(), Error> {
        let unowned = value.filter(|v| self.state.numbers.owner(v.pool()).is_none());
        let class = |value: Value| Some((value.pool(), self.state.classes.key(value.class())?));
        let Some((number, class)) = unowned.and_then(class) else { return Ok(()) };
        let slots = (0..class.size).map(|slot| first_slot(class.scope) + slot);
        let keys: Vec<Bytes> = slots.clone().map(|slot| slot_key(number, slot)).collect();
        let set = Set::endpoints(class.family, class.size);
        for (slot, data) in slots.zip(self.kernel.get(set, &keys)?) {
            let Some(Data::Value(bytes)) = data else { continue };
            let Some(target) = read_target(&bytes) else { continue };
            let element = endpoint_element(number, slot, &target);
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

            let routed: Vec<IpAddr> = self.state.routed_of(family).collect();
            let set = Set::Routed(family);
            self.observe_addresses((set, address_element), routed, Vec::new(), &mut changes)?;

            let endpoints: Vec<IpAddr> = self.state.endpoints.iter(family).collect();
            let set = Set::Hairpin(family);
            let maybe = suspects.endpoints.iter().copied();
            let maybe =
                maybe.filter(|a| Family::of(*a) == family && !self.state.endpoints.contains(*a));
            let maybe: Vec<IpAddr> = maybe.collect();
            self.observe_addresses((set, hairpin_element), endpoints, maybe, &mut changes)?;
        }
        self.state.remember_removed(&mut changes);
        self.observe_remembered(&mut changes)?;
        self.observe_pinned(&mut changes)?;
        self.commit(&changes)
    }

    /// Nothing is remembered for ever, or for every key.
    fn observe_remembered(&mut self, changes: &mut Changes) -> Result<(), Error> {
        for set in Set::ALL.into_iter().filter(|set| set.is_remembered()) {
            let foreign = |element: &Element| {
                element.key.is_empty() || !matches!(element.data, Data::Expiring { .. })
            };
            let seen = self.kernel.dump(set)?.into_iter().filter(foreign);
            changes.removed.extend(seen.map(|element| (set, element)));
        }
        Ok(())
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
                owned.extend(slot_keys(pool, pool.slots.len() as u32));
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

/// The keys of a pool's first slots.
fn slot_keys(pool: &PoolState, slots: u32) -> impl Iterator<Item = Bytes> + use<> {
    let (number, first) = (pool.number(), first_slot(pool.key.scope));
    (0..slots).map(move |slot| slot_key(number, first + slot))
}

/// What slots were seen to hold says nothing of what pins may name: that is looked at as a whole.
fn leave_pinned_out(changes: &mut Changes) {
    changes.removed.retain(|(set, _)| !matches!(set, Set::Pinned(..)));
    changes.new_targets.retain(|(set, _)| !matches!(set, Set::Pinned(..)));
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

/// Whether packets meet the table.
pub(super) fn is_hooked(chains: &[ObservedChain]) -> bool {
    chains.iter().any(|chain| chain.name == "prerouting" && chain.hook.is_some())
}

/// The keys of all frontends that somebody holds: each claimed one has a holder.
fn planned_frontends(plan: &Plan) -> impl Iterator<Item = (Set, Bytes)> {
    plan.claims.iter().map(|(at, _)| frontend_place(*at))
}

fn word(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

/// Whether every set is there, and made as this version makes it.
fn has_our_sets(sets: &[ObservedSet]) -> bool {
    Set::ALL.into_iter().all(|set| {
        let wanted = definition(set);
        sets.iter().any(|seen| {
            seen.name == set.name()
                && seen.flags == wanted.flags
                && seen.key == (wanted.key_type, wanted.key_length)
                && seen.data == wanted.data
        })
    })
}
