//! The sets of the relay's table, their elements, and how its rules ask for them. PURE.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use crate::model::{Family, Protocol};
use crate::nft::expr::{Comparison, Expr, Find, Meta, Rule, Verdict};
use crate::nft::words::{destination, destination_port, frontend, is_family, nfproto, registers};
use crate::nft::{
    Data, Definition, Element, Part, address_element, frontend_key, frontend_parts, node_port_key,
};
use crate::planner::{FrontendAddress, FrontendKey, Way};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Set {
    /// Frontends that are led here as they are.
    Relayed(Family),
    /// Those that are led to a port of this node's.
    Redirected(Family),
    /// Of both, those that not everybody may ask.
    Guarded(Family),
    /// Where node ports answer.
    Nodes(Family),
    Ports(Family),
    /// Of relayed UDP frontends and node ports, those that conntrack does not see.
    Untracked(Family),
    UntrackedPorts(Family),
}

/// The loopback interface has this index in every namespace.
pub(super) const LOOPBACK: u32 = 1;

/// An element with the set that it is in.
pub type Placed = (Set, Element);

impl Set {
    pub const ALL: [Set; 14] = {
        use Family::{V4, V6};
        [
            Set::Relayed(V4),
            Set::Relayed(V6),
            Set::Redirected(V4),
            Set::Redirected(V6),
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
            Set::Redirected(V4) => "redirected4",
            Set::Redirected(V6) => "redirected6",
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
        matches!(self, Set::Relayed(_) | Set::Redirected(_) | Set::Ports(_))
    }

    pub fn definition(self) -> Definition {
        let key = match self {
            Set::Relayed(family)
            | Set::Redirected(family)
            | Set::Guarded(family)
            | Set::Untracked(family) => frontend_parts(family),
            Set::Nodes(family) => vec![Part::Destination(family)],
            Set::Ports(_) | Set::UntrackedPorts(_) => vec![Part::Protocol, Part::Port],
        };
        Definition::new(&key, &[], 0)
    }
}

/// What leads a frontend's packets to the relay. A node port's address is the node's own.
pub fn leading_element(at: FrontendKey, way: Way) -> Placed {
    let frontends = match way {
        Way::Address => Set::Relayed,
        Way::Port => Set::Redirected,
    };
    placed(at, (frontends, Set::Ports))
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

pub(super) fn lookup(set: Set) -> Expr {
    Expr::Lookup { set: set.name().into(), from: 1, find: Find::Present }
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

/// `… notrack accept`
pub(super) fn no_track(mut rule: Vec<Expr>, which: Vec<Expr>) -> Rule {
    rule.extend(which);
    rule.extend([Expr::NoTrack, Expr::Verdict(Verdict::Accept)]);
    Rule(rule)
}

/// `meta nfproto F oif lo`. An IPv6 socket that is connected since before its route came goes on by the
/// one that it remembers (6.18): the kernel has it.
pub(super) fn on_loopback(family: Family) -> Vec<Expr> {
    let mut rule = is_family(family).to_vec();
    rule.extend([
        Expr::MetaLoad(Meta::OutputIndex, 1),
        Expr::Compare(Comparison::Equal, 1, LOOPBACK.to_ne_bytes().to_vec()),
    ]);
    rule
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
        let (set, element) = leading_element(key(address, Protocol::Udp), Way::Address);
        assert_eq!((set, element.key.len()), (Set::Relayed(Family::V6), 24));
        let redirected = leading_element(key(address, Protocol::Udp), Way::Port);
        assert_eq!(redirected, (Set::Redirected(Family::V6), element.clone()));
        let guarded = guarded_element(key(address, Protocol::Udp)).unwrap();
        assert_eq!(guarded, (Set::Guarded(Family::V6), element));
        let node_port = key(FrontendAddress::NodePort(Family::V4), Protocol::Tcp);
        let (set, element) = leading_element(node_port, Way::Address);
        assert_eq!(
            (set, &element.key[..]),
            (Set::Ports(Family::V4), &[6, 0, 0, 0, 0, 80, 0, 0][..])
        );
        assert_eq!(guarded_element(node_port), None);
    }
}
