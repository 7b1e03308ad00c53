//! Which endpoint stands in which slot of a pool. PURE.
//!
//! A connection picks slot `random mod size`. With size = number of endpoints the choice is
//! exactly uniform; a larger table (a power of two ≥ 12 × endpoints) is uniform within 8 %.

use crate::planner::Target;
use foldhash::{HashMap, HashSet};

/// The new table: every target in its fair share of slots, and as few slots changed as possible.
/// Slots beyond `size` are dropped. `targets` has no duplicates and is not empty.
pub fn rebalance(old: &[Target], targets: &[Target], size: usize) -> Vec<Target> {
    debug_assert!(!targets.is_empty() && size >= targets.len());
    if size == targets.len() && targets.len() <= 16 {
        return exact(old, targets);
    }
    let (base, mut extra) = (size / targets.len(), size % targets.len());
    let mut shares: HashMap<Target, Share> =
        targets.iter().map(|t| (*t, Share { base, has_extra: false })).collect();
    let mut table: Vec<Option<Target>> = vec![None; size];
    for (slot, target) in old.iter().take(size).enumerate() {
        if shares.get_mut(target).is_some_and(|share| share.take(&mut extra)) {
            table[slot] = Some(*target);
        }
    }
    fill(table, targets, (shares, extra))
}

/// A table, and how it came from the former one.
#[derive(Debug, PartialEq, Eq)]
pub struct Turned {
    pub slots: Vec<Target>,
    /// How many slots the former one had.
    pub former: usize,
    /// The slots that lead elsewhere than before, or did not exist; ascending.
    pub written: Vec<usize>,
    /// What stood in the slots that do not exist any more.
    pub beyond: Vec<Target>,
}

impl Turned {
    pub fn between(old: &[Target], slots: Vec<Target>) -> Self {
        let differs = |slot: &usize| old.get(*slot) != Some(&slots[*slot]);
        let written = (0..slots.len()).filter(differs).collect();
        let beyond = old.get(slots.len()..).unwrap_or_default().to_vec();
        Self { former: old.len(), written, beyond, slots }
    }
}

/// The new table where each target has one slot, before and after: what is gone makes room for what
/// has come, and what stands beyond the end comes in. Gives the table back if it does not hold each of
/// those that are gone once.
pub fn exchange(
    mut slots: Vec<Target>,
    gone: &[Target],
    come: &[Target],
) -> Result<Turned, Vec<Target>> {
    let former = slots.len();
    let Some(size) = (former + come.len()).checked_sub(gone.len()) else { return Err(slots) };
    let (all, gone) = (gone.len(), Among::new(gone));
    let mut beyond = slots.split_off(size.min(former));
    let mut written = gone.places(&slots);
    let stays: Vec<Target> = beyond.iter().filter(|target| !gone.has(target)).copied().collect();
    if written.len() + beyond.len() - stays.len() != all {
        slots.append(&mut beyond);
        return Err(slots);
    }
    let mut free = come.iter().copied().chain(stays);
    for slot in &written {
        slots[*slot] = free.next().expect("as many free slots as targets without one");
    }
    slots.extend(free);
    written.extend(former..slots.len());
    debug_assert_eq!(slots.len(), size);
    Ok(Turned { slots, former, written, beyond })
}

/// Targets, to be asked for one.
pub enum Among<'a> {
    Few(&'a [Target]),
    Many(HashSet<Target>),
}

impl<'a> Among<'a> {
    pub fn new(targets: &'a [Target]) -> Self {
        const FEW: usize = 8;
        match targets.len() {
            ..=FEW => Among::Few(targets),
            _ => Among::Many(targets.iter().copied().collect()),
        }
    }

    pub fn has(&self, target: &Target) -> bool {
        match self {
            Among::Few(targets) => targets.contains(target),
            Among::Many(targets) => targets.contains(target),
        }
    }

    /// Where they stand in a table that names nobody twice, ascending.
    fn places(&self, slots: &[Target]) -> Vec<usize> {
        let mut places: Vec<usize> = match self {
            // To walk over all that stays is most of what it costs: the port tells little, and is
            // quickly compared.
            Among::Few(targets) => targets
                .iter()
                .filter_map(|Target { address, port }| {
                    slots.iter().position(|slot| slot.port == *port && slot.address == *address)
                })
                .collect(),
            Among::Many(targets) => {
                (0..slots.len()).filter(|slot| targets.contains(&slots[*slot])).collect()
            }
        };
        places.sort_unstable();
        places
    }
}

/// The slots that a target may still take.
struct Share {
    base: usize,
    /// Has its one slot of the remainder.
    has_extra: bool,
}

impl Share {
    fn take(&mut self, extra: &mut usize) -> bool {
        if self.base > 0 {
            self.base -= 1;
        } else if *extra > 0 && !self.has_extra {
            *extra -= 1;
            self.has_extra = true;
        } else {
            return false;
        }
        true
    }
}

fn fill(
    table: Vec<Option<Target>>,
    targets: &[Target],
    (mut shares, mut extra): (HashMap<Target, Share>, usize),
) -> Vec<Target> {
    // Round robin, so that neighbours differ; the shares add up to the size of the table.
    let mut open = targets.iter().copied().cycle();
    let mut next = || {
        loop {
            let target = open.next().expect("targets is not empty");
            if shares.get_mut(&target).is_some_and(|share| share.take(&mut extra)) {
                return target;
            }
        }
    };
    table.into_iter().map(|slot| slot.unwrap_or_else(&mut next)).collect()
}

/// As above for few targets with one slot each, without hashing.
fn exact(old: &[Target], targets: &[Target]) -> Vec<Target> {
    let size = targets.len();
    let mut missing = targets.iter().filter(|t| !old.iter().take(size).any(|o| o == *t));
    let mut table = Vec::with_capacity(size);
    for slot in 0..size {
        match old.get(slot) {
            Some(target) if targets.contains(target) && !table.contains(target) => {
                table.push(*target);
            }
            _ => table.push(*missing.next().expect("as many free slots as missing targets")),
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{IpAddr, Ipv4Addr};

    fn target(n: u16) -> Target {
        Target { address: IpAddr::V4(Ipv4Addr::new(10, 0, (n >> 8) as u8, n as u8)), port: 80 }
    }

    fn targets(range: std::ops::Range<u16>) -> Vec<Target> {
        range.map(target).collect()
    }

    fn changed(old: &[Target], new: &[Target]) -> usize {
        new.iter().enumerate().filter(|(i, t)| old.get(*i) != Some(t)).count()
    }

    #[test]
    fn exact_tables_hold_each_target_once_and_change_little() {
        for n in [1u16, 2, 3, 16, 17, 40] {
            let all = targets(0..n);
            let table = rebalance(&[], &all, all.len());
            let mut sorted = table.clone();
            sorted.sort();
            assert_eq!(sorted, all);
            for gone in 0..n {
                let rest: Vec<_> = all.iter().copied().filter(|t| *t != target(gone)).collect();
                if rest.is_empty() {
                    continue;
                }
                let next = rebalance(&table, &rest, rest.len());
                assert!(changed(&table, &next) <= 1, "more than the last slot moved");
                let mut sorted = next.clone();
                sorted.sort();
                assert_eq!(sorted, rest);
            }
        }
    }

    #[test]
    fn an_exchange_leaves_everybody_else_where_they_are() {
        let sorted = |mut table: Vec<Target>| {
            table.sort();
            table
        };
        for (before, after) in
            [(0..1, 1..2), (0..5, 1..6), (0..5, 2..4), (0..3, 1..9), (0..60, 20..50)]
        {
            let (old, new) = (targets(before.clone()), targets(after.clone()));
            let gone: Vec<_> = old.iter().copied().filter(|t| !new.contains(t)).collect();
            let come: Vec<_> = new.iter().copied().filter(|t| !old.contains(t)).collect();
            let mut turned = old.clone();
            turned.rotate_left(old.len() / 2);
            let stranger = [target(900)];
            assert_eq!(exchange(turned.clone(), &stranger, &come), Err(turned.clone()));
            let exchanged = exchange(turned.clone(), &gone, &come).expect("each once");
            let table = exchanged.slots.clone();
            assert_eq!(exchanged, Turned::between(&turned, table.clone()));
            assert_eq!(sorted(table.clone()), new, "{before:?} to {after:?}");
            for (slot, target) in turned.iter().enumerate().take(table.len()) {
                assert!(gone.contains(target) || table[slot] == *target);
            }
        }
    }

    #[test]
    fn large_tables_are_fair_and_move_only_a_share() {
        let all = targets(0..100);
        let table = rebalance(&[], &all, 2048);
        let next = rebalance(&table, &targets(0..101), 2048);
        assert!(changed(&table, &next) <= 2048 / 101 + 100);
        for n in 0..101 {
            let count = next.iter().filter(|t| **t == target(n)).count();
            assert!((20..=21).contains(&count), "target {n} has {count} slots");
        }
        let fewer = rebalance(&next, &targets(1..101), 2048);
        for n in 1..101 {
            let count = fewer.iter().filter(|t| **t == target(n)).count();
            assert!((20..=21).contains(&count), "target {n} has {count} slots");
        }
    }
}
