//! Consistent hashing (Eisenbud et al., Maglev, NSDI 2016): one client, one endpoint, on all nodes
//! that know the same endpoints, and few clients move when one comes or goes.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use crate::planner::Target;
use std::net::IpAddr;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Primes. A table has a hundred slots per endpoint or more, so that none gets a percent more
/// clients than another; the largest of them serves any number.
const SIZES: [u32; 3] = [16_381, 65_537, 655_373];
const PER_TARGET: usize = 100;

/// What is hashed, apart.
const OFFSET: u64 = 0;
const SKIP: u64 = 1;
const CLIENT: u64 = 2;

/// Whose a slot is, by the place in the pool that the table was made for.
#[derive(Debug)]
pub(super) struct Maglev(Box<[u32]>);

impl Maglev {
    /// `targets` is sorted: the order is part of what nodes agree on.
    pub(super) fn new(targets: &[Target]) -> Self {
        const FREE: u32 = u32::MAX;
        if targets.is_empty() {
            return Self(Box::default());
        }
        let enough = |size: &&u32| **size as usize >= targets.len() * PER_TARGET;
        let size = SIZES.iter().find(enough).copied().unwrap_or(SIZES[SIZES.len() - 1]);
        let mut slots = vec![FREE; size as usize].into_boxed_slice();
        let mut next: Vec<(u64, u64)> = targets
            .iter()
            .map(|target| {
                let skip = hash(*target, SKIP) % u64::from(size - 1) + 1;
                (hash(*target, OFFSET) % u64::from(size), skip)
            })
            .collect();
        let mut filled = 0;
        'all: loop {
            for (owner, (at, skip)) in (0..).zip(&mut next) {
                // The size is prime, so that each target's walk comes by every slot.
                while slots[slot(*at)] != FREE {
                    *at = (*at + *skip) % u64::from(size);
                }
                slots[slot(*at)] = owner;
                filled += 1;
                if filled == size {
                    break 'all;
                }
            }
        }
        Self(slots)
    }

    /// Places in the pool, the client's own first, then those that stand in for it; some come more
    /// than once.
    pub(super) fn of(&self, client: IpAddr) -> impl Iterator<Item = usize> {
        let hash = match client {
            IpAddr::V4(v4) => xxh3_64_with_seed(&v4.octets(), CLIENT),
            IpAddr::V6(v6) => xxh3_64_with_seed(&v6.octets(), CLIENT),
        };
        let start = match self.0.len() as u64 {
            0 => 0,
            size => slot(hash % size),
        };
        let (before, from) = self.0.split_at(start);
        from.iter().chain(before).map(|owner| *owner as usize)
    }
}

fn slot(at: u64) -> usize {
    usize::try_from(at).expect("less than the table's size")
}

fn hash(target: Target, seed: u64) -> u64 {
    let mut text = [0; 18];
    let length = match target.address {
        IpAddr::V4(v4) => {
            text[..4].copy_from_slice(&v4.octets());
            4
        }
        IpAddr::V6(v6) => {
            text[..16].copy_from_slice(&v6.octets());
            16
        }
    };
    text[length..length + 2].copy_from_slice(&target.port.to_be_bytes());
    xxh3_64_with_seed(&text[..length + 2], seed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(count: u8) -> Vec<Target> {
        (1..=count)
            .map(|last| Target { address: IpAddr::from([10, 180, 0, last]), port: 8080 })
            .collect()
    }

    fn client(number: u32) -> IpAddr {
        IpAddr::V4((0x0a0a_0000 + number).into())
    }

    fn first(maglev: &Maglev, number: u32) -> usize {
        maglev.of(client(number)).next().unwrap()
    }

    #[test]
    fn slots_are_shared_evenly() {
        for count in [1u8, 2, 7, 200] {
            let maglev = Maglev::new(&pool(count));
            let mut slots = vec![0usize; count.into()];
            maglev.0.iter().for_each(|owner| slots[*owner as usize] += 1);
            let (least, most) = (slots.iter().min().unwrap(), slots.iter().max().unwrap());
            assert!(most - least <= 1 + most / 50, "{count}: {least} to {most}");
        }
    }

    #[test]
    fn few_clients_move_when_an_endpoint_goes() {
        let all = pool(10);
        let (before, after) = (Maglev::new(&all), Maglev::new(&all[1..]));
        let clients = 10_000;
        let stays = |number: &u32| {
            let former = first(&before, *number);
            former != 0 && all[former] != all[1..][first(&after, *number)]
        };
        let moved = (0..clients).filter(stays).count();
        assert!(moved < 300, "{moved} of {clients} clients of living endpoints moved");
    }

    #[test]
    fn nodes_and_releases_agree() {
        let maglev = Maglev::new(&pool(5));
        let firsts: Vec<usize> = (0..12).map(|number| first(&maglev, number)).collect();
        assert_eq!(firsts, AGREED);
    }

    /// What the first release answered.
    const AGREED: [usize; 12] = [3, 0, 2, 0, 4, 4, 2, 1, 3, 0, 1, 2];

    #[test]
    fn who_stands_in_for_the_first_is_the_same_too() {
        let maglev = Maglev::new(&pool(3));
        let mut seen: Vec<usize> = Vec::new();
        for place in maglev.of(client(1)) {
            if !seen.contains(&place) {
                seen.push(place);
            }
        }
        assert_eq!(seen.len(), 3);
        assert_eq!(Maglev::new(&[]).of(client(1)).count(), 0);
    }
}
