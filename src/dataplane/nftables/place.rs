//! A pool with its number, class, slots and tokens. PURE.
//!
//! In: what the kernel holds of a pool, and what it shall be. Out: the elements between the two.
//! Never: frontends.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use super::changes::Changes;
use super::classes::{Approach, ClassKey};
use super::difference::pool_difference;
use super::set::{Element, Set, Value, endpoint_element, first_slot, pinned_element, token};
use super::slots::{Among, Turned, exchange, rebalance};
use super::state::{PoolKey, PoolState, Retimed, State, pool_of};
use crate::model::{Family, ServiceKey};
use crate::planner::{Pool, Scope, ServicePlan, Target};
use foldhash::HashSet;
use std::num::{NonZeroU16, NonZeroU32};

/// Slots of a pool that is compared with its plan after every change. Once a larger one has changed
/// it is hardly ever in order again, and to look costs more than the change.
const SMALL: usize = 64;

/// What a pool shall be.
pub struct Wanted {
    pub key: PoolKey,
    pub affinity: Option<NonZeroU32>,
    /// How connections come by a cluster IP.
    pub inside: Approach,
    /// How connections come that do not.
    pub external: Option<Approach>,
    pub targets: Pool,
}

impl Wanted {
    fn class(&self, size: u32, approach: Approach) -> ClassKey {
        let PoolKey { family, protocol, scope, .. } = self.key;
        ClassKey { family, protocol, scope, size, affinity: self.affinity, approach }
    }
}

/// A pool as it is.
pub struct Former {
    pub pool: PoolState,
    targets: Targets,
    /// Its slots may be in the order of a plan.
    pub may_be_in_order: bool,
}

/// What a pool's slots lead to.
enum Targets {
    /// Sorted, each once.
    Seen(Box<[Target]>),
    Planned(Pool),
}

impl Targets {
    fn len(&self) -> usize {
        match self {
            Targets::Seen(targets) => targets.len(),
            Targets::Planned(pool) => pool.len(),
        }
    }

    fn all(&self) -> Vec<Target> {
        match self {
            Targets::Seen(targets) => targets.to_vec(),
            Targets::Planned(pool) => pool.keys().copied().collect(),
        }
    }

    /// What is not wanted any more, and what was not there before; both sorted.
    fn difference(&self, wanted: &Pool) -> (Vec<Target>, Vec<Target>) {
        match self {
            Targets::Planned(pool) => pool_difference(pool, wanted),
            Targets::Seen(targets) => {
                let gone = targets.iter().filter(|target| !wanted.contains_key(*target));
                let come = wanted.keys().filter(|target| targets.binary_search(target).is_err());
                (gone.copied().collect(), come.copied().collect())
            }
        }
    }
}

impl Former {
    /// As it was read back. Its slots may name a target twice, or not all that they should.
    pub fn seen(pool: PoolState) -> Self {
        let mut targets = pool.slots.to_vec();
        targets.sort_unstable();
        targets.dedup();
        Self { pool, targets: Targets::Seen(targets.into()), may_be_in_order: true }
    }

    /// As it was made by a plan.
    pub fn planned(mut pool: PoolState, plan: &ServicePlan) -> Self {
        let targets = pool_of(&pool.key, plan).cloned().unwrap_or_default();
        let may_be_in_order = pool.slots.is_empty() || pool.slots.len() <= SMALL;
        if pool.slots.is_empty() {
            pool.slots = targets.keys().copied().collect();
        }
        Self { pool, targets: Targets::Planned(targets), may_be_in_order }
    }

    /// Every target has one slot.
    fn is_exact(&self) -> bool {
        self.pool.slots.len() == self.targets.len()
    }
}

/// A pool's slots: where they stand, and from which number on they count.
#[derive(Clone, Copy)]
struct Place {
    set: Set,
    number: u32,
    first: u32,
}

impl Place {
    fn element(self, slot: usize, target: &Target) -> (Set, Element) {
        (self.set, endpoint_element(self.number, self.first + slot as u32, target))
    }
}

/// What a pool's targets were and are not any more, and the other way round.
#[derive(Clone, Copy)]
struct Turn<'a> {
    wanted: &'a Wanted,
    gone: &'a [Target],
    come: &'a [Target],
}

impl State {
    /// Makes a pool what it shall be. `sibling`: the number of the same port's other pool, which
    /// both have if they can, so that pins hold whichever is asked. `None` if no number or class
    /// is left for it.
    pub fn place(
        &mut self,
        owner: &ServiceKey,
        old: Option<Former>,
        (wanted, sibling): (Wanted, Option<u32>),
        changes: &mut Changes,
    ) -> Option<PoolState> {
        debug_assert!(!wanted.targets.is_empty(), "a pool that is forwarded to has endpoints");
        let (gone, come) = match &old {
            Some(former) => former.targets.difference(&wanted.targets),
            None => Default::default(),
        };
        let same = gone.is_empty() && come.is_empty();
        if old.as_ref().is_some_and(|former| same && self.is_as_wanted(former, &wanted)) {
            return old.map(|former| former.pool);
        }
        // Pins name endpoints by a hash over pool and endpoint: a number where two would clash
        // is not usable for this pool.
        let old = match old {
            Some(former) if self.would_clash(&former.pool, &wanted, &come) => {
                self.drop_pool(former.pool, changes);
                None
            }
            other => other,
        };
        let size = self.classes.size_for(wanted.key.family, wanted.targets.len() as u32);
        let pool = old.as_ref().map(|former| &former.pool);
        let held = pool.map(|pool| (pool.class(), pool.external_class()));
        let (held_class, held_external) = held.unzip();
        let class = self.reclass(held_class, wanted.class(size, wanted.inside), changes);
        let external = match wanted.external {
            Some(approach) => {
                let class = wanted.class(size, approach);
                self.reclass(held_external.flatten(), class, changes).map(Some)
            }
            None => {
                held_external.flatten().into_iter().for_each(|class| self.release(class));
                Some(None)
            }
        };
        let number = match pool {
            Some(pool) => Some(pool.number()),
            None => self.new_number(owner, &wanted, sibling),
        };
        let (Some(class), Some(external), Some(number)) = (class, external, number) else {
            class.into_iter().chain(external.flatten()).for_each(|class| self.release(class));
            old.into_iter().for_each(|former| self.leave(former.pool, changes));
            changes.unplaced.push(owner.clone());
            return None;
        };
        let external = external.and_then(|class| NonZeroU16::new(class as u16));
        let place = Place {
            set: Set::endpoints(wanted.key.family, size),
            number,
            first: first_slot(wanted.key.scope),
        };
        let turn = Turn { wanted: &wanted, gone: &gone, come: &come };
        let slots = self.fill(old, turn, (place, size), changes);
        let value = Value::new(number, class);
        Some(PoolState { key: wanted.key, value, external, affinity: wanted.affinity, slots })
    }

    /// Of one that has the targets that it shall have.
    fn is_as_wanted(&self, former: &Former, wanted: &Wanted) -> bool {
        let pool = &former.pool;
        let approach = |class| self.classes.key(class).map(|class| class.approach);
        pool.affinity == wanted.affinity
            && approach(pool.class()) == Some(wanted.inside)
            && pool.external_class().and_then(approach) == wanted.external
            && former.is_exact()
            && pool.slots.len() == self.size(pool) as usize
    }

    /// The number of a class for a pool that was in another, or in none.
    fn reclass(&mut self, old: Option<u32>, key: ClassKey, changes: &mut Changes) -> Option<u32> {
        let old_key = old.and_then(|class| self.classes.key(class));
        if old_key == Some(key) {
            return old;
        }
        let class = self.class(key, changes);
        old.into_iter().for_each(|class| self.release(class));
        class
    }

    fn release(&mut self, class: u32) {
        if let Some(key) = self.classes.key(class) {
            self.classes.release(key);
        }
    }

    /// Brings slots and pins' endpoints from what a pool had to what it shall have.
    fn fill(
        &mut self,
        old: Option<Former>,
        turn: Turn<'_>,
        (place, size): (Place, u32),
        changes: &mut Changes,
    ) -> Box<[Target]> {
        let wanted = turn.wanted;
        let PoolKey { family, scope, .. } = wanted.key;
        let old_affinity = old.as_ref().and_then(|former| former.pool.affinity);
        if let (Some(before), Some(after)) = (old_affinity, wanted.affinity)
            && before != after
        {
            let (before, after) = (before.get(), after.get());
            self.retimed.push(Retimed { family, number: place.number, before, after });
        }
        let left = old.as_ref().map(|former| self.place_of(&former.pool));
        let left = left.filter(|old| old.set != place.set);
        let exact = old.as_ref().is_some_and(Former::is_exact) && left.is_none();
        let exact = exact && size as usize == wanted.targets.len();
        let (old_slots, old_targets) = match old {
            Some(former) => (former.pool.slots.into_vec(), former.targets),
            None => (Vec::new(), Targets::Seen(Box::default())),
        };
        let (kept, abandoned) = match left {
            Some(left) => (Vec::new(), Some((left, old_slots))),
            None => (old_slots, None),
        };
        let turned = match exact {
            true => exchange(kept, turn.gone, turn.come),
            false => Err(kept),
        };
        let turned = match turned {
            Ok(turned) => turned,
            Err(kept) => {
                let targets: Vec<Target> = wanted.targets.keys().copied().collect();
                Turned::between(&kept, rebalance(&kept, &targets, size as usize))
            }
        };
        self.write_slots(place, &turned, turn.gone, changes);
        if let Some((left, old_slots)) = abandoned {
            let slots = old_slots.iter().enumerate();
            self.leave_slots(left, slots, (&turned.slots, turn.gone), changes);
        }
        let number = (family, scope, place.number);
        let all = |targets: &Pool| targets.keys().copied().collect::<Vec<_>>();
        match (old_affinity, wanted.affinity) {
            (Some(_), Some(_)) => self.write_tokens(number, turn.gone, turn.come, changes),
            (Some(_), None) => self.write_tokens(number, &old_targets.all(), &[], changes),
            (None, Some(_)) => self.write_tokens(number, &[], &all(&wanted.targets), changes),
            (None, None) => {}
        }
        turned.slots.into()
    }

    /// Where the kernel holds a pool's slots.
    fn place_of(&self, pool: &PoolState) -> Place {
        let first = first_slot(pool.key.scope);
        Place { set: self.map_of(pool), number: pool.number(), first }
    }

    fn write_slots(
        &mut self,
        place: Place,
        turned: &Turned,
        gone: &[Target],
        changes: &mut Changes,
    ) {
        for &slot in &turned.written {
            let element = place.element(slot, &turned.slots[slot]);
            if slot < turned.former {
                changes.replaced_targets.push(element);
            } else {
                self.slots[place.set.index()] += 1;
                changes.new_targets.push(element);
            }
        }
        let beyond = (turned.slots.len()..).zip(&turned.beyond);
        self.leave_slots(place, beyond, (&turned.slots, gone), changes);
    }

    /// Packets that met the former class may still pick these slots: they lead to living endpoints
    /// now, and go with the next commit.
    fn leave_slots<'a>(
        &mut self,
        place: Place,
        slots: impl Iterator<Item = (usize, &'a Target)>,
        (living, gone): (&[Target], &[Target]),
        changes: &mut Changes,
    ) {
        let gone = Among::new(gone);
        for (slot, before) in slots {
            let element = place.element(slot, &living[slot % living.len()]);
            if gone.has(before) {
                changes.replaced_targets.push(element.clone());
            }
            self.deferred.push(element);
        }
    }

    /// `gone` may name a target many times, as a slot table does.
    fn write_tokens(
        &mut self,
        (family, scope, number): (Family, Scope, u32),
        gone: &[Target],
        come: &[Target],
        changes: &mut Changes,
    ) {
        let set = Set::Pinned(family, scope);
        let tokens = &mut self.tokens[family.index()][scope as usize];
        for target in gone {
            let token = token(number, target);
            if tokens.remove(&token).is_some() {
                changes.removed.push((set, pinned_element(token, target)));
            }
        }
        for target in come {
            let token = token(number, target);
            if tokens.insert(token, *target).is_none() {
                changes.new_targets.push((set, pinned_element(token, target)));
            }
        }
    }

    /// Whether a pin of the pool could be taken for another's, once its targets have changed.
    fn would_clash(&self, pool: &PoolState, wanted: &Wanted, come: &[Target]) -> bool {
        match (wanted.affinity, pool.affinity) {
            (None, _) => false,
            // Those that stay have their tokens.
            (Some(_), Some(_)) => self.clashes(pool.number(), wanted, come),
            (Some(_), None) => self.clashes(pool.number(), wanted, wanted.targets.keys()),
        }
    }

    /// Whether targets that have no tokens yet could have them under this number.
    fn clashes<'a>(
        &self,
        number: u32,
        wanted: &Wanted,
        targets: impl IntoIterator<Item = &'a Target>,
    ) -> bool {
        let tokens = &self.tokens[wanted.key.family.index()][wanted.key.scope as usize];
        let mut seen = HashSet::default();
        targets.into_iter().any(|target| {
            let token = token(number, target);
            !seen.insert(token) || tokens.contains_key(&token)
        })
    }

    fn new_number(
        &mut self,
        owner: &ServiceKey,
        wanted: &Wanted,
        sibling: Option<u32>,
    ) -> Option<u32> {
        let usable = |state: &Self, number| {
            wanted.affinity.is_none() || !state.clashes(number, wanted, wanted.targets.keys())
        };
        if let Some(sibling) = sibling.filter(|number| usable(self, *number)) {
            return Some(sibling);
        }
        let mut unusable = Vec::new();
        let number = loop {
            match self.numbers.allocate(owner) {
                Some(number) if !usable(self, number) => unusable.push(number),
                found => break found,
            }
        };
        unusable.into_iter().for_each(|number| self.numbers.free(number));
        number
    }

    /// Removes all of a pool but its number, which its sibling may have too.
    pub fn drop_pool(&mut self, pool: PoolState, changes: &mut Changes) {
        self.release(pool.class());
        pool.external_class().into_iter().for_each(|class| self.release(class));
        self.leave(pool, changes);
    }

    fn leave(&mut self, pool: PoolState, changes: &mut Changes) {
        let PoolKey { family, scope, .. } = pool.key;
        if pool.affinity.is_some() {
            self.write_tokens((family, scope, pool.number()), &pool.slots, &[], changes);
        }
        let place = self.place_of(&pool);
        let slots = pool.slots.iter().enumerate();
        self.deferred.extend(slots.map(|(slot, target)| place.element(slot, target)));
    }
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
        Action, Balanced, Carrier, Forward, Frontend, FrontendAddress, FrontendKey, FrontendKind,
        Locality, Masquerade, Member, Pool, PortPlan, Reach, ServicePlan, Target,
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
        let forward = Forward { reach: Reach::Cluster, masquerade: Masquerade::Never };
        let frontend = Frontend {
            at: FrontendKey { at, protocol: Protocol::Tcp, port: 80 },
            kind: FrontendKind::ClusterIp,
            action: Action::Forward(forward),
            allow: None,
            foreign: false,
            lost_to: None,
        };
        let member = Member { locality: Locality::Unknown, terminating: false };
        let endpoint = |last| (target(last), member);
        let port = PortPlan {
            name: "http".into(),
            protocol: Protocol::Tcp,
            port: 80,
            family: Family::V4,
            affinity: None,
            carrier: Carrier::default(),
            balanced: Balanced::default(),
            cluster: endpoints.map(endpoint).collect(),
            local: Pool::new(),
            serving: Box::default(),
            frontends: [frontend].into(),
        };
        let (ports, idle) = ([port].into(), Box::default());
        ServicePlan { key: ServiceKey::new("ns", "web"), ports, idle, health: None }
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
