//! The table made from nothing. EDGE: it commits.
//!
//! Half of the time is vipd's own and half the kernel's: one thread plans, lowers and encodes while
//! another commits.

use super::changes::{Changes, Structure};
use super::error::Error;
use super::kernel::Kernel;
use super::lower::fixed_class_elements;
use super::state::State;
use super::transaction::{Batch, Encoder};
use super::{Nftables, SERVICES_AT_ONCE};
use crate::dataplane::Applied;
use crate::planner::{Plan, ServicePlan};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

/// Finished transactions that may wait for the kernel.
const AHEAD: usize = 4;

impl Nftables {
    /// Makes the table anew, with everything that the plan asks for.
    pub(super) fn load(&mut self, plan: &Plan) -> Result<Applied, Error> {
        let applied = self.load_skeleton(plan)?;
        match load_services(&mut self.kernel, &mut self.state, plan) {
            Ok(services) => Ok(applied + services),
            // More than was estimated (or no thread): one after the other, sets can grow.
            Err(Error::Full(_) | Error::Thread(_)) => {
                Ok(self.load_skeleton(plan)? + self.load_in_turn(plan)?)
            }
            Err(error) => Err(error),
        }
    }

    fn load_skeleton(&mut self, plan: &Plan) -> Result<Applied, Error> {
        self.state = State::default();
        let mut changes = Changes::default();
        if self.kernel.has_table()? {
            changes.structure.push(Structure::RemoveTable);
        }
        changes.structure.push(Structure::Table);
        changes.structure.extend(self.sets(plan));
        self.state.lower_node(&plan.node, &mut changes);
        changes.new_targets.extend(fixed_class_elements());
        self.commit(&changes)
    }

    fn load_in_turn(&mut self, plan: &Plan) -> Result<Applied, Error> {
        let mut applied = Applied::default();
        let mut services = plan.services();
        while let Some(changes) = next_changes(&mut self.state, &mut services) {
            applied += self.commit(&changes)?;
        }
        Ok(applied)
    }
}

/// Writes all services into a table that has none.
fn load_services(kernel: &mut Kernel, state: &mut State, plan: &Plan) -> Result<Applied, Error> {
    let (capacity, first_seq) = (kernel.capacity(), kernel.seq());
    thread::scope(|scope| {
        let (send, batches) = sync_channel(AHEAD);
        let lowering = thread::Builder::new()
            .name("lowering".into())
            .spawn_scoped(scope, move || lower_all(state, plan, (capacity, first_seq), &send))
            .map_err(Error::Thread)?;
        let mut applied = Applied::default();
        let mut outcome = Ok(());
        for mut batch in batches {
            match kernel.commit(&mut batch) {
                Ok(more) => applied += more,
                // Without a receiver the other thread ends.
                Err(error) => {
                    outcome = Err(error);
                    break;
                }
            }
        }
        match lowering.join() {
            Ok(seq) => kernel.set_seq(seq),
            Err(panic) => std::panic::resume_unwind(panic),
        }
        outcome.map(|()| applied)
    })
}

/// Returns the last sequence number used.
fn lower_all(
    state: &mut State,
    plan: &Plan,
    (capacity, mut seq): (usize, u32),
    out: &SyncSender<Batch>,
) -> u32 {
    let mut services = plan.services();
    while let Some(changes) = next_changes(state, &mut services) {
        let mut encoder = Encoder::new(capacity, seq);
        encoder.changes(&changes);
        let (batches, last) = encoder.finish();
        seq = last;
        for batch in batches {
            if out.send(batch).is_err() {
                return seq;
            }
        }
    }
    seq
}

/// What one transaction's worth of services adds; nothing is there that could change or go.
fn next_changes(
    state: &mut State,
    services: &mut impl Iterator<Item = ServicePlan>,
) -> Option<Changes> {
    let mut changes = Changes::default();
    let mut any = None;
    for service in services.take(SERVICES_AT_ONCE) {
        state.lower(&service.key, None, Some(&service), &mut changes);
        any = Some(());
    }
    any.map(|()| changes)
}
