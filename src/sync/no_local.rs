//! How many services have policy Local and all of their endpoints on other nodes. PURE.
//!
//! Counted from the difference of two plans, or it would cost a walk over all services per change.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use crate::model::{Service, TrafficPolicy};
use crate::planner::{Action, FrontendKind, Plan, PlanDelta, Reach, ServicePlan};

/// Services, each once, however many of its ports and families it is true of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NoLocalEndpoints {
    /// internalTrafficPolicy Local
    pub internal: u64,
    /// externalTrafficPolicy Local, of services that are reachable from outside
    pub external: u64,
}

impl NoLocalEndpoints {
    /// Of all services, once. Only those with a policy Local are planned for it.
    pub fn of(plan: &Plan) -> Self {
        let mut count = Self::default();
        let services =
            plan.known.values().filter(|known| known.service.as_deref().is_some_and(may_lack));
        for service in services.filter_map(|known| plan.service_of(known)) {
            let [internal, external] = lacks(&service);
            count.internal += u64::from(internal);
            count.external += u64::from(external);
        }
        count
    }

    /// Brings the count up to the plan that `delta` led to.
    pub fn follow(&mut self, delta: &PlanDelta) {
        for service in &delta.services {
            let of =
                |plan: Option<&ServicePlan>| plan.map(lacks).unwrap_or_default().map(u64::from);
            let (old, new) = (of(service.old.as_deref()), of(service.new.as_deref()));
            self.internal = (self.internal + new[0]).saturating_sub(old[0]);
            self.external = (self.external + new[1]).saturating_sub(old[1]);
        }
    }
}

fn may_lack(service: &Service) -> bool {
    [service.internal_policy, service.external_policy].contains(&TrafficPolicy::Local)
}

/// Whether there are endpoints of a port, none of them here: under the internal policy, under the
/// external one.
fn lacks(plan: &ServicePlan) -> [bool; 2] {
    let mut found = [false; 2];
    for port in &plan.ports {
        for frontend in &port.frontends {
            let here_only = match frontend.action {
                // That there are endpoints elsewhere is what tells it from a refusal.
                Action::Drop => true,
                Action::Forward(forward) => {
                    forward.reach == Reach::LocalFromOutside && port.local.is_empty()
                }
                Action::Reject => false,
            };
            let internal = frontend.kind == FrontendKind::ClusterIp;
            found[usize::from(!internal)] |= here_only;
        }
    }
    found
}
