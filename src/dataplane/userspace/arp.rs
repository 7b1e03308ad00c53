//! Table `arp vipd`: this node answers no ARP request for an address that only a route of vipd's leads
//! here by. EDGE.
//!
//! In: IPv4 addresses. Out: one set, and a rule that drops requests for what is in it.
//! Never: an address of the node's own.
//!
//! Linux answers for every address that a local route leads to, on every link (6.18): of a load
//! balancer's address in the nodes' own network each node would say that it has it. (IPv6 neighbour
//! discovery asks for addresses of interfaces alone.) As the routes do, the table outlives the process.

use super::batch::{AT_ONCE, Link, Move, Table};
use super::error::Error;
use crate::model::Family;
use crate::nft::expr::{Comparison, Expr, Find, PayloadBase, Rule, Verdict};
use crate::nft::{ChainDefinition, Definition, Element, Hook, Part, address_element};
use std::net::{IpAddr, Ipv4Addr};

const NFPROTO_ARP: u8 = 3;
const TABLE: Table = Table { family: NFPROTO_ARP, name: "vipd", flags: 0 };
const SET: &str = "routed";

#[derive(Debug)]
pub(super) struct Silence(Link);

impl Silence {
    /// Opens the socket; nothing is changed yet.
    pub(super) fn open() -> Result<Self, Error> {
        Ok(Self(Link::open(TABLE)?))
    }

    /// Makes the table anew, in the place of one that may be there.
    pub(super) fn make(&mut self, addresses: impl Iterator<Item = Ipv4Addr>) -> Result<(), Error> {
        let elements: Vec<Element> = addresses.map(element).collect();
        let mut transaction = self.0.begin();
        // Made, if it is not there, so that it can be removed.
        transaction.table();
        transaction.remove_table();
        transaction.table();
        transaction.set((SET, 1), &Definition::new(&[Part::Destination(Family::V4)], &[], 0));
        transaction.chain(&chain());
        for part in elements.chunks(AT_ONCE) {
            transaction.elements(Move::Come, SET, part.iter());
        }
        transaction.commit().map(drop)
    }

    pub(super) fn change(&mut self, what: Move, addresses: &[Ipv4Addr]) -> Result<(), Error> {
        for part in addresses.chunks(AT_ONCE) {
            let elements: Vec<Element> = part.iter().copied().map(element).collect();
            let mut transaction = self.0.begin();
            transaction.elements(what, SET, elements.iter());
            transaction.commit()?;
        }
        Ok(())
    }

    pub(super) fn remove(&mut self) -> Result<(), Error> {
        self.0.remove_table()
    }
}

fn element(address: Ipv4Addr) -> Element {
    address_element(IpAddr::V4(address))
}

/// `arp operation request arp daddr ip @routed drop`
fn chain() -> ChainDefinition {
    const NF_ARP_IN: u32 = 0;
    const REQUEST: u16 = 1;
    let load = |offset, length| Expr::Payload { base: PayloadBase::Network, offset, length, to: 1 };
    let rule = vec![
        load(6, 2),
        Expr::Compare(Comparison::Equal, 1, REQUEST.to_be_bytes().to_vec()),
        load(24, 4),
        Expr::Lookup { set: SET.into(), from: 1, find: Find::Present },
        Expr::Verdict(Verdict::Drop),
    ];
    let hook = Hook { kind: "filter", number: NF_ARP_IN, priority: 0 };
    ChainDefinition::hooked("input", hook, vec![Rule(rule)])
}
