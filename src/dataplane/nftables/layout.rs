//! The table's chains. PURE.
//!
//! ```text
//!  prerouting ─┐  a frontend                class chain
//!  (nat −100)  ├──────────────────────────► spread4-tcp-3 ── dnat to @endpoints[pool . random]
//!  output ─────┘  │                         sticky4-tcp-3-60 ─► pinned4-tcp-3 ── dnat to @pinned[token]
//!  (nat −100)     │                         refuse            └► spread4-tcp-3
//!                 │                         drop
//!                 └─ in a service range ──► unserved4 ── unused port of a cluster IP ─► refuse
//!                    or of a service                  └─ unallocated service address ─► drop
//!
//!  postrouting ── dnat'ed; to be masqueraded, ─► originals ── ours ─► ours4 ── record pin, clear
//!  (nat 100)      recorded or cleared, if ours                                 priority, masquerade
//!
//!  invalid ── INVALID ─► stray ── of an endpoint or a cluster IP ─► drop
//!  (filter prerouting 0)
//! ```
//! The skeleton depends on the node and on little else ([`Needs`]). What grows with services are
//! elements; what grows with the *kinds* of services are class chains.
//!
//! Every packet passes `invalid`, and the first one of every connection the nat chains, whether it
//! is about services or not. So these begin with what is cheap and tells most packets apart:
//! comparisons with constants; and nobody is sent to another chain without need. (Linux 6.18 with
//! retpolines: a comparison costs 5 to 10 ns, another chain 10, a look-up in a hash table 30, in an
//! interval set 60, setting a meta key 25, a base chain 40.)

use super::classes::ClassKey;
use super::expr::{Expr, Rule};
use super::rules;
use super::set::{Set, index};
use crate::model::{Family, Protocol};
use crate::planner::{LocalDetector, NodePlan};
use ipnet::IpNet;
use std::borrow::Cow;

pub const TABLE: &str = "vipd";

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
    /// Families with at least one sticky class.
    pub sticky: [bool; 2],
    /// Families with frontends outside the service ranges.
    pub outside: [bool; 2],
}

impl<'a> Needs<'a> {
    fn sticky(self, family: Family) -> bool {
        self.sticky[index(family)]
    }

    fn ranges(self, family: Family) -> impl Iterator<Item = &'a IpNet> {
        self.node.service_ranges.iter().filter(move |net| Family::of(net.addr()) == family)
    }
}

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

/// The constant chains, every chain before those that refer to it.
pub fn skeleton(needs: Needs<'_>) -> Vec<ChainDefinition> {
    const NF_INET_PRE_ROUTING: u32 = 0;
    const NF_INET_LOCAL_OUT: u32 = 3;
    const NF_INET_POST_ROUTING: u32 = 4;
    let nat = |number, priority| Hook { kind: "nat", number, priority };
    let mut chains =
        vec![ChainDefinition::new("refuse", vec![rules::reset_tcp(), rules::unreachable()])];
    for family in Family::BOTH {
        chains.push(ChainDefinition::new(unserved_name(family), unserved(family)));
        chains.push(ChainDefinition::new(ours_name(family), ours(needs, family)));
    }
    let originals = Family::BOTH.into_iter().flat_map(|family| {
        Protocol::ALL
            .into_iter()
            .map(move |protocol| rules::find_original(family, protocol, ours_name(family).into()))
    });
    chains.push(ChainDefinition::new("originals", originals.collect()));
    let destinations: Vec<Rule> =
        Family::BOTH.into_iter().flat_map(|family| destinations(needs, family)).collect();
    chains.push(ChainDefinition::hooked(
        "prerouting",
        nat(NF_INET_PRE_ROUTING, -100),
        destinations.clone(),
    ));
    chains.push(ChainDefinition::hooked("output", nat(NF_INET_LOCAL_OUT, -100), destinations));
    chains.push(ChainDefinition::hooked(
        "postrouting",
        nat(NF_INET_POST_ROUTING, 100),
        translated(needs),
    ));
    if needs.node.drop_invalid {
        let stray = Family::BOTH.into_iter().flat_map(|family| {
            [
                rules::from_endpoint_counted(family),
                rules::destination_in_counted(Set::Addresses(family), family),
            ]
        });
        chains.push(ChainDefinition::new("stray", stray.collect()));
        chains.push(ChainDefinition::hooked(
            "invalid",
            Hook { kind: "filter", number: NF_INET_PRE_ROUTING, priority: 0 },
            vec![rules::if_invalid("stray".into())],
        ));
    }
    chains
}

/// What a destination of this family means.
fn destinations(needs: Needs<'_>, family: Family) -> Vec<Rule> {
    let unserved = || unserved_name(family).into();
    let ranges: Vec<IpNet> = needs.ranges(family).copied().collect();
    match (needs.outside[index(family)], &ranges[..]) {
        (false, []) => Vec::new(),
        (false, [net]) if net.prefix_len() > 0 => vec![
            rules::accept_unless_to(*net),
            rules::find_class(family),
            rules::if_family(family, unserved()),
        ],
        (_, ranges) => {
            // More comparisons would cost more than a look-up.
            const FEW: usize = 4;
            let to_ranges = if ranges.len() <= FEW {
                ranges.iter().map(|net| rules::destination_within(*net, unserved())).collect()
            } else {
                vec![rules::destination_in(Set::Ranges(family), family, unserved())]
            };
            let mut out = vec![rules::find_class(family)];
            out.extend(to_ranges);
            out.push(rules::destination_in(Set::Addresses(family), family, unserved()));
            out
        }
    }
}

/// Destinations that are the services' own, but no frontend.
fn unserved(family: Family) -> Vec<Rule> {
    vec![
        // A class that is not there any more: the client's next packet finds the new one.
        rules::drop_service(family),
        rules::destination_in(Set::Addresses(family), family, "refuse".into()),
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
        if needs.sticky(family) || needs.node.masquerade_all {
            out.push(rules::if_family(family, "originals".into()));
            continue;
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
    if needs.sticky(family) {
        out.push(rules::by_class(Set::Recorders));
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
    let ClassKey { family, protocol, size, affinity } = class;
    let spread = spread_name(class);
    let mut chains = vec![ChainDefinition::new(
        spread.clone(),
        // A miss is a commit in between the two look-ups: the client's next packet succeeds.
        vec![rules::spread(family, protocol, size), rules::drop()],
    )];
    if let Some(seconds) = affinity {
        let pinned = format!("pinned{}", common_name(class));
        chains.push(ChainDefinition::new(
            pinned.clone(),
            // Past the first rule the pinned endpoint is gone: the pool is found again and spread.
            vec![
                rules::to_pinned(family, protocol),
                rules::find_service(family, spread.clone().into()),
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
    chains
}

/// `4-tcp-3`
fn common_name(class: ClassKey) -> String {
    let protocol = class.protocol.name().to_ascii_lowercase();
    format!("{}-{protocol}-{}", suffix(class.family), class.size)
}

fn spread_name(class: ClassKey) -> String {
    format!("spread{}", common_name(class))
}

/// The chain that a class begins at.
pub fn entry_name(class: ClassKey) -> String {
    match class.affinity {
        None => spread_name(class),
        Some(seconds) => format!("sticky{}-{seconds}", common_name(class)),
    }
}

pub fn record_name(family: Family, seconds: u32) -> String {
    format!("record{}-{seconds}", suffix(family))
}

/// The class whose `entry_name` this is.
pub fn read_entry_name(name: &str) -> Option<ClassKey> {
    let (kind, rest) = name.split_at_checked(6)?;
    let mut parts = rest.split('-');
    let family = match parts.next()? {
        "4" => Family::V4,
        "6" => Family::V6,
        _ => return None,
    };
    let protocol = parts.next()?;
    let protocol = Protocol::ALL.into_iter().find(|p| p.name().eq_ignore_ascii_case(protocol))?;
    let size = parts.next()?.parse().ok()?;
    let affinity = match (kind, parts.next()) {
        ("spread", None) => None,
        ("sticky", Some(seconds)) => Some(seconds.parse().ok()?),
        _ => return None,
    };
    let class = ClassKey { family, protocol, size, affinity };
    (class.size > 0 && parts.next().is_none()).then_some(class)
}
