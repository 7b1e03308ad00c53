//! Makes true what plans say of the relay: the engine, what leads packets to it, and the routes.
//!
//! In: plan deltas, in steps that the kernel's dataplane comes between. Out: frontends of the engine,
//! elements, routes.
//! Never: a connection; a cost where nothing is relayed.

use super::bridged::Bridged;
use super::budget::Budget;
use super::engine::{Engine, EngineOptions};
use super::error::Error;
use super::handed::HandedTable;
use super::handover::Handover;
use super::intercept::{Interception, layout};
use super::loopback::{self, NodePorts, PortsTurn};
use super::lower::{State, Turn, Wanted, all_wanted, changes, relayed_last};
use super::relayed::Relayed;
use super::routes::Routes;
use super::table::Site;
use crate::dataplane::Applied;
use crate::model::{Family, Protocol};
use crate::planner::{FrontendKey, NodePlan, Plan, PlanDelta};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// A thread that cannot open a socket in this time has thousands to open, or no processor; who changes
/// meanwhile may be refused once.
const LISTENERS_PATIENCE: Duration = Duration::from_millis(50);

/// Everything that only the relay needs, and node ports of loopback addresses. The engine starts with the
/// first of them.
#[derive(Debug)]
pub struct Userspace {
    /// Files that the engine may hold open.
    budget: Arc<Budget>,
    drain: Duration,
    engine: Arc<OnceLock<Engine>>,
    table: Option<Interception>,
    /// What the table was made for.
    site: Site,
    /// From the first resync on.
    routes: Option<Routes>,
    state: State,
    /// Of loopback addresses, of Services that the kernel carries: whatever becomes of the relay. Of the
    /// others while it has failed.
    node_ports: NodePorts,
    /// What the state knows of the node.
    node: Option<Arc<NodePlan>>,
    /// Routed addresses without a frontend: their routes go when their last connection has ended.
    leaving: BTreeSet<IpAddr>,
    failure: Option<Arc<str>>,
    /// Asked once, right before the first turn.
    former: Option<Former>,
    /// Cancelled when the process that was replaced has ended, and its connections with it.
    former_ended: CancellationToken,
}

/// The process that is to be replaced.
pub struct Former(Box<dyn FnOnce() -> Option<Inheritance> + Send>);

/// What came of asking it.
pub struct Inheritance {
    pub handover: Handover,
    /// Cancelled when it has ended.
    pub ended: CancellationToken,
}

impl Former {
    /// `ask` returns when the former process writes nothing any more. `None`: it had nothing to hand
    /// over, or has ended.
    pub fn new(ask: impl FnOnce() -> Option<Inheritance> + Send + 'static) -> Self {
        Self(Box::new(ask))
    }
}

impl fmt::Debug for Former {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Former")
    }
}

impl Userspace {
    /// `drain`: how long relayed connections may go on to an endpoint that serves no more.
    pub fn new(budget: Arc<Budget>, drain: Duration) -> Self {
        let former_ended = CancellationToken::new();
        former_ended.cancel();
        Self {
            budget,
            drain,
            former: None,
            former_ended,
            engine: Arc::default(),
            table: None,
            site: Site::default(),
            routes: None,
            state: State::default(),
            node_ports: NodePorts::default(),
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

    /// What a delta that led to `plan` changes at loopback addresses.
    pub fn ports_turn(&mut self, delta: &PlanDelta, plan: &Plan) -> PortsTurn {
        let engine = &self.engine;
        self.node_ports.turn(delta, plan, || listening(engine))
    }

    /// What leads there to a plan. The former process has been asked by then.
    pub fn ports_turn_to(&mut self, plan: &Plan) -> PortsTurn {
        self.node_ports.turn_to(plan, &listening(&self.engine))
    }

    /// Serves these node ports, as soon as their sockets are open. Of a UDP port the relay has the address, as
    /// long as it answers; who came to it for a TCP port is led there until the port is open.
    pub fn listen(&self, open: Vec<(FrontendKey, Relayed)>) {
        if open.is_empty() {
            return;
        }
        let engine = self.engine.get_or_init(|| Engine::new(self.options()));
        let comes = |at: &FrontendKey| at.protocol == Protocol::Tcp && !engine.listens(at);
        let waits = self.relay().is_some() && open.iter().any(|(at, _)| comes(at));
        engine.listen(open);
        if waits {
            engine.await_listeners(LISTENERS_PATIENCE);
        }
    }

    /// Serves these no more: who the relay takes over is led there by now. Where nobody is, those of
    /// relayed Services have sockets too.
    pub fn unlisten(&mut self, mut closed: Vec<FrontendKey>) {
        if self.failure.is_some() && !self.node_ports.stands_in() {
            let open = self.node_ports.stand_in();
            self.listen(open);
        } else if self.failure.is_none() && self.table.is_some() {
            closed.extend(self.node_ports.stand_down());
        }
        closed.retain(|at| !self.node_ports.stands_in_for(at));
        if let Some(engine) = self.engine.get()
            && !closed.is_empty()
        {
            engine.unlisten(closed);
        }
    }

    /// What a delta that led to `plan` changes.
    pub fn turn(&mut self, delta: &PlanDelta, plan: &Plan) -> Turn {
        let mut turn = Turn::default();
        let changes = changes(&delta.services);
        let idle = changes.is_empty() && self.state.is_empty();
        if idle || !self.is_ready() || self.failure.is_some() {
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

    /// The first turn takes this one's place.
    pub fn follow(&mut self, former: Former) {
        self.former = Some(former);
    }

    /// What leads from what is there to a plan.
    pub fn turn_to(&mut self, plan: &Plan) -> Result<Turn, Error> {
        let mut turn = Turn::default();
        let mut wanted = all_wanted(plan);
        // As late as can be: from here on the former process accepts nothing.
        if let Some(Former(ask)) = self.former.take()
            && let Some(Inheritance { handover, ended }) = ask()
        {
            self.former_ended = ended;
            self.inherit(handover, &wanted, plan);
        }
        match &mut self.routes {
            Some(routes) => routes.observe()?,
            none => *none = Some(Routes::open()?),
        }
        if wanted.is_empty() && self.state.is_empty() {
            self.failure = None;
            return Ok(turn);
        }
        if !self.begin_anew() {
            wanted.clear();
        }
        self.turn_node(plan, &mut turn);
        self.state.turn_to(wanted, &mut turn);
        // Also what others removed while nobody listened.
        if let Some(routes) = &self.routes {
            let wanted = self.state.routed().into_iter();
            turn.entered = wanted.filter(|address| !routes.has(*address)).collect();
        }
        Ok(turn)
    }

    /// Goes on where the former process stopped: who was relayed and still is finds the same sockets,
    /// from now on.
    fn inherit(&mut self, handed: Handover, wanted: &BTreeMap<FrontendKey, Wanted>, plan: &Plan) {
        let Some(mut engine) = handed.engine else { return };
        let at_loopback: BTreeMap<_, _> = loopback::all(plan).into_iter().collect();
        engine.loopback.retain(|port| at_loopback.contains_key(&port.at));
        let site = engine.port.map(|port| site(port, plan));
        let layout = site.map(layout);
        let led = handed.table.as_ref().map(|table| &table.frontends[..]).unwrap_or_default();
        let open = led.iter().filter_map(|(at, _)| {
            let wanted = wanted.get(at).map(|wanted| wanted.relayed.clone());
            let relayed = wanted.or_else(|| relayed_last(plan, at))?;
            Some((*at, relayed))
        });
        let open = [open.collect(), at_loopback.into_iter().collect()];
        match Engine::inherit(self.options(), engine, Arc::clone(&plan.node), open) {
            Ok(engine) => {
                if let Some(port) = engine.port() {
                    tracing::info!(port, "the relay goes on");
                }
                let _ = self.engine.set(engine);
            }
            Err(error) => {
                tracing::error!("the relay cannot go on: {error}");
                return;
            }
        }
        // One of another version goes with its socket, here.
        if let Some(table) = handed.table.filter(|table| Some(table.layout) == layout) {
            match Interception::inherit(table.link) {
                Ok(link) => {
                    (self.table, self.site) = (Some(link), site.unwrap_or_default());
                    self.state = State::inherited(table.frontends, table.nodes);
                }
                Err(error) => tracing::warn!("what leads to the relay is made anew: {error}"),
            }
        }
    }

    /// Gives what only the relay has to the next process. Open connections go on in this one, whose
    /// engine is not to be told anything any more.
    pub fn hand_over(self) -> Handover {
        let Some(engine) = self.engine.get() else { return Handover::default() };
        let (frontends, nodes) = self.state.handed();
        let link = self.table.as_ref().and_then(Interception::hand);
        let layout = engine.port().map(|_| layout(self.site));
        let table = link.zip(layout);
        let table = table.map(|(link, layout)| HandedTable { link, layout, frontends, nodes });
        Handover { engine: Some(engine.hand_over()), table }
    }

    fn options(&self) -> EngineOptions {
        let mut options = EngineOptions::new(Arc::clone(&self.budget));
        options.drain = self.drain;
        options
    }

    /// Whether there is an engine, which is started if need be. What it cannot have the kernel has.
    fn is_ready(&mut self) -> bool {
        if self.relay().is_none() && self.failure.is_none() {
            self.start();
        }
        self.relay().is_some()
    }

    /// The engine that packets can be led to, and where.
    fn relay(&self) -> Option<(&Engine, u16)> {
        let engine = self.engine.get()?;
        Some((engine, engine.port()?))
    }

    /// Another try where the last one failed; whether there is an engine to go on with.
    pub fn revive(&mut self) -> bool {
        self.failure.is_some() && self.begin_anew()
    }

    fn begin_anew(&mut self) -> bool {
        match self.relay() {
            Some(_) => self.failure = None,
            None => self.start(),
        }
        self.relay().is_some()
    }

    /// What leads to the relay could not be made, or is not known any more: nobody is led there until
    /// all is made anew, and the kernel serves.
    pub fn fail(&mut self, error: &Error) {
        self.forget();
        self.lack(error.to_string());
    }

    /// Told once while it stays the same.
    fn lack(&mut self, failure: String) {
        if self.failure.as_deref() != Some(&failure) {
            tracing::error!("{failure}; Services to be relayed are served by the kernel");
        }
        self.failure = Some(failure.into());
    }

    fn start(&mut self) {
        let engine = self.engine.get_or_init(|| Engine::new(self.options()));
        match engine.intercept() {
            Ok(port) => {
                tracing::info!(port, "the relay has started");
                self.failure = None;
            }
            Err(error) => self.lack(error.to_string()),
        }
    }

    /// All addresses that are led here by a route, or shall be.
    pub fn routed(&self) -> BTreeSet<IpAddr> {
        let held = self.routes.iter().flat_map(Routes::held);
        let held = held.filter(|address| !self.state.is_own(*address));
        held.chain(self.state.routed()).collect()
    }

    /// The first half of a turn: nobody is led to what is not relayed any more. Who was just before is
    /// accepted still.
    pub fn withdraw(&mut self, turn: &Turn) -> Result<Applied, Error> {
        let mut applied = Applied::default();
        if let Some(table) = &mut self.table {
            applied += table.change(&turn.gone, &[])?;
        }
        Ok(applied)
    }

    /// The second half, when the kernel's dataplane leaves to the relay what is the relay's: routes,
    /// the engine, and last what leads there.
    pub fn extend(&mut self, turn: Turn, plan: &Plan) -> Result<Applied, Error> {
        let mut applied = Applied::default();
        // Also where something else has failed by now.
        if let Some(engine) = self.engine.get()
            && !turn.closed.is_empty()
        {
            engine.update(turn.closed.iter().map(|at| (*at, None)).collect());
        }
        if self.failure.is_some() {
            return Ok(applied);
        }
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
        let Some((engine, port)) = self.relay() else { return Ok(applied) };
        engine.set_node(Arc::clone(&plan.node));
        if !turn.open.is_empty() {
            let open = turn.open.into_iter().map(|(at, relayed)| (at, Some(relayed)));
            engine.update(open.collect());
        }
        let site = site(port, plan);
        if std::mem::replace(&mut self.site, site) != site {
            // Its rules are for the others.
            self.table = None;
        }
        match &mut self.table {
            Some(table) => applied += table.change(&[], &turn.come)?,
            None if self.state.is_empty() => {}
            none => {
                let (table, made) = Interception::open(site, &self.state.elements())?;
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

    /// Whether routes wait for their last connections to end.
    pub fn is_waiting(&self) -> bool {
        !self.leaving.is_empty()
    }

    /// Whether a route can go.
    pub fn has_leaving(&self) -> bool {
        self.leaving.iter().any(|address| self.may_go(*address))
    }

    /// The route of an address that is the node's own by now is in nobody's way but the node's. Which
    /// ones the connections of a former process need only that knows.
    fn may_go(&self, address: IpAddr) -> bool {
        let busy = |engine: &Engine| engine.is_busy(address);
        let needed = !self.former_ended.is_cancelled() || self.engine.get().is_some_and(busy);
        self.state.is_own(address) || !needed
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
    /// kernel serves meanwhile; at loopback addresses sockets do, which are there before nobody is led.
    /// Open connections go on.
    pub fn forget(&mut self) {
        let open = self.node_ports.stand_in();
        let (udp, tcp) = open.into_iter().partition(|(at, _)| at.protocol == Protocol::Udp);
        self.listen(tcp);
        self.table = None;
        if let Some(engine) = self.engine.get() {
            engine.update(self.state.frontends().map(|at| (at, None)).collect());
        }
        self.listen(udp);
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

    /// Becomes readable when others remove a route of vipd's.
    pub fn departures(&self) -> Option<BorrowedFd<'_>> {
        self.routes.as_ref().map(Routes::departures)
    }

    /// Makes routes anew that others removed.
    pub fn restore(&mut self) -> Result<u64, Error> {
        let Some(routes) = &mut self.routes else { return Ok(0) };
        let restored = routes.restore()?;
        if restored > 0 {
            tracing::warn!(
                routes = restored,
                "another program removed local routes of relayed addresses (protocol 118, \
                 `ip monitor route`); they are there again"
            );
        }
        Ok(restored)
    }

    /// Removes all that outlives the process.
    pub fn cleanup(&mut self) -> Result<Applied, Error> {
        self.forget();
        let operations = Routes::open()?.clear()?;
        Ok(Applied { operations, ..Applied::default() })
    }
}

/// What the table of a relay that listens at this port is made for.
fn site(port: u16, plan: &Plan) -> Site {
    Site { port, bridged: Bridged::read().0, own: sources(plan) }
}

fn listening(engine: &OnceLock<Engine>) -> Vec<FrontendKey> {
    engine.get().map(Engine::listening).unwrap_or_default()
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
