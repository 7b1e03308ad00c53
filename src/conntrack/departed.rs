//! Which TCP endpoints are gone for good, and which flows still lead to them. PURE.
//!
//! In: what was known of changed services, the plan that the kernel holds, `now`.
//! Out: frontends, with the endpoints whose flows through them are to be ended.
//! Never: an endpoint that any service lists, in whatever condition.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use super::stale::{Flow, Verdict, candidates};
use crate::model::{Family, Known, Protocol, ServiceKey};
use crate::planner::{Action, FrontendKey, Plan, ServicePlan, Target};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What cannot be ended yet is looked at again as late as it has waited already, within these.
const SOONEST: Duration = Duration::from_secs(1);
const LATEST: Duration = Duration::from_secs(60);

/// What was known of a service before it changed.
#[derive(Debug, Clone)]
pub struct Former {
    pub key: ServiceKey,
    pub known: Arc<Known>,
}

/// The endpoints that left their services, until their flows are ended.
///
/// An endpoint is listed from its first mention until its last, ready or not, serving or
/// terminating: who is listed in any condition may still be talking.
#[derive(Debug)]
pub struct Departures {
    grace: Duration,
    waiting: BTreeMap<ServiceKey, BTreeMap<Target, Wait>>,
    /// No wait is over before.
    next: Option<Instant>,
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
        Self { grace, waiting: BTreeMap::new(), next: None }
    }

    /// Takes in that this service changed; what became of it is in `plan`. An endpoint that came
    /// back is forgotten.
    pub fn note(&mut self, former: &Former, plan: &Plan, now: Instant) {
        let known = plan.known.get(&former.key);
        if known.is_some_and(|known| Arc::ptr_eq(known, &former.known)) {
            return;
        }
        let Some(known) = known.filter(|known| known.service.is_some()) else {
            // Without a service nobody would answer at its frontends, not even with a refusal.
            self.waiting.remove(&former.key);
            return;
        };
        let listed: BTreeSet<Target> = targets(known).collect();
        let until = now + self.grace;
        let mut waiting = self.waiting.remove(&former.key).unwrap_or_default();
        for target in targets(&former.known) {
            waiting.entry(target).or_insert(Wait { since: now, until });
        }
        waiting.retain(|target, _| !listed.contains(target));
        if !waiting.is_empty() {
            self.waiting.insert(former.key.clone(), waiting);
            self.next = Some(self.next.map_or(until, |next| next.min(until)));
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
    /// would not be told), waits on. One whose frontends all went is forgotten.
    pub fn due(&mut self, plan: &Plan, now: Instant) -> Resets {
        let mut resets = Resets::default();
        if self.next.is_none_or(|next| next > now) {
            return resets;
        }
        let due = |wait: &Wait| wait.until <= now;
        let over = self.waiting.values().flatten().filter(|(_, wait)| due(wait));
        let mut gone: BTreeSet<Target> = over.map(|(target, _)| *target).collect();
        retain_unlisted(&mut gone, plan);
        for (key, waiting) in &mut self.waiting {
            if !waiting.values().any(due) {
                continue;
            }
            let service = plan.service(key);
            waiting.retain(|target, wait| {
                if !due(wait) {
                    return true;
                }
                let ways = service.as_ref().map(|service| ways(service, *target));
                let ways = ways.unwrap_or_default();
                let waits = !gone.contains(target) || ways.silent && ways.answering.is_empty();
                if waits {
                    wait.until = now + (now - wait.since).clamp(SOONEST, LATEST);
                } else {
                    resets.add(ways.answering, *target);
                }
                waits
            });
        }
        self.waiting.retain(|_, waiting| !waiting.is_empty());
        self.next = self.waiting.values().flat_map(BTreeMap::values).map(|wait| wait.until).min();
        resets
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
    /// These send the next packet to somebody who refuses it.
    answering: Vec<FrontendKey>,
    /// There is one that drops it.
    silent: bool,
}

fn ways(service: &ServicePlan, target: Target) -> Ways {
    let mut ways = Ways::default();
    let family = Family::of(target.address);
    let held = service.held().filter(|(port, _)| port.protocol == Protocol::Tcp);
    for (_, frontend) in held.filter(|(port, _)| port.family == family) {
        match frontend.action {
            Action::Forward(_) | Action::Reject => ways.answering.push(frontend.at),
            Action::Drop => ways.silent = true,
        }
    }
    ways
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
