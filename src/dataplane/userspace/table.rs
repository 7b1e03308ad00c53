//! The table that leads packets to the relay: `inet vipd-relay`, made with an owner, so that the
//! kernel removes it with the process, however that ends.
//!
//! ```text
//!  raw, raw-output (filter, −300) ── UDP, of a frontend that everybody may ask ─► see `untracked`
//!  raw, mangle ── from a bridge, where that has passed these hooks too early ─► accept: the kernel
//!  mangle (filter, prerouting −150) ── of a connection that is translated ─► accept
//!                                  ── a relayed frontend or node port ─► tproxy, accept
//!  output (nat −101) ── by lo; not everybody may ask ─► accept: the kernel guards and translates
//!                    ── by lo; a relayed frontend or node port ─► dnat to where it goes anyway
//! ```
//! What the node itself sends is not translated by table `inet vipd` then (a connection is translated
//! once), passes the loopback interface by its local route, and meets `mangle`.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use super::untracked;
use crate::model::{Family, Protocol};
use crate::nft::expr::{Comparison, Ct, Expr, Find, Meta, Rule, Verdict};
use crate::nft::words::{
    destination, destination_port, frontend, is_family, is_protocol, nfproto, registers,
};
use crate::nft::{
    ChainDefinition, Data, Definition, Element, Hook, Part, address_element, frontend_key,
    frontend_parts, node_port_key,
};
use crate::planner::{FrontendAddress, FrontendKey};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub const TABLE: &str = "vipd-relay";

/// Protocols that a transparent socket takes.
const PROTOCOLS: [Protocol; 2] = [Protocol::Tcp, Protocol::Udp];

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Set {
    /// Frontends.
    Relayed(Family),
    /// Of these, those that not everybody may ask.
    Guarded(Family),
    /// Where node ports answer.
    Nodes(Family),
    Ports(Family),
    /// Of relayed UDP frontends and node ports, those that conntrack does not see.
    Untracked(Family),
    UntrackedPorts(Family),
}

/// An element with the set that it is in.
pub type Placed = (Set, Element);

impl Set {
    pub const ALL: [Set; 12] = {
        use Family::{V4, V6};
        [
            Set::Relayed(V4),
            Set::Relayed(V6),
            Set::Guarded(V4),
            Set::Guarded(V6),
            Set::Nodes(V4),
            Set::Nodes(V6),
            Set::Ports(V4),
            Set::Ports(V6),
            Set::Untracked(V4),
            Set::Untracked(V6),
            Set::UntrackedPorts(V4),
            Set::UntrackedPorts(V6),
        ]
    };

    pub fn name(self) -> &'static str {
        use Family::{V4, V6};
        match self {
            Set::Relayed(V4) => "relayed4",
            Set::Relayed(V6) => "relayed6",
            Set::Guarded(V4) => "guarded4",
            Set::Guarded(V6) => "guarded6",
            Set::Nodes(V4) => "nodes4",
            Set::Nodes(V6) => "nodes6",
            Set::Ports(V4) => "relayedports4",
            Set::Ports(V6) => "relayedports6",
            Set::Untracked(V4) => "untracked4",
            Set::Untracked(V6) => "untracked6",
            Set::UntrackedPorts(V4) => "untrackedports4",
            Set::UntrackedPorts(V6) => "untrackedports6",
        }
    }

    /// Whether its elements lead packets to the relay, given that there are addresses of the node.
    pub fn leads(self) -> bool {
        matches!(self, Set::Relayed(_) | Set::Ports(_))
    }

    pub fn definition(self) -> Definition {
        let key = match self {
            Set::Relayed(family) | Set::Guarded(family) | Set::Untracked(family) => {
                frontend_parts(family)
            }
            Set::Nodes(family) => vec![Part::Destination(family)],
            Set::Ports(_) | Set::UntrackedPorts(_) => vec![Part::Protocol, Part::Port],
        };
        Definition::new(&key, &[], 0)
    }
}

/// What leads a frontend's packets to the relay.
pub fn relayed_element(at: FrontendKey) -> Placed {
    placed(at, (Set::Relayed, Set::Ports))
}

/// What keeps a frontend's datagrams from conntrack.
pub fn untracked_element(at: FrontendKey) -> Option<Placed> {
    let udp = at.protocol == Protocol::Udp;
    udp.then(|| placed(at, (Set::Untracked, Set::UntrackedPorts)))
}

type OfFamily = fn(Family) -> Set;

fn placed(at: FrontendKey, (frontends, ports): (OfFamily, OfFamily)) -> Placed {
    let (set, key) = match at.at {
        FrontendAddress::Address(address) => {
            (frontends(Family::of(address)), frontend_key(address, at.protocol, at.port))
        }
        FrontendAddress::NodePort(family) => (ports(family), node_port_key(at.protocol, at.port)),
    };
    (set, Element { key, data: Data::None })
}

/// What leaves to the kernel what the node itself sends to a frontend; node ports have no guards.
pub fn guarded_element(at: FrontendKey) -> Option<Placed> {
    let FrontendAddress::Address(address) = at.at else { return None };
    let key = frontend_key(address, at.protocol, at.port);
    Some((Set::Guarded(Family::of(address)), Element { key, data: Data::None }))
}

pub fn node_element(address: IpAddr) -> Placed {
    (Set::Nodes(Family::of(address)), address_element(address))
}

/// All chains, of a relay that listens at this port of the loopback addresses. `bridged`: families whose
/// packets from bridges tproxy cannot lead.
pub fn chains(port: u16, bridged: [bool; 2]) -> [ChainDefinition; 4] {
    const NF_INET_PRE_ROUTING: u32 = 0;
    const NF_INET_LOCAL_OUT: u32 = 3;
    let bridged = Family::BOTH.into_iter().filter(|family| bridged[family.index()]);
    let bridged: Vec<Rule> = bridged.map(accept_bridged).collect();
    let mut arriving = [vec![accept_untracked(), accept_translated()], bridged.clone()].concat();
    let mut own = Vec::new();
    for family in Family::BOTH {
        for protocol in PROTOCOLS {
            arriving.push(lead(
                family,
                protocol,
                (to_frontend(family, Set::Relayed(family)), port),
            ));
            arriving.push(lead(family, protocol, (to_node_port(family, Set::Ports(family)), port)));
        }
        let mut guarded = on_loopback(family);
        guarded.extend(to_frontend(family, Set::Guarded(family)));
        guarded.push(Expr::Verdict(Verdict::Accept));
        own.push(Rule(guarded));
        own.push(stay(family, to_frontend(family, Set::Relayed(family))));
        own.push(stay(family, to_node_port(family, Set::Ports(family))));
    }
    let hook = |kind, number, priority| Hook { kind, number, priority };
    let [raw, raw_output] = untracked::rules(port, bridged);
    [
        ChainDefinition::hooked("raw", hook("filter", NF_INET_PRE_ROUTING, -300), raw),
        ChainDefinition::hooked("raw-output", hook("filter", NF_INET_LOCAL_OUT, -300), raw_output),
        ChainDefinition::hooked("mangle", hook("filter", NF_INET_PRE_ROUTING, -150), arriving),
        ChainDefinition::hooked("output", hook("nat", NF_INET_LOCAL_OUT, -101), own),
    ]
}

pub(super) fn lookup(set: Set) -> Expr {
    Expr::Lookup { set: set.name().into(), from: 1, find: Find::Present }
}

/// `ct state untracked accept`: led already.
fn accept_untracked() -> Rule {
    const UNTRACKED: u32 = 1 << 6;
    Rule(vec![
        Expr::CtLoad(Ct::State, 1),
        Expr::Mask { register: 1, mask: UNTRACKED.to_ne_bytes().to_vec() },
        Expr::Compare(Comparison::NotEqual, 1, vec![0; 4]),
        Expr::Verdict(Verdict::Accept),
    ])
}

/// `ct status dnat accept`: translated to an endpoint from before the frontend was relayed. Led to a
/// socket as well, such a packet would be forwarded with it, and the kernel drops those.
fn accept_translated() -> Rule {
    const IPS_DST_NAT: u32 = 1 << 5;
    Rule(vec![
        Expr::CtLoad(Ct::Status, 1),
        Expr::Mask { register: 1, mask: IPS_DST_NAT.to_ne_bytes().to_vec() },
        Expr::Compare(Comparison::NotEqual, 1, vec![0; 4]),
        Expr::Verdict(Verdict::Accept),
    ])
}

/// `ip daddr . meta l4proto . th dport @set`
pub(super) fn to_frontend(family: Family, set: Set) -> Vec<Expr> {
    let mut out = frontend(family, registers(family)).to_vec();
    out.push(lookup(set));
    out
}

/// `ip daddr @nodes meta l4proto . th dport @ports`
pub(super) fn to_node_port(family: Family, ports: Set) -> Vec<Expr> {
    vec![
        destination(family, 1),
        lookup(Set::Nodes(family)),
        Expr::MetaLoad(Meta::Protocol, 1),
        destination_port(9),
        lookup(ports),
    ]
}

/// `meta nfproto F iifkind bridge accept`
fn accept_bridged(family: Family) -> Rule {
    let mut kind = b"bridge".to_vec();
    kind.resize(16, 0);
    let mut rule = is_family(family).to_vec();
    rule.extend([
        Expr::MetaLoad(Meta::InputKind, 1),
        Expr::Compare(Comparison::Equal, 1, kind),
        Expr::Verdict(Verdict::Accept),
    ]);
    Rule(rule)
}

/// `meta l4proto P … tproxy ip to 127.0.0.1:PORT accept`
fn lead(family: Family, protocol: Protocol, (which, port): (Vec<Expr>, u16)) -> Rule {
    let mut rule = is_protocol(protocol).to_vec();
    rule.extend(is_family(family));
    rule.extend(which);
    rule.extend(tproxy(family, port));
    rule.push(Expr::Verdict(Verdict::Accept));
    Rule(rule)
}

/// Ends the rule where nobody listens there.
pub(super) fn tproxy(family: Family, port: u16) -> [Expr; 3] {
    let listener = match family {
        Family::V4 => Ipv4Addr::LOCALHOST.octets().to_vec(),
        Family::V6 => Ipv6Addr::LOCALHOST.octets().to_vec(),
    };
    [
        Expr::ImmediateValue(1, listener),
        Expr::ImmediateValue(2, port.to_be_bytes().to_vec()),
        Expr::Tproxy { family: nfproto(family), address: 1, port: 2 },
    ]
}

/// `meta nfproto F oif lo`. An IPv6 socket that is connected since before its route came goes on by the
/// one that it remembers (6.18): the kernel has it.
pub(super) fn on_loopback(family: Family) -> Vec<Expr> {
    const LOOPBACK: u32 = 1;
    let mut rule = is_family(family).to_vec();
    rule.extend([
        Expr::MetaLoad(Meta::OutputIndex, 1),
        Expr::Compare(Comparison::Equal, 1, LOOPBACK.to_ne_bytes().to_vec()),
    ]);
    rule
}

/// `oif lo … dnat ip to ip daddr`
fn stay(family: Family, which: Vec<Expr>) -> Rule {
    let mut rule = on_loopback(family);
    rule.extend(which);
    rule.extend([
        destination(family, 1),
        Expr::Dnat { family: nfproto(family), address: 1, port: None },
    ]);
    Rule(rule)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(at: FrontendAddress, protocol: Protocol) -> FrontendKey {
        FrontendKey { at, protocol, port: 80 }
    }

    #[test]
    fn a_frontend_is_in_the_set_of_its_kind() {
        let address = FrontendAddress::Address("fd00::1".parse().unwrap());
        let (set, element) = relayed_element(key(address, Protocol::Udp));
        assert_eq!((set, element.key.len()), (Set::Relayed(Family::V6), 24));
        let guarded = guarded_element(key(address, Protocol::Udp)).unwrap();
        assert_eq!(guarded, (Set::Guarded(Family::V6), element));
        let node_port = key(FrontendAddress::NodePort(Family::V4), Protocol::Tcp);
        let (set, element) = relayed_element(node_port);
        assert_eq!(
            (set, &element.key[..]),
            (Set::Ports(Family::V4), &[6, 0, 0, 0, 0, 80, 0, 0][..])
        );
        assert_eq!(guarded_element(node_port), None);
    }

    /// A packet of a translated connection must not meet a rule that gives it a socket.
    #[test]
    fn what_is_translated_is_let_through_first() {
        let [.., mangle, output] = chains(1234, [false; 2]);
        assert_eq!(mangle.rules[..2], [accept_untracked(), accept_translated()]);
        let gives = |rule: &&Rule| rule.0.iter().any(|e| matches!(e, Expr::Tproxy { .. }));
        assert_eq!(mangle.rules.iter().filter(gives).count(), 8);
        assert_eq!((mangle.rules.len(), output.rules.len()), (10, 6));
        let [raw, _, mangle, _] = chains(1234, [false, true]);
        let left = accept_bridged(Family::V6);
        assert_eq!((&raw.rules[1], &mangle.rules[2]), (&left, &left));
        assert!(!raw.rules.contains(&accept_bridged(Family::V4)));
    }
}
