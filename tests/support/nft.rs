//! An independent look at the node's tables: `nft` as reader and editor, the kernel's own
//! notifications as counter.
//!
//! In: the node's namespace. Out: elements, rules, numbers of changes.
//! Never: vipd's own netlink code.

use super::netns::Netns;
use netlink_sys::{Socket, protocols::NETLINK_NETFILTER};
use serde_json::Value;
use std::io::ErrorKind;

/// The family and name of vipd's table.
pub const TABLE: &str = "inet vipd";

/// A set or map of vipd's table, as `nft` prints it.
#[derive(Debug, Clone)]
pub struct Set {
    /// `set` or `map`.
    pub kind: &'static str,
    pub name: String,
    /// Each as written in a listing: `key` or `key : value`.
    pub elements: Vec<String>,
}

/// Names of all tables.
pub fn tables(node: &Netns) -> Vec<String> {
    node.sh("nft list tables").lines().map(str::to_owned).collect()
}

/// All objects of a kind (`rule`, `chain`, `set`, `map`) in vipd's table, without elements.
pub fn objects(node: &Netns, kind: &str) -> Vec<Value> {
    let listing = node.sh(&format!("nft -j -a -t list table {TABLE}"));
    let listing: Value = serde_json::from_str(&listing).expect("nft -j prints JSON");
    let all = listing["nftables"].as_array().cloned().unwrap_or_default();
    all.into_iter().filter_map(|object| object.get(kind).cloned()).collect()
}

/// Every set and map that has elements, by one look at the table.
pub fn filled_sets(node: &Netns) -> Vec<Set> {
    let listing = node.sh(&format!("nft list table {TABLE}"));
    let mut filled = Vec::new();
    // Sets and maps are the blocks of a table, each closed by a brace on a line of its own.
    for block in listing.split("\n\t}\n") {
        // Behind the table's own head, in the first.
        let head = block.lines().map(str::trim).rfind(|line| line.ends_with(" {"));
        let mut words = head.unwrap_or_default().split(' ');
        let (kind, name) = match (words.next(), words.next()) {
            (Some("set"), Some(name)) => ("set", name.to_owned()),
            (Some("map"), Some(name)) => ("map", name.to_owned()),
            _ => continue,
        };
        let elements = elements(block);
        if !elements.is_empty() {
            filled.push(Set { kind, name, elements });
        }
    }
    filled
}

/// What stands between the braces after `elements =`.
fn elements(listing: &str) -> Vec<String> {
    let Some((_, rest)) = listing.split_once("elements = {") else { return Vec::new() };
    let inside = rest.split('}').next().unwrap_or_default();
    let words = |element: &str| element.split_whitespace().collect::<Vec<_>>().join(" ");
    inside.split(',').map(words).filter(|element| !element.is_empty()).collect()
}

/// The table as text, in an order that does not depend on history, without what time changes.
pub fn listing(node: &Netns) -> Vec<String> {
    let mut lines = vec![node.sh(&format!("nft -t list table {TABLE}"))];
    for mut set in filled_sets(node) {
        set.elements.retain(|element| !element.contains("expires"));
        set.elements.sort();
        lines.extend(set.elements.iter().map(|element| format!("{}: {element}", set.name)));
    }
    lines
}

/// Counts the kernel's notifications about nf_tables.
pub struct Watch {
    socket: Socket,
}

#[derive(Debug, Default, Clone, Copy)]
pub struct Changes {
    /// Things that were added or deleted.
    pub objects: usize,
    /// Transactions.
    pub commits: usize,
}

impl Watch {
    pub fn start(node: &Netns) -> Watch {
        const NFNLGRP_NFTABLES: u32 = 7;
        let socket = node.enter(|| {
            let mut socket = Socket::new(NETLINK_NETFILTER).expect("root in its namespace");
            socket.bind_auto().expect("a new socket");
            socket.add_membership(NFNLGRP_NFTABLES).expect("root in its namespace");
            socket.set_rx_buf_sz(8 << 20).ok();
            socket.set_non_blocking(true).expect("a plain socket option");
            socket
        });
        Watch { socket }
    }

    /// What changed since the last call, but for the relay's own tables, which are made anew by each
    /// process.
    pub fn changes(&self) -> Changes {
        const NFT_MSG_NEWGEN: u8 = 15;
        const NFPROTO_ARP: u8 = 3;
        const RELAY: &[u8] = b"vipd-relay\0";
        let mut changes = Changes::default();
        loop {
            let bytes = match self.socket.recv_from_full() {
                Ok((bytes, _)) => bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return changes,
                // Above all a full buffer: then nothing is known.
                Err(error) => panic!("notifications of nf_tables: {error}"),
            };
            let mut rest = bytes.as_slice();
            while rest.len() >= 16 {
                let size = u32::from_ne_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
                let next = size.max(16).next_multiple_of(4).min(rest.len());
                let (message, others) = rest.split_at(next);
                let of_relay = message.get(16) == Some(&NFPROTO_ARP)
                    || message.windows(RELAY.len()).any(|part| part == RELAY);
                match message[4] {
                    NFT_MSG_NEWGEN => changes.commits += 1,
                    _ => changes.objects += usize::from(!of_relay),
                }
                rest = others;
            }
        }
    }
}
