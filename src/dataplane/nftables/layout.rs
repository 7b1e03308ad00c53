//! The table's chains. PURE.
//!
//! ```text
//!  prerouting ─┐  a frontend or node port   class chain
//!  (nat −100)  ├──────────────────────────► spread4-tcp-3 ── dnat to @endpoints[pool . random]
//!  output ─────┘  │                         sticky4-tcp-3-60 ─► pinned4-tcp-3 ── dnat to @pinned[token]
//!  (nat −100)     │                         refuse            └► spread4-tcp-3 └► repin4-tcp-3 ─► spread4-tcp-3
//!                 │                         drop
//!                 │                         local4 ── a local pod, this node ─► as a cluster IP
//!                 │                                └─ from outside ─► @locals[pool] ─► class chain
//!                 ├─ not in the service range ─► outside4 ── a frontend that not everybody may ask ─► guarded4
//!                 │  (where there is one)                  └─ another, or a node port ─► class chain
//!                 ├─ guarded ─► guard4 ── not allowed ─► drop
//!                 ├─ a cluster IP, and not for everybody ── not from a local pod ─► drop
//!                 │  (prerouting alone)
//!                 └─ in a service range ──► unserved4 ── unused port of a cluster IP ─► refuse
//!                    or of a service                  ├─ TCP that opens nothing ─► refuse
//!                                                     └─ unallocated service address ─► drop
//!
//!  class chain of what the relay may have ── its socket has it ─► accept; else as without a relay
//!  (relayed-spread4-tcp-3)
//!  routed ── to a routed address ─► unrelayed ── a transparent socket has it ─► accept;
//!  (filter input 0)                               an answer is too big for its path ─► accept; else ─► refuse
//!
//!  state ── INVALID ─► stray ── of an endpoint, or who was one; to a service range or a frontend ─► drop
//!  (filter  └─ new, to be pinned ─► pins ── ours ─► pins4 ── record4-60, clear priority
//!  prerouting 0, output 0)
//!
//!  postrouting ── dnat'ed; to be masqueraded, ─► originals ── ours ─► ours4 ── clear priority, masquerade
//!  (nat 100)      or cleared, if ours                                  │
//!                                              came from outside ──────┴─────► leave4, leave-local4
//! ```
//! The skeleton depends on the node and on little else ([`Needs`]). What grows with services are
//! elements; what grows with the *kinds* of services are class chains.
//!
//! Every packet passes `state` or `state-output`, and the first one of every connection the nat
//! chains, whether it is about services or not. So these begin with what is cheap and tells most packets apart:
//! comparisons with constants; and nobody is sent to another chain without need. (Linux 6.18 with
//! retpolines: a comparison costs 5 to 10 ns, another chain 10, a look-up in a hash table 30, in an
//! interval set 60, setting a meta key 25, a base chain 40.)

use super::expr::{Expr, Rule};
use super::rules;
use super::set::Set;
use crate::model::{Family, Protocol};
pub use crate::nft::{ChainDefinition, Hook};
use crate::planner::{LocalDetector, NodePlan, Outsiders};
use ipnet::IpNet;

pub const TABLE: &str = "vipd";
/// Whose counters see the INVALID packets that are dropped.
pub const STRAY: &str = "stray";

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
    /// Cluster IPs outside the service ranges.
    pub cluster_outside: bool,
    /// Other frontends outside of them.
    pub outside: bool,
    /// Classes for connections that do not come by a cluster IP.
    pub external: bool,
    /// Some of those under policy Local.
    pub local: bool,
    /// Addresses that a route of vipd's leads here by.
    pub routed: bool,
    /// Frontends within the service ranges that are no cluster IPs.
    pub external_inside: bool,
    pub node_ports: bool,
    /// Frontends that not everybody may ask.
    pub guarded: bool,
    /// Some of those within the service ranges.
    pub guarded_inside: bool,
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

impl Features {
    /// Whether anything but cluster IPs may be served outside the service ranges.
    fn elsewhere(self) -> bool {
        self.outside || self.node_ports
    }
}

impl<'a> Needs<'a> {
    fn of(self, family: Family) -> Features {
        self.features[family.index()]
    }

    fn ranges(self, family: Family) -> impl Iterator<Item = &'a IpNet> {
        self.node.service_ranges.iter().filter(move |net| Family::of(net.addr()) == family)
    }

    /// The service range of a family, if it has but one.
    fn only_range(self, family: Family) -> Option<IpNet> {
        let mut ranges = self.ranges(family);
        let first = ranges.next().filter(|net| net.prefix_len() > 0)?;
        ranges.next().is_none().then_some(*first)
    }

    /// Whether some of the node's addresses that serve node ports are in a service range.
    fn node_ports_within(self, range: IpNet) -> bool {
        let mut addresses = self.node.node_port_addresses.iter();
        self.of(Family::of(range.addr())).node_ports && addresses.any(|ip| range.contains(ip))
    }
}

/// Service ranges that are compared one by one: more would cost more than a look-up.
const FEW: usize = 4;

pub fn suffix(family: Family) -> char {
    match family {
        Family::V4 => '4',
        Family::V6 => '6',
    }
}

const fn of_family(family: Family, names: [&'static str; 2]) -> &'static str {
    match family {
        Family::V4 => names[0],
        Family::V6 => names[1],
    }
}

fn unserved_name(family: Family) -> &'static str {
    of_family(family, ["unserved4", "unserved6"])
}

fn ours_name(family: Family) -> &'static str {
    of_family(family, ["ours4", "ours6"])
}

/// Chains of the skeleton that are not always there.
pub const OPTIONAL: [&str; 16] = [
    "state",
    "state-output",
    STRAY,
    "pins",
    pins_name(Family::V4),
    pins_name(Family::V6),
    outside_name(Family::V4),
    outside_name(Family::V6),
    guarded_name(Family::V4),
    guarded_name(Family::V6),
    local_name(Family::V4),
    local_name(Family::V6),
    guard_name(Family::V4),
    guard_name(Family::V6),
    "routed",
    UNRELAYED,
];

/// What is led here and no relay takes.
const UNRELAYED: &str = "unrelayed";

/// Where pins of clients are written.
const fn pins_name(family: Family) -> &'static str {
    of_family(family, ["pins4", "pins6"])
}

/// What destinations outside the service range mean.
const fn outside_name(family: Family) -> &'static str {
    of_family(family, ["outside4", "outside6"])
}

/// Frontends outside the service range, where some are not for everybody.
const fn guarded_name(family: Family) -> &'static str {
    of_family(family, ["guarded4", "guarded6"])
}

/// Where connections under policy Local find out who they are.
pub const fn local_name(family: Family) -> &'static str {
    of_family(family, ["local4", "local6"])
}

/// Where it shows who may ask that is not everybody.
const fn guard_name(family: Family) -> &'static str {
    of_family(family, ["guard4", "guard6"])
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
    chains.extend(all.clone().flat_map(|family| outside(needs, family)));
    let arriving = all.clone().flat_map(|f| destinations(needs, f, outsiders(needs, f)));
    let prerouting = nat(NF_INET_PRE_ROUTING, -100);
    chains.push(ChainDefinition::hooked("prerouting", prerouting, arriving.collect()));
    let own = all.flat_map(|family| destinations(needs, family, Vec::new()));
    chains.push(ChainDefinition::hooked("output", nat(NF_INET_LOCAL_OUT, -100), own.collect()));
    chains.push(ChainDefinition::hooked(
        "postrouting",
        nat(NF_INET_POST_ROUTING, 100),
        translated(needs),
    ));
    let routed = Family::BOTH.into_iter().filter(|family| needs.of(*family).routed);
    let refused = |family| rules::destination_in(Set::Routed(family), family, UNRELAYED.into());
    let mut routed: Vec<Rule> = routed.map(refused).collect();
    if !routed.is_empty() {
        // Most packets are of connections that were let in, and need no look at their socket.
        routed.insert(0, rules::accept_going_on());
        // As an unused port of a cluster IP: the route opens nothing of this node's.
        let [wildcard, relayed, refused] = rules::unless_relayed(&"refuse".into());
        let too_big = Family::BOTH.map(rules::accept_too_big);
        let rules = [vec![wildcard, relayed], too_big.into(), vec![refused]].concat();
        chains.push(ChainDefinition::new(UNRELAYED, rules));
        let arrived = Hook { kind: "filter", number: NF_INET_LOCAL_IN, priority: 0 };
        chains.push(ChainDefinition::hooked("routed", arrived, routed));
    }
    let (further, rules) = by_state(needs);
    chains.extend(further);
    if !rules.is_empty() {
        let filter = |number| Hook { kind: "filter", number, priority: 0 };
        let arriving = filter(NF_INET_PRE_ROUTING);
        chains.push(ChainDefinition::hooked("state", arriving, rules.clone()));
        // What this node sends, as a client or as an endpoint, passes no prerouting hook.
        let own = filter(NF_INET_LOCAL_OUT);
        chains.push(ChainDefinition::hooked("state-output", own, rules));
    }
    chains
}

/// What is done with packets that belong to no connection, and with those that open one whose client
/// is to be pinned, now that its destination is translated; with the chains that it leads to.
fn by_state(needs: Needs<'_>) -> (Vec<ChainDefinition>, Vec<Rule>) {
    let (mut chains, mut out) = (Vec::new(), Vec::new());
    let sticky: Vec<Family> =
        Family::BOTH.into_iter().filter(|family| needs.of(*family).sticky).collect();
    if !sticky.is_empty() {
        out.push(rules::accept_established());
    }
    if needs.node.drop_invalid {
        let stray = Family::BOTH.into_iter().flat_map(|family| stray(needs, family));
        chains.push(ChainDefinition::new(STRAY, stray.collect()));
        out.push(rules::if_invalid(STRAY.into()));
    }
    if !sticky.is_empty() {
        for family in &sticky {
            let rules = vec![rules::by_class(Set::Recorders), rules::clear_priority()];
            chains.push(ChainDefinition::new(pins_name(*family), rules));
        }
        let found = sticky.iter().flat_map(|family| originals(needs, *family, pins_name(*family)));
        let pins = [rules::accept_unless_dnat()].into_iter().chain(found).collect();
        chains.push(ChainDefinition::new("pins", pins));
        // So it looks when a sticky class has spread a connection and not met the client's pin.
        out.push(rules::if_pool_alone("pins".into()));
    }
    (chains, out)
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
    if needs.of(family).cluster_outside || needs.of(family).outside {
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

/// The one range of a family that has all of its cluster IPs.
fn own_range(needs: Needs<'_>, family: Family) -> Option<IpNet> {
    needs.only_range(family).filter(|_| !needs.of(family).cluster_outside)
}

/// What a destination of this family means: address and port of a service come before a node port.
/// `outsiders`: what is asked of connections that may be to a cluster IP.
fn destinations(needs: Needs<'_>, family: Family, outsiders: Vec<Rule>) -> Vec<Rule> {
    let unserved = || unserved_name(family).into();
    let features = needs.of(family);
    let mut out = Vec::new();
    if let Some(net) = own_range(needs, family) {
        out.push(match features.elsewhere() {
            true => rules::leave_unless_to(net, outside_name(family).into()),
            false => rules::accept_unless_to(net),
        });
        if features.guarded_inside {
            out.push(rules::guard(family, guard_name(family).into()));
        }
        out.extend(outsiders);
        out.push(rules::find_class(family));
        if needs.node_ports_within(net) {
            out.push(rules::find_node_port_class(family));
        }
        out.push(rules::if_family(family, unserved()));
        return out;
    }
    if features.guarded {
        out.push(rules::guard(family, guard_name(family).into()));
    }
    let ranges: Vec<IpNet> = needs.ranges(family).copied().collect();
    let addresses = features.cluster_outside || features.outside || !ranges.is_empty();
    if addresses {
        out.extend(outsiders);
        out.push(rules::find_class(family));
    }
    if features.node_ports {
        out.push(rules::find_node_port_class(family));
    }
    if addresses {
        if ranges.len() <= FEW {
            out.extend(ranges.iter().map(|net| rules::destination_within(*net, unserved())));
        } else {
            out.push(rules::destination_in(Set::Ranges(family), family, unserved()));
        }
        out.push(rules::destination_in(Set::Addresses(family), family, unserved()));
    }
    out
}

/// Destinations outside the one range that has all cluster IPs: nothing is ours but frontends.
fn outside(needs: Needs<'_>, family: Family) -> Vec<ChainDefinition> {
    let features = needs.of(family);
    let mut chains = Vec::new();
    if own_range(needs, family).is_none() || !features.elsewhere() {
        return chains;
    }
    let mut out = Vec::new();
    if features.outside && features.guarded {
        // Who asks for no frontend pays for no guard.
        let guarded =
            vec![rules::guard(family, guard_name(family).into()), rules::find_class(family)];
        chains.push(ChainDefinition::new(guarded_name(family), guarded));
        out.push(rules::find_service(family, guarded_name(family).into()));
    } else if features.outside {
        out.push(rules::find_class(family));
    }
    if features.node_ports {
        out.push(rules::find_node_port_class(family));
    }
    chains.push(ChainDefinition::new(outside_name(family), out));
    chains
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
        let all_outside = |net: &_| !features.external_inside && !needs.node_ports_within(*net);
        let range = needs.only_range(family).filter(all_outside);
        if needs.node.masquerade_all || (features.external && range.is_none()) {
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
    if needs.of(family).external {
        out.push(rules::by_class(Set::Exits));
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
