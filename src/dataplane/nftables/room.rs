//! How many elements a set has room for, and how it gets more. EDGE: it asks the kernel.
//!
//! A set that is made with a size gets the kernel's hash table of fixed size, which takes elements
//! in half the time of the one that grows by itself: that one grows in a worker of its own, and
//! meanwhile a long transaction fills chains. In return vipd has to make it anew when it is full.

use super::changes::{Changes, Structure};
use super::error::Error;
use super::expr::{Expr, Rule};
use super::kernel::Kernel;
use super::layout::{ChainDefinition, skeleton};
use super::set::Set;
use super::transaction::Batch;
use super::treatment::class_chains;
use super::types::Room;
use super::{Nftables, classes};
use crate::dataplane::Applied;
use crate::model::Family;
use crate::planner::{FrontendAddress, Plan};
use foldhash::HashSet;
use std::collections::BTreeMap;

/// Bytes of a transaction that can carry the largest set there may be. Where the socket cannot send
/// that much (an unprivileged daemon's send buffer is limited), sets grow by themselves.
const WHOLE_SET: usize = 128 << 20;

/// The sets whose size depends on the services.
fn grows(set: Set) -> bool {
    matches!(set, Set::Services(_) | Set::Endpoints(..) | Set::Addresses(_) | Set::Hairpin(_))
}

fn uses(rule: &Rule, set: Set) -> bool {
    rule.0.iter().any(|expr| match expr {
        Expr::Lookup { set: name, .. } | Expr::Dynamic { set: name, .. } => *name == set.name(),
        _ => false,
    })
}

/// All sets, with room for the plan: for its frontends, and for the endpoints of its services,
/// chosen or not.
pub(super) fn sets(kernel: &Kernel, plan: &Plan) -> Vec<Structure> {
    let mut counts = [0; Set::ALL.len()];
    let mut count = |set: Set, n: u64| counts[set.index()] += n;
    let mut last = None;
    for (at, _) in plan.claims.iter() {
        let FrontendAddress::Address(address) = at.at else { continue };
        count(Set::Services(Family::of(address)), 1);
        // Neighbours have the same address.
        if last.replace(address) != Some(address) {
            count(Set::Addresses(Family::of(address)), 1);
        }
    }
    let mut pools: [BTreeMap<u32, u64>; 2] = Default::default();
    for known in plan.known.values() {
        let Some(service) = &known.service else { continue };
        let mut endpoints = [0; 2];
        for set in known.sets() {
            endpoints[set.family.index()] += set.endpoints.len() as u32;
        }
        for (family, n) in Family::BOTH.into_iter().zip(endpoints).filter(|(_, n)| *n > 0) {
            count(Set::Hairpin(family), n.into());
            *pools[family.index()].entry(n).or_default() += service.ports.len() as u64;
        }
    }
    for family in Family::BOTH {
        for (size, slots) in classes::slots(&pools[family.index()]) {
            count(Set::endpoints(family, size), slots);
        }
    }
    let fixed = kernel.largest() >= WHOLE_SET;
    let room = |set: Set| match grows(set) && fixed {
        true => Room::to_grow(counts[set.index()]),
        false => Room::ANY,
    };
    Set::ALL.map(|set| Structure::Set(set, room(set))).into()
}

impl Nftables {
    /// Commits one batch; a set that is full for it is made larger first.
    pub(super) fn commit_batch(&mut self, batch: &mut Batch) -> Result<Applied, Error> {
        let mut applied = Applied::default();
        for _ in Set::ALL {
            match self.kernel.commit(batch) {
                Err(Error::Full(set)) => applied += self.grow(set, batch.added_to(set))?,
                outcome => return Ok(applied + outcome?),
            }
        }
        Ok(applied + self.kernel.commit(batch)?)
    }

    /// Makes a set anew with twice the room, or with room for so many more elements, within one
    /// transaction: every packet sees the old one or the new one, with the same elements.
    fn grow(&mut self, set: Set, more: u64) -> Result<Applied, Error> {
        let elements = self.kernel.dump(set)?;
        let held = elements.len() as u64;
        let room = Room::to_grow(held + held.max(more));
        tracing::info!(set = set.name(), elements = elements.len(), ?room, "making a set larger");
        let users = self.users(set)?;
        let mut changes = Changes::default();
        let flush = users.iter().map(|chain| Structure::FlushChain(chain.name.to_string()));
        changes.structure.extend(flush);
        changes.structure.extend([Structure::RemoveSet(set), Structure::Set(set, room)]);
        changes.structure.extend(users.into_iter().map(Structure::Rewrite));
        changes.new_targets.extend(elements.into_iter().map(|element| (set, element)));
        let batches = self.kernel.batches(&changes, self.kernel.largest());
        let [mut batch] =
            <[Batch; 1]>::try_from(batches).map_err(|_| Error::TooLarge(set.name()))?;
        self.kernel.commit(&mut batch)
    }

    /// The chains that the kernel holds with a rule that looks into the set.
    fn users(&mut self, set: Set) -> Result<Vec<ChainDefinition>, Error> {
        let seen = self.kernel.chains()?;
        let seen: HashSet<&str> = seen.iter().map(|chain| chain.name.as_str()).collect();
        let node = self.state.node.clone();
        let constant = node.iter().flat_map(|node| skeleton(self.state.needs(node)));
        let classes = self.state.classes.iter().flat_map(|(key, _)| class_chains(key));
        let mut users: Vec<ChainDefinition> = constant
            .chain(classes)
            .filter(|chain| seen.contains(&*chain.name))
            .filter(|chain| chain.rules.iter().any(|rule| uses(rule, set)))
            .collect();
        // Several classes share chains.
        users.sort_by(|a, b| a.name.cmp(&b.name));
        users.dedup_by(|a, b| a.name == b.name);
        Ok(users)
    }
}
