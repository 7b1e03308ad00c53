//! The plan, kept up to date service by service.

use super::claims::{Claim, Wish, settle};
use super::{
    Claims, FrontendKey, Plan, PlanDelta, Plans, Policy, ServiceDelta, ServicePlan,
    frontends::plan_service,
};
use crate::model::{Known, NodeFacts, ServiceKey};
use imbl::OrdMap;
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
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
    policy: Policy,
    plan: Plan,
    /// The node plan is not in any delta yet.
    node_pending: bool,
}

impl Planner {
    pub fn new(policy: Policy, node_name: Arc<str>) -> Self {
        let facts = NodeFacts { name: node_name, ..NodeFacts::default() };
        let node = policy.node_plan(&facts, &[]);
        let plan = Plan {
            services: Plans::new(),
            claims: Claims::new(),
            node: Arc::new(node),
            facts: Arc::new(facts),
        };
        Self { policy, plan, node_pending: true }
    }

    /// A copy is free and does not follow later changes.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Takes in what the node is now. After `FactsChange::Services` all services must be replanned.
    pub fn set_facts(&mut self, facts: NodeFacts, service_cidrs: &[IpNet]) -> FactsChange {
        let node = self.policy.node_plan(&facts, service_cidrs);
        let old = std::mem::replace(&mut self.plan.facts, Arc::new(facts));
        if node != *self.plan.node {
            self.plan.node = Arc::new(node);
            self.node_pending = true;
        }
        if old.name != self.plan.facts.name || old.zone != self.plan.facts.zone {
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
        let mut wanted = BTreeMap::new();
        for key in changed {
            let known = known.get(&key);
            let plan = known.and_then(|known| plan_service(known, &self.plan.facts, &self.policy));
            wanted.insert(key, plan);
        }
        let wishes = wanted.iter().flat_map(|(key, new)| self.wishes(key, new.as_ref())).collect();
        let touched = settle(&mut self.plan.claims, wishes, known);
        // Rivals are as they were, but for whom they lost to.
        for key in touched {
            if let Some(rival) = self.plan.services.get(&key) {
                wanted.entry(key).or_insert_with(|| Some(ServicePlan::clone(rival)));
            }
        }
        let mut wanted: Vec<_> = wanted.into_iter().map(Some).collect();
        let mut services = Vec::new();
        // As with the claims: the second round fills the nodes that the first left half empty.
        for first in 0..2 {
            let round = wanted.iter_mut().skip(first).step_by(2).filter_map(Option::take);
            services.extend(round.filter_map(|(key, new)| self.put(key, new)));
        }
        services.sort_unstable_by(|one, other| one.key.cmp(&other.key));
        let node = std::mem::take(&mut self.node_pending).then(|| Arc::clone(&self.plan.node));
        PlanDelta { services, node }
    }

    /// All that a service claims with `new`, and what it claimed before and does not any more.
    fn wishes(&self, key: &ServiceKey, new: Option<&ServicePlan>) -> Vec<Claim> {
        let new: BTreeSet<FrontendKey> = frontends(new).collect();
        let old = frontends(self.plan.services.get(key).map(Arc::as_ref));
        let left = old.filter(|at| !new.contains(at)).map(|at| (at, Wish::Leave));
        let kept = new.iter().map(|at| (*at, Wish::Keep));
        kept.chain(left).map(|(at, wish)| (at, key.clone(), wish)).collect()
    }

    /// Stores a plan with its lost frontends marked; `None` if it is what it was.
    fn put(&mut self, key: ServiceKey, new: Option<ServicePlan>) -> Option<ServiceDelta> {
        let new = new.map(|mut plan| {
            self.mark_lost(&mut plan);
            plan
        });
        let old = self.plan.services.get(&key);
        if old.map(Arc::as_ref) == new.as_ref() {
            return None;
        }
        let new = new.map(Arc::new);
        let old = match &new {
            Some(plan) => self.plan.services.insert(key.clone(), Arc::clone(plan)),
            None => self.plan.services.remove(&key),
        };
        Some(ServiceDelta { key, old, new })
    }

    fn mark_lost(&self, plan: &mut ServicePlan) {
        for frontend in plan.ports.iter_mut().flat_map(|port| &mut port.frontends) {
            let holder = self.plan.claims.get(&frontend.at).and_then(|claimants| claimants.first());
            frontend.lost_to = holder.filter(|holder| **holder != plan.key).cloned();
        }
    }
}

fn frontends(plan: Option<&ServicePlan>) -> impl Iterator<Item = FrontendKey> {
    let ports = plan.into_iter().flat_map(|plan| &plan.ports);
    ports.flat_map(|port| &port.frontends).map(|frontend| frontend.at)
}
