//! Two services, one frontend: the oldest holds it, always, whatever came first here.

use super::{FrontendAddress, FrontendKey};
use crate::model::{Created, Known, Protocol, ServiceKey};
use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

/// Who wants each frontend. A copy is free.
#[derive(Debug, Clone, Default)]
pub struct Claims {
    /// Ordered, so that all frontends of one address are neighbours.
    holders: OrdMap<FrontendKey, ServiceKey>,
    /// Who else wants a frontend, the next in line first. Few are contested.
    losers: OrdMap<FrontendKey, Arc<[ServiceKey]>>,
}

impl Claims {
    pub fn holder(&self, at: &FrontendKey) -> Option<&ServiceKey> {
        self.holders.get(at)
    }

    /// Those that come after the holder.
    pub fn losers(&self, at: &FrontendKey) -> &[ServiceKey] {
        // Mostly the map is empty.
        self.losers.get(at).map_or(&[], |losers| losers)
    }

    /// All frontends that somebody wants, with who holds them.
    pub fn iter(&self) -> impl Iterator<Item = (&FrontendKey, &ServiceKey)> {
        self.holders.iter()
    }

    /// The frontends at one address, with who holds them.
    pub fn at(&self, address: IpAddr) -> impl Iterator<Item = (&FrontendKey, &ServiceKey)> {
        let at = FrontendAddress::Address(address);
        let first = FrontendKey { at, protocol: Protocol::Tcp, port: 0 };
        let last = FrontendKey { at, protocol: Protocol::Sctp, port: u16::MAX };
        self.holders.range(first..=last)
    }

    /// The frontends that several want, with those that do not hold them.
    pub fn contested(&self) -> impl Iterator<Item = (&FrontendKey, &[ServiceKey])> {
        self.losers.iter().map(|(at, losers)| (at, &**losers))
    }

    /// What differs between two states costs no more to find than it has.
    pub fn contests(&self) -> Contests {
        Contests(self.losers.clone())
    }

    /// The holder first.
    fn claimants(&self, at: &FrontendKey) -> impl Iterator<Item = &ServiceKey> {
        self.holder(at).into_iter().chain(self.losers(at))
    }

    /// `claimants`: the holder first.
    fn set(&mut self, at: FrontendKey, claimants: &[ServiceKey]) {
        match claimants.split_first() {
            Some((holder, _)) => self.holders.insert(at, holder.clone()),
            None => self.holders.remove(&at),
        };
        match claimants.get(1..) {
            None | Some([]) => self.losers.remove(&at),
            Some(losers) => self.losers.insert(at, losers.into()),
        };
    }
}

/// Which services do not hold what they want. A copy is free, and does not hold on to who holds what.
#[derive(Debug, Clone, Default)]
pub struct Contests(OrdMap<FrontendKey, Arc<[ServiceKey]>>);

impl Contests {
    /// Whether it is the same state: a change that is undone makes another one.
    pub fn same(&self, other: &Self) -> bool {
        self.0.ptr_eq(&other.0)
    }

    /// Frontends that a service has lost since, or could not get.
    pub fn lost_since<'a>(
        &'a self,
        before: &'a Self,
    ) -> impl Iterator<Item = (&'a FrontendKey, &'a ServiceKey)> {
        let changes = before.0.diff(&self.0).map(|item| match item {
            DiffItem::Add(at, losers) => (at, &[][..], &**losers),
            DiffItem::Update { old: (_, old), new: (at, new) } => (at, &**old, &**new),
            DiffItem::Remove(at, old) => (at, &**old, &[][..]),
        });
        changes.flat_map(|(at, old, new)| {
            new.iter().filter(move |loser| !old.contains(loser)).map(move |loser| (at, loser))
        })
    }
}

/// What a service does with a frontend from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Wish {
    Keep,
    Leave,
}

/// A wish that is not in the claims yet, or that may have another rank by now.
pub(super) type Claim = (FrontendKey, ServiceKey, Wish);

/// Makes the wishes of changed services true; returns the other services that must know, because
/// a frontend they want has another holder now.
pub(super) fn settle(
    claims: &mut Claims,
    mut wishes: Vec<Claim>,
    known: &OrdMap<ServiceKey, Arc<Known>>,
) -> BTreeSet<ServiceKey> {
    // Frontend by frontend, so that one wanted by k services costs k log k, not k² log k.
    wishes.sort_unstable();
    wishes.dedup();
    let mut touched = BTreeSet::new();
    let frontends = || wishes.chunk_by(|one, other| one.0 == other.0);
    // Every other one first: keys that come in order leave a B-tree's nodes half empty, and the
    // second round fills them.
    for wishes in frontends().step_by(2).chain(frontends().skip(1).step_by(2)) {
        settle_one(claims, wishes, known, &mut touched);
    }
    touched
}

fn settle_one(
    claims: &mut Claims,
    wishes: &[Claim],
    known: &OrdMap<ServiceKey, Arc<Known>>,
    touched: &mut BTreeSet<ServiceKey>,
) {
    let Some((at, ..)) = wishes.first() else { return };
    let changed =
        |key: &ServiceKey| wishes.binary_search_by(|(_, other, _)| other.cmp(key)).is_ok();
    let rivals = claims.claimants(at).filter(|key| !changed(key));
    let keeping = wishes.iter().filter(|(.., wish)| *wish == Wish::Keep).map(|(_, key, _)| key);
    let mut after: Vec<ServiceKey> = rivals.chain(keeping).cloned().collect();
    if after.len() > 1 {
        after.sort_by(|one, other| rank(one, known).cmp(&rank(other, known)));
    }
    if claims.claimants(at).eq(&after) {
        return;
    }
    if claims.holder(at) != after.first() {
        touched.extend(after.iter().filter(|key| !changed(key)).cloned());
    }
    claims.set(*at, &after);
}

/// Who comes before whom: creationTimestamp (a missing one last), then namespace/name.
fn rank<'a>(
    key: &'a ServiceKey,
    known: &OrdMap<ServiceKey, Arc<Known>>,
) -> (Created, &'a ServiceKey) {
    let service = known.get(key).and_then(|known| known.service.as_ref());
    (service.map_or(Created::new(None), |service| service.created), key)
}
