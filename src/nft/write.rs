//! Objects as messages of nf_tables' netlink protocol: what follows a message's header.

use super::expr::Rule;
use super::{ChainDefinition, Definition};
use crate::netlink::{Buffer, SUBSYS_NFTABLES};

pub const NFT_MSG_NEWTABLE: u16 = 0;
pub const NFT_MSG_GETTABLE: u16 = 1;
pub const NFT_MSG_DELTABLE: u16 = 2;
pub const NFT_MSG_NEWCHAIN: u16 = 3;
pub const NFT_MSG_GETCHAIN: u16 = 4;
pub const NFT_MSG_DELCHAIN: u16 = 5;
pub const NFT_MSG_NEWRULE: u16 = 6;
pub const NFT_MSG_GETRULE: u16 = 7;
pub const NFT_MSG_DELRULE: u16 = 8;
pub const NFT_MSG_NEWSET: u16 = 9;
pub const NFT_MSG_GETSET: u16 = 10;
pub const NFT_MSG_DELSET: u16 = 11;
pub const NFT_MSG_NEWSETELEM: u16 = 12;
pub const NFT_MSG_GETSETELEM: u16 = 13;
pub const NFT_MSG_DELSETELEM: u16 = 14;
pub const NFT_MSG_NEWGEN: u16 = 15;
pub const NFT_MSG_GETGEN: u16 = 16;

pub const NFTA_SET_ELEM_LIST_TABLE: u16 = 1;
pub const NFTA_SET_ELEM_LIST_SET: u16 = 2;
pub const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;

/// A rule's user data: a type that nft ignores, then the fingerprint.
const FINGERPRINT: [u8; 2] = [0x76, 8];

pub fn message_type(kind: u16) -> u16 {
    SUBSYS_NFTABLES << 8 | kind
}

pub fn put_table(out: &mut Buffer, table: &str, flags: u32) {
    out.attr_str(1, table);
    out.attr_u32(2, flags);
}

/// `id`: its number within the transaction.
pub fn put_set(out: &mut Buffer, (table, name, id): (&str, &str, u32), definition: &Definition) {
    out.attr_str(1, table);
    out.attr_str(2, name);
    out.attr_u32(3, definition.flags);
    out.attr_u32(4, definition.key_type);
    out.attr_u32(5, definition.key_length);
    if let Some((kind, length)) = definition.data {
        out.attr_u32(6, kind);
        out.attr_u32(7, length);
    }
    if let Some(size) = definition.size {
        let description = out.nest(9);
        out.attr_u32(1, size);
        out.close(description);
    }
    out.attr_u32(10, id);
    if let Some(interval) = definition.collect_ms {
        out.attr_u32(12, interval);
    }
    out.attr(13, &definition.user_data);
}

pub fn put_chain(out: &mut Buffer, table: &str, chain: &ChainDefinition) {
    out.attr_str(1, table);
    out.attr_str(3, &chain.name);
    if let Some(hook) = &chain.hook {
        let nest = out.nest(4);
        out.attr_u32(1, hook.number);
        out.attr(2, &hook.priority.to_be_bytes());
        out.close(nest);
        out.attr_u32(5, 1); // policy accept
        out.attr_str(7, hook.kind);
    }
}

pub fn put_rule(out: &mut Buffer, (table, chain): (&str, &str), rule: &Rule) {
    out.attr_str(1, table);
    out.attr_str(2, chain);
    let nest = out.nest(4);
    rule.put(out);
    out.close(nest);
    let mut user_data = FINGERPRINT.to_vec();
    user_data.extend_from_slice(&rule.fingerprint().to_le_bytes());
    out.attr(7, &user_data);
}

/// The fingerprint in a rule's user data, if it is one of ours.
pub fn read_fingerprint(user_data: &[u8]) -> Option<u64> {
    let value = user_data.strip_prefix(&FINGERPRINT)?;
    Some(u64::from_le_bytes(value.get(..8)?.try_into().ok()?))
}
