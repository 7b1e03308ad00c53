//! What addresses need that routes lead to the relay by. PURE.
//!
//! ```text
//!  going-on (filter, prerouting −300) ── a TCP segment that opens nothing ─► relayed ── the relay's socket
//!  going-on-output (output −300) ── TCP from such an address ─► not tracked            has it ─► not tracked
//!  routed (filter, input 0) ── to a routed address ─► unrelayed ── a transparent socket has it ─► accept
//!                                                               └─ else ─► refuse
//! ```
//! Conntrack and the nat chains have nothing to say of a relayed connection that goes on, and take it some
//! microseconds. The relay's table keeps the segment that opens one from them, where that may be. They
//! do see what the node itself sends, whose route may go by another interface later, and what comes
//! by node ports, whose clients may be behind a narrower link: an ICMP error about what is not tracked is
//! INVALID, and dropped by many firewalls. Who was translated from before an address was relayed has no
//! socket here, and stays tracked.
//!
//! These rules are here and not in the relay's table because they must last as long as the route does: a
//! connection that goes on when its Service is the kernel's again would be translated in its middle.

use super::expr::{Comparison, Ct, Expr, Find, Meta, Rule, SocketIs, Verdict};
use super::rules::{self, lookup, socket_is};
use super::set::Set;
use crate::model::{Family, Protocol};
use crate::nft::words::{destination, is_family, is_protocol, opens_nothing, source};
use crate::nft::{ChainDefinition, Hook};

/// What is led here and no relay takes.
pub const UNRELAYED: &str = "unrelayed";
pub const ROUTED: &str = "routed";
pub const GOING_ON: &str = "going-on";
pub const GOING_ON_OUTPUT: &str = "going-on-output";
/// Where it shows whether a socket of the relay's has a segment.
pub const RELAYED: &str = "relayed";

/// Every chain before those that refer to it; none where no family has such addresses.
pub fn chains(families: &[Family]) -> Vec<ChainDefinition> {
    const NF_INET_PRE_ROUTING: u32 = 0;
    const NF_INET_LOCAL_IN: u32 = 1;
    const NF_INET_LOCAL_OUT: u32 = 3;
    const RAW: i32 = -300;
    if families.is_empty() {
        return Vec::new();
    }
    let each = |rule: fn(Family) -> Rule| families.iter().copied().map(rule);
    let filter = |number, priority| Hook { kind: "filter", number, priority };
    // As an unused port of a cluster IP: the route opens nothing of this node's.
    let unrelayed = rules::unless_relayed(&"refuse".into());
    // Most segments are of connections that were let in, and need no look at their socket.
    let routed = [accept_going_on()].into_iter().chain(each(refuse_others));
    vec![
        ChainDefinition::new(UNRELAYED, unrelayed.into()),
        ChainDefinition::new(RELAYED, leave_relayed().into()),
        ChainDefinition::hooked(ROUTED, filter(NF_INET_LOCAL_IN, 0), routed.collect()),
        ChainDefinition::hooked(
            GOING_ON,
            filter(NF_INET_PRE_ROUTING, RAW),
            each(leave_arriving).collect(),
        ),
        ChainDefinition::hooked(
            GOING_ON_OUTPUT,
            filter(NF_INET_LOCAL_OUT, RAW),
            each(leave_sent).collect(),
        ),
    ]
}

/// `ip daddr @routed goto unrelayed`
fn refuse_others(family: Family) -> Rule {
    rules::destination_in(Set::Routed(family), family, UNRELAYED.into())
}

/// `tcp flags & syn == 0 ct state established,untracked accept`
fn accept_going_on() -> Rule {
    const ESTABLISHED: u32 = 1 << 1;
    const UNTRACKED: u32 = 1 << 6;
    let mut rule = opens_nothing().to_vec();
    rule.extend([
        Expr::CtLoad(Ct::State, 1),
        Expr::Mask { register: 1, mask: (ESTABLISHED | UNTRACKED).to_ne_bytes().to_vec() },
        Expr::Compare(Comparison::NotEqual, 1, vec![0; 4]),
        Expr::Verdict(Verdict::Accept),
    ]);
    Rule(rule)
}

/// `socket wildcard 1 accept` `socket transparent 1 notrack`: another's transparent listener is no reason.
/// What is no whole socket yet or any more is not asked whether it is bound to an address (6.18).
fn leave_relayed() -> [Rule; 2] {
    let rule = |is, then| Rule(socket_is(is).into_iter().chain([then]).collect());
    [
        rule(SocketIs::Wildcard, Expr::Verdict(Verdict::Accept)),
        rule(SocketIs::Transparent, Expr::NoTrack),
    ]
}

/// `tcp flags & syn == 0 ip daddr @routed iif != lo goto relayed`
fn leave_arriving(family: Family) -> Rule {
    let mut rule = opens_nothing().to_vec();
    rule.extend(is_family(family));
    rule.extend([destination(family, 1), lookup(Set::Routed(family), Find::Present)]);
    rule.extend(is_not_loopback(Meta::InputIndex));
    rule.push(Expr::Verdict(Verdict::Goto(RELAYED.into())));
    Rule(rule)
}

/// `meta l4proto tcp ip saddr @routed oif != lo notrack`
fn leave_sent(family: Family) -> Rule {
    let mut rule = is_protocol(Protocol::Tcp).to_vec();
    rule.extend(is_family(family));
    rule.extend([source(family, 1), lookup(Set::Routed(family), Find::Present)]);
    rule.extend(is_not_loopback(Meta::OutputIndex));
    rule.push(Expr::NoTrack);
    Rule(rule)
}

fn is_not_loopback(which: Meta) -> [Expr; 2] {
    // In every namespace.
    const LOOPBACK: u32 = 1;
    [
        Expr::MetaLoad(which, 1),
        Expr::Compare(Comparison::NotEqual, 1, LOOPBACK.to_ne_bytes().to_vec()),
    ]
}
