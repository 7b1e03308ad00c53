//! What a table made anew for a plan holds, as text: for golden files. PURE, sorted, stable.
//!
//! In: a plan. Out: its chains and elements, in the words of `nft list` but for a frontend's value,
//! which is spelled out.
//! Never: the kernel; rules, which hang on no service.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use super::changes::{Changes, Structure};
use super::expr::Verdict;
use super::lower::fixed_class_elements;
use super::set::{
    Data, Element, LOCAL_SLOTS, Set, Value, allowed_frontend, read_frontend_key,
    read_node_port_key, read_set_address, read_slot_key, read_target,
};
use super::state::State;
use crate::model::Family;
use crate::planner::{Plan, Target};
use std::fmt::Write as _;
use std::net::IpAddr;

/// The table that `plan` asks for. Services take their pool and class numbers in the order of
/// their keys.
pub fn listing(plan: &Plan) -> String {
    let mut state = State::default();
    let mut changes = Changes::default();
    state.lower_node(&plan.node, &mut changes);
    changes.new_targets.extend(fixed_class_elements());
    for service in plan.services() {
        state.lower(&service.key, None, Some(&service), &mut changes);
    }
    let mut out = String::from("table inet vipd\n");
    let chains = changes.structure.iter().filter_map(|structure| match structure {
        Structure::Chain(chain) | Structure::Rewrite(chain) => Some(&*chain.name),
        _ => None,
    });
    let mut chains: Vec<&str> = chains.collect();
    chains.sort_unstable();
    chains.dedup();
    let _ = writeln!(out, "  chains: {}", chains.join(" "));
    for set in Set::ALL {
        let written = changes.new_targets.iter().chain(&changes.new_frontends);
        let mut elements: Vec<&Element> =
            written.filter(|(s, _)| *s == set).map(|(_, element)| element).collect();
        if elements.is_empty() {
            continue;
        }
        elements.sort_by_key(|element| order(set, element));
        let _ = writeln!(out, "  {}", set.name());
        for element in elements {
            let _ = writeln!(out, "    {}", line(set, element));
        }
    }
    out
}

/// Numbers stand in their keys in the machine's byte order.
fn order(set: Set, element: &Element) -> (u32, u32, Vec<u8>) {
    match set {
        Set::Endpoints(..) => {
            let (pool, slot) = read_slot_key(&element.key).unwrap_or_default();
            (pool, slot, Vec::new())
        }
        Set::Pinned(..)
        | Set::Locals
        | Set::Classes
        | Set::Inners
        | Set::Exits
        | Set::Recorders => (number(&element.key), 0, Vec::new()),
        _ => (0, 0, element.key.to_vec()),
    }
}

fn number(bytes: &[u8]) -> u32 {
    bytes.try_into().map_or(0, u32::from_ne_bytes)
}

fn line(set: Set, element: &Element) -> String {
    let value = match &element.data {
        Data::Value(value) => &value[..],
        _ => &[],
    };
    let text = match set {
        Set::Services(_) => read_frontend_key(&element.key).map(|(address, protocol, port)| {
            let protocol = protocol.name().to_lowercase();
            format!("{address} . {protocol} . {port} : {}", leads_to(value))
        }),
        Set::NodePorts(_) => read_node_port_key(&element.key).map(|(protocol, port)| {
            format!("{} . {port} : {}", protocol.name().to_lowercase(), leads_to(value))
        }),
        Set::Guarded(_) | Set::Closed(_) => {
            read_frontend_key(&element.key).map(|(address, protocol, port)| {
                format!("{address} . {} . {port}", protocol.name().to_lowercase())
            })
        }
        Set::Allowed(family) => allowed(family, element, value),
        Set::ClosedPorts(_) => read_node_port_key(&element.key)
            .map(|(protocol, port)| format!("{} . {port}", protocol.name().to_lowercase())),
        Set::Locals => {
            let pool = Value(number(&element.key)).pool();
            Some(format!("pool {pool} : {}", leads_to(value)))
        }
        Set::Endpoints(..) => read_slot_key(&element.key).map(|(pool, slot)| {
            let slot = match slot.checked_sub(LOCAL_SLOTS) {
                Some(slot) => format!("local {slot}"),
                None => slot.to_string(),
            };
            format!("pool {pool} . {slot} : {}", target(value))
        }),
        Set::Addresses(_) | Set::Nodes(_) | Set::Departed(_) | Set::Routed(_) => {
            address(&element.key).map(|address| address.to_string())
        }
        Set::Hairpin(_) => {
            read_set_address(set, &element.key).map(|address| format!("{address} . {address}"))
        }
        Set::Ranges(_) => address(&element.key).map(|address| match element.data {
            Data::IntervalEnd => format!("up to {address}, not included"),
            _ => format!("from {address}"),
        }),
        Set::Pinned(..) => Some(format!("{:#010x} : {}", number(&element.key), target(value))),
        Set::Affinity(_) => None,
        Set::Classes | Set::Inners | Set::Exits | Set::Recorders => {
            let verdict = match &element.data {
                Data::Verdict(Verdict::Drop) => "drop".to_owned(),
                Data::Verdict(Verdict::Goto(chain)) => format!("goto {chain}"),
                Data::Verdict(Verdict::Jump(chain)) => format!("jump {chain}"),
                _ => String::new(),
            };
            Some(format!("{} : {verdict}", number(&element.key)))
        }
    };
    // Nothing but these is ever lowered; should it be, a golden file shows its bytes.
    text.unwrap_or_else(|| format!("{element:?}"))
}

fn leads_to(value: &[u8]) -> String {
    let value = Value(number(value));
    format!("pool {} class {}", value.pool(), value.class())
}

/// `192.0.2.0/24 . 10.0.0.1 . tcp . 80`
fn allowed(family: Family, element: &Element, length: &[u8]) -> Option<String> {
    let frontend = allowed_frontend(family, &element.key)?;
    let clients = address(&element.key[..element.key.len() - frontend.len()])?;
    let (ip, protocol, port) = read_frontend_key(frontend)?;
    let protocol = protocol.name().to_lowercase();
    Some(format!("{clients}/{} . {ip} . {protocol} . {port}", number(length)))
}

fn address(key: &[u8]) -> Option<IpAddr> {
    match *key {
        [a, b, c, d] => Some(IpAddr::from([a, b, c, d])),
        _ => <[u8; 16]>::try_from(key).ok().map(IpAddr::from),
    }
}

fn target(value: &[u8]) -> String {
    read_target(value)
        .map(|Target { address, port }| format!("{address} . {port}"))
        .unwrap_or_default()
}
