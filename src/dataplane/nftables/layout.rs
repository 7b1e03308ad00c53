//! The table's chains. PURE.
//!
//! ```text
//!  prerouting ─┐  a frontend or node port   class chain
//!  (nat −100)  ├──────────────────────────► spread4-tcp-3 ── dnat to @endpoints[pool . random]
//!  output ─────┘  │                         sticky4-tcp-3-60 ─► pinned4-tcp-3 ── dnat to @pinned[token]
//!  (nat −100)     │                         refuse            └► spread4-tcp-3
//!                 │                         drop
//!                 │                         local4 ── a local pod, this node ─► as a cluster IP
//!                 │                                └─ from outside ─► @locals[pool] ─► class chain
//!                 ├─ guarded ─► guard4 ── not allowed ─► drop
//!                 ├─ a cluster IP, and not for everybody ── not from a local pod ─► drop
//!                 │  (prerouting alone)
//!                 └─ in a service range ──► unserved4 ── unused port of a cluster IP ─► refuse
//!                    or of a service                  ├─ TCP that opens nothing ─► refuse
//!                                                     └─ unallocated service address ─► drop
//!
//!  postrouting ── dnat'ed; to be masqueraded, ─► originals ── ours ─► ours4 ── record pin, clear
//!  (nat 100)      recorded or cleared, if ours                         │       priority, masquerade
//!                                              came from outside ──────┴─────► leave4, leave-local4
//!
//!  input ── dnat'ed ─► arrivals ── ours ─► arrived4 ── record pin, clear priority
//!  (nat 100; only for endpoints on this node)
//!
//!  invalid ── INVALID ─► stray ── of an endpoint, or who was one; to a service range or a
//!  (filter prerouting 0, output 0)                              frontend ─► drop
//! ```
//! The skeleton depends on the node and on little else ([`Needs`]). What grows with services are
//! elements; what grows with the *kinds* of services are class chains.
//!
//! Every packet passes `invalid` or `invalid-output`, and the first one of every connection the nat
//! chains, whether it is about services or not. So these begin with what is cheap and tells most packets apart:
//! comparisons with constants; and nobody is sent to another chain without need. (Linux 6.18 with
//! retpolines: a comparison costs 5 to 10 ns, another chain 10, a look-up in a hash table 30, in an
//! interval set 60, setting a meta key 25, a base chain 40.)

use super::classes::{ClassKey, Way};
use super::expr::{Expr, Rule, Verdict};
use super::rules;
use super::set::Set;
use crate::model::{Family, Protocol};
use crate::planner::{LocalDetector, NodePlan, Outsiders, Scope};
use ipnet::IpNet;
use std::borrow::Cow;
use std::num::NonZeroU32;

pub const TABLE: &str = "vipd";
/// Whose counters see the INVALID packets that are dropped.
pub const STRAY: &str = "stray";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    pub kind: &'static str,
    /// `enum nf_inet_hooks`
    pub number: u32,
    pub priority: i32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainDefinition {
    pub name: Cow<'static, str>,
    pub hook: Option<Hook>,
    pub rules: Vec<Rule>,
}

impl ChainDefinition {
    fn new(name: impl Into<Cow<'static, str>>, rules: Vec<Rule>) -> Self {
        Self { name: name.into(), hook: None, rules }
    }

    fn hooked(name: &'static str, hook: Hook, rules: Vec<Rule>) -> Self {
        Self { name: name.into(), hook: Some(hook), rules }
    }

    pub fn fingerprints(&self) -> Vec<u64> {
        self.rules.iter().map(Rule::fingerprint).collect()
    }
}

/// What the skeleton depends on.
#[derive(Debug, Clone, Copy)]
pub struct Needs<'a> {
    pub node: &'a NodePlan,
    pub features: [Features; 2],
}

/// What services of one family need of the skeleton: each is there while such a service is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Features {
    /// Sticky classes.
    pub sticky: bool,
    /// Frontends outside the service ranges.
    pub outside: bool,
    /// Classes for connections that do not come by a cluster IP.
    pub external: bool,
    /// Some of those under policy Local.
    pub local: bool,
    /// Frontends within the service ranges that are no cluster IPs.
    pub external_inside: bool,
    /// Endpoints at this node's own addresses.
    pub hosted: bool,
    pub node_ports: bool,
    /// Frontends that not everybody may ask.
    pub guarded: bool,
    /// How long the prefixes are of the networks that may.
    pub allowed: Lengths,
}

/// Lengths of networks' prefixes, from 1 to 128: there is no element that allows everybody.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lengths(u128);

impl Lengths {
    pub fn insert(&mut self, length: u8) {
        self.0 |= 1 << (length - 1);
    }

    /// The longest first: networks are mostly small.
    pub fn iter(self) -> impl Iterator<Item = u8> {
        (1..=128).rev().filter(move |length| self.0 >> (length - 1) & 1 == 1)
    }
}

impl<'a> Needs<'a> {
    fn of(self, family: Family) -> Features {
        self.features[family.index()]
    }

    fn ranges(self, family: Family) -> impl Iterator<Item = &'a IpNet> {
        self.node.service_ranges.iter().filter(move |net| Family::of(net.addr()) == family)
    }

    /// The one range that all cluster IPs of a family lie in, as far as is known.
    fn only_range(self, family: Family) -> Option<IpNet> {
        let mut ranges = self.ranges(family);
        let first = ranges.next().filter(|net| net.prefix_len() > 0)?;
        ranges.next().is_none().then_some(*first)
    }
}

/// Service ranges that are compared one by one: more would cost more than a look-up.
const FEW: usize = 4;

fn suffix(family: Family) -> char {
    match family {
        Family::V4 => '4',
        Family::V6 => '6',
    }
}

fn unserved_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "unserved4",
        Family::V6 => "unserved6",
    }
}

fn ours_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "ours4",
        Family::V6 => "ours6",
    }
}

/// Chains of the skeleton that are not always there.
pub const OPTIONAL: [&str; 11] = [
    "invalid",
    "invalid-output",
    STRAY,
    "input",
    "arrivals",
    arrived_name(Family::V4),
    arrived_name(Family::V6),
    local_name(Family::V4),
    local_name(Family::V6),
    guard_name(Family::V4),
    guard_name(Family::V6),
];

const fn arrived_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "arrived4",
        Family::V6 => "arrived6",
    }
}

/// Where connections under policy Local find out who they are.
const fn local_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "local4",
        Family::V6 => "local6",
    }
}

/// Where it shows who may ask that is not everybody.
const fn guard_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "guard4",
        Family::V6 => "guard6",
    }
}

/// The constant chains, every chain before those that refer to it.
pub fn skeleton(needs: Needs<'_>) -> Vec<ChainDefinition> {
    const NF_INET_PRE_ROUTING: u32 = 0;
    const NF_INET_LOCAL_IN: u32 = 1;
    const NF_INET_LOCAL_OUT: u32 = 3;
    const NF_INET_POST_ROUTING: u32 = 4;
    let nat = |number, priority| Hook { kind: "nat", number, priority };
    let mut chains =
        vec![ChainDefinition::new("refuse", vec![rules::reset_tcp(), rules::unreachable()])];
    for family in Family::BOTH {
        chains.push(ChainDefinition::new(unserved_name(family), unserved(family)));
        chains.push(ChainDefinition::new(ours_name(family), ours(needs, family)));
        if needs.of(family).local {
            chains.push(ChainDefinition::new(local_name(family), local(needs, family)));
        }
        if needs.of(family).guarded {
            let allowed = needs.of(family).allowed.iter();
            let allowed = allowed.map(|length| rules::return_if_allowed(family, length));
            let rules = allowed.chain([rules::drop()]).collect();
            chains.push(ChainDefinition::new(guard_name(family), rules));
        }
    }
    let all = Family::BOTH.into_iter();
    let found = all.clone().flat_map(|family| originals(needs, family, ours_name(family)));
    chains.push(ChainDefinition::new("originals", found.collect()));
    // Pins of endpoints on this node: what is delivered here passes no postrouting hook.
    let arriving = |family: &Family| needs.of(*family).sticky && needs.of(*family).hosted;
    if all.clone().any(|family| arriving(&family)) {
        for family in all.clone().filter(arriving) {
            let rules = vec![rules::by_class(Set::Recorders), rules::clear_priority()];
            chains.push(ChainDefinition::new(arrived_name(family), rules));
        }
        let found = all.clone().filter(arriving);
        let found = found.flat_map(|family| originals(needs, family, arrived_name(family)));
        chains.push(ChainDefinition::new("arrivals", found.collect()));
        chains.push(ChainDefinition::hooked(
            "input",
            nat(NF_INET_LOCAL_IN, 100),
            vec![rules::accept_unless_dnat(), rules::goto("arrivals".into())],
        ));
    }
    let arriving = all.clone().flat_map(|f| destinations(needs, f, outsiders(needs, f)));
    let prerouting = nat(NF_INET_PRE_ROUTING, -100);
    chains.push(ChainDefinition::hooked("prerouting", prerouting, arriving.collect()));
    let own = all.clone().flat_map(|family| destinations(needs, family, Vec::new()));
    chains.push(ChainDefinition::hooked("output", nat(NF_INET_LOCAL_OUT, -100), own.collect()));
    chains.push(ChainDefinition::hooked(
        "postrouting",
        nat(NF_INET_POST_ROUTING, 100),
        translated(needs),
    ));
    if needs.node.drop_invalid {
        let stray = Family::BOTH.into_iter().flat_map(|family| stray(needs, family));
        chains.push(ChainDefinition::new(STRAY, stray.collect()));
        chains.push(ChainDefinition::hooked(
            "invalid",
            Hook { kind: "filter", number: NF_INET_PRE_ROUTING, priority: 0 },
            vec![rules::if_invalid(STRAY.into())],
        ));
        // What this node sends, as a client or as an endpoint, passes no prerouting hook.
        chains.push(ChainDefinition::hooked(
            "invalid-output",
            Hook { kind: "filter", number: NF_INET_LOCAL_OUT, priority: 0 },
            vec![rules::if_invalid(STRAY.into())],
        ));
    }
    chains
}

/// Which of our frontends a translated connection was to.
fn originals(needs: Needs<'_>, family: Family, then: &'static str) -> Vec<Rule> {
    let ours = || then.into();
    let mut out: Vec<Rule> = Protocol::ALL
        .into_iter()
        .map(|protocol| rules::find_original(family, protocol, ours()))
        .collect();
    if needs.of(family).node_ports {
        let node_port = |protocol| rules::find_original_node_port(family, protocol, ours());
        out.extend(Protocol::ALL.into_iter().map(node_port));
    }
    out
}

/// INVALID packets of services: nobody translates them, so that they would show an endpoint's
/// address to a client, or be answered by whoever has the frontend's address.
fn stray(needs: Needs<'_>, family: Family) -> Vec<Rule> {
    let mut out = vec![rules::from_endpoint_counted(family), rules::from_departed_counted(family)];
    // All that is in a service range is a service's, or was.
    let ranges: Vec<IpNet> = needs.ranges(family).copied().collect();
    if ranges.len() <= FEW {
        out.extend(ranges.into_iter().map(rules::destination_within_counted));
    } else {
        out.push(rules::destination_in_counted(Set::Ranges(family), family));
    }
    out.push(rules::destination_in_counted(Set::Addresses(family), family));
    if needs.of(family).outside {
        out.push(rules::drop_service_counted(family));
    }
    if needs.of(family).node_ports {
        out.push(rules::drop_node_port_counted(family));
    }
    out.extend([rules::drop_closed_counted(family), rules::drop_closed_port_counted(family)]);
    out
}

/// Who is turned away at cluster IPs.
fn outsiders(needs: Needs<'_>, family: Family) -> Vec<Rule> {
    let by_input = |name| vec![rules::drop_from_other_input(family, name)];
    match (needs.node.outsiders, needs.node.local_detector(family)) {
        (Outsiders::Served, _) | (_, LocalDetector::None) => Vec::new(),
        (_, LocalDetector::Cidr(net)) if net.prefix_len() == 0 => Vec::new(),
        (_, LocalDetector::Cidr(net)) => vec![rules::drop_from_outside(*net)],
        (_, LocalDetector::Interface(name)) => by_input(rules::whole_name(name)),
        (_, LocalDetector::InterfacePrefix(prefix)) => by_input(prefix.as_bytes().to_vec()),
    }
}

/// What a destination of this family means: address and port of a service come before a node port.
/// `outsiders`: what is asked of connections that may be to a cluster IP.
fn destinations(needs: Needs<'_>, family: Family, outsiders: Vec<Rule>) -> Vec<Rule> {
    let unserved = || unserved_name(family).into();
    let features = needs.of(family);
    let node_port = features.node_ports.then(|| rules::find_node_port_class(family));
    let mut out = Vec::new();
    if features.guarded {
        out.push(rules::guard(family, guard_name(family).into()));
    }
    let ranges: Vec<IpNet> = needs.ranges(family).copied().collect();
    match (features.outside, needs.only_range(family)) {
        (false, Some(net)) => {
            out.extend(node_port);
            out.push(rules::accept_unless_to(net));
            out.extend(outsiders);
            out.push(rules::find_class(family));
            out.push(rules::if_family(family, unserved()));
        }
        (false, None) if ranges.is_empty() => out.extend(node_port),
        _ => {
            out.extend(outsiders);
            out.push(rules::find_class(family));
            out.extend(node_port);
            if ranges.len() <= FEW {
                out.extend(ranges.iter().map(|net| rules::destination_within(*net, unserved())));
            } else {
                out.push(rules::destination_in(Set::Ranges(family), family, unserved()));
            }
            out.push(rules::destination_in(Set::Addresses(family), family, unserved()));
        }
    }
    out
}

/// Connections under externalTrafficPolicy Local: local pods and this node are served as by a
/// cluster IP, everybody else by local endpoints or not at all.
fn local(needs: Needs<'_>, family: Family) -> Vec<Rule> {
    let inside = rules::going_inside;
    let mut out = match needs.node.local_detector(family) {
        LocalDetector::None => Vec::new(),
        LocalDetector::Cidr(net) if net.prefix_len() == 0 => vec![Rule(inside())],
        LocalDetector::Cidr(net) => vec![rules::from_inside(*net, inside())],
        LocalDetector::Interface(name) => {
            vec![rules::from_input(rules::whole_name(name), inside())]
        }
        LocalDetector::InterfacePrefix(prefix) => {
            vec![rules::from_input(prefix.as_bytes().to_vec(), inside())]
        }
    };
    out.extend([rules::from_this_node(inside()), rules::find_local(), rules::drop()]);
    out
}

/// Destinations that are the services' own, but no frontend.
fn unserved(family: Family) -> Vec<Rule> {
    vec![
        // A class that is not there any more: the client's next packet finds the new one.
        rules::drop_service(family),
        rules::destination_in(Set::Addresses(family), family, "refuse".into()),
        // Of a connection that nobody knows any more: of a service that is gone, mostly.
        rules::if_midway("refuse".into()),
        rules::drop(),
    ]
}

/// Of the first packets of connections that anybody translated, those with which something is to be
/// done if it was vipd: only for them the look-up that tells is worth its price. Most need nothing:
/// Linux gives a forwarded IPv4 packet a priority of its own (by its type of service, unless
/// `net.ipv4.ip_forward_update_priority` says no), and few are masqueraded.
fn translated(needs: Needs<'_>) -> Vec<Rule> {
    let mut out = vec![rules::accept_unless_dnat(), rules::if_priority("originals".into())];
    for family in Family::BOTH {
        let features = needs.of(family);
        let range = needs.only_range(family).filter(|_| !features.external_inside);
        let all = features.sticky || needs.node.masquerade_all;
        if all || (features.external && range.is_none()) {
            out.push(rules::if_family(family, "originals".into()));
            continue;
        }
        if let Some(range) = range.filter(|_| features.external) {
            out.push(rules::originally_outside(range, "originals".into()));
        }
        out.extend(not_local(needs, family, &rules::going_to("originals".into())));
        out.push(rules::accept_unless_from_itself(family));
    }
    out.push(rules::goto("originals".into()));
    out
}

/// First packets of connections to our frontends, on their way out.
fn ours(needs: Needs<'_>, family: Family) -> Vec<Rule> {
    let mut out = Vec::new();
    if needs.of(family).sticky || needs.of(family).external {
        out.push(rules::by_class(Set::Departures));
    }
    out.push(rules::clear_priority());
    if needs.node.masquerade_all {
        out.push(Rule(vec![rules::masquerade()]));
        return out;
    }
    out.extend(not_local(needs, family, &rules::masquerade()));
    out.push(rules::from_itself(family, rules::masquerade()));
    out
}

/// What is done with clients that are not pods of this node, or of this cluster.
fn not_local(needs: Needs<'_>, family: Family, then: &Expr) -> Vec<Rule> {
    let by_input = |name: Vec<u8>| {
        vec![
            rules::from_other_input(name.clone(), then.clone()),
            rules::from_node(name, then.clone()),
        ]
    };
    match needs.node.local_detector(family) {
        LocalDetector::None => Vec::new(),
        LocalDetector::Cidr(net) if net.prefix_len() == 0 => Vec::new(),
        LocalDetector::Cidr(net) => vec![rules::from_outside(*net, then.clone())],
        LocalDetector::Interface(name) => by_input(rules::whole_name(name)),
        LocalDetector::InterfacePrefix(prefix) => by_input(prefix.as_bytes().to_vec()),
    }
}

/// The chains of a class, every chain before those that refer to it. Several classes share chains.
pub fn class_chains(class: ClassKey) -> Vec<ChainDefinition> {
    let ClassKey { family, protocol, scope, size, affinity, way } = class;
    let spread = spread_name(class);
    let mut chains = vec![ChainDefinition::new(
        spread.clone(),
        // A miss is a commit in between the two look-ups: the client's next packet succeeds.
        vec![rules::spread(family, protocol, (scope, size)), rules::drop()],
    )];
    if let Some(seconds) = affinity {
        let pinned = format!("pinned{}", common_name(class));
        chains.push(ChainDefinition::new(
            pinned.clone(),
            // Past the first rule the pinned endpoint is gone: the pool is found again and spread.
            vec![
                rules::to_pinned(family, protocol, scope),
                rules::find_service(family, spread.clone().into()),
                rules::find_node_port(family, spread.clone().into()),
                rules::drop(),
            ],
        ));
        chains.push(ChainDefinition::new(
            entry_name(class),
            vec![
                rules::strip_class(),
                rules::find_pin(family, pinned.into()),
                rules::goto(spread.into()),
            ],
        ));
        chains.push(ChainDefinition::new(
            record_name(family, seconds.get()),
            // What is counted are pins that found the set full.
            vec![rules::strip_class(), rules::record_pin(family, seconds.get()), rules::count()],
        ));
    }
    if way != Way::Inside {
        chains.push(leave(class));
    }
    chains
}

/// What is done on the way out with a connection that did not come by a cluster IP.
fn leave(class: ClassKey) -> ChainDefinition {
    let family = class.family;
    let mut out = Vec::new();
    if let Some(seconds) = class.affinity {
        out.push(rules::jump(record_name(family, seconds.get()).into()));
    }
    out.push(rules::clear_priority());
    match class.way {
        Way::OutsideLocal => {
            out.push(rules::from_this_node(vec![rules::masquerade()]));
            out.push(rules::from_itself(family, rules::masquerade()));
        }
        Way::Inside | Way::Outside => out.push(Rule(vec![rules::masquerade()])),
    }
    ChainDefinition::new(leave_name(class), out)
}

/// `4-tcp-3`, `4-tcp-3-local`
fn common_name(class: ClassKey) -> String {
    let protocol = class.protocol.name().to_ascii_lowercase();
    let scope = match class.scope {
        Scope::Cluster => "",
        Scope::Local => "-local",
    };
    format!("{}-{protocol}-{}{scope}", suffix(class.family), class.size)
}

fn spread_name(class: ClassKey) -> String {
    format!("spread{}", common_name(class))
}

/// The chain that spreads a class, or looks for the client's pin first.
pub fn entry_name(class: ClassKey) -> String {
    match class.affinity {
        None => spread_name(class),
        Some(seconds) => format!("sticky{}-{seconds}", common_name(class)),
    }
}

/// Whether this chain's counter sees connections that are not pinned for want of room.
pub fn is_record(chain: &str) -> bool {
    Family::BOTH.into_iter().any(|family| {
        chain.strip_prefix("record").is_some_and(|rest| rest.starts_with(suffix(family)))
    })
}

fn record_name(family: Family, seconds: u32) -> String {
    format!("record{}-{seconds}", suffix(family))
}

/// `leave4`, `leave-local4-60`
fn leave_name(class: ClassKey) -> String {
    let kind = match class.way {
        Way::OutsideLocal => "leave-local",
        Way::Inside | Way::Outside => "leave",
    };
    let seconds = class.affinity.map(|seconds| format!("-{seconds}")).unwrap_or_default();
    format!("{kind}{}{seconds}", suffix(class.family))
}

/// Where a connection of the class goes from the frontend.
pub fn entry(class: ClassKey) -> Verdict {
    match class.way {
        Way::Inside | Way::Outside => Verdict::Goto(entry_name(class).into()),
        Way::OutsideLocal => Verdict::Goto(local_name(class.family).into()),
    }
}

/// Where it goes once it is known where it comes from. A map of its own: the kernel takes no chain
/// that leads back to itself, and `classes` leads here.
pub fn inner(class: ClassKey) -> Option<Verdict> {
    let chosen = class.way == Way::OutsideLocal || class.scope == Scope::Local;
    chosen.then(|| Verdict::Goto(entry_name(class).into()))
}

/// Where it passes on its way out.
pub fn departure(class: ClassKey) -> Option<Verdict> {
    match (class.way, class.affinity) {
        (Way::Inside, None) => None,
        (Way::Inside, Some(_)) => recorder(class),
        _ => Some(Verdict::Goto(leave_name(class).into())),
    }
}

/// How its pins are written.
pub fn recorder(class: ClassKey) -> Option<Verdict> {
    let name = |seconds: NonZeroU32| record_name(class.family, seconds.get());
    class.affinity.map(|seconds| Verdict::Jump(name(seconds).into()))
}

/// The class that these verdicts, and no others, stand for.
pub fn read_class(
    seen: &Verdict,
    seen_inner: Option<&Verdict>,
    seen_departure: Option<&Verdict>,
) -> Option<ClassKey> {
    let Verdict::Goto(spreads) = seen_inner.unwrap_or(seen) else { return None };
    let class = read_entry_name(spreads)?;
    [Way::Inside, Way::Outside, Way::OutsideLocal]
        .into_iter()
        .map(|way| ClassKey { way, ..class })
        .find(|class| {
            entry(*class) == *seen
                && inner(*class).as_ref() == seen_inner
                && departure(*class).as_ref() == seen_departure
        })
}

/// The class by a cluster IP whose `entry_name` this is.
fn read_entry_name(name: &str) -> Option<ClassKey> {
    let (kind, rest) = name.split_at_checked(6)?;
    let mut parts = rest.split('-').peekable();
    let family = match parts.next()? {
        "4" => Family::V4,
        "6" => Family::V6,
        _ => return None,
    };
    let protocol = parts.next()?;
    let protocol = Protocol::ALL.into_iter().find(|p| p.name().eq_ignore_ascii_case(protocol))?;
    let size = parts.next()?.parse().ok()?;
    let scope = match parts.next_if_eq(&"local") {
        Some(_) => Scope::Local,
        None => Scope::Cluster,
    };
    let affinity = match (kind, parts.next()) {
        ("spread", None) => None,
        ("sticky", Some(seconds)) => Some(seconds.parse().ok()?),
        _ => return None,
    };
    let class = ClassKey { family, protocol, scope, size, affinity, way: Way::Inside };
    (class.size > 0 && parts.next().is_none()).then_some(class)
}
