//! The table made from nothing. EDGE: it commits.
//!
//! Half of the time is vipd's own and half the kernel's: one thread plans, lowers and encodes while
//! another commits.

use super::changes::{Changes, Structure};
use super::error::Error;
use super::kernel::Kernel;
use super::lower::fixed_class_elements;
use super::observe::is_hooked;
use super::room::sets;
use super::set::{Set, address_element};
use super::state::State;
use super::transaction::{Batch, Encoder};
use super::{Nftables, SERVICES_AT_ONCE};
use crate::dataplane::Applied;
use crate::model::Family;
use crate::planner::{Plan, ServicePlan};
use std::net::IpAddr;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

/// Finished transactions that may wait for the kernel.
const AHEAD: usize = 4;

/// Sequence numbers kept for the messages of a table without services.
const OF_SKELETON: u32 = 1 << 16;

/// When the first packet meets the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hooks {
    /// Before its services are there: what served before is gone, and some are better than none.
    First,
    /// After them: another proxy may serve meanwhile, and would lose its packets to a table that
    /// says of most addresses that nobody has them.
    Last,
}

impl Nftables {
    /// Makes the table anew, with everything that the plan asks for. Nobody listens meanwhile: a
    /// subscriber about doubles what a commit costs.
    pub(super) fn load(&mut self, plan: &Plan) -> Result<Applied, Error> {
        let Some(monitor) = &self.monitor else { return self.write_all(plan, Hooks::Last) };
        // Before: whatever comes from here on is heard, or shows by the generation.
        let before = self.kernel.now()?;
        monitor.pause()?;
        let outcome = self.write_all(plan, Hooks::First);
        if let Some(monitor) = &self.monitor {
            monitor.resume()?;
        }
        let applied = outcome?;
        if self.kernel.is_alone_since(before)? {
            return Ok(applied);
        }
        // Others wrote too, and were not heard.
        let more = self.observe(plan)?.ok_or(Error::Contended(1))?;
        Ok(applied + more)
    }

    fn write_all(&mut self, plan: &Plan, hooks: Hooks) -> Result<Applied, Error> {
        // A table in whose place this one comes may serve already.
        let serves = self.kernel.has_table()? && is_hooked(&self.kernel.chains()?);
        let hooks = if serves { Hooks::First } else { hooks };
        let skeleton = self.begin(plan, hooks);
        match load_side_by_side(&mut self.kernel, &mut self.state, (skeleton, plan)) {
            // More than was estimated (or no thread): one after the other, sets can grow.
            Err(Error::Full(_) | Error::Thread(_)) => self.load_in_turn(plan, hooks),
            outcome => outcome,
        }
    }

    /// The state of a table without services, and what it takes to be there but for the sets.
    fn begin(&mut self, plan: &Plan, hooks: Hooks) -> Changes {
        self.state = State { unhooked: hooks == Hooks::Last, ..self.state.anew() };
        let mut changes = Changes::default();
        self.state.lower_node(&plan.node, &mut changes);
        changes.new_targets.extend(fixed_class_elements());
        let routed = self.state.routed.iter();
        let element =
            |address: &IpAddr| (Set::Routed(Family::of(*address)), address_element(*address));
        changes.new_targets.extend(routed.map(element));
        changes
    }

    fn load_in_turn(&mut self, plan: &Plan, hooks: Hooks) -> Result<Applied, Error> {
        let skeleton = self.begin(plan, hooks);
        let mut applied = commit_skeleton(&mut self.kernel, skeleton, plan)?;
        let mut services = plan.services();
        while let Some(changes) = next_changes(&mut self.state, &mut services) {
            applied += self.commit(&changes)?;
        }
        Ok(applied)
    }
}

/// Makes the table, in the place of one that may be there.
fn commit_skeleton(
    kernel: &mut Kernel,
    mut skeleton: Changes,
    plan: &Plan,
) -> Result<Applied, Error> {
    let mut structure = Vec::new();
    if kernel.has_table()? {
        structure.push(Structure::RemoveTable);
    }
    structure.push(Structure::Table);
    structure.extend(sets(kernel, plan));
    structure.append(&mut skeleton.structure);
    skeleton.structure = structure;
    let mut applied = Applied::default();
    for mut batch in kernel.batches(&skeleton, kernel.capacity()) {
        applied += kernel.commit(&mut batch)?;
    }
    Ok(applied)
}

/// Writes the table and all services. The first ones are lowered while the table is made.
fn load_side_by_side(
    kernel: &mut Kernel,
    state: &mut State,
    (skeleton, plan): (Changes, &Plan),
) -> Result<Applied, Error> {
    let (capacity, first_seq) = (kernel.capacity(), kernel.seq().wrapping_add(OF_SKELETON));
    thread::scope(|scope| {
        let (send, batches) = sync_channel(AHEAD);
        let lowering = thread::Builder::new()
            .name("lowering".into())
            .spawn_scoped(scope, move || lower_all(state, plan, (capacity, first_seq), &send))
            .map_err(Error::Thread)?;
        let mut outcome = commit_skeleton(kernel, skeleton, plan);
        for mut batch in batches {
            // Without a receiver the other thread ends.
            let Ok(applied) = &mut outcome else { break };
            match kernel.commit(&mut batch) {
                Ok(more) => *applied += more,
                Err(error) => outcome = Err(error),
            }
        }
        match lowering.join() {
            Ok(seq) => kernel.set_seq(seq),
            Err(panic) => std::panic::resume_unwind(panic),
        }
        outcome
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
/// Past the last service come the hooks, if they come last.
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
    if any.is_none() && std::mem::take(&mut state.unhooked) {
        let node = state.node.clone()?;
        state.ensure_skeleton(&node, &mut changes);
        any = Some(());
    }
    any.map(|()| changes)
}
