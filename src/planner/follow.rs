//! The next plan of a service from the one before, where nothing but slices changed.
//!
//! In: a plan, and what was known and is known now. Out: the plan that would be made from nothing.
//! Never: a look at endpoints of a slice that stayed the same, but once to begin with.

use super::endpoints::{PortRef, locality, without};
use super::hints::Tally;
use super::{Carrier, Member, PortPlan, ServicePlan, Target};
use crate::model::{
    Endpoint, EndpointSet, EndpointSlice, EndpointSource, Family, Known, NodeFacts, Protocol,
    SliceOrigin, TrafficPolicy,
};
use smallvec::SmallVec;
use std::cmp::Ordering;
use std::net::IpAddr;
use std::sync::Arc;

/// What must be known of a plan's endpoints to follow them one by one. It is known only of a service
/// whose ports all lead to the same endpoints, each mention of which is either in every pool or idle:
/// of slices, TCP or SCTP by the kernel, under policy Cluster. It is followed while an endpoint is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Footing {
    tallies: [Tally; 2],
}

/// Whether a list hangs on conditions that the pools do not tell.
fn needs_serving(port: &PortPlan) -> bool {
    port.protocol == Protocol::Udp || matches!(port.carrier, Carrier::Relay(_))
}

impl Footing {
    /// Costs a look at every endpoint. `plan` is what `known` makes with these facts.
    pub(super) fn of(plan: &ServicePlan, known: &Known, facts: &NodeFacts) -> Option<Self> {
        let service = known.service.as_deref()?;
        let anywhere = |policy| policy == TrafficPolicy::Cluster;
        let simple = anywhere(service.internal_policy)
            && anywhere(service.external_policy)
            && known.source() == Some(EndpointSource::Slices)
            && plan.health.is_none()
            && !plan.ports.iter().any(needs_serving);
        if !simple || !Family::BOTH.into_iter().all(|family| is_partition(plan, known, family)) {
            return None;
        }
        let mut tallies = [Tally::default(); 2];
        for set in known.sets() {
            let tally = &mut tallies[set.family.index()];
            let ready = set.endpoints.iter().filter(|endpoint| endpoint.conditions.ready);
            ready.for_each(|endpoint| tally.add(endpoint, facts));
        }
        Some(Self { tallies })
    }

    /// The plan of what is known now, and what it stands on. `None` where it must be made from
    /// nothing. Who holds the frontends is taken over from the former plan.
    pub(super) fn follow(
        &self,
        plan: &ServicePlan,
        (before, now): (&Known, &Known),
        facts: &NodeFacts,
    ) -> Option<(ServicePlan, Self)> {
        let same = now.service.is_some() && before.service == now.service;
        if !same || now.source() != Some(EndpointSource::Slices) {
            return None;
        }
        let turns = turns(&before.slices, &now.slices);
        let tallies = self.recount(&turns, facts)?;
        let mut next = plan.clone();
        let (mut gone, mut come, mut used) = (Vec::new(), Vec::new(), Vec::new());
        // Whoever moves from one slice to another goes first.
        for Part { set, endpoints } in turns.iter().filter_map(|turn| turn.gone) {
            let numbers = numbers(&next.ports, set)?;
            for endpoint in endpoints {
                if !self.uses(endpoint, facts) {
                    gone.push(endpoint.address);
                    continue;
                }
                for &(port, number) in &numbers {
                    let target = Target { address: endpoint.address, port: number };
                    next.ports[port].cluster.remove(&target)?;
                }
            }
        }
        for Part { set, endpoints } in turns.iter().filter_map(|turn| turn.come) {
            let numbers = numbers(&next.ports, set)?;
            for endpoint in endpoints {
                if next.ports[numbers[0].0].has_endpoint(endpoint.address) {
                    return None;
                }
                if !self.uses(endpoint, facts) {
                    come.push(endpoint.address);
                    continue;
                }
                used.push(endpoint.address);
                let member = Member { locality: locality(endpoint, facts), terminating: false };
                for &(port, number) in &numbers {
                    let target = Target { address: endpoint.address, port: number };
                    next.ports[port].cluster.insert(target, member);
                }
            }
        }
        next.idle = turned(next.idle, gone, come)?;
        // Named by a slice that stayed the same, as not ready.
        if used.iter().any(|address| next.idle.binary_search(address).is_ok()) {
            return None;
        }
        Some((next, Self { tallies }))
    }

    /// While some endpoint is ready, whether this one is in the pools.
    fn uses(&self, endpoint: &Endpoint, facts: &NodeFacts) -> bool {
        let tally = self.tallies[Family::of(endpoint.address).index()];
        endpoint.conditions.ready && tally.topology().allows(endpoint, facts)
    }

    /// `None` where a turn brings other endpoints into question than its own.
    fn recount<'a>(&self, turns: &[Turn<'a>], facts: &NodeFacts) -> Option<[Tally; 2]> {
        let (mut tallies, mut touched) = (self.tallies, [false; 2]);
        type Count = fn(&mut Tally, &Endpoint, &NodeFacts);
        let counts =
            |turn: &Turn<'a>| [(turn.gone, Tally::remove as Count), (turn.come, Tally::add)];
        for (part, count) in turns.iter().flat_map(counts) {
            let Some(part) = part else { continue };
            let family = part.set.family.index();
            touched[family] = true;
            part.ready().for_each(|endpoint| count(&mut tallies[family], endpoint, facts));
        }
        let stays = |family: Family| {
            let [before, now] = [self.tallies, tallies].map(|tallies| tallies[family.index()]);
            let same = before.ready > 0 && now.ready > 0 && before.topology() == now.topology();
            same || !touched[family.index()]
        };
        Family::BOTH.into_iter().all(stays).then_some(tallies)
    }
}

/// Whether each endpoint of a family stands once in every pool of its ports, or once among the idle.
fn is_partition(plan: &ServicePlan, known: &Known, family: Family) -> bool {
    let sets = || known.sets().filter(|set| set.family == family && !set.endpoints.is_empty());
    let mentions: usize = sets().map(|set| set.endpoints.len()).sum();
    let idle = plan.idle.iter().filter(|address| Family::of(**address) == family).count();
    let mut ports = plan.ports.iter().filter(|port| port.family == family);
    sets().all(|set| numbers(&plan.ports, set).is_some())
        && ports.all(|port| port.local.is_empty() && port.cluster.len() + idle == mentions)
}

/// The ports of a set's family, by their places, each with the one target port that the set has for
/// it. `None` where there are none, or a port has several, or none.
fn numbers(ports: &[PortPlan], set: &EndpointSet) -> Option<SmallVec<[(usize, u16); 2]>> {
    let of_family = ports.iter().enumerate().filter(|(_, port)| port.family == set.family);
    let number = |(at, port): (usize, &PortPlan)| {
        let port = PortRef { name: &port.name, protocol: port.protocol, family: port.family };
        let mut numbers = port.numbers(set);
        numbers.next().filter(|_| numbers.next().is_none()).map(|number| (at, number))
    };
    let numbers = of_family.map(number).collect::<Option<SmallVec<_>>>()?;
    (!numbers.is_empty()).then_some(numbers)
}

/// Idle addresses without some and with others. `None` if one would be there twice.
fn turned(
    idle: Box<[IpAddr]>,
    mut gone: Vec<IpAddr>,
    mut come: Vec<IpAddr>,
) -> Option<Box<[IpAddr]>> {
    if gone.is_empty() && come.is_empty() {
        return Some(idle);
    }
    let mut idle = idle.into_vec();
    gone.sort_unstable();
    without(&mut idle, gone.into_iter());
    idle.append(&mut come);
    idle.sort_unstable();
    let twice = idle.windows(2).any(|pair| pair[0] == pair[1]);
    (!twice).then(|| idle.into())
}

/// What a slice has and did not have before, or the other way round.
#[derive(Clone, Copy)]
struct Part<'a> {
    set: &'a EndpointSet,
    endpoints: &'a [Endpoint],
}

impl<'a> Part<'a> {
    fn ready(self) -> impl Iterator<Item = &'a Endpoint> {
        self.endpoints.iter().filter(|endpoint| endpoint.conditions.ready)
    }
}

/// A slice that changed; a part without endpoints is left out.
struct Turn<'a> {
    gone: Option<Part<'a>>,
    come: Option<Part<'a>>,
}

impl<'a> Turn<'a> {
    fn between(before: Option<&'a EndpointSet>, now: Option<&'a EndpointSet>) -> Self {
        let endpoints = |set: Option<&'a EndpointSet>| set.map_or(&[][..], |set| &set.endpoints);
        let (mut gone, mut come) = (endpoints(before), endpoints(now));
        let like = |set: &'a EndpointSet| (set.family, &set.ports);
        if before.map(like) == now.map(like) {
            // Mostly one of many differs.
            let first = gone.iter().zip(come).take_while(|(one, other)| one == other).count();
            (gone, come) = (&gone[first..], &come[first..]);
            let pairs = gone.iter().rev().zip(come.iter().rev());
            let last = pairs.take_while(|(one, other)| one == other).count();
            (gone, come) = (&gone[..gone.len() - last], &come[..come.len() - last]);
        }
        let part = |set: Option<&'a EndpointSet>, endpoints: &'a [Endpoint]| {
            set.filter(|_| !endpoints.is_empty()).map(|set| Part { set, endpoints })
        };
        Self { gone: part(before, gone), come: part(now, come) }
    }
}

/// The slices that changed. Both lists are sorted by key, as the store keeps them.
fn turns<'a>(
    before: &'a [Arc<EndpointSlice>],
    now: &'a [Arc<EndpointSlice>],
) -> SmallVec<[Turn<'a>; 2]> {
    let set = |slice: Option<&'a Arc<EndpointSlice>>| {
        slice.filter(|slice| slice.origin == SliceOrigin::Own).map(|slice| &slice.set)
    };
    let (mut before, mut now) = (before.iter().peekable(), now.iter().peekable());
    let mut turns = SmallVec::new();
    loop {
        let order = match (before.peek(), now.peek()) {
            // Most are, and are not even looked into.
            (Some(one), Some(other)) if Arc::ptr_eq(one, other) => {
                before.next();
                now.next();
                continue;
            }
            (Some(one), Some(other)) => one.key.cmp(&other.key),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => return turns,
        };
        let one = before.next_if(|_| order.is_le());
        let other = now.next_if(|_| order.is_ge());
        turns.push(Turn::between(set(one), set(other)));
    }
}
