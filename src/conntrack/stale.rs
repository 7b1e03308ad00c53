//! Which flows are stale. PURE.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use crate::model::{Family, Protocol, ServiceKey};
use crate::planner::{
    FrontendAddress, FrontendKey, NodePlan, Plan, PlanDelta, Served, ServicePlan, Target,
};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

/// What conntrack knows of a connection, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Flow {
    pub protocol: Protocol,
    /// Original direction: the client.
    pub source: Target,
    /// Original direction: what the client asked for.
    pub destination: Target,
    /// Source of the reply direction: who really answers. Equal to `destination` without DNAT.
    pub answerer: Target,
    /// Destination of the reply direction: who the answerer talks to. Equal to `source` without
    /// SNAT.
    pub asker: Target,
}

impl Flow {
    fn is_translated(&self) -> bool {
        self.answerer != self.destination
    }
}

/// Why flows at a frontend may be stale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cause {
    /// Who answered there may be gone.
    Changed,
    /// Nothing was translated there before: flows passed as they were.
    Appeared,
}

/// Frontends that a change may have left stale flows at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stale(BTreeMap<FrontendKey, Cause>);

impl Stale {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = (FrontendKey, Cause)> {
        self.0.iter().map(|(at, cause)| (*at, *cause))
    }

    pub fn retain(&mut self, mut keep: impl FnMut(&FrontendKey) -> bool) {
        self.0.retain(|at, _| keep(at));
    }
}

impl Extend<(FrontendKey, Cause)> for Stale {
    /// What appeared and has changed since still appeared.
    fn extend<T: IntoIterator<Item = (FrontendKey, Cause)>>(&mut self, more: T) {
        for (at, cause) in more {
            let known = self.0.entry(at).or_insert(cause);
            *known = cause.max(*known);
        }
    }
}

impl FromIterator<(FrontendKey, Cause)> for Stale {
    fn from_iter<T: IntoIterator<Item = (FrontendKey, Cause)>>(all: T) -> Self {
        let mut stale = Self::default();
        stale.extend(all);
        stale
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Keep,
    Remove,
}

/// The UDP frontends that a change may have left stale flows at: those that appeared (a flow may
/// have passed untranslated before; through the relay all did), vanished, went to another service or
/// to the relay, or whose port lost a serving endpoint. A port that only gained endpoints leaves none.
///
/// What is stale there is decided later, by [`Suspects::judge`] and the plan of that moment: a set
/// of endpoints to keep taken from here would condemn flows to endpoints added meanwhile.
pub fn stale(delta: &PlanDelta) -> Stale {
    #[derive(PartialEq)]
    enum By {
        Kernel,
        Relay,
    }
    type Holders<'a> = BTreeMap<FrontendKey, (&'a ServiceKey, &'a [Target], By)>;
    fn collect<'a>(holders: &mut Holders<'a>, plan: &'a ServicePlan) {
        for (port, frontend) in plan.held() {
            if port.protocol == Protocol::Udp {
                let by = if port.relay_of(frontend).is_some() { By::Relay } else { By::Kernel };
                holders.insert(frontend.at, (&plan.key, &port.serving, by));
            }
        }
    }
    let (mut old, mut new) = (Holders::new(), Holders::new());
    for change in &delta.services {
        if let Some(plan) = &change.old {
            collect(&mut old, plan);
        }
        if let Some(plan) = &change.new {
            collect(&mut new, plan);
        }
    }
    let appeared = new.iter().filter(|(at, (.., by))| {
        old.get(at).is_none_or(|(.., former)| *former == By::Relay && *by == By::Kernel)
    });
    let changed = old.iter().filter(|(at, (holder, serving, by))| {
        new.get(at).is_none_or(|(new_holder, new_serving, new_by)| {
            holder != new_holder || by != new_by || !is_subset(serving, new_serving)
        })
    });
    let appeared = appeared.map(|(at, _)| (*at, Cause::Appeared));
    appeared.chain(changed.map(|(at, _)| (*at, Cause::Changed))).collect()
}

/// The same for node ports, where they answer at other addresses than before: every UDP node port,
/// as it is and as it was, at each address that left or came. Costs O(node ports), and nothing
/// while the addresses are the same.
pub fn stale_node_ports(former: &NodePlan, delta: &PlanDelta, plan: &Plan) -> Stale {
    let mut moved: Vec<(IpAddr, Cause)> = Vec::new();
    if let Some(node) = &delta.node {
        let mut add = |one: &NodePlan, other: &NodePlan, cause| {
            let only =
                one.node_port_addresses.iter().filter(|ip| !other.answers_node_ports_at(**ip));
            moved.extend(only.map(|ip| (*ip, cause)));
        };
        add(former, node, Cause::Changed);
        add(node, former, Cause::Appeared);
    }
    if moved.is_empty() {
        return Stale::default();
    }
    let first = FrontendAddress::NodePort(Family::V4);
    let first = FrontendKey { at: first, protocol: Protocol::Tcp, port: 0 };
    let now = plan.udp.range(first..).map(|(at, _)| *at);
    let before = delta.services.iter().filter_map(|change| change.old.as_deref());
    let before = before.flat_map(ServicePlan::held).map(|(_, frontend)| frontend.at);
    let is_udp_node_port = |at: &FrontendKey| at.protocol == Protocol::Udp && at.at >= first.at;
    let ports: BTreeSet<FrontendKey> = now.chain(before.filter(is_udp_node_port)).collect();
    let at = |(address, cause): (IpAddr, Cause)| {
        let of_family = move |port: &&FrontendKey| port.at.family() == Family::of(address);
        let at = FrontendAddress::Address(address);
        ports.iter().filter(of_family).map(move |port| (FrontendKey { at, ..*port }, cause))
    };
    moved.into_iter().flat_map(at).collect()
}

/// Both sorted.
fn is_subset(part: &[Target], whole: &[Target]) -> bool {
    part.iter().all(|target| whole.binary_search(target).is_ok())
}

/// Whether a flow may stay, whatever the plan was before: for a start, when nobody knows what
/// went in the meantime.
///
/// Goes: a flow to a held frontend that none of its serving endpoints answers, also where conntrack
/// has it the other way round; and a translated flow to an address of a service range that no
/// service holds. A former external address or node port leaves no trace that tells it from a
/// foreign one, so those stay.
pub fn judge(plan: &Plan, flow: &Flow) -> Verdict {
    match judge_forward(plan, flow) {
        Verdict::Keep if is_backward(plan, flow) => Verdict::Remove,
        verdict => verdict,
    }
}

fn judge_forward(plan: &Plan, flow: &Flow) -> Verdict {
    if flow.protocol != Protocol::Udp {
        return Verdict::Keep;
    }
    match served(plan, flow.destination) {
        Some(served) => answered(served, plan, flow),
        None => {
            let of_a_service = in_service_range(plan, flow.destination.address);
            if of_a_service && flow.is_translated() { Verdict::Remove } else { Verdict::Keep }
        }
    }
}

/// Whether a held frontend is the flow's source: of a flow that passed untranslated before the
/// frontend appeared, conntrack saw an answer first (its entry went, and a late answer made
/// another). The client's packets then belong to it as replies, and no rule sees them.
///
/// A serving endpoint at the frontend's own address (of the node's own network) answers there
/// rightly, translated or not. So does the relay, which no translation leads to.
pub(super) fn is_backward(plan: &Plan, flow: &Flow) -> bool {
    let untranslated = !flow.is_translated() && flow.asker == flow.source;
    let wrong = |served: &Served| match served {
        Served::Endpoints(endpoints) => among(endpoints, flow.source) == Verdict::Remove,
        Served::Relay { .. } => false,
    };
    flow.protocol == Protocol::Udp && untranslated && served(plan, flow.source).is_some_and(wrong)
}

/// Whether a connection that nobody has answered yet passed untranslated to a held frontend, when the
/// rules were not there: conntrack keeps it so for each try of its client, and for two minutes after
/// the last. Deleted it costs nobody anything, and the next try is translated.
pub(super) fn is_stranded(plan: &Plan, flow: &Flow) -> bool {
    let mut candidates = candidates(plan, flow.protocol, flow.destination).into_iter().flatten();
    !flow.is_translated() && candidates.any(|at| plan.claims.holder(&at).is_some())
}

/// What is to be looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Suspects {
    pub frontends: HashMap<FrontendKey, Cause>,
    pub audit: Audit,
}

/// Whether every flow is to be looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Audit {
    #[default]
    No,
    /// As its client sees it.
    Forward,
    /// And the other way round.
    All,
}

impl Suspects {
    /// Whether a flow may stay: one to a suspected frontend only if a serving endpoint of who
    /// holds it by now answers. Where nobody does, outside the service ranges, what passes as it
    /// is may be somebody else's by now (a process of this node), and would come back for ever.
    pub fn judge(&self, plan: &Plan, flow: &Flow) -> Verdict {
        if flow.protocol == Protocol::Tcp && self.audit != Audit::No && is_stranded(plan, flow) {
            return Verdict::Remove;
        }
        if flow.protocol != Protocol::Udp {
            return Verdict::Keep;
        }
        let appeared = self.cause(plan, flow.source) == Some(Cause::Appeared);
        if (appeared || self.audit == Audit::All) && is_backward(plan, flow) {
            return Verdict::Remove;
        }
        if self.cause(plan, flow.destination).is_some() {
            return match served(plan, flow.destination) {
                Some(served) => answered(served, plan, flow),
                None if flow.is_translated() => Verdict::Remove,
                None if in_service_range(plan, flow.destination.address) => Verdict::Remove,
                None => Verdict::Keep,
            };
        }
        match self.audit {
            Audit::All | Audit::Forward => judge_forward(plan, flow),
            Audit::No => Verdict::Keep,
        }
    }

    fn cause(&self, plan: &Plan, at: Target) -> Option<Cause> {
        let candidates = candidates(plan, Protocol::Udp, at).into_iter().flatten();
        candidates.filter_map(|at| self.frontends.get(&at).copied()).max()
    }
}

/// Whether who answers a flow is who may. The relay's clients are translated nowhere, so what is
/// translated is from before it; but for the node's own at frontends that not everybody may ask.
fn answered(served: &Served, plan: &Plan, flow: &Flow) -> Verdict {
    match served {
        Served::Endpoints(endpoints) => among(endpoints, flow.answerer),
        Served::Relay { .. } if !flow.is_translated() => Verdict::Keep,
        Served::Relay { own: Some(endpoints) } if plan.facts.owns(flow.source.address) => {
            among(endpoints, flow.answerer)
        }
        Served::Relay { .. } => Verdict::Remove,
    }
}

fn among(serving: &[Target], answerer: Target) -> Verdict {
    if serving.binary_search(&answerer).is_ok() { Verdict::Keep } else { Verdict::Remove }
}

/// The frontends that a destination may be, in the order in which packets meet them. A node port
/// only counts where node ports answer: elsewhere the same number is somebody else's.
pub(super) fn candidates(
    plan: &Plan,
    protocol: Protocol,
    destination: Target,
) -> [Option<FrontendKey>; 2] {
    let Target { address, port } = destination;
    let key = |at| FrontendKey { at, protocol, port };
    let own = plan.node.answers_node_ports_at(address);
    [
        Some(key(FrontendAddress::Address(address))),
        own.then(|| key(FrontendAddress::NodePort(Family::of(address)))),
    ]
}

/// Whether an address can only be a service's.
pub(super) fn in_service_range(plan: &Plan, address: IpAddr) -> bool {
    plan.node.service_ranges.iter().any(|range| range.contains(&address))
}

/// Who may answer for a destination; `None` if no service holds it.
fn served(plan: &Plan, destination: Target) -> Option<&Served> {
    let candidates = candidates(plan, Protocol::Udp, destination);
    candidates.into_iter().flatten().find_map(|at| plan.udp.get(&at))
}
