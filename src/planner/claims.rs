//! Two services, one frontend: the oldest holds it, always, whatever came first here.

use super::{Claims, FrontendKey};
use crate::model::{Created, Known, ServiceKey};
use imbl::OrdMap;
use smallvec::SmallVec;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Who comes before whom: creationTimestamp (a missing one last), then namespace/name.
fn rank<'a>(
    key: &'a ServiceKey,
    known: &OrdMap<ServiceKey, Arc<Known>>,
) -> (Created, &'a ServiceKey) {
    let service = known.get(key).and_then(|known| known.service.as_ref());
    (service.map_or(Created(None), |service| service.created), key)
}

/// What a service does with a frontend from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Claim {
    Wanted,
    Given,
}

/// Files or withdraws `key`'s claim on a frontend. Where the holder changes, everyone who claims it
/// goes to `touched`: they all must know whom they lost it to.
pub(super) fn settle(
    claims: &mut Claims,
    (at, claim, key): (FrontendKey, Claim, &ServiceKey),
    known: &OrdMap<ServiceKey, Arc<Known>>,
    touched: &mut BTreeSet<ServiceKey>,
) {
    let before = claims.get(&at);
    let rivals = before.into_iter().flatten().filter(|rival| *rival != key);
    let mut after: SmallVec<[ServiceKey; 1]> = rivals.cloned().collect();
    if claim == Claim::Wanted {
        let own = rank(key, known);
        let place = after.partition_point(|rival| rank(rival, known) < own);
        after.insert(place, key.clone());
    }
    if before == Some(&after) {
        return;
    }
    if before.and_then(|before| before.first()) != after.first() {
        touched.extend(before.into_iter().flatten().chain(&after).cloned());
    }
    if after.is_empty() {
        claims.remove(&at);
    } else {
        claims.insert(at, after);
    }
}
