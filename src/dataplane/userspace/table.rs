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

use super::sets::{Set, on_loopback, to_frontend, to_node_port, tproxy};
use super::untracked;
use crate::model::{Family, Protocol};
use crate::nft::expr::{Comparison, Ct, Expr, Meta, Rule, Verdict};
use crate::nft::words::{destination, is_family, is_protocol, nfproto};
use crate::nft::{ChainDefinition, Hook};

pub const TABLE: &str = "vipd-relay";

/// Protocols that a transparent socket takes.
const PROTOCOLS: [Protocol; 2] = [Protocol::Tcp, Protocol::Udp];

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
