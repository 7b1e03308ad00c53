//! "Packet too big" about an answer of the relay. PURE.
//!
//! Conntrack does not see the answers of untracked frontends (see `untracked`), so to it a router's word
//! about one is INVALID. The kernel looks up by what is quoted the socket that the answer came from, and
//! learns the path's MTU: so these errors are not tracked either. What they quote must be an untracked
//! frontend's: conntrack translates what is quoted of others' flows. Other errors say nothing to the relay,
//! whose answering sockets are not connected.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use super::sets::{Set, lookup, no_track};
use crate::model::Family;
use crate::nft::expr::{Comparison, Expr, PayloadBase, Reg, Rule};
use crate::nft::words::{registers, too_big};

pub(super) const CHAIN: &str = "raw-errors";

/// Of an ICMP error, before what it quotes.
const HEADER: u32 = 8;

/// Where in a quoted packet is what tells whose it is.
struct Layout {
    /// Where and how what is quoted must have something: offset, mask, value.
    asked: Vec<(u32, Vec<u8>, Vec<u8>)>,
    protocol: u32,
    source: (u32, u32),
    port: u32,
}

/// `bridged`: what the kernel has of what arrives.
pub(super) fn rules(bridged: Vec<Rule>) -> Vec<Rule> {
    let mut rules = bridged;
    for family in Family::BOTH {
        for layout in layouts(family) {
            let which = [layout.of_frontend(family), layout.of_node_port(family)];
            rules.extend(which.map(|which| {
                let asked = [too_big(family), layout.asked()].concat();
                no_track(asked, which)
            }));
        }
    }
    rules
}

fn layouts(family: Family) -> Vec<Layout> {
    /// Of an IPv6 packet's fragment.
    const FRAGMENT: u8 = 44;
    match family {
        // Without options, and with the ports: the first fragment, if it is one.
        Family::V4 => vec![Layout {
            asked: vec![(0, vec![0xff], vec![0x45]), (6, vec![0x1f, 0xff], vec![0, 0])],
            protocol: 9,
            source: (12, 4),
            port: 20,
        }],
        // Who sends IPv6 makes its fragments, so that they may be too big too.
        Family::V6 => vec![
            Layout { asked: Vec::new(), protocol: 6, source: (8, 16), port: 40 },
            Layout {
                asked: vec![(6, vec![0xff], vec![FRAGMENT]), (42, vec![0xff, 0xf8], vec![0, 0])],
                protocol: 40,
                source: (8, 16),
                port: 48,
            },
        ],
    }
}

impl Layout {
    fn asked(&self) -> Vec<Expr> {
        let mut out = Vec::new();
        for (offset, mask, value) in &self.asked {
            out.push(quoted(*offset, value.len() as u32, 1));
            if mask.iter().any(|byte| *byte != u8::MAX) {
                out.push(Expr::Mask { register: 1, mask: mask.clone() });
            }
            out.push(Expr::Compare(Comparison::Equal, 1, value.clone()));
        }
        out
    }

    /// The quoted `ip saddr . meta l4proto . th sport @untracked`
    fn of_frontend(&self, family: Family) -> Vec<Expr> {
        let (address, protocol, port) = registers(family);
        vec![
            quoted(self.source.0, self.source.1, address),
            quoted(self.protocol, 1, protocol),
            quoted(self.port, 2, port),
            lookup(Set::Untracked(family)),
        ]
    }

    /// The quoted `ip saddr @nodes meta l4proto . th sport @untrackedports`
    fn of_node_port(&self, family: Family) -> Vec<Expr> {
        vec![
            quoted(self.source.0, self.source.1, 1),
            lookup(Set::Nodes(family)),
            quoted(self.protocol, 1, 1),
            quoted(self.port, 2, 9),
            lookup(Set::UntrackedPorts(family)),
        ]
    }
}

fn quoted(offset: u32, length: u32, to: Reg) -> Expr {
    Expr::Payload { base: PayloadBase::Transport, offset: HEADER + offset, length, to }
}
