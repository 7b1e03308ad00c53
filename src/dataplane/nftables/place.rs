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
                pool.slots.len() == self.size(pool) as usize
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
        let old_map = old.as_ref().map(|pool| self.map_of(pool));
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
        let map = Set::endpoints(family, size);
        let left = old_map.filter(|old| *old != map);
        let kept = if left.is_some() { &[] } else { &*old_slots };
        let slots = rebalance(kept, &wanted.targets, size as usize);
        self.write_slots((map, number), kept, &slots, changes);
        if let Some(left) = left {
            self.leave_slots((left, number), old_slots.iter().enumerate(), &slots, changes);
        }
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

    /// `old`: what the map holds of the pool.
    fn write_slots(
        &mut self,
        (set, number): (Set, u32),
        old: &[Target],
        new: &[Target],
        changes: &mut Changes,
    ) {
        for (slot, target) in new.iter().enumerate() {
            let element = || (set, endpoint_element(number, slot as u32, target));
            match old.get(slot) {
                Some(before) if before == target => {}
                Some(_) => changes.replaced_targets.push(element()),
                None => {
                    self.slots[set.index()] += 1;
                    changes.new_targets.push(element());
                }
            }
        }
        self.leave_slots((set, number), old.iter().enumerate().skip(new.len()), new, changes);
    }

    /// Packets that met the former class may still pick these slots: they lead to living endpoints
    /// now, and go with the next commit.
    fn leave_slots<'a>(
        &mut self,
        (set, number): (Set, u32),
        slots: impl Iterator<Item = (usize, &'a Target)>,
        living: &[Target],
        changes: &mut Changes,
    ) {
        for (slot, before) in slots {
            let stand_in = &living[slot % living.len()];
            let element = endpoint_element(number, slot as u32, stand_in);
            if !living.contains(before) {
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
        let set = self.map_of(&pool);
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

#[cfg(test)]
mod tests {
    use crate::dataplane::nftables::changes::Changes;
    use crate::dataplane::nftables::set::{
        Element, Set, Value, endpoint_element, frontend_key, read_slot_key, service_element,
    };
    use crate::dataplane::nftables::state::State;
    use crate::model::{Family, Protocol, ServiceKey};
    use crate::planner::{
        Action, Forward, Frontend, FrontendAddress, FrontendKey, FrontendKind, Locality,
        Masquerade, PoolEndpoint, PortPlan, Scope, ServicePlan, Target,
    };
    use std::collections::BTreeSet;
    use std::net::IpAddr;
    use std::ops::RangeInclusive;

    fn target(last: u8) -> Target {
        Target { address: [10, 1, 0, last].into(), port: 8080 }
    }

    fn address() -> IpAddr {
        [10, 96, 0, 1].into()
    }

    /// One frontend that leads to the endpoints with these last bytes.
    fn plan(endpoints: RangeInclusive<u8>) -> ServicePlan {
        let at = FrontendAddress::Address(address());
        let forward = Forward { scope: Scope::Cluster, masquerade: Masquerade::Never, allow: None };
        let frontend = Frontend {
            at: FrontendKey { at, protocol: Protocol::Tcp, port: 80 },
            kind: FrontendKind::ClusterIp,
            action: Action::Forward(forward),
            lost_to: None,
        };
        let endpoint = |last| PoolEndpoint {
            target: target(last),
            locality: Locality::Unknown,
            terminating: false,
        };
        let port = PortPlan {
            name: "http".into(),
            protocol: Protocol::Tcp,
            port: 80,
            family: Family::V4,
            affinity: None,
            cluster: endpoints.map(endpoint).collect(),
            local: Box::default(),
            serving: Box::default(),
            frontends: [frontend].into(),
        };
        ServicePlan { key: ServiceKey::new("ns", "web"), ports: [port].into() }
    }

    #[derive(Default)]
    struct Lowered {
        state: State,
        plan: Option<ServicePlan>,
    }

    impl Lowered {
        fn to(&mut self, endpoints: RangeInclusive<u8>) -> Changes {
            let new = plan(endpoints);
            let mut changes = Changes::default();
            self.state.take_overdue(&mut changes);
            self.state.lower(&new.key, self.plan.as_ref(), Some(&new), &mut changes);
            self.plan = Some(new);
            changes
        }

        fn value(&self) -> Value {
            self.state.services.values().flatten().next().expect("one pool").value
        }

        /// Elements of the maps for small, medium and large pools.
        fn counts(&self) -> [u64; 3] {
            [1, 33, 49].map(|size| self.state.slots[Set::endpoints(Family::V4, size).index()])
        }
    }

    fn map(slots: u32) -> Set {
        Set::endpoints(Family::V4, slots)
    }

    fn slots_in(set: Set, elements: &[(Set, Element)]) -> Vec<u32> {
        let of = elements.iter().filter(|(of, _)| *of == set);
        of.map(|(_, element)| read_slot_key(&element.key).expect("a slot").1).collect()
    }

    fn touched(elements: &[(Set, Element)]) -> BTreeSet<Set> {
        let maps = elements.iter().map(|(set, _)| *set);
        maps.filter(|set| matches!(set, Set::Endpoints(..))).collect()
    }

    #[test]
    fn a_pool_that_comes_to_another_map_is_written_there_and_left_in_the_former() {
        let mut lowered = Lowered::default();
        lowered.to(1..=32);
        let mut before = 32;
        for size in [33u8, 32, 48, 49, 48, 64, 1, 33] {
            let (old, new) = (map(before.into()), map(size.into()));
            let number = lowered.value().pool();
            let class = lowered.value().class();
            let changes = lowered.to(1..=size);
            assert_eq!(slots_in(new, &changes.new_targets), (0..size.into()).collect::<Vec<_>>());
            assert_eq!(touched(&changes.new_targets), [new].into());
            assert_ne!(old, new);
            let gone: Vec<u32> = (size.into()..before.into()).collect();
            let replaced = slots_in(old, &changes.replaced_targets);
            assert_eq!(replaced, gone, "{before} to {size}: only what leads to what is gone");
            let deferred = slots_in(old, &lowered.state.deferred);
            assert_eq!(deferred, (0..before.into()).collect::<Vec<_>>());
            assert_eq!(touched(&lowered.state.deferred), [old].into());

            let value = lowered.value();
            assert_eq!(value.pool(), number, "pins name the pool by its number");
            assert_ne!(value.class(), class);
            let key = frontend_key(address(), Protocol::Tcp, 80);
            let frontend = (Set::Services(Family::V4), service_element(key, value));
            assert_eq!(changes.replaced_frontends, [frontend]);

            let mut overdue = Changes::default();
            lowered.state.take_overdue(&mut overdue);
            assert_eq!(slots_in(old, &overdue.overdue).len(), usize::from(before));
            let mut counts = [0; 3];
            counts[[1, 33, 49].iter().position(|s| map(*s) == new).expect("a map")] = size.into();
            assert_eq!(lowered.counts(), counts);
            before = size;
        }
    }

    #[test]
    fn a_former_slot_never_leads_to_an_endpoint_that_is_gone() {
        let mut lowered = Lowered::default();
        lowered.to(1..=33);
        let number = lowered.value().pool();
        let changes = lowered.to(3..=33);
        let replaced: Vec<_> =
            changes.replaced_targets.iter().filter(|(set, _)| *set == map(33)).collect();
        let stand_in =
            |slot: u32| (map(33), endpoint_element(number, slot, &target(slot as u8 + 3)));
        assert_eq!(replaced, [&stand_in(0), &stand_in(1)]);
        assert_eq!(lowered.counts(), [31, 33, 0], "the former slots are still there");
    }

    #[test]
    fn within_a_map_one_endpoint_more_writes_one_slot() {
        let mut lowered = Lowered::default();
        for (from, to) in [(31, 32), (33, 34), (47, 48), (49, 50)] {
            lowered.to(1..=from);
            lowered.state.take_overdue(&mut Changes::default());
            let changes = lowered.to(1..=to);
            assert_eq!(slots_in(map(to.into()), &changes.new_targets), [u32::from(from)]);
            assert!(touched(&changes.replaced_targets).is_empty());
            assert!(lowered.state.deferred.is_empty());
            lowered.to(1..=from);
            assert_eq!(slots_in(map(to.into()), &lowered.state.deferred), [u32::from(from)]);
        }
    }

    #[test]
    fn a_pool_that_goes_leaves_its_own_map() {
        let mut lowered = Lowered::default();
        lowered.to(1..=40);
        let (key, old) = (ServiceKey::new("ns", "web"), lowered.plan.take());
        lowered.state.lower(&key, old.as_ref(), None, &mut Changes::default());
        assert_eq!(slots_in(map(40), &lowered.state.deferred).len(), 40);
        lowered.state.take_overdue(&mut Changes::default());
        assert_eq!(lowered.counts(), [0; 3]);
    }
}
