//! What a node plans as its world changes.

use super::world::Change;
use vipd::model::{NodeFacts, ServiceKey};
use vipd::planner::{FactsChange, Plan, PlanDelta, Planner, Policy};
use vipd::store::Store;

pub struct Planned {
    store: Store,
    planner: Planner,
}

impl Planned {
    pub fn new(policy: Policy, facts: &NodeFacts) -> Self {
        let (store, planner) =
            (Store::new(facts.name.clone()), Planner::new(policy, facts.name.clone()));
        Self { store, planner: planner.following_from(1) }
    }

    pub fn plan(&self) -> &Plan {
        self.planner.plan()
    }

    pub fn replan(&mut self, facts: &NodeFacts, changes: &[Change]) -> PlanDelta {
        for change in changes {
            match change {
                Change::Upsert(object) => self.store.upsert(object.clone()),
                Change::Delete(object) => self.store.delete(object),
            }
        }
        let mut dirty: Vec<ServiceKey> = self.store.take_dirty().services.into_iter().collect();
        if self.planner.set_facts(facts.clone(), &[]) == FactsChange::Services {
            dirty.extend(self.store.known().keys().cloned());
        }
        self.planner.replan(dirty, self.store.known())
    }
}
