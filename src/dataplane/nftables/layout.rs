//! The table's chains. PURE.
//!
//! ```text
//!  prerouting ─┐                            class chain
//!  (nat −100)  ├─► services ─► dispatch ─►  spread4-3 ── dnat to @endpoints[pool . random]
//!  output ─────┘     │           │          sticky4-3-60 ─► pinned4-3 ── dnat to @pinned[token]
//!  (nat −100)        │           ├─► refuse              └► spread4-3
//!                    │           └─► drop
//!                    ├─ unused port of a cluster IP ─► refuse
//!                    └─ unallocated service address ─► drop
//!
//!  postrouting ── dnat'ed ─► translated ── ours ─► ours4 ── record pin, clear priority,
//!  (nat 100)                                                masquerade
//!  invalid ── INVALID ─► stray ── of an endpoint or a cluster IP ─► drop
//!  (filter prerouting 0)
//! ```
//! The skeleton is constant. What grows with services are elements; what grows with the *kinds* of
//! services are class chains.

use super::classes::ClassKey;
use super::expr::{Rule, Verdict};
use super::rules;
use super::set::Set;
use crate::model::{Family, Protocol};
use crate::planner::{LocalDetector, NodePlan};
use std::borrow::Cow;

pub const TABLE: &str = "vipd";

/// Class numbers that are not made on demand.
pub const CLASS_REFUSE: u32 = 1;
pub const CLASS_DROP: u32 = 2;
pub const FIRST_FREE_CLASS: u32 = 3;

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
}

fn suffix(family: Family) -> char {
    match family {
        Family::V4 => '4',
        Family::V6 => '6',
    }
}

fn sticky(needs: Needs<'_>, family: Family) -> bool {
    needs.sticky[match family {
        Family::V4 => 0,
        Family::V6 => 1,
    }]
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
    let mut chains = vec![
        ChainDefinition::new("refuse", vec![rules::reset_tcp(), rules::unreachable()]),
        // A class that is not there any more: the client's next packet finds the new one.
        ChainDefinition::new("dispatch", vec![rules::by_class(Set::Classes), rules::drop()]),
        ChainDefinition::new("services", Family::BOTH.into_iter().flat_map(destinations).collect()),
    ];
    for family in Family::BOTH {
        chains.push(ChainDefinition::new(ours_name(family), ours(needs, family)));
    }
    let originals = Family::BOTH.into_iter().flat_map(|family| {
        Protocol::ALL
            .into_iter()
            .map(move |protocol| rules::find_original(family, protocol, ours_name(family).into()))
    });
    chains.push(ChainDefinition::new("translated", originals.collect()));
    chains.push(ChainDefinition::hooked(
        "prerouting",
        nat(NF_INET_PRE_ROUTING, -100),
        vec![rules::goto("services".into())],
    ));
    chains.push(ChainDefinition::hooked(
        "output",
        nat(NF_INET_LOCAL_OUT, -100),
        vec![rules::goto("services".into())],
    ));
    chains.push(ChainDefinition::hooked(
        "postrouting",
        nat(NF_INET_POST_ROUTING, 100),
        vec![rules::if_dnat("translated".into())],
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
fn destinations(family: Family) -> [Rule; 3] {
    [
        rules::find_service(family, "dispatch".into()),
        rules::destination_in(Set::Addresses(family), family, Verdict::Goto("refuse".into())),
        rules::destination_in(Set::Ranges(family), family, Verdict::Drop),
    ]
}

/// First packets of connections to our frontends, on their way out.
fn ours(needs: Needs<'_>, family: Family) -> Vec<Rule> {
    let mut out = Vec::new();
    if sticky(needs, family) {
        out.push(rules::by_class(Set::Recorders));
    }
    out.push(rules::clear_priority());
    if needs.node.masquerade_all {
        out.push(rules::masquerade());
        return out;
    }
    match needs.node.local_detector(family) {
        LocalDetector::None => {}
        LocalDetector::Cidr(net) if net.prefix_len() == 0 => {}
        LocalDetector::Cidr(net) => out.push(rules::masquerade_outside(*net)),
        LocalDetector::Interface(name) => {
            let name = rules::whole_name(name);
            out.push(rules::masquerade_other_input(name.clone()));
            out.push(rules::masquerade_own(name));
        }
        LocalDetector::InterfacePrefix(prefix) => {
            let prefix = prefix.as_bytes().to_vec();
            out.push(rules::masquerade_other_input(prefix.clone()));
            out.push(rules::masquerade_own(prefix));
        }
    }
    out.push(rules::masquerade_hairpin(family));
    out
}

/// The chains of a class, every chain before those that refer to it. Several classes share chains.
pub fn class_chains(class: ClassKey) -> Vec<ChainDefinition> {
    let ClassKey { family, size, affinity } = class;
    let spread = spread_name(class);
    let mut chains = vec![ChainDefinition::new(
        spread.clone(),
        // A miss is a commit in between the two look-ups: the client's next packet succeeds.
        vec![rules::strip_class(), rules::spread(family, size), rules::drop()],
    )];
    if let Some(seconds) = affinity {
        let family_letter = suffix(family);
        let pinned = format!("pinned{family_letter}-{size}");
        chains.push(ChainDefinition::new(
            pinned.clone(),
            // Past the first rule the pinned endpoint is gone: the pool is found again and spread.
            vec![rules::to_pinned(family), rules::find_service(family, spread.clone().into())],
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
            vec![rules::strip_class(), rules::record_pin(family, seconds.get())],
        ));
    }
    chains
}

fn spread_name(class: ClassKey) -> String {
    format!("spread{}-{}", suffix(class.family), class.size)
}

/// The chain that a class begins at.
pub fn entry_name(class: ClassKey) -> String {
    match class.affinity {
        None => spread_name(class),
        Some(seconds) => format!("sticky{}-{}-{seconds}", suffix(class.family), class.size),
    }
}

pub fn record_name(family: Family, seconds: u32) -> String {
    format!("record{}-{seconds}", suffix(family))
}

/// The class whose `entry_name` this is.
pub fn read_entry_name(name: &str) -> Option<ClassKey> {
    let (kind, rest) = name.split_at_checked(6)?;
    let (family, rest) = match rest.split_once('-')? {
        ("4", rest) => (Family::V4, rest),
        ("6", rest) => (Family::V6, rest),
        _ => return None,
    };
    let class = match kind {
        "spread" => ClassKey { family, size: rest.parse().ok()?, affinity: None },
        "sticky" => {
            let (size, seconds) = rest.split_once('-')?;
            ClassKey { family, size: size.parse().ok()?, affinity: Some(seconds.parse().ok()?) }
        }
        _ => return None,
    };
    (class.size > 0).then_some(class)
}
