//! nf_tables for all Services, and the relay for those that ask for it.
//!
//! In: plan deltas. Out: what both make of them, in an order in which no packet is led where nobody is.
//! Never: a cost of the relay where nothing is relayed.
//!
//! On the way in: the guard of routed addresses and the classes that leave to the relay what is its own (table
//! `inet vipd`), routes, the engine, what leads packets there. On the way out the other way round;
//! routes stay while a connection needs them, and their guards longer. Whatever fails, nobody is led to the
//! relay until all is made anew, and table `inet vipd` serves; where the relay fails, that goes on meanwhile.
//! Node ports of loopback addresses are served whatever fails: by a socket each, those of relayed Services
//! for as long as nobody is led to the relay.

use super::edits::Edits;
use super::nftables::{self, Nftables};
use super::userspace::{self, Budget, Engine, Former, Handover, PortsTurn, Turn, Userspace};
use super::{Applied, Dataplane, Unheard};
use crate::model::Protocol;
use crate::planner::{FrontendKey, Plan, PlanDelta};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Nftables(#[from] nftables::Error),
    #[error(transparent)]
    Userspace(#[from] userspace::Error),
    #[error(
        "no descriptor to wait for foreign edits by ({0}); are there too few files (ulimit -n)?"
    )]
    Edits(#[source] io::Error),
}

#[derive(Debug)]
pub struct Both {
    nftables: Nftables,
    userspace: Userspace,
    /// What a resync heard of others, before the relay's own commits.
    heard: Option<Unheard>,
    edits: Option<Edits>,
    /// What `edits` watches of the kernel's table.
    table_edits: Option<OwnedFd>,
}

impl Both {
    /// `budget`: of the files that relayed connections may hold open. `drain`: how long they may go on
    /// to an endpoint that serves no more.
    pub fn new(mut nftables: Nftables, budget: Arc<Budget>, drain: Duration) -> Self {
        nftables.disregard(userspace::table::TABLE);
        let userspace = Userspace::new(budget, drain);
        Self { nftables, userspace, heard: None, edits: None, table_edits: None }
    }

    /// The first resync takes this process's place, right before it writes.
    pub fn follow(&mut self, former: Former) {
        self.userspace.follow(former);
    }

    /// Gives what the next process needs; nothing is written any more. The kernel's tables and routes
    /// are there to be found.
    pub fn hand_over(self) -> Handover {
        self.userspace.hand_over()
    }

    /// The relay's engine, once there is one: for who reads what it counts.
    pub fn engine(&self) -> Arc<OnceLock<Engine>> {
        self.userspace.engine()
    }

    /// What fails of the relay is the relay's failure, and no reason for the kernel's dataplane to wait.
    fn relayed<T: Default>(
        &mut self,
        step: impl FnOnce(&mut Userspace) -> Result<T, userspace::Error>,
    ) -> T {
        step(&mut self.userspace).unwrap_or_else(|error| {
            self.userspace.fail(&error);
            T::default()
        })
    }

    /// After an error nobody is led to the relay: what is there is not known.
    fn or_forget<T>(&mut self, outcome: Result<T, Error>) -> Result<T, Error> {
        if outcome.is_err() {
            self.userspace.forget();
        }
        outcome
    }

    /// Who changes between the relay and the kernel is without either at loopback addresses for a moment at most.
    fn between<T>(&mut self, ports: PortsTurn, step: impl FnOnce(&mut Self) -> T) -> T {
        let PortsTurn { open, closed } = ports;
        let (udp, tcp) = open.into_iter().partition(|(at, _)| at.protocol == Protocol::Udp);
        self.userspace.listen(tcp);
        let outcome = step(self);
        self.userspace.listen(udp);
        self.userspace.unlisten(closed);
        outcome
    }

    fn apply_both(&mut self, delta: &PlanDelta, plan: &Plan) -> Result<Applied, Error> {
        let turn = self.userspace.turn(delta, plan);
        if turn.is_empty() && delta.node.is_none() {
            return Ok(self.nftables.apply(delta, plan)?);
        }
        let mut applied = self.relayed(|userspace| userspace.withdraw(&turn));
        self.nftables.route(&turn.entered);
        applied += self.nftables.apply(delta, plan)?;
        applied += self.relayed(|userspace| userspace.extend(turn, plan));
        Ok(applied)
    }

    fn resync_both(&mut self, turn: Turn, plan: &Plan) -> Result<Applied, Error> {
        let mut applied = self.relayed(|userspace| userspace.withdraw(&turn));
        // Routes that nobody could read are guarded as they were.
        if self.userspace.failure().is_none() {
            self.nftables.set_routed(self.userspace.routed());
        }
        applied += self.nftables.resync(plan)?;
        // What the relay commits from here on is not from others.
        self.heard = Some(self.nftables.subscribe()?);
        applied += self.relayed(|userspace| userspace.extend(turn, plan));
        self.userspace.find_stale();
        Ok(applied)
    }

    /// From now on `edits` tells of those of both.
    fn watch_edits(&mut self) -> io::Result<()> {
        let edits = match self.edits.take() {
            Some(edits) => edits,
            None => Edits::new()?,
        };
        let edits = self.edits.insert(edits);
        if self.table_edits.is_none() {
            self.table_edits = self.nftables.foreign_edits();
        }
        for one in self.table_edits.iter().map(AsFd::as_fd).chain(self.userspace.departures()) {
            edits.watch(one)?;
        }
        Ok(())
    }

    fn settle_both(&mut self) -> Result<Applied, Error> {
        let gone = self.relayed(Userspace::release);
        self.nftables.unroute(&gone);
        Ok(self.nftables.settle()?)
    }
}

impl Dataplane for Both {
    type Error = Error;

    fn apply(&mut self, delta: &PlanDelta, plan: &Plan) -> Result<Applied, Error> {
        let ports = self.userspace.ports_turn(delta, plan);
        self.between(ports, |both| {
            let outcome = both.apply_both(delta, plan);
            both.or_forget(outcome)
        })
    }

    fn resync(&mut self, plan: &Plan) -> Result<Applied, Error> {
        let turn = self.relayed(|userspace| userspace.turn_to(plan));
        let ports = self.userspace.ports_turn_to(plan);
        self.between(ports, |both| {
            let outcome = both.resync_both(turn, plan);
            both.or_forget(outcome)
        })
    }

    fn take_former(&mut self) -> Vec<FrontendKey> {
        self.nftables.take_former()
    }

    fn settle(&mut self) -> Result<Applied, Error> {
        let outcome = self.settle_both();
        self.or_forget(outcome)
    }

    fn is_waiting(&self) -> bool {
        self.userspace.is_waiting()
    }

    fn has_deferred(&self) -> bool {
        self.nftables.has_deferred() || self.userspace.has_leaving()
    }

    fn trim(&mut self) -> Result<Applied, Error> {
        Ok(self.nftables.trim()?)
    }

    fn subscribe(&mut self) -> Result<Unheard, Error> {
        let heard = match self.heard.take() {
            Some(heard) => heard,
            None => self.nftables.subscribe()?,
        };
        self.watch_edits().map_err(Error::Edits)?;
        Ok(heard)
    }

    fn foreign_edits(&self) -> Option<OwnedFd> {
        self.edits.as_ref()?.descriptor().ok()
    }

    fn repair(&mut self, plan: &Plan) -> Result<Option<Applied>, Error> {
        let repaired = self.nftables.repair(plan)?;
        if repaired.is_some() {
            self.relayed(Userspace::mend);
        }
        let operations = self.relayed(Userspace::restore);
        let restored = (operations > 0).then(|| Applied { operations, ..Applied::default() });
        Ok(match (repaired, restored) {
            (Some(repaired), Some(restored)) => Some(repaired + restored),
            (repaired, restored) => repaired.or(restored),
        })
    }

    fn relay_failure(&self) -> Option<Arc<str>> {
        self.userspace.failure()
    }

    fn revive(&mut self) -> bool {
        self.userspace.revive()
    }

    fn cleanup(&mut self) -> Result<Applied, Error> {
        let applied = self.userspace.cleanup()?;
        Ok(applied + self.nftables.cleanup()?)
    }
}
