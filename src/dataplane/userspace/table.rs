//! The table that leads packets to the relay: `inet vipd-relay`, made with an owner, so that the
//! kernel removes it with the process, however that ends.
//!
//! ```text
//!  raw, raw-output (filter, −300) ── UDP, of a frontend that everybody may ask ─► see `untracked`
//!  raw-errors ── what is no TCP and no UDP ─► see `quoted`
//!  raw, mangle ── from a bridge, where that has passed these hooks too early ─► accept: the kernel
//!  mangle (filter, prerouting −150) ── of a connection that is translated ─► accept
//!                                  ── a relayed or redirected frontend, or node port ─► tproxy, accept
//!  output (nat −101) ── not everybody may ask ─► accept: the kernel guards and translates
//!                    ── a redirected frontend ─► see `redirect`
//!                    ── by lo; a relayed frontend or node port ─► dnat to where it goes anyway
//!  to-port, at-port, keep-source ── see `redirect`
//! ```
//! What the node itself sends is not translated by table `inet vipd` then (a connection is translated
//! once), passes the loopback interface by its local route, and meets `mangle`.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use super::quoted;
use super::redirect::Port;
use super::sets::{Set, on_loopback, to_frontend, to_node_port, tproxy};
use super::untracked;
use crate::model::{Family, Protocol};
use crate::nft::expr::{Comparison, Ct, Expr, Meta, Rule, Verdict};
use crate::nft::words::{destination, is_family, is_protocol, nfproto, opens_nothing};
use crate::nft::{ChainDefinition, Hook};
use std::net::IpAddr;

pub const TABLE: &str = "vipd-relay";

/// Protocols that a transparent socket takes.
const PROTOCOLS: [Protocol; 2] = [Protocol::Tcp, Protocol::Udp];

/// What the rules depend on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Site {
    /// Where the relay listens, at the loopback addresses.
    pub port: u16,
    /// Families whose packets from bridges tproxy cannot lead.
    pub bridged: [bool; 2],
    /// Of each family an address of the node's own, for what is redirected. Without one the kernel has
    /// that.
    pub own: [Option<IpAddr>; 2],
}

impl Site {
    fn redirects(self, family: Family) -> Option<Port> {
        let own = self.own[family.index()];
        own.map(|address| Port { address, port: self.port })
    }
}

/// All chains.
pub fn chains(site: Site) -> Vec<ChainDefinition> {
    const NF_INET_PRE_ROUTING: u32 = 0;
    const NF_INET_LOCAL_OUT: u32 = 3;
    const NF_INET_POST_ROUTING: u32 = 4;
    let bridged = Family::BOTH.into_iter().filter(|family| site.bridged[family.index()]);
    let bridged: Vec<Rule> = bridged.map(accept_bridged).collect();
    let first = vec![accept_answers(), accept_untracked(), accept_translated()];
    let mut arriving = [first, bridged.clone()].concat();
    let mut own = Vec::new();
    for family in Family::BOTH {
        let to = site.port;
        for protocol in PROTOCOLS {
            arriving.push(lead(family, protocol, (to_frontend(family, Set::Relayed(family)), to)));
            arriving.push(lead(family, protocol, (to_node_port(family, Set::Ports(family)), to)));
        }
        if site.redirects(family).is_some() {
            let which = to_frontend(family, Set::Redirected(family));
            arriving.push(lead(family, Protocol::Tcp, (which, to)));
        }
        let mut guarded = is_family(family).to_vec();
        guarded.extend(to_frontend(family, Set::Guarded(family)));
        guarded.push(Expr::Verdict(Verdict::Accept));
        own.push(Rule(guarded));
        own.extend(site.redirects(family).map(Port::translate));
        own.push(stay(family, to_frontend(family, Set::Relayed(family))));
        own.push(stay(family, to_node_port(family, Set::Ports(family))));
    }
    let hook = |kind, number, priority| Hook { kind, number, priority };
    let errors = quoted::rules(bridged.clone());
    let [raw, raw_output] = untracked::rules(site.port, bridged);
    let mut chains = vec![
        ChainDefinition::new(quoted::CHAIN, errors),
        ChainDefinition::hooked("raw", hook("filter", NF_INET_PRE_ROUTING, -300), raw),
        ChainDefinition::hooked("raw-output", hook("filter", NF_INET_LOCAL_OUT, -300), raw_output),
        ChainDefinition::hooked("mangle", hook("filter", NF_INET_PRE_ROUTING, -150), arriving),
        ChainDefinition::hooked("output", hook("nat", NF_INET_LOCAL_OUT, -101), own),
    ];
    let ports: Vec<Port> =
        Family::BOTH.into_iter().filter_map(|family| site.redirects(family)).collect();
    if !ports.is_empty() {
        let rules = |rule: fn(Port) -> Rule| ports.iter().copied().map(rule).collect();
        let leads = ports.iter().copied().flat_map(Port::lead).collect();
        let arriving = |kind, priority| hook(kind, NF_INET_PRE_ROUTING, priority);
        let leaving = hook("nat", NF_INET_POST_ROUTING, 99);
        chains.extend([
            ChainDefinition::hooked("to-port", arriving("nat", -99), rules(Port::translate)),
            ChainDefinition::hooked("at-port", arriving("filter", -98), leads),
            ChainDefinition::hooked("keep-source", leaving, rules(Port::keep_source)),
        ]);
    }
    chains
}

/// `ct direction reply tcp flags & syn == 0 accept`: what endpoints answer the relay, half of all that it
/// receives, is led nowhere. A client that opens a connection anew may seem to answer, where its former
/// one is still known.
fn accept_answers() -> Rule {
    const IP_CT_DIR_REPLY: u8 = 1;
    let mut rule = opens_nothing().to_vec();
    rule.extend([
        Expr::CtLoad(Ct::Direction, 1),
        Expr::Compare(Comparison::Equal, 1, vec![IP_CT_DIR_REPLY]),
        Expr::Verdict(Verdict::Accept),
    ]);
    Rule(rule)
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

    fn chain(site: Site, name: &str) -> Vec<Rule> {
        let chains = chains(site);
        let found = chains.into_iter().find(|chain| chain.name == name);
        found.map(|chain| chain.rules).unwrap_or_default()
    }

    /// A packet of a translated connection must not meet a rule that gives it a socket, unless it is
    /// translated to the relay.
    #[test]
    fn what_is_translated_is_let_through_first() {
        let site = Site { port: 1234, ..Site::default() };
        let mangle = chain(site, "mangle");
        let first = [accept_answers(), accept_untracked(), accept_translated()];
        assert_eq!(mangle[..3], first);
        let gives = |rule: &&Rule| rule.0.iter().any(|e| matches!(e, Expr::Tproxy { .. }));
        assert_eq!(mangle.iter().filter(gives).count(), 8);
        assert_eq!((mangle.len(), chain(site, "output").len()), (11, 6));
        let site = Site { bridged: [false, true], ..site };
        let (raw, mangle) = (chain(site, "raw"), chain(site, "mangle"));
        let left = accept_bridged(Family::V6);
        let errors = chain(site, quoted::CHAIN);
        assert_eq!((&raw[2], &mangle[3], &errors[0]), (&left, &left, &left));
        assert!(!raw.contains(&accept_bridged(Family::V4)));
    }

    /// What a socket is given to before it is translated must be translated: it could not be forwarded.
    #[test]
    fn a_family_without_an_address_is_redirected_nowhere() {
        let none = Site { port: 1234, ..Site::default() };
        assert_eq!(chains(none).len(), 5);
        let one = Site { own: [None, Some("2001:db8::1".parse().unwrap())], ..none };
        let asks = |rule: &&Rule| format!("{rule:?}").contains("redirected");
        let count = |site, name| chain(site, name).iter().filter(asks).count();
        for (name, rules) in [("mangle", 1), ("output", 1), ("to-port", 1), ("at-port", 2)] {
            assert_eq!((count(none, name), count(one, name)), (0, rules), "{name}");
            assert!(!format!("{:?}", chain(one, name)).contains("redirected4"), "{name}");
        }
        assert_eq!(chain(one, "keep-source").len(), 1);
    }
}
