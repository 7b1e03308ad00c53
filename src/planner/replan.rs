//! The plan, kept up to date service by service.

use super::claims::{Claim, Wish, settle};
use super::frontends::wanted_frontends;
use super::{Listening, Plan, PlanDelta, Policy, ServiceDelta, ServicePlan};
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
    /// The choice of endpoints, of every service (and perhaps the node plan).
    Services,
}

/// Follows what is known. After each [`Planner::replan`] the plan is the same as if everything had
/// been planned from nothing.
#[derive(Debug)]
pub struct Planner {
    plan: Plan,
    /// What the services were planned with, if by now that is something else.
    former_facts: Option<Arc<NodeFacts>>,
    /// The node plan is not in any delta yet.
    node_pending: bool,
}

impl Planner {
    pub fn new(policy: Policy, node_name: Arc<str>) -> Self {
        let facts = NodeFacts { name: node_name, ..NodeFacts::default() };
        Self { plan: Plan::new(policy, facts), former_facts: None, node_pending: true }
    }

    /// A copy is free and does not follow later changes.
    pub fn plan(&self) -> &Plan {
        &self.plan
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
        if (&old.name, &old.zone, &old.addresses) != (&new.name, &new.zone, &new.addresses) {
            self.former_facts.get_or_insert(old);
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
        let services = turns.into_iter().filter_map(|turn| {
            let old = turn.old.and_then(|known| before.service_of(&known));
            let new = turn.new.and_then(|known| self.plan.service_of(&known));
            let key = turn.key;
            (old != new).then(|| ServiceDelta {
                key,
                old: old.map(Arc::new),
                new: new.map(Arc::new),
            })
        });
        let services = services.collect();
        let node = std::mem::take(&mut self.node_pending).then(|| Arc::clone(&self.plan.node));
        PlanDelta { services, node }
    }

    /// As [`Planner::replan`], where nobody asks for the delta because a resync comes next.
    pub fn catch_up(
        &mut self,
        changed: impl IntoIterator<Item = ServiceKey>,
        known: &OrdMap<ServiceKey, Arc<Known>>,
    ) {
        self.follow(changed, known);
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
            if old != new {
                wish(key, (old, new), &mut wishes);
            }
        }
        self.plan.services = self.plan.services + come - gone;
        let rivals = settle(&mut self.plan.claims, wishes, known);
        if !rivals.is_empty() {
            turns.extend(rivals.into_iter().map(turn));
            in_order(&mut turns);
        }
        self.follow_special(&before, &turns);
        (before, turns)
    }

    /// What is held ready of the few services that have UDP ports, or listeners on this node.
    fn follow_special(&mut self, before: &Plan, turns: &[Turn]) {
        let mut held = Vec::new();
        for Turn { key, old, new } in turns {
            let old = old.as_ref().filter(|known| has_udp(known));
            let old = old.and_then(|known| before.service_of(known));
            for (_, frontend) in old.iter().flat_map(ServicePlan::held) {
                self.plan.udp.remove(&frontend.at);
            }
            let new = new.as_ref().filter(|known| has_udp(known) || may_listen(known));
            let new = new.and_then(|known| self.plan.service_of(known));
            let ports = new.iter().flat_map(ServicePlan::held);
            let udp = ports.filter(|(port, _)| port.protocol == Protocol::Udp);
            held.extend(udp.map(|(port, frontend)| (frontend.at, Arc::from(&*port.serving))));
            self.listen(key, new.as_ref().and_then(Listening::of));
        }
        // A frontend that changes hands is first nobody's.
        self.plan.udp.extend(held);
    }

    /// Mostly the map is empty, and stays the very same map.
    fn listen(&mut self, key: &ServiceKey, listening: Option<Listening>) {
        match listening {
            Some(listening) => {
                let same = |known: &Arc<Listening>| **known == listening;
                if !self.plan.listening.get(key).is_some_and(same) {
                    self.plan.listening.insert(key.clone(), Arc::new(listening));
                }
            }
            None if self.plan.listening.contains_key(key) => {
                self.plan.listening.remove(key);
            }
            None => {}
        }
    }
}

fn has_udp(known: &Known) -> bool {
    let service = known.service.iter();
    service.flat_map(|service| service.ports.iter()).any(|port| port.protocol == Protocol::Udp)
}

fn may_listen(known: &Known) -> bool {
    known.service.as_ref().is_some_and(|service| {
        service.external.is_some() || service.ports.iter().any(|port| port.node_port.is_some())
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
fn wish(key: &ServiceKey, (old, new): Versions<'_>, out: &mut Vec<Claim>) {
    let first = out.len();
    for at in new.into_iter().flat_map(|service| wanted_frontends(service)) {
        out.push((at, key.clone(), Wish::Keep));
    }
    let kept = out.len();
    for at in old.into_iter().flat_map(|service| wanted_frontends(service)) {
        if !out[first..kept].iter().any(|(other, ..)| *other == at) {
            out.push((at, key.clone(), Wish::Leave));
        }
    }
}
