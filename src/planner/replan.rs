//! The plan, kept up to date service by service.

use super::claims::{Claim, Wish, settle};
use super::follow::Footing;
use super::frontends::wanted_frontends;
use super::{
    Frontend, FrontendKey, HealthCheck, Plan, PlanDelta, Policy, PortPlan, Served, ServiceDelta,
    ServicePlan,
};
use crate::model::{Known, NodeFacts, Protocol, Service, ServiceKey};
use imbl::OrdMap;
use ipnet::IpNet;
use std::sync::Arc;

/// What new facts of the node make out of date.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FactsChange {
    Nothing,
    /// The node plan; the next delta carries it.
    NodePlan,
    /// The choice of endpoints or what is done with them, of every service (and perhaps the node
    /// plan).
    Services,
}

/// Follows what is known. After each [`Planner::replan`] the plan is the same as if everything had
/// been planned from nothing.
#[derive(Debug)]
pub struct Planner {
    plan: Plan,
    /// What the services were planned with, if by now that is something else.
    former_facts: Option<Arc<NodeFacts>>,
    former_policy: Option<Arc<Policy>>,
    /// The node plan is not in any delta yet.
    node_pending: bool,
    large: LargePlans,
}

/// The plans of the large services that changed last, the latest last: the next one is made from it.
/// Each is as the services, the facts and the claims are now.
#[derive(Debug)]
struct LargePlans {
    plans: Vec<Kept>,
    /// How many endpoints make a service large.
    endpoints: usize,
}

#[derive(Debug, Clone)]
struct Kept {
    plan: Arc<ServicePlan>,
    footing: Option<Footing>,
}

impl Default for LargePlans {
    fn default() -> Self {
        Self { plans: Vec::new(), endpoints: 100 }
    }
}

impl LargePlans {
    /// A plan takes up to 50 bytes per port and endpoint.
    const KEPT: usize = 8;

    fn take(&mut self, key: &ServiceKey) -> Option<Kept> {
        let at = self.plans.iter().position(|kept| kept.plan.key == *key)?;
        Some(self.plans.remove(at))
    }

    fn is_large(&self, known: &Known) -> bool {
        let mut endpoints = 0;
        known.sets().any(|set| {
            endpoints += set.endpoints.len();
            endpoints >= self.endpoints
        })
    }

    fn keep(&mut self, kept: Kept) {
        if self.plans.len() == Self::KEPT {
            self.plans.remove(0);
        }
        self.plans.push(kept);
    }
}

impl Planner {
    pub fn new(policy: Policy, node_name: Arc<str>) -> Self {
        let facts = NodeFacts { name: node_name, ..NodeFacts::default() };
        Self {
            plan: Plan::new(policy, facts),
            former_facts: None,
            former_policy: None,
            node_pending: true,
            large: LargePlans::default(),
        }
    }

    /// Has plans of services with so many endpoints followed change by change; the others are made
    /// anew each time, which is the same plan.
    pub fn following_from(mut self, endpoints: usize) -> Self {
        self.large.endpoints = endpoints;
        self
    }

    /// A copy is free and does not follow later changes.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Takes in what the operator decides now; counts from the next [`Planner::set_facts`] on.
    pub fn set_policy(&mut self, policy: Policy) {
        if policy != *self.plan.policy {
            let old = std::mem::replace(&mut self.plan.policy, Arc::new(policy));
            self.former_policy.get_or_insert(old);
        }
    }

    /// Takes in what the node is now. After `FactsChange::Services` all services must be replanned.
    pub fn set_facts(&mut self, facts: NodeFacts, service_cidrs: &[IpNet]) -> FactsChange {
        let node = self.plan.policy.node_plan(&facts, service_cidrs);
        let old = std::mem::replace(&mut self.plan.facts, Arc::new(facts));
        if node != *self.plan.node {
            self.plan.node = Arc::new(node);
            self.node_pending = true;
        }
        let new = &self.plan.facts;
        // An external IP of the node's own can be relayed, another's cannot.
        let moved = old.interface_addresses != new.interface_addresses;
        let concerned = moved && self.plan.relays_external_ips();
        if concerned
            || (&old.name, &old.zone, &old.addresses) != (&new.name, &new.zone, &new.addresses)
        {
            self.former_facts.get_or_insert(old);
            FactsChange::Services
        } else if self.former_policy.is_some() {
            FactsChange::Services
        } else if self.node_pending {
            FactsChange::NodePlan
        } else {
            FactsChange::Nothing
        }
    }

    /// Plans `changed` services again, and those that win or lose a frontend by it. `known` is what
    /// is known now, of all services; `changed` names all that differ from the last call.
    pub fn replan(
        &mut self,
        changed: impl IntoIterator<Item = ServiceKey>,
        known: &OrdMap<ServiceKey, Arc<Known>>,
    ) -> PlanDelta {
        let (before, turns) = self.follow(changed, known);
        let (mut services, mut udp) = (Vec::new(), Vec::new());
        for turn in turns {
            let delta = self.planned(turn, &before);
            self.follow_special(&delta, &mut udp);
            // What stays the same is not held while all others are planned.
            if delta.old != delta.new {
                services.push(delta);
            }
        }
        // A frontend that changes hands was first nobody's.
        self.plan.udp.extend(udp);
        let node = std::mem::take(&mut self.node_pending).then(|| Arc::clone(&self.plan.node));
        PlanDelta { services, node }
    }

    fn planned(&mut self, turn: Turn, before: &Plan) -> ServiceDelta {
        let Turn { key, old: was, new: is } = turn;
        let plan = |plan: &Plan, known: &Known| plan.service_of(known).map(Arc::new);
        let kept = self.large.take(&key).or_else(|| {
            let plan = plan(before, was.as_deref()?)?;
            Some(Kept { plan, footing: None })
        });
        let next = is.as_deref().and_then(|is| {
            let large = self.large.is_large(is);
            let known = kept.as_ref().zip(was.as_deref()).filter(|_| large);
            let followed = known.and_then(|(kept, was)| self.followed(kept, (was, is), before));
            let next =
                followed.or_else(|| Some(Kept { plan: plan(&self.plan, is)?, footing: None }))?;
            if large {
                self.large.keep(next.clone());
            }
            Some(next)
        });
        ServiceDelta { key, old: kept.map(|kept| kept.plan), new: next.map(|next| next.plan) }
    }

    /// The next plan of a large service from the one before, where that is possible.
    fn followed(&self, kept: &Kept, (was, is): (&Known, &Known), before: &Plan) -> Option<Kept> {
        let Plan { facts, policy, .. } = &self.plan;
        if !Arc::ptr_eq(&before.facts, facts) || !Arc::ptr_eq(&before.policy, policy) {
            return None;
        }
        let Kept { plan, footing } = kept;
        let footing = footing.or_else(|| Footing::of(plan, was, facts))?;
        let (mut plan, footing) = footing.follow(plan, (was, is), facts)?;
        self.plan.settle(&mut plan);
        Some(Kept { plan: Arc::new(plan), footing: Some(footing) })
    }

    /// As [`Planner::replan`], where nobody asks for the delta because a resync comes next.
    pub fn catch_up(
        &mut self,
        changed: impl IntoIterator<Item = ServiceKey>,
        known: &OrdMap<ServiceKey, Arc<Known>>,
    ) {
        let (before, turns) = self.follow(changed, known);
        self.large.plans.clear();
        let mut udp = Vec::new();
        for Turn { key, old, new } in turns {
            let plan = |plan: &Plan, known: Option<Arc<Known>>| {
                let known = known.filter(|known| is_special(known))?;
                plan.service_of(&known).map(Arc::new)
            };
            let (old, new) = (plan(&before, old), plan(&self.plan, new));
            self.follow_special(&ServiceDelta { key, old, new }, &mut udp);
        }
        self.plan.udp.extend(udp);
        self.node_pending = false;
    }

    /// Brings the plan up to what is known. Returns the plan before, and the services whose plan may
    /// be another now, sorted.
    fn follow(
        &mut self,
        changed: impl IntoIterator<Item = ServiceKey>,
        known: &OrdMap<ServiceKey, Arc<Known>>,
    ) -> (Plan, Vec<Turn>) {
        let mut before = self.plan.clone();
        before.facts = self.former_facts.take().unwrap_or(before.facts);
        before.policy = self.former_policy.take().unwrap_or(before.policy);
        self.plan.known = known.clone();
        let turn =
            |key| Turn { old: before.known.get(&key).cloned(), new: known.get(&key).cloned(), key };
        let mut turns: Vec<Turn> = changed.into_iter().map(turn).collect();
        in_order(&mut turns);
        let mut wishes = Vec::new();
        let (mut come, mut gone) = (0, 0);
        for Turn { key, old, new } in &turns {
            let (old, new) = (service(old), service(new));
            come += usize::from(new.is_some());
            gone += usize::from(old.is_some());
            // Mostly the endpoints changed, and the Service is the very same.
            let same_policy = Arc::ptr_eq(&before.policy, &self.plan.policy);
            if old != new || !same_policy {
                let policies = (&*before.policy, &*self.plan.policy);
                wish(key, (old, new), policies, &mut wishes);
            }
        }
        self.plan.services = self.plan.services + come - gone;
        let rivals = settle(&mut self.plan.claims, wishes, known);
        if !rivals.is_empty() {
            turns.extend(rivals.into_iter().map(turn));
            in_order(&mut turns);
        }
        (before, turns)
    }

    /// What is held ready of the few services that have UDP ports, or are asked about.
    /// `udp` gets the frontends that the service has now.
    fn follow_special(&mut self, delta: &ServiceDelta, udp: &mut Vec<(FrontendKey, Served)>) {
        fn of(plan: Option<&ServicePlan>) -> impl Iterator<Item = (&PortPlan, &Frontend)> {
            let held = plan.into_iter().flat_map(ServicePlan::held);
            held.filter(|(port, _)| port.protocol == Protocol::Udp)
        }
        for (_, frontend) in of(delta.old.as_deref()) {
            self.plan.udp.remove(&frontend.at);
        }
        let served =
            |(port, frontend): (&PortPlan, &Frontend)| (frontend.at, Served::of(port, frontend));
        udp.extend(of(delta.new.as_deref()).map(served));
        self.answer_for(&delta.key, delta.new.as_deref().and_then(|plan| plan.health));
    }

    /// Mostly the map is empty, and stays the very same map.
    fn answer_for(&mut self, key: &ServiceKey, health: Option<HealthCheck>) {
        let known = self.plan.health_checks.get(key);
        match health {
            Some(health) if known != Some(&health) => {
                self.plan.health_checks.insert(key.clone(), health);
            }
            None if known.is_some() => {
                self.plan.health_checks.remove(key);
            }
            _ => {}
        }
    }
}

/// Whether it may have UDP ports, or be asked about.
fn is_special(known: &Known) -> bool {
    known.service.as_ref().is_some_and(|service| {
        service.external().is_some_and(|external| external.health_check_node_port.is_some())
            || service.ports.iter().any(|port| port.protocol == Protocol::Udp)
    })
}

/// A service that is planned again.
struct Turn {
    key: ServiceKey,
    old: Option<Arc<Known>>,
    new: Option<Arc<Known>>,
}

/// By key, each once.
fn in_order(turns: &mut Vec<Turn>) {
    turns.sort_unstable_by(|one, other| one.key.cmp(&other.key));
    turns.dedup_by(|one, other| one.key == other.key);
}

fn service(known: &Option<Arc<Known>>) -> Option<&Arc<Service>> {
    known.as_ref()?.service.as_ref()
}

/// A Service before and after.
type Versions<'a> = (Option<&'a Arc<Service>>, Option<&'a Arc<Service>>);

/// All that a service claims now, and what it claimed before and does not any more.
fn wish(
    key: &ServiceKey,
    (old, new): Versions<'_>,
    (former, policy): (&Policy, &Policy),
    out: &mut Vec<Claim>,
) {
    let first = out.len();
    for at in new.into_iter().flat_map(|service| wanted_frontends(service, policy)) {
        out.push((at, key.clone(), Wish::Keep));
    }
    let kept = out.len();
    for at in old.into_iter().flat_map(|service| wanted_frontends(service, former)) {
        if !out[first..kept].iter().any(|(other, ..)| *other == at) {
            out.push((at, key.clone(), Wish::Leave));
        }
    }
}
