//! Datagrams that conntrack does not see. PURE.
//!
//! A UDP flow that conntrack knows untranslated stays so as long as its client sends, also when the
//! relay is gone. What is not tracked is judged packet by packet, so who carries a frontend has all of
//! its flows from the next datagram on. But the nat chains of table `inet vipd`, which know who may ask,
//! see only what is tracked: frontends that not everybody may ask, or that treat clients differently,
//! stay tracked.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use super::quoted;
use super::sets::{Set, lookup, no_track, on_loopback, to_frontend, to_node_port, tproxy};
use crate::model::{Family, Protocol};
use crate::nft::expr::{Comparison, Expr, Meta, Rule, Verdict};
use crate::nft::words::{
    answering_frontend, is_family, is_protocol, registers, source, source_port,
};

/// Of what arrives, and of what the node sends: its own datagrams to frontends, and the relay's answers.
/// `port`: where the relay listens; `bridged`: what the kernel has of what arrives.
pub(super) fn rules(port: u16, bridged: Vec<Rule>) -> [Vec<Rule>; 2] {
    // Most of what arrives is TCP, and pays for one comparison.
    let mut arriving = vec![
        accept_only(Comparison::Equal, Protocol::Tcp),
        Rule(vec![
            Expr::MetaLoad(Meta::Protocol, 1),
            Expr::Compare(Comparison::NotEqual, 1, vec![Protocol::Udp as u8]),
            Expr::Verdict(Verdict::Goto(quoted::CHAIN.into())),
        ]),
    ];
    let mut sent = vec![accept_only(Comparison::NotEqual, Protocol::Udp)];
    arriving.extend(bridged);
    for family in Family::BOTH {
        let (frontends, ports) = (Set::Untracked(family), Set::UntrackedPorts(family));
        let asked = [to_frontend(family, frontends), to_node_port(family, ports)];
        for which in &asked {
            // While the process ends its listener may be gone before its rules: the kernel has it then.
            let led = [&which[..], &tproxy(family, port)].concat();
            let udp = [&is_protocol(Protocol::Udp)[..], &is_family(family)].concat();
            arriving.push(no_track(udp, led));
        }
        sent.extend(asked.map(|which| no_track(on_loopback(family), which)));
        let mut of_frontend = answering_frontend(family, registers(family)).to_vec();
        of_frontend.push(lookup(frontends));
        let of_node_port = vec![
            source(family, 1),
            lookup(Set::Nodes(family)),
            Expr::MetaLoad(Meta::Protocol, 1),
            source_port(9),
            lookup(ports),
        ];
        let answers = [of_frontend, of_node_port];
        sent.extend(answers.map(|which| no_track(is_family(family).to_vec(), which)));
    }
    [arriving, sent]
}

/// `meta l4proto P accept`, `meta l4proto != P accept`
fn accept_only(comparison: Comparison, protocol: Protocol) -> Rule {
    Rule(vec![
        Expr::MetaLoad(Meta::Protocol, 1),
        Expr::Compare(comparison, 1, vec![protocol as u8]),
        Expr::Verdict(Verdict::Accept),
    ])
}
