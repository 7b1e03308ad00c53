//! Which endpoints of a service port may be used from this node.

use super::hints::{Tally, Topology};
use super::{EndpointUse, Locality, Member, Pool, Scope, Target};
use crate::model::{
    Endpoint, EndpointPort, EndpointSet, Family, Known, NodeFacts, PortName, Protocol,
};
use std::net::IpAddr;

/// A service port in one family; endpoints carry the same name and protocol.
#[derive(Debug, Clone, Copy)]
pub(super) struct PortRef<'a> {
    pub(super) name: &'a PortName,
    pub(super) protocol: Protocol,
    pub(super) family: Family,
}

impl PortRef<'_> {
    /// The target ports that a set has for it.
    pub(super) fn numbers(self, set: &EndpointSet) -> impl Iterator<Item = u16> {
        let own = move |p: &&EndpointPort| p.name == *self.name && p.protocol == self.protocol;
        set.ports.iter().filter(own).map(|p| p.port)
    }
}

/// One mention of an endpoint.
#[derive(Clone, Copy)]
pub(super) struct Candidate<'a> {
    pub(super) target: Target,
    endpoint: &'a Endpoint,
    locality: Locality,
}

impl Candidate<'_> {
    /// As its slice says. `publishNotReadyAddresses` of the Service is for who writes the slice.
    fn is_ready(&self) -> bool {
        self.endpoint.conditions.ready
    }

    /// Good enough when nothing ready is left (KEP-1669).
    fn serves_while_terminating(&self) -> bool {
        let conditions = self.endpoint.conditions;
        !conditions.ready && conditions.serving && conditions.terminating
    }

    fn is_here(&self) -> bool {
        self.locality == Locality::Here
    }
}

/// Whether an endpoint runs on this node.
pub(super) fn locality(endpoint: &Endpoint, facts: &NodeFacts) -> Locality {
    match endpoint.place.node.as_deref() {
        None => Locality::Unknown,
        Some(node) if *node == *facts.name => Locality::Here,
        Some(_) => Locality::Elsewhere,
    }
}

/// Everything that could be said of a port's endpoints on this node.
pub(super) struct Choice<'a> {
    facts: &'a NodeFacts,
    /// One per target, sorted by target.
    candidates: Vec<Candidate<'a>>,
    /// Further mentions of the same targets.
    copies: Vec<Candidate<'a>>,
    topology: Topology,
    any_ready: bool,
    any_ready_here: bool,
    /// Every endpoint of the family has this port.
    complete: bool,
}

impl<'a> Choice<'a> {
    pub(super) fn new(known: &'a Known, facts: &'a NodeFacts, port: PortRef<'_>) -> Self {
        let Mentions { mut candidates, complete } = mentions(known, facts, port);
        in_order(&mut candidates, port.family);
        let mut copies = Vec::new();
        let mut last = None;
        for candidate in candidates
            .extract_if(.., |candidate| last.replace(candidate.target) == Some(candidate.target))
        {
            copies.push(candidate);
        }
        let mut tally = Tally::default();
        let ready = candidates.iter().filter(|candidate| candidate.is_ready());
        ready.for_each(|candidate| tally.add(candidate.endpoint, facts));
        let (topology, any_ready) = (tally.topology(), tally.ready > 0);
        let any_ready_here = candidates.iter().any(|c| c.is_ready() && c.is_here());
        Self { facts, candidates, copies, topology, any_ready, any_ready_here, complete }
    }

    /// Addresses of the family that are in neither of these pools of the port, sorted. `None` if
    /// some endpoints do not have the port.
    pub(super) fn unpooled(&self, pools: [&Pool; 2]) -> Option<Vec<IpAddr>> {
        if !self.complete {
            return None;
        }
        if pools.iter().any(|pool| pool.len() == self.candidates.len()) {
            return Some(Vec::new());
        }
        let mut left: Vec<IpAddr> = self.candidates.iter().map(|c| c.target.address).collect();
        left.dedup();
        for pool in pools {
            without(&mut left, pool.keys().map(|target| target.address));
        }
        Some(left)
    }

    /// The endpoints that connections of `scope` are spread over.
    pub(super) fn pool(&self, scope: Scope) -> Pool {
        self.candidates
            .iter()
            .filter_map(|candidate| {
                let terminating = match self.use_of(candidate, scope) {
                    EndpointUse::Used => false,
                    EndpointUse::UsedTerminating => true,
                    _ => return None,
                };
                let Candidate { target, locality, .. } = *candidate;
                Some((target, Member { locality, terminating }))
            })
            .collect()
    }

    /// Whether any node could serve this port: tells "nobody is there" from "not for you".
    pub(super) fn any_usable(&self) -> bool {
        self.any_ready || self.candidates.iter().any(Candidate::serves_while_terminating)
    }

    /// Addresses of ready endpoints on this node.
    pub(super) fn ready_here(&self) -> impl Iterator<Item = IpAddr> {
        self.candidates.iter().filter(|c| c.is_ready() && c.is_here()).map(|c| c.target.address)
    }

    /// Endpoints whose established flows may go on. What a slice calls ready is one of them, or its
    /// flows would be cut as often as they start.
    pub(super) fn serving(&self) -> Box<[Target]> {
        self.candidates
            .iter()
            .filter(|candidate| candidate.is_ready() || candidate.endpoint.conditions.serving)
            .map(|candidate| candidate.target)
            .collect()
    }

    /// Every mention with what becomes of it, sorted by target, the one that counts first.
    pub(super) fn uses(&self, scope: Scope) -> Vec<(Target, EndpointUse)> {
        let counted = self.candidates.iter().map(|c| (c.target, self.use_of(c, scope)));
        let copies = self.copies.iter().map(|c| (c.target, EndpointUse::Duplicate));
        let mut uses: Vec<_> = counted.chain(copies).collect();
        uses.sort_by_key(|(target, _)| *target);
        uses
    }

    fn use_of(&self, candidate: &Candidate<'_>, scope: Scope) -> EndpointUse {
        if !candidate.is_ready() && !candidate.serves_while_terminating() {
            let terminating = candidate.endpoint.conditions.terminating;
            return if terminating { EndpointUse::NotServing } else { EndpointUse::NotReady };
        }
        if scope == Scope::Local && !candidate.is_here() {
            return EndpointUse::NotLocal;
        }
        if candidate.is_ready() {
            // Hints never thin out a Local pool: every endpoint in it is on this node.
            let allowed = || self.topology.allows(candidate.endpoint, self.facts);
            return match (scope, self.topology) {
                (Scope::Cluster, Topology::ThisNode) if !allowed() => EndpointUse::OtherNode,
                (Scope::Cluster, Topology::ThisZone) if !allowed() => EndpointUse::OtherZone,
                _ => EndpointUse::Used,
            };
        }
        let better = match scope {
            Scope::Cluster => self.any_ready,
            Scope::Local => self.any_ready_here,
        };
        if better { EndpointUse::TerminatingUnneeded } else { EndpointUse::UsedTerminating }
    }
}

/// Takes `others` out of a sorted list; they are sorted too.
pub(super) fn without(list: &mut Vec<IpAddr>, others: impl Iterator<Item = IpAddr>) {
    let mut others = others.peekable();
    list.retain(|address| {
        while others.next_if(|other| other < address).is_some() {}
        others.peek() != Some(address)
    });
}

/// By target; of several mentions of one, the one that counts first. A pod's address may be taken
/// over while the former pod still terminates, and two slices may tell of one endpoint for a
/// moment. The sort is stable, and slices come by name.
fn in_order(candidates: &mut [Candidate<'_>], family: Family) {
    /// Fewer are not worth an allocation.
    const FEW: usize = 16;
    let lesser = |c: &Candidate<'_>| (c.endpoint.conditions.terminating, !c.is_here());
    if candidates.len() <= FEW {
        return candidates.sort_by_key(|candidate| (candidate.target, lesser(candidate)));
    }
    // In one number each: to compare addresses byte by byte takes most of the time of a sort.
    let low = |c: &Candidate<'_>| {
        let (terminating, elsewhere) = lesser(c);
        u32::from(c.target.port) << 2 | u32::from(terminating) << 1 | u32::from(elsewhere)
    };
    let bits = |c: &Candidate<'_>| match c.target.address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    };
    match family {
        Family::V4 => candidates.sort_by_cached_key(|c| (bits(c) as u64) << 32 | u64::from(low(c))),
        Family::V6 => candidates.sort_by_cached_key(|c| (bits(c), low(c))),
    }
}

struct Mentions<'a> {
    /// In the order of the slices.
    candidates: Vec<Candidate<'a>>,
    /// No set of the family lacks the port.
    complete: bool,
}

/// All that is said of endpoints for a port.
fn mentions<'a>(known: &'a Known, facts: &NodeFacts, port: PortRef<'_>) -> Mentions<'a> {
    let mut found = Mentions { candidates: Vec::new(), complete: true };
    for set in known.sets().filter(|set| set.family == port.family) {
        let mut has_port = false;
        for number in port.numbers(set) {
            has_port = true;
            found.candidates.extend(set.endpoints.iter().map(|endpoint| Candidate {
                target: Target { address: endpoint.address, port: number },
                endpoint,
                locality: locality(endpoint, facts),
            }));
        }
        found.complete &= has_port || set.endpoints.is_empty();
    }
    found
}
