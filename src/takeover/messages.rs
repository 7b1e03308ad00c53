//! The few messages of nf_tables that this room writes and reads. PURE.
//!
//! In: deletions; what the kernel lists. Out: messages; chains, and rules with their jumps.
//! Never: a message that adds anything.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use super::names::OWN_TABLE;
use super::removal::{Chain, ChainKind, Rule};
use crate::model::Family;
use crate::netlink::{Attributes, Buffer, Message, NLM_F_REQUEST, SUBSYS_NFTABLES};

/// `linux/netfilter/nf_tables.h`
pub const NFT_MSG_GETTABLE: u16 = 1;
pub const NFT_MSG_DELTABLE: u16 = 2;
pub const NFT_MSG_GETCHAIN: u16 = 4;
pub const NFT_MSG_DELCHAIN: u16 = 5;
pub const NFT_MSG_GETRULE: u16 = 7;
pub const NFT_MSG_DELRULE: u16 = 8;
pub const NFTA_TABLE_NAME: u16 = 1;
const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_HOOK: u16 = 4;
pub const NFTA_RULE_TABLE: u16 = 1;
const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_RULE_HANDLE: u16 = 3;
const NFTA_RULE_EXPRESSIONS: u16 = 4;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_IMMEDIATE_DATA: u16 = 2;
const NFTA_DATA_VERDICT: u16 = 2;
const NFTA_VERDICT_CHAIN: u16 = 2;
/// `linux/netfilter.h`
const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;

/// One deletion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    Table(Family),
    Rule {
        family: Family,
        table: String,
        chain: String,
        handle: u64,
    },
    /// With its rules: Linux deletes both at once if nothing else leads to the chain.
    Chain {
        family: Family,
        table: String,
        chain: String,
        rules: usize,
    },
}

impl Change {
    /// Family and name of the table that it changes.
    pub fn table(&self) -> (Family, String) {
        match self {
            Change::Table(family) => (*family, OWN_TABLE.to_owned()),
            Change::Rule { family, table, .. } | Change::Chain { family, table, .. } => {
                (*family, table.clone())
            }
        }
    }

    pub fn put(&self, out: &mut Buffer, seq: u32) {
        let mut begin = |kind, family| {
            out.begin(message_type(kind), NLM_F_REQUEST, seq, number(family), 0, 0);
        };
        match self {
            Change::Table(family) => {
                begin(NFT_MSG_DELTABLE, *family);
                out.attr_str(NFTA_TABLE_NAME, OWN_TABLE);
            }
            Change::Rule { family, table, chain, handle } => {
                begin(NFT_MSG_DELRULE, *family);
                out.attr_str(NFTA_RULE_TABLE, table);
                out.attr_str(NFTA_RULE_CHAIN, chain);
                out.attr_u64(NFTA_RULE_HANDLE, *handle);
            }
            Change::Chain { family, table, chain, .. } => {
                begin(NFT_MSG_DELCHAIN, *family);
                out.attr_str(NFTA_CHAIN_TABLE, table);
                out.attr_str(NFTA_CHAIN_NAME, chain);
            }
        }
    }
}

pub fn message_type(kind: u16) -> u16 {
    SUBSYS_NFTABLES << 8 | kind
}

pub fn number(family: Family) -> u8 {
    match family {
        Family::V4 => NFPROTO_IPV4,
        Family::V6 => NFPROTO_IPV6,
    }
}

/// A chain with the name of its table.
pub fn read_chain(message: &Message<'_>) -> Option<(String, Chain<u64>)> {
    let attributes = message.attributes();
    let table = attributes.find(NFTA_CHAIN_TABLE)?.str().to_owned();
    let name = attributes.find(NFTA_CHAIN_NAME)?.str().to_owned();
    let kind = match attributes.find(NFTA_CHAIN_HOOK) {
        Some(_) => ChainKind::Base,
        None => ChainKind::Regular,
    };
    Some((table, Chain { name, kind, rules: Vec::new() }))
}

/// A rule of this table with the name of its chain.
pub fn read_rule(message: &Message<'_>, table: &str) -> Option<(String, Rule<u64>)> {
    let attributes = message.attributes();
    attributes.find(NFTA_RULE_TABLE).filter(|name| name.str() == table)?;
    let chain = attributes.find(NFTA_RULE_CHAIN)?.str().to_owned();
    let id = attributes.find(NFTA_RULE_HANDLE)?.u64()?;
    let expressions = attributes.find(NFTA_RULE_EXPRESSIONS);
    let target = expressions.and_then(|list| list.nested().find_map(|one| jump(one.nested())));
    Some((chain, Rule { id, target }))
}

/// The chain that an expression jumps or goes to: nft writes a verdict as an immediate value, and
/// iptables-nft does the same for user-defined chains.
fn jump(expression: Attributes<'_>) -> Option<String> {
    expression.find(NFTA_EXPR_NAME).filter(|name| name.str() == "immediate")?;
    let data = expression.find(NFTA_EXPR_DATA)?.nested().find(NFTA_IMMEDIATE_DATA)?;
    let verdict = data.nested().find(NFTA_DATA_VERDICT)?;
    Some(verdict.nested().find(NFTA_VERDICT_CHAIN)?.str().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::Messages;

    fn changes() -> Vec<Change> {
        let (family, table) = (Family::V6, "nat".to_owned());
        let chain = |name: &str| Change::Chain {
            family,
            table: table.clone(),
            chain: name.to_owned(),
            rules: 0,
        };
        let jump =
            Change::Rule { family, table: table.clone(), chain: "OUTPUT".to_owned(), handle: 9 };
        vec![Change::Table(Family::V4), jump, chain("KUBE-SERVICES"), chain("KUBE-SEP-A")]
    }

    #[test]
    fn a_deletion_names_its_object_and_nothing_more() {
        let mut out = Buffer::default();
        for (seq, change) in (1..).zip(changes()) {
            change.put(&mut out, seq);
        }
        out.end();
        let told: Vec<_> = Messages(out.bytes())
            .map(|m| {
                (m.kind & 0xff, m.family(), m.attributes().map(|a| a.kind).collect::<Vec<_>>())
            })
            .collect();
        let expected = [
            (NFT_MSG_DELTABLE, NFPROTO_IPV4, vec![1]),
            (NFT_MSG_DELRULE, NFPROTO_IPV6, vec![1, 2, 3]),
            (NFT_MSG_DELCHAIN, NFPROTO_IPV6, vec![1, 3]),
            (NFT_MSG_DELCHAIN, NFPROTO_IPV6, vec![1, 3]),
        ];
        assert_eq!(told, expected);
        let rule = Messages(out.bytes()).nth(1).unwrap();
        assert_eq!(read_rule(&rule, "nat").unwrap().1, Rule { id: 9, target: None });
        assert_eq!(read_rule(&rule, "filter"), None);
    }

    /// As the kernel lists `counter jump KUBE-SVC-A`.
    #[test]
    fn a_jump_is_read_from_its_verdict() {
        let mut out = Buffer::default();
        out.begin(message_type(6), 0, 1, NFPROTO_IPV4, 0, 0);
        out.attr_str(NFTA_RULE_TABLE, "nat");
        out.attr_str(NFTA_RULE_CHAIN, "KUBE-SERVICES");
        out.attr_u64(NFTA_RULE_HANDLE, 6);
        let list = out.nest(NFTA_RULE_EXPRESSIONS);
        let counter = out.nest(1);
        out.attr_str(NFTA_EXPR_NAME, "counter");
        out.close(counter);
        let immediate = out.nest(1);
        out.attr_str(NFTA_EXPR_NAME, "immediate");
        let data = out.nest(NFTA_EXPR_DATA);
        out.attr_u32(1, 0);
        let value = out.nest(NFTA_IMMEDIATE_DATA);
        let verdict = out.nest(NFTA_DATA_VERDICT);
        out.attr_u32(1, (-3i32).cast_unsigned());
        out.attr_str(NFTA_VERDICT_CHAIN, "KUBE-SVC-A");
        out.close(verdict);
        out.close(value);
        out.close(data);
        out.close(immediate);
        out.close(list);
        out.end();
        let message = Messages(out.bytes()).next().unwrap();
        let rule = Rule { id: 6, target: Some("KUBE-SVC-A".to_owned()) };
        assert_eq!(read_rule(&message, "nat"), Some(("KUBE-SERVICES".to_owned(), rule)));
    }
}
