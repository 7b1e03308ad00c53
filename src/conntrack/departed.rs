//! Which TCP endpoints are gone for good, and which flows still lead to them. PURE.
//!
//! In: what was known of changed services, the plan that the kernel holds, `now`.
//! Out: frontends, with the endpoints whose flows through them are to be ended.
//! Never: an endpoint that any service lists, in whatever condition.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use super::stale::{Flow, Verdict, candidates, in_service_range};
use crate::model::{Family, Known, Protocol, ServiceKey};
use crate::planner::{
    Action, FrontendAddress, FrontendKey, FrontendKind, Plan, ServicePlan, Target,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What cannot be ended yet is looked at again as late as it has waited already, within these.
const SOONEST: Duration = Duration::from_secs(1);
const LATEST: Duration = Duration::from_secs(60);

/// What was known of a service before it changed; nothing at all, if it is new.
#[derive(Debug, Clone)]
pub struct Former {
    pub key: ServiceKey,
    pub known: Arc<Known>,
}

/// The endpoints that left their services, until their flows are ended.
///
/// An endpoint is listed from its first mention until its last, ready or not, serving or
/// terminating: who is listed in any condition may still be talking. So it is with the slices of a
/// Service that was deleted.
#[derive(Debug)]
pub struct Departures {
    grace: Duration,
    services: BTreeMap<ServiceKey, Departed>,
    /// No wait is over before.
    next: Option<Instant>,
}

/// What left one service.
#[derive(Debug, Default)]
struct Departed {
    endpoints: BTreeMap<Target, Wait>,
    /// Where it answers no more, with its endpoints perhaps still listed: connections through these
    /// are to be ended with theirs.
    frontends: BTreeSet<FrontendKey>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Wait {
    since: Instant,
    until: Instant,
}

/// Endpoints that are gone, by the frontends whose flows to them are to be ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resets(pub BTreeMap<FrontendKey, BTreeSet<Target>>);

impl Departures {
    /// `grace` is how long an endpoint must be gone.
    pub fn new(grace: Duration) -> Self {
        Self { grace, services: BTreeMap::new(), next: None }
    }

    /// Takes in that this service changed; what became of it is in `plan`. An endpoint that came
    /// back is forgotten.
    pub fn note(&mut self, former: &Former, plan: &Plan, now: Instant) {
        let known = plan.known.get(&former.key);
        if known.is_some_and(|known| Arc::ptr_eq(known, &former.known)) {
            return;
        }
        let listed: BTreeSet<Target> = known.into_iter().flat_map(|known| targets(known)).collect();
        let until = now + self.grace;
        let mut departed = self.services.remove(&former.key).unwrap_or_default();
        for target in targets(&former.known) {
            departed.endpoints.entry(target).or_insert(Wait { since: now, until });
        }
        departed.endpoints.retain(|target, _| !listed.contains(target));
        if former.known.service.as_ref() != known.and_then(|known| known.service.as_ref()) {
            departed.frontends.extend(frontends(plan, &former.known));
            let held: BTreeSet<FrontendKey> =
                known.into_iter().flat_map(|known| frontends(plan, known)).collect();
            departed.frontends.retain(|at| !held.contains(at));
        }
        if !departed.endpoints.is_empty() {
            self.next = Some(self.next.map_or(until, |next| next.min(until)));
        }
        if !departed.is_over(known) {
            self.services.insert(former.key.clone(), departed);
        }
    }

    /// When `due` may have something to say, or earlier.
    pub fn next_due(&self) -> Option<Instant> {
        self.next
    }

    /// What is to be ended now, once: endpoints whose time is over and that nobody lists under
    /// `plan`. Costs a walk over all that is known, if any endpoint's time is over.
    ///
    /// One that another service lists, or whose frontend drops packets at the moment (the client
    /// would not be told), waits on. One without a frontend where anybody would answer is
    /// forgotten.
    pub fn due(&mut self, plan: &Plan, now: Instant) -> Resets {
        let mut resets = Resets::default();
        if self.next.is_none_or(|next| next > now) {
            return resets;
        }
        let due = |wait: &Wait| wait.until <= now;
        let waiting = self.services.values().flat_map(|departed| &departed.endpoints);
        let over = waiting.filter(|(_, wait)| due(wait));
        let mut gone: BTreeSet<Target> = over.map(|(target, _)| *target).collect();
        retain_unlisted(&mut gone, plan);
        self.services.retain(|key, departed| {
            let Departed { endpoints, frontends } = departed;
            if !endpoints.values().any(due) {
                return true;
            }
            let service = plan.service(key);
            endpoints.retain(|target, wait| {
                if !due(wait) {
                    return true;
                }
                let ways = Ways::to(*target, (service.as_ref(), frontends), plan);
                let waits = !gone.contains(target) || ways.silent && ways.answering.is_empty();
                if waits {
                    wait.until = now + (now - wait.since).clamp(SOONEST, LATEST);
                } else {
                    resets.add(ways.answering, *target);
                }
                waits
            });
            !departed.is_over(plan.known.get(key))
        });
        let waiting = self.services.values().flat_map(|departed| departed.endpoints.values());
        self.next = waiting.map(|wait| wait.until).min();
        resets
    }
}

impl Departed {
    /// Nothing waits, and nothing that is still listed could be reached by a former frontend.
    fn is_over(&self, known: Option<&Arc<Known>>) -> bool {
        let listed = || known.is_some_and(|known| targets(known).next().is_some());
        self.endpoints.is_empty() && (self.frontends.is_empty() || !listed())
    }
}

impl Resets {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn add(&mut self, frontends: Vec<FrontendKey>, target: Target) {
        for frontend in frontends {
            self.0.entry(frontend).or_default().insert(target);
        }
    }

    /// Leaves out endpoints that came back.
    pub fn revise(&mut self, plan: &Plan) {
        let mut gone: BTreeSet<Target> = self.0.values().flatten().copied().collect();
        retain_unlisted(&mut gone, plan);
        self.0.retain(|_, targets| {
            targets.retain(|target| gone.contains(target));
            !targets.is_empty()
        });
    }

    /// Whether a flow may stay: all but those that one of the endpoints answers at the frontend
    /// that it left.
    pub fn judge(&self, plan: &Plan, flow: &Flow) -> Verdict {
        let condemned = candidates(plan, flow.protocol, flow.destination)
            .into_iter()
            .flatten()
            .filter_map(|at| self.0.get(&at))
            .any(|targets| targets.contains(&flow.answerer));
        if condemned { Verdict::Remove } else { Verdict::Keep }
    }
}

/// What the frontends do for who was connected to an endpoint.
#[derive(Debug, Default)]
struct Ways {
    /// These have the next packet answered by a reset: the service's other endpoints, a refusal, or
    /// the node itself know nothing of the connection.
    answering: Vec<FrontendKey>,
    /// There is one that drops it.
    silent: bool,
}

impl Ways {
    /// By what the service holds, and by what it held.
    fn to(
        target: Target,
        (service, former): (Option<&ServicePlan>, &BTreeSet<FrontendKey>),
        plan: &Plan,
    ) -> Self {
        let mut ways = Self::default();
        let family = Family::of(target.address);
        let held = service.into_iter().flat_map(ServicePlan::held);
        let held = held.filter(|(port, _)| port.protocol == Protocol::Tcp && port.family == family);
        for (_, frontend) in held {
            ways.add(frontend.at, frontend.action);
        }
        for at in former.iter().filter(|at| at.at.family() == family) {
            let holder = plan.claims.holder(at).and_then(|holder| plan.service(holder));
            let held = holder.as_ref().and_then(|holder| holder.held().find(|(_, f)| f.at == *at));
            match held {
                Some((_, frontend)) => ways.add(*at, frontend.action),
                None if is_refused(*at, plan) => ways.add(*at, Action::Reject),
                // It would leave the node, or go astray.
                None => {}
            }
        }
        ways
    }

    fn add(&mut self, at: FrontendKey, action: Action) {
        match action {
            Action::Forward(_) | Action::Reject => self.answering.push(at),
            Action::Drop => self.silent = true,
        }
    }
}

/// Whether a segment to an address and port that no service holds is answered by a reset: within
/// the service ranges and at other ports of a cluster IP by the dataplane, at the node's own
/// addresses by the node.
fn is_refused(at: FrontendKey, plan: &Plan) -> bool {
    let FrontendAddress::Address(address) = at.at else { return true };
    let is_cluster_ip = || {
        plan.claims.at(address).any(|(at, holder)| {
            let holder = plan.service(holder);
            let mut held = holder.iter().flat_map(ServicePlan::held);
            held.any(|(_, f)| f.at == *at && f.kind == FrontendKind::ClusterIp)
        })
    };
    in_service_range(plan, address)
        || plan.node.own_addresses.binary_search(&address).is_ok()
        || is_cluster_ip()
}

/// Where a service wants to answer by TCP, whoever holds that.
fn frontends(plan: &Plan, known: &Known) -> BTreeSet<FrontendKey> {
    let service = plan.service_of(known);
    let ports = service.iter().flat_map(|service| service.ports.iter());
    let tcp = ports.filter(|port| port.protocol == Protocol::Tcp);
    tcp.flat_map(|port| port.frontends.iter().map(|frontend| frontend.at)).collect()
}

/// Every TCP endpoint that is listed for a service, in whatever condition.
fn targets(known: &Known) -> impl Iterator<Item = Target> {
    known.sets().flat_map(|set| {
        let ports = set.ports.iter().filter(|port| port.protocol == Protocol::Tcp);
        ports.flat_map(|port| {
            let at = |address| Target { address, port: port.port };
            set.endpoints.iter().map(move |endpoint| at(endpoint.address))
        })
    })
}

fn retain_unlisted(gone: &mut BTreeSet<Target>, plan: &Plan) {
    for known in plan.known.values() {
        if gone.is_empty() {
            return;
        }
        for target in targets(known) {
            gone.remove(&target);
        }
    }
}
