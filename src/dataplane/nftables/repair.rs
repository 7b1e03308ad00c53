//! Foreign edits undone, exactly where they were made. EDGE: it asks the kernel.

use super::Nftables;
use super::changes::{Changes, Structure};
use super::error::Error;
use super::kernel::ObservedTable;
use super::lower::{class_elements, fixed_class_elements, guard_elements};
use super::monitor::{Edits, Scope};
use super::observe::hooks_differ;
use super::place::Former;
use super::set::{
    Bytes, Data, Element, LOCAL_SLOTS, Set, Value, address_element, allowed_frontend,
    endpoint_element, hairpin_element, local_element, pinned_element, read_set_address,
    read_slot_key, service_element,
};
use super::state::{PoolState, State, frontends, locals, read_frontend};
use crate::dataplane::{Applied, Dataplane};
use crate::planner::{self, Plan};

impl Nftables {
    /// Undoes what others did to the table.
    pub(super) fn undo(&mut self, edits: &Edits, plan: &Plan) -> Result<Applied, Error> {
        match edits.scope {
            Scope::Table => self.load(plan),
            Scope::Unknown => self.resync(plan),
            Scope::Chains => {
                let applied = self.repair_chains(plan)?;
                Ok(applied + self.repair_elements(edits, plan)?)
            }
            Scope::Elements => self.repair_elements(edits, plan),
        }
    }

    fn repair_chains(&mut self, plan: &Plan) -> Result<Applied, Error> {
        let Some(table) = self.kernel.table()? else { return self.load(plan) };
        let seen = self.kernel.chains()?;
        if hooks_differ(&seen, self.state.needs(&plan.node)) {
            return self.load(plan);
        }
        let applied = self.take_flags_back(table)?;
        let known = std::mem::take(&mut self.state.chains);
        self.state.chains = seen
            .into_iter()
            .map(|chain| (chain.name, chain.rules.into_iter().map(|f| f.unwrap_or(0)).collect()))
            .collect();
        // A chain that is gone took the elements that led to it along, or the other way round:
        // only a full look can tell.
        if known.keys().any(|name| !self.state.chains.contains_key(name)) {
            return Ok(applied + self.resync(plan)?);
        }
        let mut changes = Changes::default();
        let keys: Vec<_> = self.state.classes.iter().map(|(key, _)| key).collect();
        for chain in keys.into_iter().flat_map(super::treatment::class_chains) {
            self.state.ensure_chain(chain, &mut changes);
        }
        self.state.ensure_skeleton(&plan.node, &mut changes);
        let foreign: Vec<String> =
            self.state.chains.keys().filter(|name| !known.contains_key(*name)).cloned().collect();
        for name in foreign {
            self.state.chains.remove(&name);
            changes.removed_chains.push(name);
        }
        Ok(applied + self.commit(&changes)?)
    }

    /// Flags that others gave the table go, in a transaction of their own: past a change of flags
    /// the kernel takes no base chain in the same one.
    pub(super) fn take_flags_back(&mut self, table: ObservedTable) -> Result<Applied, Error> {
        if !table.has_foreign_flags() {
            return Ok(Applied::default());
        }
        // A table that is there is given the flags of the one that is asked for.
        let changes = Changes { structure: vec![Structure::Table], ..Changes::default() };
        self.commit(&changes)
    }

    fn repair_elements(&mut self, edits: &Edits, plan: &Plan) -> Result<Applied, Error> {
        let mut changes = Changes::default();
        let mut ranges = false;
        for set in Set::ALL {
            let keys: Vec<Bytes> = edits
                .elements
                .iter()
                .filter(|(s, _)| *s == set)
                .map(|(_, key)| key.clone())
                .collect();
            match set {
                _ if keys.is_empty() => {}
                // Pins are the packet path's own; a lost one is a new choice.
                Set::Affinity(_) => {}
                // What went is not known any more; what others put there is not to be remembered.
                _ if set.is_remembered() => {
                    let seen = self.kernel.get(set, &keys)?;
                    let present = keys.into_iter().zip(seen).filter(|(_, data)| data.is_some());
                    let element = |key| (set, Element { key, data: Data::None });
                    changes.removed.extend(present.map(|(key, _)| element(key)));
                }
                Set::Ranges(_) => ranges = true,
                _ => self.repair_keys(set, keys, plan, &mut changes)?,
            }
        }
        if ranges {
            self.observe_ranges(plan, &mut changes)?;
        }
        self.commit(&changes)
    }

    fn repair_keys(
        &mut self,
        set: Set,
        keys: Vec<Bytes>,
        plan: &Plan,
        changes: &mut Changes,
    ) -> Result<(), Error> {
        let seen = self.kernel.get(set, &keys)?;
        for (key, seen) in keys.into_iter().zip(seen) {
            let deferred =
                self.state.deferred.iter().position(|(s, element)| *s == set && element.key == key);
            if let Some(at) = deferred {
                // To be deleted anyway: gone already, or still to go.
                if seen.is_none() {
                    self.state.deferred.swap_remove(at);
                    if let Set::Endpoints(..) = set {
                        self.state.slots[set.index()] -= 1;
                    }
                }
                continue;
            }
            match (self.state.wanted(set, &key, plan), seen) {
                (Some(wanted), Some(seen)) if wanted.data == seen => {}
                (Some(wanted), Some(_)) => changes.replaced_targets.push((set, wanted)),
                (Some(wanted), None) => changes.new_targets.push((set, wanted)),
                (None, Some(seen)) => changes.removed.push((set, Element { key, data: seen })),
                (None, None) => {}
            }
        }
        Ok(())
    }
}

impl State {
    /// What a set should hold under a key.
    fn wanted(&self, set: Set, key: &Bytes, plan: &Plan) -> Option<Element> {
        match set {
            Set::Services(_) | Set::NodePorts(_) => {
                let at = read_frontend(set, key)?;
                let holder = plan.claims.holder(&at)?;
                let service = plan.service(holder)?;
                let pools = self.services.get(holder).map_or(&[][..], |pools| pools);
                frontends(&service, pools)
                    .find(|(of, candidate, _)| *of == set && candidate == key)
                    .map(|(_, key, value)| service_element(key, value))
            }
            Set::Guarded(family) | Set::Allowed(family) => {
                let frontend = match set {
                    Set::Allowed(_) => allowed_frontend(family, key)?,
                    _ => key,
                };
                let at = read_frontend(Set::Services(family), frontend)?;
                let service = plan.service(plan.claims.holder(&at)?)?;
                let mut elements = guard_elements(&service).into_iter();
                elements.find(|(of, e)| *of == set && e.key == *key).map(|(_, element)| element)
            }
            Set::Locals => {
                let number = Value(u32::from_ne_bytes(key.as_slice().try_into().ok()?)).pool();
                let owner = self.numbers.owner(number)?;
                let locals = locals(&plan.service(owner)?, self.services.get(owner)?);
                let (_, value) = locals.into_iter().find(|(pool, _)| *pool == number)?;
                Some(local_element(number, value)).filter(|element| element.key == *key)
            }
            Set::Nodes(_) => {
                let address = read_set_address(set, key)?;
                plan.node.answers_node_ports_at(address).then(|| address_element(address))
            }
            Set::Endpoints(..) => {
                let (number, slot) = read_slot_key(key)?;
                let owner = self.numbers.owner(number)?;
                let pools = self.services.get(owner)?;
                let (scope, first) = match slot {
                    LOCAL_SLOTS.. => (planner::Scope::Local, LOCAL_SLOTS),
                    _ => (planner::Scope::Cluster, 0),
                };
                let is = |pool: &&PoolState| pool.number() == number && pool.key.scope == scope;
                let pool = pools.iter().find(is).filter(|pool| self.map_of(pool) == set)?;
                let Former { pool, .. } = Former::planned(pool.clone(), &plan.service(owner)?);
                Some(endpoint_element(number, slot, pool.slots.get((slot - first) as usize)?))
            }
            Set::Addresses(_) => {
                let address = read_set_address(set, key)?;
                self.addresses.contains(address).then(|| address_element(address))
            }
            Set::Routed(_) => {
                let address = read_set_address(set, key)?;
                self.routed.contains(&address).then(|| address_element(address))
            }
            Set::Hairpin(_) => {
                let address = read_set_address(set, key)?;
                let element = hairpin_element(address);
                (self.endpoints.contains(address) && element.key == *key).then_some(element)
            }
            Set::Pinned(family, scope) => {
                let token = u32::from_ne_bytes(key.as_slice().try_into().ok()?);
                let target = self.tokens[family.index()][scope as usize].get(&token)?;
                Some(pinned_element(token, target))
            }
            Set::Classes | Set::Inners | Set::Exits | Set::Recorders => {
                let classes = self.classes.iter().flat_map(|(key, n)| class_elements(key, n));
                fixed_class_elements()
                    .into_iter()
                    .chain(classes)
                    .find(|(s, element)| *s == set && element.key == *key)
                    .map(|(_, element)| element)
            }
            Set::Ranges(_)
            | Set::Affinity(_)
            | Set::Departed(_)
            | Set::Closed(_)
            | Set::ClosedPorts(_) => None,
        }
    }
}
