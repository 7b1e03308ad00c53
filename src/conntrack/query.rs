//! Which questions to ask the kernel. PURE.

use super::stale::{Audit, Cause, Suspects, in_service_range};
use crate::model::{Family, Protocol};
use crate::planner::{FrontendAddress, FrontendKey, Plan, Served};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

/// Each question is a walk of the kernel over its whole table; beyond this number one walk that
/// hands out every UDP entry is cheaper.
const FEW: usize = 8;

/// How entries are deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeleteBy {
    /// By a filter where it says all, else one by one. Only where the kernel honours the filter
    /// on deletion (≥ 6.12): 5.8 to 6.11 refuse it, older ones take it for "flush everything".
    Filter,
    /// Always one by one.
    Entry,
}

/// Entries to list: of one family and protocol, and more exactly where the kernel can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Query {
    pub family: Family,
    pub protocol: Protocol,
    pub original: Original,
    pub phase: Phase,
}

/// Which TCP connections; nothing is said of another protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Established, and not over.
    Open,
    /// Nobody has answered yet.
    Unanswered,
}

/// What a query says of the original direction.
///
/// There is no IPv6 address here: the kernel's comparison of them is inverted (seen from 5.8, when
/// filters came, to 6.18), so a filter matches all addresses but the one it names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Original {
    Any,
    ToPort(u16),
    To(Ipv4Addr, u16),
    FromPort(u16),
    From(Ipv4Addr, u16),
}

/// One step of a removal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Removal {
    /// Delete every UDP entry with this original destination.
    Everything(Ipv4Addr, u16),
    /// List, judge, delete one by one.
    Judged(Query),
}

/// The steps that reach every suspected flow, each once.
pub fn plan_removals(suspects: &Suspects, plan: &Plan, by: DeleteBy) -> BTreeSet<Removal> {
    if suspects.audit != Audit::No {
        let unanswered = |family| Query { phase: Phase::Unanswered, ..any(family, Protocol::Tcp) };
        let of = |family| [any(family, Protocol::Udp), unanswered(family)].map(Removal::Judged);
        return Family::BOTH.into_iter().flat_map(of).collect();
    }
    let all = suspects.frontends.keys();
    let appeared = suspects.frontends.iter().filter(|(_, cause)| **cause == Cause::Appeared);
    // The kernel compares with both ends of a flow, or with one: either end is a question.
    let backward = appeared.map(|(frontend, _)| Removal::Judged(narrow(*frontend).turned()));
    let steps = all.clone().map(|frontend| removal(*frontend, plan, by)).chain(backward);
    let steps: BTreeSet<Removal> = steps.collect();
    if steps.len() > FEW { few(all).into_iter().map(Removal::Judged).collect() } else { steps }
}

/// The listings that reach every flow to these frontends, few enough for the kernel's sake.
pub fn queries<'a>(frontends: impl ExactSizeIterator<Item = &'a FrontendKey>) -> BTreeSet<Query> {
    if frontends.len() > FEW { few(frontends) } else { frontends.copied().map(narrow).collect() }
}

/// One for each family and protocol.
fn few<'a>(frontends: impl Iterator<Item = &'a FrontendKey>) -> BTreeSet<Query> {
    frontends.map(|frontend| any(frontend.at.family(), frontend.protocol)).collect()
}

fn any(family: Family, protocol: Protocol) -> Query {
    Query { family, protocol, original: Original::Any, phase: Phase::Open }
}

impl Query {
    /// The same flows the other way round.
    fn turned(self) -> Self {
        let original = match self.original {
            Original::Any => Original::Any,
            Original::ToPort(port) => Original::FromPort(port),
            Original::To(address, port) => Original::From(address, port),
            Original::FromPort(port) => Original::ToPort(port),
            Original::From(address, port) => Original::To(address, port),
        };
        Self { original, ..self }
    }
}

/// As exactly as the kernel can tell.
fn narrow(frontend: FrontendKey) -> Query {
    let FrontendKey { at, protocol, port } = frontend;
    let original = match at {
        FrontendAddress::Address(IpAddr::V4(address)) => Original::To(address, port),
        // A node port of IPv4 has many addresses; one walk by port serves them all.
        FrontendAddress::Address(IpAddr::V6(_)) | FrontendAddress::NodePort(_) => {
            Original::ToPort(port)
        }
    };
    Query { family: at.family(), protocol, original, phase: Phase::Open }
}

fn removal(frontend: FrontendKey, plan: &Plan, by: DeleteBy) -> Removal {
    match narrow(frontend).original {
        Original::To(address, port)
            if by == DeleteBy::Filter && all_are_stale(plan, frontend, address) =>
        {
            Removal::Everything(address, port)
        }
        _ => Removal::Judged(narrow(frontend)),
    }
}

/// No endpoint answers, also as a node port, if the address is the node's own; and nobody but a
/// service has the address and port.
fn all_are_stale(plan: &Plan, frontend: FrontendKey, address: Ipv4Addr) -> bool {
    let served = |at| plan.udp.get(&FrontendKey { at, ..frontend });
    let is_nobody = |served: &Served| match served {
        Served::Endpoints(endpoints) => endpoints.is_empty(),
        Served::Relay { .. } => false,
    };
    let node_port = served(FrontendAddress::NodePort(frontend.at.family()));
    let held = served(frontend.at);
    held.is_none_or(is_nobody)
        && node_port.is_none_or(is_nobody)
        && (held.is_some() || in_service_range(plan, address.into()))
}
