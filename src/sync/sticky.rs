//! How many services have ClientIP affinity. PURE.
//!
//! Counted from the difference of two plans, or it would cost a walk over all services per change.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use crate::planner::{Plan, PlanDelta, ServicePlan};

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StickyServices(u64);

impl StickyServices {
    /// Of all services, once. Only those that ask for affinity are planned for it.
    pub fn of(plan: &Plan) -> Self {
        let asks = plan.known.values().filter(|known| {
            known.service.as_deref().is_some_and(|service| service.affinity.is_some())
        });
        let sticky = asks.filter_map(|known| plan.service_of(known)).filter(is_sticky);
        Self(sticky.count() as u64)
    }

    /// Brings the count up to the plan that `delta` led to.
    pub fn follow(&mut self, delta: &PlanDelta) {
        for service in &delta.services {
            let of = |plan: Option<&ServicePlan>| u64::from(plan.is_some_and(is_sticky));
            let (old, new) = (of(service.old.as_deref()), of(service.new.as_deref()));
            self.0 = (self.0 + new).saturating_sub(old);
        }
    }

    pub fn get(self) -> u64 {
        self.0
    }
}

fn is_sticky(plan: &ServicePlan) -> bool {
    plan.ports.iter().any(|port| port.affinity.is_some())
}
