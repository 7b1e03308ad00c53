//! A pool with its number, class, slots and tokens. PURE.
//!
//! In: what the kernel holds of a pool, and what it shall be. Out: the elements between the two.
//! Never: frontends.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use super::changes::Changes;
use super::classes::ClassKey;
use super::set::{Set, Value, endpoint_element, index, pinned_element, token};
use super::slots::rebalance;
use super::state::{PoolKey, PoolState, Retimed, State};
use crate::model::{Family, ServiceKey};
use crate::planner::Target;
use foldhash::HashSet;
use std::num::NonZeroU32;

/// What a pool shall be.
pub struct Wanted {
    pub key: PoolKey,
    pub affinity: Option<NonZeroU32>,
    pub targets: Box<[Target]>,
}

impl State {
    /// Makes a pool what it shall be. `None` if no number or class is left for it.
    pub fn place(
        &mut self,
        owner: &ServiceKey,
        old: Option<PoolState>,
        wanted: Wanted,
        changes: &mut Changes,
    ) -> Option<PoolState> {
        debug_assert!(!wanted.targets.is_empty(), "a pool that is forwarded to has endpoints");
        let family = wanted.key.family;
        let same = old.as_ref().is_some_and(|pool| pool.affinity == wanted.affinity);
        let unchanged = same
            && old.as_ref().is_some_and(|pool| {
                let size = self.classes.key(pool.class()).map_or(0, |class| class.size);
                pool.slots.len() == size as usize
                    && pool.slots.len() == wanted.targets.len()
                    && is_permutation(&pool.slots, &wanted.targets)
            });
        if unchanged {
            return old;
        }
        // Pins name endpoints by a hash over pool and endpoint: a number where two would clash
        // is not usable for this pool.
        let old = match old {
            Some(pool) if wanted.affinity.is_some() && self.clashes(&pool, &wanted) => {
                self.drop_pool(pool, changes);
                None
            }
            other => other,
        };
        let (number, old_slots, old_class, old_affinity) = match old {
            Some(pool) => (pool.value.pool(), pool.slots, Some(pool.value.class()), pool.affinity),
            None => (self.new_number(owner, &wanted)?, Box::default(), None, None),
        };
        if let (Some(before), Some(after)) = (old_affinity, wanted.affinity)
            && before != after
        {
            let (before, after) = (before.get(), after.get());
            self.retimed.push(Retimed { family, number, before, after });
        }
        let size = self.classes.size_for(family, wanted.targets.len() as u32);
        let (protocol, affinity) = (wanted.key.protocol, wanted.affinity);
        let class_key = ClassKey { family, protocol, size, affinity };
        let class = match old_class {
            Some(class) if self.classes.key(class) == Some(class_key) => class,
            _ => {
                let class = self.class(class_key, changes)?;
                if let Some(old) = old_class.and_then(|class| self.classes.key(class)) {
                    self.classes.release(old);
                }
                class
            }
        };
        let slots = rebalance(&old_slots, &wanted.targets, size as usize);
        self.write_slots((family, number), &old_slots, &slots, changes);
        let before = if old_affinity.is_some() { &*old_slots } else { &[] };
        let after = if wanted.affinity.is_some() { &*wanted.targets } else { &[] };
        self.write_tokens((family, number), before, after, changes);
        Some(PoolState {
            key: wanted.key,
            value: Value::new(number, class),
            affinity: wanted.affinity,
            slots: slots.into(),
        })
    }

    fn write_slots(
        &mut self,
        (family, number): (Family, u32),
        old: &[Target],
        new: &[Target],
        changes: &mut Changes,
    ) {
        let set = Set::Endpoints(family);
        for (slot, target) in new.iter().enumerate() {
            let element = || (set, endpoint_element(number, slot as u32, target));
            match old.get(slot) {
                Some(before) if before == target => {}
                Some(_) => changes.replaced_targets.push(element()),
                None => {
                    self.slots[index(family)] += 1;
                    changes.new_targets.push(element());
                }
            }
        }
        // Packets that met the former class may still pick these slots: they lead to living
        // endpoints now, and go with the next commit.
        for (slot, before) in old.iter().enumerate().skip(new.len()) {
            let stand_in = &new[slot % new.len()];
            let element = endpoint_element(number, slot as u32, stand_in);
            if !new.contains(before) {
                changes.replaced_targets.push((set, element.clone()));
            }
            self.deferred.push((set, element));
        }
    }

    fn write_tokens(
        &mut self,
        (family, number): (Family, u32),
        before: &[Target],
        after: &[Target],
        changes: &mut Changes,
    ) {
        if before.is_empty() && after.is_empty() {
            return;
        }
        let set = Set::Pinned(family);
        let tokens = &mut self.tokens[index(family)];
        for target in before.iter().filter(|t| !after.contains(t)) {
            let token = token(number, target);
            // A slot table names its targets many times.
            if tokens.remove(&token).is_some() {
                changes.removed.push((set, pinned_element(token, target)));
            }
        }
        for target in after {
            let token = token(number, target);
            if tokens.insert(token, *target).is_none() {
                changes.new_targets.push((set, pinned_element(token, target)));
            }
        }
    }

    /// Whether a pin of the pool could be taken for another's.
    fn clashes(&self, pool: &PoolState, wanted: &Wanted) -> bool {
        let tokens = &self.tokens[index(wanted.key.family)];
        let own = |target: &Target| pool.affinity.is_some() && pool.slots.contains(target);
        let mut seen = HashSet::default();
        wanted.targets.iter().any(|target| {
            let token = token(pool.number(), target);
            !seen.insert(token) || (tokens.contains_key(&token) && !own(target))
        })
    }

    fn new_number(&mut self, owner: &ServiceKey, wanted: &Wanted) -> Option<u32> {
        let mut unusable = Vec::new();
        let number = loop {
            let number = self.numbers.allocate(owner)?;
            if wanted.affinity.is_none() {
                break number;
            }
            let candidate = PoolState {
                key: wanted.key.clone(),
                value: Value::new(number, 0),
                affinity: None,
                slots: Box::default(),
            };
            if !self.clashes(&candidate, wanted) {
                break number;
            }
            unusable.push(number);
        };
        unusable.into_iter().for_each(|number| self.numbers.free(number));
        Some(number)
    }

    pub fn drop_pool(&mut self, pool: PoolState, changes: &mut Changes) {
        let (family, number) = (pool.key.family, pool.number());
        if let Some(class) = self.classes.key(pool.class()) {
            self.classes.release(class);
        }
        if pool.affinity.is_some() {
            self.write_tokens((family, number), &pool.slots, &[], changes);
        }
        let set = Set::Endpoints(family);
        let slots = pool.slots.iter().enumerate();
        self.deferred.extend(
            slots.map(|(slot, target)| (set, endpoint_element(number, slot as u32, target))),
        );
        self.freed_later.push(number);
    }
}

fn is_permutation(slots: &[Target], sorted: &[Target]) -> bool {
    // Slots that were read back may name a target twice.
    let mut slots = slots.to_vec();
    slots.sort_unstable();
    slots == sorted
}
