//! Makes true what plans say of the relay: the engine, what leads packets to it, and the routes.
//!
//! In: plan deltas, in steps that the kernel's dataplane comes between. Out: frontends of the engine,
//! elements, routes.
//! Never: a connection; a cost where nothing is relayed.

use super::bridged::Bridged;
use super::budget::Budget;
use super::engine::{Engine, EngineOptions};
use super::error::Error;
use super::intercept::Interception;
use super::lower::{State, Turn, all_wanted, changes};
use super::routes::Routes;
use crate::dataplane::Applied;
use crate::model::Family;
use crate::planner::{NodePlan, Plan, PlanDelta};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

/// Everything that only the relay needs. The engine starts with the first relayed frontend.
#[derive(Debug)]
pub struct Userspace {
    /// Files that the engine may hold open.
    budget: Arc<Budget>,
    engine: Arc<OnceLock<Engine>>,
    table: Option<Interception>,
    /// What the table was made for.
    bridged: Bridged,
    /// From the first resync on.
    routes: Option<Routes>,
    state: State,
    /// What the state knows of the node.
    node: Option<Arc<NodePlan>>,
    /// Routed addresses without a frontend: their routes go when their last connection has ended.
    leaving: BTreeSet<IpAddr>,
    failure: Option<Arc<str>>,
}

impl Userspace {
    pub fn new(budget: Arc<Budget>) -> Self {
        Self {
            budget,
            engine: Arc::default(),
            table: None,
            bridged: Bridged::default(),
            routes: None,
            state: State::default(),
            node: None,
            leaving: BTreeSet::new(),
            failure: None,
        }
    }

    /// Why nothing is relayed, although something should be.
    pub fn failure(&self) -> Option<Arc<str>> {
        self.failure.clone()
    }

    /// The engine, once there is one.
    pub fn engine(&self) -> Arc<OnceLock<Engine>> {
        Arc::clone(&self.engine)
    }

    /// What a delta that led to `plan` changes.
    pub fn turn(&mut self, delta: &PlanDelta, plan: &Plan) -> Turn {
        let mut turn = Turn::default();
        let changes = changes(&delta.services);
        let idle = changes.is_empty() && self.state.is_empty();
        if idle || !self.is_ready() {
            return turn;
        }
        self.turn_node(plan, &mut turn);
        self.state.turn(changes, &mut turn);
        turn
    }

    fn turn_node(&mut self, plan: &Plan, turn: &mut Turn) {
        if !self.node.as_ref().is_some_and(|known| Arc::ptr_eq(known, &plan.node)) {
            self.state.turn_node(&plan.node, turn);
            self.node = Some(Arc::clone(&plan.node));
        }
    }

    /// What leads from what is there to a plan.
    pub fn turn_to(&mut self, plan: &Plan) -> Result<Turn, Error> {
        let mut turn = Turn::default();
        let mut wanted = all_wanted(plan);
        match &mut self.routes {
            Some(routes) => routes.observe()?,
            none => *none = Some(Routes::open()?),
        }
        if wanted.is_empty() && self.state.is_empty() {
            self.failure = None;
            return Ok(turn);
        }
        if !self.is_ready() && !self.revive() {
            wanted.clear();
        }
        self.turn_node(plan, &mut turn);
        self.state.turn_to(wanted, &mut turn);
        Ok(turn)
    }

    /// Whether there is an engine, which is started if need be. What it cannot have the kernel has.
    fn is_ready(&mut self) -> bool {
        if self.engine.get().is_none() && self.failure.is_none() {
            self.start();
        }
        self.engine.get().is_some()
    }

    /// Another try to start an engine that could not run; whether it does now.
    pub fn revive(&mut self) -> bool {
        if self.failure.is_some() {
            self.start();
        }
        self.failure.is_none() && self.engine.get().is_some()
    }

    fn start(&mut self) {
        match Engine::start(EngineOptions::new(Arc::clone(&self.budget))) {
            Ok(engine) => {
                tracing::info!(port = engine.port(), "the relay has started");
                // Nobody else sets it.
                let _ = self.engine.set(engine);
                self.failure = None;
            }
            Err(error) => {
                let failure = error.to_string();
                if self.failure.as_deref() != Some(&failure) {
                    tracing::error!("{error}; Services to be relayed are served by the kernel");
                }
                self.failure = Some(failure.into());
            }
        }
    }

    /// All addresses that are led here by a route, or shall be.
    pub fn routed(&self) -> BTreeSet<IpAddr> {
        let held = self.routes.iter().flat_map(Routes::held);
        let held = held.filter(|address| !self.state.is_own(*address));
        held.chain(self.state.routed()).collect()
    }

    /// The first half of a turn: nobody is led to what is not relayed any more, and who comes finds
    /// nobody.
    pub fn withdraw(&mut self, turn: &Turn) -> Result<Applied, Error> {
        let mut applied = Applied::default();
        if let Some(table) = &mut self.table {
            applied += table.change(&turn.gone, &[])?;
        }
        if let Some(engine) = self.engine.get()
            && !turn.closed.is_empty()
        {
            engine.update(turn.closed.iter().map(|at| (*at, None)).collect());
        }
        Ok(applied)
    }

    /// The second half, when the kernel's dataplane leaves to the relay what is the relay's: routes,
    /// the engine, and last what leads there.
    pub fn extend(&mut self, turn: Turn, plan: &Plan) -> Result<Applied, Error> {
        let mut applied = Applied::default();
        if let Some(routes) = &mut self.routes {
            if !self.state.is_empty() {
                applied.operations += routes.set_sources(sources(plan))?;
            }
            routes.mend()?;
            applied.operations += routes.add(&turn.entered)?;
            for address in &turn.entered {
                self.leaving.remove(address);
            }
            self.leaving.extend(turn.left);
        }
        let Some(engine) = self.engine.get() else { return Ok(applied) };
        engine.set_node(Arc::clone(&plan.node));
        if !turn.open.is_empty() {
            let open = turn.open.into_iter().map(|(at, relayed)| (at, Some(relayed)));
            engine.update(open.collect());
        }
        let bridged = Bridged::read();
        if std::mem::replace(&mut self.bridged, bridged) != bridged {
            // Its rules are for the others.
            self.table = None;
        }
        match &mut self.table {
            Some(table) => applied += table.change(&[], &turn.come)?,
            None if self.state.is_empty() => {}
            none => {
                let (table, made) =
                    Interception::open((engine.port(), bridged), &self.state.elements())?;
                *none = Some(table);
                applied += made;
            }
        }
        Ok(applied)
    }

    /// Routes that no plan has: of a former process, or found without a frontend.
    pub fn find_stale(&mut self) {
        let wanted = self.state.routed();
        let held = self.routes.iter().flat_map(Routes::held);
        self.leaving = held.filter(|address| !wanted.contains(address)).collect();
    }

    /// Whether a route can go.
    pub fn has_leaving(&self) -> bool {
        self.leaving.iter().any(|address| self.may_go(*address))
    }

    /// The route of an address that is the node's own by now is in nobody's way but the node's.
    fn may_go(&self, address: IpAddr) -> bool {
        let busy = |engine: &Engine| engine.is_busy(address);
        self.state.is_own(address) || !self.engine.get().is_some_and(busy)
    }

    /// Removes the routes that can go. Returns their addresses: nothing is led here by them any more.
    pub fn release(&mut self) -> Result<Vec<IpAddr>, Error> {
        let gone: Vec<IpAddr> =
            self.leaving.iter().copied().filter(|address| self.may_go(*address)).collect();
        if let Some(routes) = self.routes.as_mut().filter(|_| !gone.is_empty()) {
            routes.remove(&gone)?;
        }
        for address in &gone {
            self.leaving.remove(address);
        }
        Ok(gone)
    }

    /// What is there is not known any more: nobody is led to the relay until the next resync, and the
    /// kernel serves meanwhile. Open connections go on.
    pub fn forget(&mut self) {
        self.table = None;
        if let Some(engine) = self.engine.get() {
            engine.update(self.state.frontends().map(|at| (at, None)).collect());
        }
        self.routes = None;
        self.state = State::default();
        self.node = None;
        self.leaving.clear();
    }

    /// Undoes what others did to what only the relay needs, where they did something to the rest.
    pub fn mend(&mut self) -> Result<(), Error> {
        let Some(routes) = &mut self.routes else { return Ok(()) };
        routes.doubt();
        routes.mend()
    }

    /// Removes all that outlives the process.
    pub fn cleanup(&mut self) -> Result<Applied, Error> {
        self.forget();
        let operations = Routes::open()?.clear()?;
        Ok(Applied { operations, ..Applied::default() })
    }
}

/// The address of each family that the node's own connections to relayed addresses come from.
fn sources(plan: &Plan) -> [Option<IpAddr>; 2] {
    let own = &plan.node.own_addresses;
    Family::BOTH.map(|family| {
        let primary = plan.facts.primary_address(family);
        let primary = primary.filter(|address| own.binary_search(address).is_ok());
        let of_family = |address: &IpAddr| Family::of(*address) == family;
        primary.or_else(|| own.iter().copied().find(of_family))
    })
}
