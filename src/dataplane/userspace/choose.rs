//! Which endpoint comes next.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use super::counts::{Endpoint, EndpointCounts, Held};
use super::dials::{Dials, Failure};
use super::eject::{Ejection, Ejections, Judged};
use super::maglev::Maglev;
use super::pins::{PinAge, Pins, Visit};
use crate::model::Balancer;
use crate::planner::Target;
use foldhash::HashMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What one Service port remembers between connections, whichever frontend they come by.
#[derive(Debug, Default)]
pub(super) struct Picker {
    pins: Pins,
    ejections: Ejections,
    endpoints: HashMap<Target, Arc<Endpoint>>,
    /// Round robin goes on after this one.
    last: Option<Target>,
    /// Choices made so far.
    turns: u64,
}

/// What of it outlives a process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct PickerMemory {
    pub pins: Vec<PinAge>,
    pub ejections: Vec<Ejection>,
}

/// What a choice depends on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ask<'a> {
    /// Sorted.
    pub targets: &'a [Target],
    /// Of these targets, where it is the balancer.
    pub maglev: Option<&'a Maglev>,
    pub balancer: Balancer,
    /// Seconds.
    pub affinity: Option<NonZeroU32>,
    pub tried: &'a Dials,
    pub client: IpAddr,
    pub now: Instant,
    pub random: u64,
}

impl Ask<'_> {
    fn visit(&self) -> Option<Visit> {
        let lasts = Duration::from_secs(self.affinity?.get().into());
        Some(Visit { client: self.client, now: self.now, lasts })
    }

    fn may_try(&self, target: Target) -> bool {
        self.targets.binary_search(&target).is_ok()
            && (self.tried.is_first() || self.tried.candidates(self.targets).contains(&target))
    }
}

#[derive(Debug)]
pub(super) struct Chosen {
    pub endpoint: Held,
    /// How many there were to choose from.
    pub candidates: usize,
}

impl Picker {
    /// The client's pinned endpoint if it may be tried, else the balancer's choice, which is the
    /// client's from now on: who connects at the same time goes there too. `None`: it is time to
    /// give up.
    pub(super) fn choose(&mut self, ask: &Ask<'_>) -> Option<Chosen> {
        let visit = ask.visit();
        let pinned = visit.as_ref().and_then(|visit| self.pins.get(visit));
        let pinned = pinned
            .filter(|target| ask.may_try(*target) && !self.ejections.is_out(*target, ask.now));
        let (target, candidates) = match pinned {
            Some(target) => (target, ask.targets.len()),
            None => self.spread(ask)?,
        };
        self.ejections.chosen(target, ask.now);
        if let Some(visit) = visit {
            self.pins.set(&visit, target);
        }
        self.turns += 1;
        let turn = self.turns;
        let endpoint = self.endpoint(target);
        endpoint.has_turn(turn);
        Some(Chosen { endpoint: Held::new(endpoint), candidates })
    }

    fn spread(&mut self, ask: &Ask<'_>) -> Option<(Target, usize)> {
        let left;
        let candidates: &[Target] = if ask.tried.is_first() && self.ejections.is_empty() {
            ask.targets
        } else {
            let untried = ask.tried.candidates(ask.targets);
            left = self.ejections.without_ejected(untried, ask.targets, ask.now);
            &left
        };
        let target = match (candidates, ask.balancer) {
            ([], _) => return None,
            ([only], _) => *only,
            (_, Balancer::Random) => any(candidates, ask.random),
            (_, Balancer::LeastConnections) => self.less_busy(two(candidates, ask.random)),
            (_, Balancer::RoundRobin) => {
                let next = candidates.partition_point(|target| Some(*target) <= self.last);
                candidates[next % candidates.len()]
            }
            (_, Balancer::Maglev) => {
                let owners = ask.maglev.into_iter().flat_map(|maglev| maglev.of(ask.client));
                let mut owners = owners.filter_map(|place| ask.targets.get(place).copied());
                owners
                    .find(|target| candidates.binary_search(target).is_ok())
                    .unwrap_or_else(|| any(candidates, ask.random))
            }
        };
        self.last = Some(target);
        Some((target, candidates.len()))
    }

    /// Two that are chosen at random and the better of them: as good as the best of all where many
    /// choose at once, and nobody walks over all. Of two that are as busy it is the one whose turn
    /// is longer ago: by lot, an endpoint whose connections take longer to end than the next one
    /// takes to come would stay behind the others however little there is to do.
    fn less_busy(&self, [one, other]: [Target; 2]) -> Target {
        let burden = |target: &Target| {
            self.endpoints.get(target).map(|endpoint| (endpoint.active(), endpoint.turn()))
        };
        if burden(&other) < burden(&one) { other } else { one }
    }

    pub(super) fn hold(&mut self, target: Target) -> Held {
        Held::new(self.endpoint(target))
    }

    /// What the next process is to remember.
    pub(super) fn memory(&self, now: Instant) -> PickerMemory {
        PickerMemory { pins: self.pins.ages(now), ejections: self.ejections.out(now) }
    }

    /// Takes over what a former process remembered.
    pub(super) fn remember(&mut self, memory: PickerMemory, now: Instant) {
        self.pins.restore(memory.pins, now);
        self.ejections.restore(memory.ejections, now);
    }

    fn endpoint(&mut self, target: Target) -> &Arc<Endpoint> {
        self.endpoints.entry(target).or_insert_with(|| Arc::new(Endpoint::new(target)))
    }

    /// A dial that counts against the endpoint: it loses the client, and if that goes on, all.
    pub(super) fn failed(&mut self, ask: &Ask<'_>, target: Target, failure: Failure) {
        let judged = self.ejections.failed(target, failure, ask.targets, ask.now);
        self.lost((ask.client, target), judged);
    }

    /// The same of a connection that the endpoint took, and broke off before it said anything.
    pub(super) fn broke_off(&mut self, ask: &Ask<'_>, target: Target) {
        let heard = self.endpoint(target).received.get();
        let judged = self.ejections.broke_off(target, heard, ask.targets, ask.now);
        self.lost((ask.client, target), judged);
    }

    fn lost(&mut self, (client, target): (IpAddr, Target), judged: Judged) {
        self.pins.reset(client, target);
        let endpoint = self.endpoint(target);
        endpoint.failed.add(1);
        if judged == Judged::Ejected {
            endpoint.ejections.add(1);
        }
    }

    pub(super) fn connected(&mut self, target: Target) {
        self.ejections.connected(target);
    }

    /// Only these are endpoints still. What has an open connection is counted on until it ends.
    pub(super) fn retain(&mut self, is_endpoint: impl Fn(Target) -> bool) {
        self.ejections.retain(&is_endpoint);
        self.endpoints.retain(|target, held| is_endpoint(*target) || Arc::strong_count(held) > 1);
    }

    /// Only with these connections stay open.
    pub(super) fn end_others(&self, stays: impl Fn(Target) -> bool, ends_at: Instant) {
        for (target, endpoint) in &self.endpoints {
            if stays(*target) { endpoint.deadline.lift() } else { endpoint.deadline.set(ends_at) }
        }
    }

    /// Connections look again at what holds for them.
    pub(super) fn tell_all(&self) {
        self.endpoints.values().for_each(|endpoint| endpoint.deadline.tell());
    }

    pub(super) fn unpin_all(&mut self) {
        self.pins.clear();
    }

    /// Whether nothing is counted of any endpoint.
    pub(super) fn is_unused(&self) -> bool {
        self.endpoints.is_empty()
    }

    pub(super) fn unpinned(&self) -> u64 {
        self.pins.unpinned()
    }

    /// Sorted by target.
    pub(super) fn counts(&self, now: Instant) -> Vec<EndpointCounts> {
        let counts = |endpoint: &Arc<Endpoint>| EndpointCounts {
            target: endpoint.target,
            active: endpoint.active(),
            opened: endpoint.opened.get(),
            failed: endpoint.failed.get(),
            sent: endpoint.sent.get(),
            received: endpoint.received.get(),
            ejections: endpoint.ejections.get(),
            requests: endpoint.requests.get(),
            broken: endpoint.broken.get(),
            retried: endpoint.retried.get(),
            ejected: self.ejections.is_out(endpoint.target, now),
        };
        let mut all: Vec<_> = self.endpoints.values().map(counts).collect();
        all.sort_unstable_by_key(|endpoint| endpoint.target);
        all
    }
}

/// `candidates` is not empty.
fn any(candidates: &[Target], random: u64) -> Target {
    candidates[place(random, candidates.len())]
}

/// Different ones; there are two or more.
fn two(candidates: &[Target], random: u64) -> [Target; 2] {
    let one = place(random & 0xffff_ffff, candidates.len());
    let other = place(random >> 32, candidates.len() - 1);
    let other = if other < one { other } else { other + 1 };
    [candidates[one], candidates[other]]
}

fn place(random: u64, count: usize) -> usize {
    usize::try_from(random % count as u64).expect("less than `count`")
}
