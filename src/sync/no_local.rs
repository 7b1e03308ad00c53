//! How many services have policy Local and all of their endpoints on other nodes. PURE.
//!
//! Counted from the difference of two plans, or it would cost a walk over all services per change.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use crate::model::{Service, TrafficPolicy};
use crate::planner::{Action, FrontendKind, Plan, PlanDelta, Reach, ServicePlan};

/// Services of each family, each once, however many of its ports it is true of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NoLocalEndpoints {
    /// internalTrafficPolicy Local
    pub internal: [u64; 2],
    /// externalTrafficPolicy Local, of services that are reachable from outside
    pub external: [u64; 2],
}

impl NoLocalEndpoints {
    /// Of all services, once. Only those with a policy Local are planned for it.
    pub fn of(plan: &Plan) -> Self {
        let mut count = Self::default();
        let services =
            plan.known.values().filter(|known| known.service.as_deref().is_some_and(may_lack));
        for service in services.filter_map(|known| plan.service_of(known)) {
            count.turn(Lacks::default(), lacks(&service));
        }
        count
    }

    /// Brings the count up to the plan that `delta` led to.
    pub fn follow(&mut self, delta: &PlanDelta) {
        for service in &delta.services {
            let of = |plan: Option<&ServicePlan>| plan.map(lacks).unwrap_or_default();
            self.turn(of(service.old.as_deref()), of(service.new.as_deref()));
        }
    }

    fn turn(&mut self, old: Lacks, new: Lacks) {
        for (policy, counts) in [&mut self.internal, &mut self.external].into_iter().enumerate() {
            for (family, count) in counts.iter_mut().enumerate() {
                let of = |lacks: Lacks| u64::from(lacks[policy][family]);
                *count = (*count + of(new)).saturating_sub(of(old));
            }
        }
    }
}

/// Of a service: under the internal policy and under the external one, in each family.
type Lacks = [[bool; 2]; 2];

fn may_lack(service: &Service) -> bool {
    [service.internal_policy, service.external_policy].contains(&TrafficPolicy::Local)
}

/// Whether there are endpoints of a port, none of them here.
fn lacks(plan: &ServicePlan) -> Lacks {
    let mut found = Lacks::default();
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
            found[usize::from(!internal)][port.family.index()] |= here_only;
        }
    }
    found
}
