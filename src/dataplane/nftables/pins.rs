//! Pins of clients whose service got another affinity timeout. EDGE: it asks the kernel.

use super::Nftables;
use super::changes::Changes;
use super::error::Error;
use super::set::{Data, Element, Set, read_pin_pool};
use super::state::Retimed;
use crate::dataplane::Applied;
use crate::model::Family;

/// The packet path writes pins at any moment, and a pin may end while it is rewritten: then all of
/// it is done again.
const TRIES: u32 = 5;
/// Pins that end within this time are left to it.
const NEARLY_OVER_MS: u64 = 100;

impl Nftables {
    /// Lets pins end when they would have ended, had they been written with the timeout of now.
    pub(super) fn retime_pins(&mut self) -> Applied {
        let pools = std::mem::take(&mut self.state.retimed);
        let mut applied = Applied::default();
        for family in Family::BOTH {
            let of_family: Vec<Retimed> =
                pools.iter().copied().filter(|pool| pool.family == family).collect();
            if of_family.is_empty() {
                continue;
            }
            let mut outcome = self.retime(family, &of_family);
            for _ in 1..TRIES {
                if outcome.is_err() {
                    outcome = self.retime(family, &of_family);
                }
            }
            match outcome {
                Ok(done) => applied += done,
                Err(error) => tracing::warn!(
                    "a changed session affinity timeout applies to known clients only with their next connection: {error}"
                ),
            }
        }
        applied
    }

    fn retime(&mut self, family: Family, pools: &[Retimed]) -> Result<Applied, Error> {
        let set = Set::Affinity(family);
        let mut changes = Changes::default();
        for pin in self.kernel.dump(set)? {
            let number = read_pin_pool(&pin.key);
            let pool = pools.iter().find(|pool| Some(pool.number) == number);
            let (Some(pool), Data::Timed { value, timeout_ms, expires_ms }) = (pool, &pin.data)
            else {
                continue;
            };
            let after_ms = u64::from(pool.after) * 1000;
            if *timeout_ms == after_ms || *expires_ms < NEARLY_OVER_MS {
                continue;
            }
            let left = (expires_ms + after_ms).saturating_sub(*timeout_ms);
            let data = Data::Timed { value: value.clone(), timeout_ms: after_ms, expires_ms: left };
            if left < NEARLY_OVER_MS {
                changes.removed.push((set, pin));
            } else {
                changes.replaced_targets.push((set, Element { key: pin.key, data }));
            }
        }
        self.commit(&changes)
    }
}
