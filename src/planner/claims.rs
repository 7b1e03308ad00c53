//! Two services, one frontend: the oldest holds it, always, whatever came first here.

use super::{Claims, FrontendKey};
use crate::model::{Created, Known, ServiceKey};
use imbl::OrdMap;
use smallvec::SmallVec;
use std::collections::BTreeSet;
use std::sync::Arc;

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
    let before = claims.get(at);
    let rivals = before.into_iter().flatten().filter(|key| !changed(key));
    let keeping = wishes.iter().filter(|(.., wish)| *wish == Wish::Keep).map(|(_, key, _)| key);
    let mut after: SmallVec<[ServiceKey; 1]> = rivals.chain(keeping).cloned().collect();
    if after.len() > 1 {
        after.sort_by(|one, other| rank(one, known).cmp(&rank(other, known)));
    }
    if before == Some(&after) {
        return;
    }
    if before.and_then(|before| before.first()) != after.first() {
        touched.extend(after.iter().filter(|key| !changed(key)).cloned());
    }
    if after.is_empty() {
        claims.remove(at);
    } else {
        claims.insert(*at, after);
    }
}

/// Who comes before whom: creationTimestamp (a missing one last), then namespace/name.
fn rank<'a>(
    key: &'a ServiceKey,
    known: &OrdMap<ServiceKey, Arc<Known>>,
) -> (Created, &'a ServiceKey) {
    let service = known.get(key).and_then(|known| known.service.as_ref());
    (service.map_or(Created::new(None), |service| service.created), key)
}
