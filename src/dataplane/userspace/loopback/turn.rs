//! From the node ports that are served to those that shall be.

use super::places::{Families, led, places, sctp};
use crate::dataplane::userspace::lower::differences;
use crate::dataplane::userspace::relayed::Relayed;
use crate::planner::{FrontendKey, Plan, PlanDelta, ServicePlan};
use std::collections::BTreeMap;

/// What a change of the plan changes at loopback addresses.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct PortsTurn {
    pub open: Vec<(FrontendKey, Relayed)>,
    pub closed: Vec<FrontendKey>,
}

/// What is known of the last plan.
#[derive(Debug, Default)]
pub(in super::super) struct NodePorts {
    families: Families,
    told_of_sctp: bool,
    /// What is led to the relay while it can be.
    led: BTreeMap<FrontendKey, Relayed>,
    /// It cannot: these have sockets too.
    stands_in: bool,
}

impl NodePorts {
    /// What is led to the relay is led there no more, and is to be opened.
    pub(in super::super) fn stand_in(&mut self) -> Vec<(FrontendKey, Relayed)> {
        self.stands_in = true;
        self.led.iter().map(|(at, relayed)| (*at, relayed.clone())).collect()
    }

    /// It is led there again, and these are to be closed.
    pub(in super::super) fn stand_down(&mut self) -> Vec<FrontendKey> {
        match std::mem::take(&mut self.stands_in) {
            true => self.led.keys().copied().collect(),
            false => Vec::new(),
        }
    }

    pub(in super::super) fn stands_in(&self) -> bool {
        self.stands_in
    }

    pub(in super::super) fn stands_in_for(&self, at: &FrontendKey) -> bool {
        self.stands_in && self.led.contains_key(at)
    }

    /// For a delta that led to `plan`. `open` are those that are served now.
    pub(in super::super) fn turn(
        &mut self,
        delta: &PlanDelta,
        plan: &Plan,
        open: impl FnOnce() -> Vec<FrontendKey>,
    ) -> PortsTurn {
        let families = plan.node.localhost_node_ports;
        if families != self.families {
            return self.turn_to(plan, &open());
        }
        if families == [false; 2] {
            return PortsTurn::default();
        }
        delta.services.iter().filter_map(|service| service.new.as_deref()).for_each(|service| {
            self.tell_of_sctp(service);
        });
        let mut turn = PortsTurn::default();
        for (at, relayed) in differences(&delta.services, |plan| led(plan, families)) {
            match relayed {
                Some(relayed) => self.led.insert(at, relayed),
                None => self.led.remove(&at),
            };
        }
        let stands_in = self.stands_in;
        let wanted = |plan| {
            let led = led(plan, families).filter(move |_| stands_in);
            places(plan, families).chain(led)
        };
        for (at, served) in differences(&delta.services, wanted) {
            match served {
                Some(served) => turn.open.push((at, served)),
                None => turn.closed.push(at),
            }
        }
        turn
    }

    /// From whatever is served to what a plan says.
    pub(in super::super) fn turn_to(&mut self, plan: &Plan, open: &[FrontendKey]) -> PortsTurn {
        self.families = plan.node.localhost_node_ports;
        self.led.clear();
        let mut wanted = BTreeMap::new();
        for service in with_node_ports(plan) {
            self.tell_of_sctp(&service);
            wanted.extend(places(&service, self.families));
            self.led.extend(led(&service, self.families));
        }
        if self.stands_in {
            wanted.extend(self.led.clone());
        }
        let closed = open.iter().filter(|at| !wanted.contains_key(*at));
        let closed = closed.copied().collect();
        PortsTurn { open: wanted.into_iter().collect(), closed }
    }

    /// Once, whatever how many ports it concerns.
    fn tell_of_sctp(&mut self, plan: &ServicePlan) {
        if !self.told_of_sctp
            && let Some(port) = sctp(plan, self.families)
        {
            self.told_of_sctp = true;
            let service = &plan.key;
            tracing::warn!(%service, port, "SCTP node ports are not answered on loopback addresses");
        }
    }
}

/// All that may have sockets by a plan.
pub(in super::super) fn all(plan: &Plan) -> Vec<(FrontendKey, Relayed)> {
    let mut ports = NodePorts { told_of_sctp: true, stands_in: true, ..NodePorts::default() };
    ports.turn_to(plan, &[]).open
}

/// Costs a glance at each service that has none.
fn with_node_ports(plan: &Plan) -> impl Iterator<Item = ServicePlan> + '_ {
    let any = plan.node.localhost_node_ports != [false; 2];
    let known = any.then(|| plan.known.values()).into_iter().flatten();
    let exposed = known.filter(|known| {
        known
            .service
            .as_ref()
            .is_some_and(|service| service.ports.iter().any(|port| port.node_port.is_some()))
    });
    exposed.filter_map(|known| plan.service_of(known))
}
