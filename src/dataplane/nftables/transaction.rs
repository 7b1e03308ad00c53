//! Changes as netlink batches. PURE: bytes are made here, sent elsewhere.
//!
//! In: [`Changes`]. Out: one buffer per transaction, none above the socket's capacity.
//! Never: a nested list of 64 KiB or more (its length is a u16).

use super::changes::{Changes, Structure};
use super::expr::{NFPROTO_INET, Rule};
use super::layout::{ChainDefinition, TABLE};
use super::set::{Element, PerSet, Set, With};
use super::types::{Room, definition};
use crate::netlink::{
    Buffer, Message, Messages, NFNL_MSG_BATCH_BEGIN, NFNL_MSG_BATCH_END, NLM_F_APPEND,
    NLM_F_CREATE, NLM_F_REQUEST, SUBSYS_NFTABLES,
};
use crate::nft::write::{
    NFT_MSG_DELCHAIN, NFT_MSG_DELRULE, NFT_MSG_DELSET, NFT_MSG_DELSETELEM, NFT_MSG_DELTABLE,
    NFT_MSG_NEWCHAIN, NFT_MSG_NEWRULE, NFT_MSG_NEWSET, NFT_MSG_NEWSETELEM, NFT_MSG_NEWTABLE,
    NFTA_SET_ELEM_LIST_ELEMENTS, NFTA_SET_ELEM_LIST_SET, NFTA_SET_ELEM_LIST_TABLE, message_type,
    put_chain, put_rule, put_set, put_table,
};

/// Room left in a nested list for one more element (of [`LARGEST`] bytes).
const LIST_LIMIT: usize = 65_000;
/// More than any element takes: a key of `allowed6` has 40 bytes, a verdict names a chain.
const LARGEST: usize = 104;
/// Replacements that stay in one transaction: a key must not be missing between two.
const PAIRS: usize = 512;
/// Room for the end of a batch.
const TAIL: usize = 64;
/// Offset of the generation in a batch's first message.
const GENERATION_AT: usize = 16 + 4 + 4;

/// A finished batch: sent as it is, but for the generation that is filled in.
#[derive(Debug, Default)]
pub struct Batch {
    pub buffer: Buffer,
    /// Objects written or removed.
    pub operations: u64,
    /// Sequence number of the message whose acknowledgement ends the batch.
    pub last_seq: u32,
}

impl Batch {
    /// The batch with the ruleset generation that it must meet.
    pub fn bytes_for(&mut self, generation: u32) -> &[u8] {
        self.buffer.patch(GENERATION_AT, &generation.to_be_bytes());
        self.buffer.bytes()
    }

    /// The set that the message with this sequence number adds elements to.
    pub fn set_of(&self, seq: u32) -> Option<Set> {
        let message = Messages(self.buffer.bytes()).find(|message| message.seq == seq)?;
        let adds = message.kind == message_type(NFT_MSG_NEWSETELEM);
        let name = message.attributes().find(NFTA_SET_ELEM_LIST_SET).filter(|_| adds)?;
        Set::by_name(name.str())
    }

    /// How many elements the batch adds to a set.
    pub fn added_to(&self, set: Set) -> u64 {
        let adds = message_type(NFT_MSG_NEWSETELEM);
        let lists = Messages(self.buffer.bytes()).filter(|message| message.kind == adds);
        lists.map(|message| elements_of(&message, set)).sum()
    }

    /// What the message with this sequence number is about, for an operator.
    pub fn describe(&self, seq: u32) -> Option<String> {
        let message = Messages(self.buffer.bytes()).find(|message| message.seq == seq)?;
        let (verb, name) = match message.kind & 0xff {
            NFT_MSG_NEWTABLE => ("table", 1),
            NFT_MSG_DELTABLE => ("deletion of table", 1),
            NFT_MSG_NEWCHAIN => ("chain", 3),
            NFT_MSG_DELCHAIN => ("deletion of chain", 3),
            NFT_MSG_NEWRULE => ("rule in chain", 2),
            NFT_MSG_DELRULE => ("flush of chain", 2),
            NFT_MSG_NEWSET => ("set", 2),
            NFT_MSG_NEWSETELEM => ("new element of", 2),
            NFT_MSG_DELSETELEM => ("deletion from", 2),
            _ => return None,
        };
        let name = message.attributes().find(name).map_or("", |a| a.str());
        Some(format!("{verb} {name}"))
    }
}

/// How many elements of this set the message is about.
fn elements_of(message: &Message<'_>, set: Set) -> u64 {
    let name = message.attributes().find(NFTA_SET_ELEM_LIST_SET);
    let list = message.attributes().find(NFTA_SET_ELEM_LIST_ELEMENTS);
    match (name, list) {
        (Some(name), Some(list)) if name.str() == set.name() => list.nested().count() as u64,
        _ => 0,
    }
}

/// Writes changes into batches.
pub struct Encoder {
    capacity: usize,
    seq: u32,
    done: Vec<Batch>,
    batch: Batch,
    last_start: usize,
}

impl Encoder {
    /// `capacity`: bytes that one `send` may have. Sequence numbers begin behind `seq`.
    pub fn new(capacity: usize, seq: u32) -> Self {
        Self { capacity, seq, done: Vec::new(), batch: Batch::default(), last_start: 0 }
    }

    /// All batches, and the last sequence number used.
    pub fn finish(mut self) -> (Vec<Batch>, u32) {
        self.close_batch();
        (self.done, self.seq)
    }

    pub fn changes(&mut self, changes: &Changes) {
        for structure in &changes.structure {
            self.structure(structure);
        }
        self.remove(&changes.overdue);
        self.replace(&changes.replaced_targets);
        self.add(&changes.new_targets);
        self.replace(&changes.replaced_frontends);
        self.add(&changes.new_frontends);
        self.remove(&changes.removed);
        self.remove_chains(&changes.removed_chains);
    }

    /// Ends the transaction here.
    pub fn close_batch(&mut self) {
        if self.batch.buffer.is_empty() {
            return;
        }
        self.batch.buffer.end();
        self.batch.buffer.flag(self.last_start, crate::netlink::NLM_F_ACK);
        self.batch.last_seq = self.seq;
        self.seq = self.seq.wrapping_add(1);
        let seq = self.seq;
        self.batch.buffer.begin(NFNL_MSG_BATCH_END, NLM_F_REQUEST, seq, 0, 0, SUBSYS_NFTABLES);
        self.batch.buffer.end();
        self.done.push(std::mem::take(&mut self.batch));
    }

    /// Begins a message, in a new batch if the current one has no room for it.
    fn message(&mut self, kind: u16, flags: u16, room: usize) {
        let needed = self.batch.buffer.len() + room + TAIL;
        if !self.batch.buffer.is_empty() && needed > self.capacity {
            self.close_batch();
        }
        if self.batch.buffer.is_empty() {
            self.seq = self.seq.wrapping_add(1);
            let seq = self.seq;
            let buffer = &mut self.batch.buffer;
            buffer.begin(NFNL_MSG_BATCH_BEGIN, NLM_F_REQUEST, seq, 0, 0, SUBSYS_NFTABLES);
            buffer.attr_u32(1, 0); // NFNL_BATCH_GENID, filled in when sent
        }
        self.batch.buffer.end();
        self.seq = self.seq.wrapping_add(1);
        self.last_start = self.batch.buffer.len();
        let flags = NLM_F_REQUEST | flags;
        self.batch.buffer.begin(message_type(kind), flags, self.seq, NFPROTO_INET, 0, 0);
    }

    fn structure(&mut self, structure: &Structure) {
        match structure {
            Structure::RemoveTable => {
                self.message(NFT_MSG_DELTABLE, 0, 256);
                self.batch.buffer.attr_str(1, TABLE);
                self.batch.operations += 1;
            }
            Structure::Table => {
                self.message(NFT_MSG_NEWTABLE, NLM_F_CREATE, 256);
                put_table(&mut self.batch.buffer, TABLE, 0);
                self.batch.operations += 1;
            }
            Structure::Set(set, room) => self.set(*set, *room),
            Structure::RemoveSet(set) => {
                self.message(NFT_MSG_DELSET, 0, 256);
                self.batch.buffer.attr_str(1, TABLE);
                self.batch.buffer.attr_str(2, set.name());
                self.batch.operations += 1;
            }
            Structure::FlushSet(set) => {
                self.message(NFT_MSG_DELSETELEM, 0, 256);
                self.batch.buffer.attr_str(NFTA_SET_ELEM_LIST_TABLE, TABLE);
                self.batch.buffer.attr_str(NFTA_SET_ELEM_LIST_SET, set.name());
                self.batch.operations += 1;
            }
            Structure::FlushChain(name) => self.flush_chain(name),
            Structure::Chain(chain) => {
                self.chain(chain);
                chain.rules.iter().for_each(|rule| self.rule(&chain.name, rule));
            }
            Structure::Rewrite(chain) => {
                self.flush_chain(&chain.name);
                chain.rules.iter().for_each(|rule| self.rule(&chain.name, rule));
            }
        }
    }

    /// They may refer to each other in any order.
    fn remove_chains(&mut self, names: &[String]) {
        names.iter().for_each(|name| self.flush_chain(name));
        for name in names {
            self.message(NFT_MSG_DELCHAIN, 0, 256);
            self.batch.buffer.attr_str(1, TABLE);
            self.batch.buffer.attr_str(3, name);
            self.batch.operations += 1;
        }
    }

    fn flush_chain(&mut self, name: &str) {
        self.message(NFT_MSG_DELRULE, 0, 256);
        self.batch.buffer.attr_str(1, TABLE);
        self.batch.buffer.attr_str(2, name);
        self.batch.operations += 1;
    }

    fn set(&mut self, set: Set, room: Room) {
        let mut definition = definition(set);
        definition.size = definition.size.or(room.size());
        self.message(NFT_MSG_NEWSET, NLM_F_CREATE, 1024);
        let id = set.index() as u32 + 1;
        put_set(&mut self.batch.buffer, (TABLE, set.name(), id), &definition);
        self.batch.operations += 1;
    }

    fn chain(&mut self, chain: &ChainDefinition) {
        self.message(NFT_MSG_NEWCHAIN, NLM_F_CREATE, 512);
        put_chain(&mut self.batch.buffer, TABLE, chain);
        self.batch.operations += 1;
    }

    fn rule(&mut self, chain: &str, rule: &Rule) {
        if rule.0.is_empty() {
            return;
        }
        self.message(NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND, 4096);
        put_rule(&mut self.batch.buffer, (TABLE, chain), rule);
        self.batch.operations += 1;
    }

    fn add(&mut self, elements: &[(Set, Element)]) {
        self.each_set(elements, |encoder, set, list| {
            encoder.list(NFT_MSG_NEWSETELEM, NLM_F_CREATE, (set, With::Data), list);
        });
    }

    fn remove(&mut self, elements: &[(Set, Element)]) {
        self.each_set(elements, |encoder, set, list| {
            encoder.list(NFT_MSG_DELSETELEM, 0, (set, With::KeyOnly), list);
        });
    }

    /// Values cannot be overwritten: the old element goes and the new one comes in one transaction.
    fn replace(&mut self, elements: &[(Set, Element)]) {
        self.each_set(elements, |encoder, set, list| {
            for pairs in list.chunks(PAIRS) {
                let room = pairs.len() * 2 * LARGEST + 256;
                if encoder.batch.buffer.len() + room + TAIL > encoder.capacity {
                    encoder.close_batch();
                }
                encoder.list(NFT_MSG_DELSETELEM, 0, (set, With::KeyOnly), pairs);
                encoder.list(NFT_MSG_NEWSETELEM, NLM_F_CREATE, (set, With::Data), pairs);
            }
        });
    }

    fn each_set(
        &mut self,
        elements: &[(Set, Element)],
        mut write: impl FnMut(&mut Self, Set, &[&Element]),
    ) {
        if elements.is_empty() {
            return;
        }
        let mut by_set: PerSet<Vec<&Element>> = PerSet::default();
        for (set, element) in elements {
            by_set[set.index()].push(element);
        }
        for (index, list) in by_set.iter().enumerate().filter(|(_, list)| !list.is_empty()) {
            write(self, Set::ALL[index], list);
        }
    }

    fn list(&mut self, kind: u16, flags: u16, (set, with): (Set, With), list: &[&Element]) {
        let mut rest = list.iter().peekable();
        while rest.peek().is_some() {
            let room = (rest.len() * LARGEST).min(LIST_LIMIT) + 128;
            self.message(kind, flags, room);
            let out = &mut self.batch.buffer;
            out.attr_str(NFTA_SET_ELEM_LIST_TABLE, TABLE);
            out.attr_str(NFTA_SET_ELEM_LIST_SET, set.name());
            let nest = out.nest(NFTA_SET_ELEM_LIST_ELEMENTS);
            while let Some(element) = rest.next_if(|_| out.nest_len(&nest) < LIST_LIMIT) {
                element.put(out, with);
                self.batch.operations += 1;
            }
            out.close(nest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::nftables::set::address_element;
    use crate::model::Family;

    #[test]
    fn a_batch_knows_what_it_adds_to_a_set() {
        let [v4, v6] = Family::BOTH.map(Set::Addresses);
        let address = |n: u16| (v4, address_element([10, 96, (n >> 8) as u8, n as u8].into()));
        let changes = Changes {
            // More than one list holds.
            new_targets: (0..5_000).map(address).collect(),
            replaced_targets: vec![address(6_000)],
            removed: vec![address(6_001)],
            ..Changes::default()
        };
        let mut encoder = Encoder::new(1 << 20, 0);
        encoder.changes(&changes);
        let (batches, _) = encoder.finish();
        let added = [v4, v6].map(|set| batches[0].added_to(set));
        assert_eq!((batches.len(), added), (1, [5_001, 0]));
    }
}
