//! nf_tables: one table `inet vipd`, constant rules over data maps (see `layout`).
//!
//! In: plan deltas. Out: netlink transactions, each atomic.
//! Never: the nft binary; another table; a list of what the kernel holds, but at adoption and
//! repair.

pub mod changes;
mod classes;
mod counters;
pub mod difference;
mod error;
pub mod hash;
mod kernel;
pub mod layout;
mod listing;
mod load;
pub mod lower;
mod monitor;
mod observe;
mod pins;
mod place;
mod pools;
mod repair;
mod room;
mod rules;
pub mod set;
mod slots;
pub mod state;
pub mod transaction;
mod treatment;
pub mod types;
mod whole;

pub use counters::{Counted, Counters};
pub use error::Error;
pub use kernel::Without;
pub use listing::listing;

pub use crate::nft::expr;

use self::changes::{Changes, Structure};
use self::kernel::{Kernel, Moment};
use self::monitor::Monitor;
use self::set::Set;
use self::state::{Routed, State, moved_frontends, read_frontend};
use crate::dataplane::{Applied, Dataplane, Unheard};
use crate::model::Family;
use crate::planner::{FrontendKey, Plan, PlanDelta, ServiceDelta};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::fd::{AsFd as _, OwnedFd};

/// Services that one transaction of a long delta holds: larger ones are no faster, and hold the
/// kernel's nf_tables lock longer.
const SERVICES_AT_ONCE: usize = 1000;

/// The table, and what vipd knows of it.
#[derive(Debug)]
pub struct Nftables {
    kernel: Kernel,
    state: State,
    monitor: Option<Monitor>,
    /// Another table of vipd's.
    other: Option<&'static str>,
    /// When the last resync began that nobody listened to.
    unheard: Option<Moment>,
    /// Frontends that adoption removed and nobody has asked about yet.
    former: Vec<FrontendKey>,
}

impl Nftables {
    /// Opens the socket, in the calling thread's network namespace. Nothing is changed yet.
    pub fn open(without: Without) -> Result<Self, Error> {
        Ok(Self {
            kernel: Kernel::open(without)?,
            state: State::default(),
            monitor: None,
            other: None,
            unheard: None,
            former: Vec::new(),
        })
    }

    /// What is written to the table `name`, which another socket of vipd's owns, is not from others.
    pub fn disregard(&mut self, name: &'static str) {
        self.other = Some(name);
    }

    /// Limits transactions as the send buffer of an unprivileged daemon does.
    pub fn limit_send_buffer(&mut self, bytes: usize) -> Result<(), Error> {
        self.kernel.limit_send_buffer(bytes)
    }

    fn commit(&mut self, changes: &Changes) -> Result<Applied, Error> {
        let mut applied = Applied::default();
        for service in &changes.unplaced {
            tracing::error!(
                %service,
                "its clients meet silence: all pool numbers (2^20) or classes (2^12: sizes, protocols, affinity timeouts in use together) are taken"
            );
        }
        if changes.is_empty() {
            return Ok(applied);
        }
        for mut batch in self.kernel.batches(changes, self.kernel.capacity()) {
            applied += self.commit_batch(&mut batch)?;
        }
        Ok(applied)
    }

    /// The frontends that the kernel holds, whoever wrote them. For the clean-up of their flows.
    pub fn held_frontends(&mut self) -> Result<Vec<FrontendKey>, Error> {
        let mut held = Vec::new();
        if !self.kernel.has_table()? {
            return Ok(held);
        }
        for set in Set::all_frontends() {
            let elements = match self.kernel.dump(set) {
                Err(error) if error.is_not_found() => continue,
                elements => elements?,
            };
            held.extend(elements.iter().filter_map(|element| read_frontend(set, &element.key)));
        }
        Ok(held)
    }

    /// The addresses at which the kernel holds node ports, sorted.
    pub fn held_node_addresses(&mut self) -> Result<Vec<IpAddr>, Error> {
        let mut held = Vec::new();
        if !self.kernel.has_table()? {
            return Ok(held);
        }
        for set in Family::BOTH.map(Set::Nodes) {
            let elements = match self.kernel.dump(set) {
                Err(error) if error.is_not_found() => continue,
                elements => elements?,
            };
            held.extend(elements.iter().filter_map(|e| set::read_set_address(set, &e.key)));
        }
        held.sort_unstable();
        Ok(held)
    }

    /// All addresses that routes of vipd's lead here by: true of what the next resync leaves.
    pub fn set_routed(&mut self, routed: BTreeSet<IpAddr>) {
        self.state.routed = routed;
        self.state.routed_next.clear();
    }

    /// Addresses that routes shall lead here by: from the next write on, packets that no transparent
    /// socket takes there are refused.
    pub fn route(&mut self, come: &[IpAddr]) {
        self.state.routed_next.extend(come.iter().map(|address| (*address, Routed::Comes)));
    }

    /// Addresses that no route leads here by any more.
    pub fn unroute(&mut self, gone: &[IpAddr]) {
        self.state.routed_next.extend(gone.iter().map(|address| (*address, Routed::Goes)));
    }

    fn apply_services(
        &mut self,
        deltas: &[ServiceDelta],
        mut changes: Changes,
    ) -> Result<Applied, Error> {
        let mut applied = Applied::default();
        self.state.moved = moved_frontends(deltas);
        for (done, delta) in deltas.iter().enumerate() {
            if done > 0 && done % SERVICES_AT_ONCE == 0 {
                self.state.keep_shared(&mut changes);
                applied += self.commit(&changes)?;
                changes = Changes::default();
                self.state.take_overdue(&mut changes);
            }
            self.state.lower(&delta.key, delta.old.as_deref(), delta.new.as_deref(), &mut changes);
        }
        self.state.keep_shared(&mut changes);
        applied += self.commit(&changes)?;
        Ok(applied)
    }
}

impl Dataplane for Nftables {
    type Error = Error;

    fn apply(&mut self, delta: &PlanDelta, _plan: &Plan) -> Result<Applied, Error> {
        let mut changes = Changes::default();
        self.state.take_overdue(&mut changes);
        self.state.take_routed(&mut changes);
        if let Some(node) = &delta.node {
            self.state.lower_node(node, &mut changes);
        }
        let applied = self.apply_services(&delta.services, changes)?;
        Ok(applied + self.retime_pins())
    }

    fn resync(&mut self, plan: &Plan) -> Result<Applied, Error> {
        if self.monitor.is_none() {
            self.unheard = Some(self.kernel.now()?);
        }
        match self.observe(plan) {
            Ok(Some(applied)) => Ok(applied + self.retime_pins()),
            Ok(None) => self.load(plan),
            // Something foreign is tied to what is ours: without it the table can be had anew.
            Err(error @ Error::Refused { .. }) => {
                tracing::warn!("table inet vipd is made anew, as it cannot be mended: {error}");
                self.load(plan)
            }
            Err(error) => Err(error),
        }
    }

    fn take_former(&mut self) -> Vec<FrontendKey> {
        std::mem::take(&mut self.former)
    }

    fn settle(&mut self) -> Result<Applied, Error> {
        let mut changes = Changes::default();
        self.state.take_overdue(&mut changes);
        self.state.take_routed(&mut changes);
        self.commit(&changes)
    }

    fn has_deferred(&self) -> bool {
        !self.state.deferred.is_empty() || !self.state.routed_next.is_empty()
    }

    fn trim(&mut self) -> Result<Applied, Error> {
        let mut changes = Changes::default();
        self.state.trim(&mut changes);
        self.commit(&changes)
    }

    fn subscribe(&mut self) -> Result<Unheard, Error> {
        if self.monitor.is_none() {
            self.monitor = Some(Monitor::open(self.kernel.port_id(), self.other)?);
        }
        match self.unheard.take() {
            Some(then) if !self.kernel.is_alone_since(then)? => Ok(Unheard::Edits),
            _ => Ok(Unheard::Nothing),
        }
    }

    fn foreign_edits(&self) -> Option<OwnedFd> {
        self.monitor.as_ref()?.as_fd().try_clone_to_owned().ok()
    }

    fn repair(&mut self, plan: &Plan) -> Result<Option<Applied>, Error> {
        let Some(monitor) = &mut self.monitor else { return Ok(None) };
        let edits = monitor.read()?;
        if edits.is_empty() {
            return Ok(None);
        }
        self.undo(&edits, plan).map(Some)
    }

    fn cleanup(&mut self) -> Result<Applied, Error> {
        self.state = State::default();
        if !self.kernel.has_table()? {
            return Ok(Applied::default());
        }
        let changes = Changes { structure: vec![Structure::RemoveTable], ..Changes::default() };
        self.commit(&changes)
    }
}
