//! The chains of classes, and what leads to them. PURE.
//!
//! In: how a class treats connections ([`ClassKey`]). Out: its chains, the verdicts of the maps that
//! lead there, and the way back from such verdicts to the class.

use super::classes::{Approach, ClassKey, Way};
use super::expr::{Rule, Verdict};
use super::layout::{ChainDefinition, local_name, suffix};
use super::rules;
use crate::model::{Family, Protocol};
use crate::planner::Scope;
use std::num::NonZeroU32;

/// The chains of a class, every chain before those that refer to it. Several classes share chains.
pub fn class_chains(class: ClassKey) -> Vec<ChainDefinition> {
    let ClassKey { family, protocol, scope, size, affinity, approach } = class;
    let spread = spread_name(class);
    let mut chains = vec![ChainDefinition::new(
        spread.clone(),
        // A miss is a commit in between the two look-ups: the client's next packet succeeds.
        vec![rules::spread(family, protocol, (scope, size)), rules::drop()],
    )];
    if let Some(seconds) = affinity {
        // Found again, the pool comes with its class, and only without one it is recorded.
        let repin = format!("repin{}", common_name(class));
        chains.push(ChainDefinition::new(
            repin.clone(),
            vec![rules::strip_class(), rules::goto(spread.clone().into())],
        ));
        let pinned = format!("pinned{}", common_name(class));
        chains.push(ChainDefinition::new(
            pinned.clone(),
            // Past the first rule there was no pin, or its endpoint is gone: the pool is found again
            // and spread.
            vec![
                rules::to_pinned(family, protocol, scope),
                rules::find_service(family, repin.clone().into()),
                rules::find_node_port(family, repin.into()),
                rules::drop(),
            ],
        ));
        chains.push(ChainDefinition::new(
            entry_name(class),
            vec![
                rules::strip_class(),
                rules::refresh_pin(family, seconds.get()),
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
    if approach.relayed {
        let rules = rules::unless_relayed(&entry_name(class).into());
        chains.push(ChainDefinition::new(relayed_name(class), rules.into()));
    }
    if approach.way != Way::Inside {
        chains.push(leave(class));
    }
    chains
}

/// What is done on the way out with a connection that did not come by a cluster IP.
fn leave(class: ClassKey) -> ChainDefinition {
    let mut out = vec![rules::clear_priority()];
    match class.approach.way {
        Way::OutsideLocal => {
            out.push(rules::from_this_node(vec![rules::masquerade()]));
            out.push(rules::from_itself(class.family, rules::masquerade()));
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

/// What begins the name of a chain that leaves to the relay what is the relay's.
const RELAYED: &str = "relayed-";

fn relayed_name(class: ClassKey) -> String {
    format!("{RELAYED}{}", entry_name(class))
}

/// The first of a class's own chains.
fn first_name(class: ClassKey) -> String {
    if class.approach.relayed { relayed_name(class) } else { entry_name(class) }
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

fn leave_name(class: ClassKey) -> String {
    let kind = match class.approach.way {
        Way::OutsideLocal => "leave-local",
        Way::Inside | Way::Outside => "leave",
    };
    format!("{kind}{}", suffix(class.family))
}

/// Where a connection of the class goes from the frontend.
pub fn entry(class: ClassKey) -> Verdict {
    match class.approach.way {
        Way::Inside | Way::Outside => Verdict::Goto(first_name(class).into()),
        Way::OutsideLocal => Verdict::Goto(local_name(class.family).into()),
    }
}

/// Where it goes once it is known where it comes from. A map of its own: the kernel takes no chain
/// that leads back to itself, and `classes` leads here.
pub fn inner(class: ClassKey) -> Option<Verdict> {
    let chosen = class.approach.way == Way::OutsideLocal || class.scope == Scope::Local;
    chosen.then(|| Verdict::Goto(first_name(class).into()))
}

/// Where it passes on its way out.
pub fn exit(class: ClassKey) -> Option<Verdict> {
    (class.approach.way != Way::Inside).then(|| Verdict::Goto(leave_name(class).into()))
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
    seen_exit: Option<&Verdict>,
) -> Option<ClassKey> {
    let Verdict::Goto(spreads) = seen_inner.unwrap_or(seen) else { return None };
    let class = read_entry_name(spreads.strip_prefix(RELAYED).unwrap_or(spreads))?;
    [Way::Inside, Way::Outside, Way::OutsideLocal]
        .into_iter()
        .flat_map(|way| [false, true].map(|relayed| Approach { way, relayed }))
        .map(|approach| ClassKey { approach, ..class })
        .find(|class| {
            entry(*class) == *seen
                && inner(*class).as_ref() == seen_inner
                && exit(*class).as_ref() == seen_exit
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
    let approach = Approach::INSIDE;
    let class = ClassKey { family, protocol, scope, size, affinity, approach };
    (class.size > 0 && parts.next().is_none()).then_some(class)
}
