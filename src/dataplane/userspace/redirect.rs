//! Connections that are led to a port of this node's, where only some ports of an address are relayed.
//! PURE.
//!
//! The port is the number that the relay listens at on loopback addresses, at an address of the node's
//! own: reached from wherever a client comes in, also where the interface has none. Nobody listens there:
//! the relay's sockets are given what was translated, and whoever asks for the port itself finds what the
//! node has there, usually nothing.
//!
//! ```text
//!  mangle (−150) ── as what is relayed otherwise ─► tproxy: shows table inet vipd that the relay has it
//!  inet vipd (−100) ── guards and policies; the relay's socket ─► accept
//!  to-port (nat, prerouting −99) ── a redirected frontend ─► dnat to the port
//!  at-port (filter, prerouting −98) ── at the port, and was to such a frontend ─► tproxy
//!  output (nat −101) ── a redirected frontend that everybody may ask ─► dnat to the port
//!  keep-source (nat, postrouting 99) ── to the port, by lo ─► snat to where it comes from anyway: table
//!                                       inet vipd does not masquerade it
//! ```
//! Two frontends may be connected to from one port of a client's. Conntrack then gives one of the
//! connections another port towards here, on the way in (input), behind where packets are given sockets
//! by the addresses that they still have: its own are let through `at-port`, where they would be given
//! the other's.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use super::sets::{LOOPBACK, Set, lookup, on_loopback, to_frontend, tproxy};
use crate::model::{Family, Protocol};
use crate::nft::expr::{Comparison, Ct, Expr, Meta, Rule, Verdict};
use crate::nft::words::{
    destination, destination_port, is_family, is_protocol, nfproto, registers, source,
};
use std::net::IpAddr;

/// Where redirected connections go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Port {
    pub address: IpAddr,
    pub port: u16,
}

impl Port {
    fn family(self) -> Family {
        Family::of(self.address)
    }

    fn octets(self) -> Vec<u8> {
        match self.address {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        }
    }

    /// `ip daddr ADDRESS tcp dport PORT`
    fn is_destination(self) -> [Expr; 4] {
        [
            destination(self.family(), 1),
            Expr::Compare(Comparison::Equal, 1, self.octets()),
            destination_port(1),
            Expr::Compare(Comparison::Equal, 1, self.port.to_be_bytes().to_vec()),
        ]
    }

    /// `meta l4proto tcp … ip daddr . meta l4proto . th dport @redirected dnat ip to ADDRESS:PORT`
    pub(super) fn translate(self) -> Rule {
        let family = self.family();
        let mut rule = of_tcp(family);
        rule.extend(to_frontend(family, Set::Redirected(family)));
        rule.extend([
            Expr::ImmediateValue(1, self.octets()),
            Expr::ImmediateValue(2, self.port.to_be_bytes().to_vec()),
            Expr::Dnat { family: nfproto(family), address: 1, port: Some(2) },
        ]);
        Rule(rule)
    }

    /// `iif lo …`, and `… ct status confirmed ct status ! snat …`, each with
    /// `ct original ip daddr . meta l4proto . ct original proto-dst @redirected tproxy …`: what is given no
    /// socket by where it goes, a first segment of the node's own, one that is sent again, and what
    /// answers a SYN cookie. A first segment from elsewhere has been given one.
    pub(super) fn lead(self) -> [Rule; 2] {
        const IPS_CONFIRMED: u32 = 1 << 3;
        const IPS_SRC_NAT: u32 = 1 << 4;
        let status = |bit: u32, comparison| {
            [
                Expr::CtLoad(Ct::Status, 1),
                Expr::Mask { register: 1, mask: bit.to_ne_bytes().to_vec() },
                Expr::Compare(comparison, 1, vec![0; 4]),
            ]
        };
        let is_once =
            [status(IPS_CONFIRMED, Comparison::NotEqual), status(IPS_SRC_NAT, Comparison::Equal)];
        // What conntrack gave another port on the way out has it by now.
        let is_own = [
            Expr::MetaLoad(Meta::InputIndex, 1),
            Expr::Compare(Comparison::Equal, 1, LOOPBACK.to_ne_bytes().to_vec()),
        ];
        [self.lead_where(&is_own), self.lead_where(is_once.as_flattened())]
    }

    fn lead_where(self, condition: &[Expr]) -> Rule {
        let family = self.family();
        let (address, protocol, port) = registers(family);
        let original = match family {
            Family::V4 => Ct::OriginalAddress4,
            Family::V6 => Ct::OriginalAddress6,
        };
        let mut rule = of_tcp(family);
        rule.extend(self.is_destination());
        rule.extend_from_slice(condition);
        rule.extend([
            Expr::CtLoad(original, address),
            Expr::MetaLoad(Meta::Protocol, protocol),
            Expr::CtLoad(Ct::OriginalPort, port),
            lookup(Set::Redirected(family)),
        ]);
        rule.extend(tproxy(family, self.port));
        rule.push(Expr::Verdict(Verdict::Accept));
        Rule(rule)
    }

    /// `oif lo … snat ip to ip saddr`
    pub(super) fn keep_source(self) -> Rule {
        let family = self.family();
        let mut rule = on_loopback(family);
        rule.extend(is_protocol(Protocol::Tcp));
        rule.extend(self.is_destination());
        rule.extend([source(family, 1), Expr::Snat { family: nfproto(family), address: 1 }]);
        Rule(rule)
    }
}

fn of_tcp(family: Family) -> Vec<Expr> {
    let mut rule = is_protocol(Protocol::Tcp).to_vec();
    rule.extend(is_family(family));
    rule
}
