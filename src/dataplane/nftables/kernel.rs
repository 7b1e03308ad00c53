//! Conversations with nf_tables. EDGE: the only file here that sends.
//!
//! In: batches, keys. Out: what the kernel says.
//! Never: a decision about what the table should hold.

use super::changes::Changes;
use super::error::Error;
use super::expr::NFPROTO_INET;
use super::layout::TABLE;
use super::set::{Bytes, Data, Element, Set, With};
use super::transaction::{Batch, Encoder};
use crate::dataplane::Applied;
use crate::netlink::{
    Attributes, Buffer, ExtendedError, Message, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR,
    NLM_F_REQUEST, NLMSG_DONE, Socket,
};
use crate::nft::write::{
    NFT_MSG_GETCHAIN, NFT_MSG_GETGEN, NFT_MSG_GETRULE, NFT_MSG_GETSET, NFT_MSG_GETSETELEM,
    NFT_MSG_GETTABLE, NFT_MSG_NEWSETELEM, NFTA_SET_ELEM_LIST_ELEMENTS, NFTA_SET_ELEM_LIST_SET,
    NFTA_SET_ELEM_LIST_TABLE, message_type, read_fingerprint,
};
use std::collections::HashMap;
use std::io;

/// `include/linux/errno.h`: the kernel passes it on, user space has no name for it.
const ERESTART: i32 = 85;
/// Commits that may meet a foreign one before vipd gives up.
const TRIES: u32 = 50;
/// Bytes of a transaction that is not extraordinary.
const ORDINARY: usize = 8 << 20;
/// What an answer about one element costs in the receive buffer, generously.
const ANSWER: usize = 2048;

/// What is switched off although the kernel may have it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Without {
    /// Sets do not tell how many elements they hold (as before their count was exported).
    pub element_count: bool,
}

#[derive(Debug)]
pub struct Kernel {
    socket: Socket,
    request: Buffer,
    /// Generation of the ruleset after our last commit; 0 is no generation.
    generation: u32,
    capacity: usize,
    keys_at_once: usize,
    without: Without,
    /// The last conversation ended early, and some of it may be unread.
    unread: bool,
    /// Our own commits so far.
    commits: u32,
}

/// A moment in the history of the ruleset.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    generation: u32,
    commits: u32,
}

/// The table as the kernel describes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObservedTable {
    /// `enum nft_table_flags`
    flags: u32,
}

impl ObservedTable {
    /// Whether others gave it flags. A dormant table keeps all that it holds, and no packet sees
    /// any of it.
    pub fn has_foreign_flags(self) -> bool {
        self.flags != 0
    }
}

/// A set as the kernel describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedSet {
    pub name: String,
    pub flags: u32,
    pub key: (u32, u32),
    pub data: Option<(u32, u32)>,
    pub count: Option<u64>,
}

/// A chain as the kernel describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedChain {
    pub name: String,
    /// (hook, priority, policy), of base chains.
    pub hook: Option<(u32, i32, u32)>,
    /// Fingerprints of its rules; `None` for a rule that is not ours.
    pub rules: Vec<Option<u64>>,
}

impl Kernel {
    pub fn open(without: Without) -> Result<Self, Error> {
        let socket = Socket::open().map_err(Error::Open)?;
        socket.set_nonblocking(true).map_err(Error::Open)?;
        let capacity = socket.send_capacity().map_err(Error::Open)?;
        let keys_at_once =
            (socket.receive_capacity().map_err(Error::Open)? / ANSWER).clamp(16, 500);
        Ok(Self {
            socket,
            request: Buffer::default(),
            generation: 0,
            capacity,
            keys_at_once,
            without,
            unread: false,
            commits: 0,
        })
    }

    pub fn port_id(&self) -> u32 {
        self.socket.port_id()
    }

    /// Bytes that an ordinary transaction may have: longer ones are no faster, and others wait.
    pub fn capacity(&self) -> usize {
        self.capacity.min(ORDINARY)
    }

    /// Bytes that a transaction can have.
    pub fn largest(&self) -> usize {
        self.capacity
    }

    /// The kernel grants no more than `net.core.wmem_max`.
    pub fn limit_send_buffer(&mut self, bytes: usize) -> Result<(), Error> {
        self.socket.limit_send_buffer(bytes).map_err(Error::Open)?;
        self.capacity = self.socket.send_capacity().map_err(Error::Open)?;
        Ok(())
    }

    pub fn seq(&self) -> u32 {
        self.socket.seq()
    }

    pub fn set_seq(&mut self, seq: u32) {
        self.socket.set_seq(seq);
    }

    /// Changes as batches of no more than `capacity` bytes, numbered on.
    pub fn batches(&mut self, changes: &Changes, capacity: usize) -> Vec<Batch> {
        let mut encoder = Encoder::new(capacity, self.socket.seq());
        encoder.changes(changes);
        let (batches, seq) = encoder.finish();
        self.socket.set_seq(seq);
        batches
    }

    /// Commits one batch, atomically. Meets foreign commits by trying again with their generation.
    pub fn commit(&mut self, batch: &mut Batch) -> Result<Applied, Error> {
        for _ in 0..TRIES {
            if self.generation == 0 {
                self.generation = self.read_generation()?;
            }
            self.drain()?;
            self.unread = true;
            self.socket.send(batch.bytes_for(self.generation)).map_err(Error::Send)?;
            match self.batch_outcome(batch)? {
                Outcome::Done => {
                    self.generation = self.generation.wrapping_add(1).max(1);
                    self.commits = self.commits.wrapping_add(1);
                    return Ok(Applied {
                        operations: batch.operations,
                        transactions: 1,
                        messages: batch.buffer.count(),
                        bytes: batch.buffer.len() as u64,
                    });
                }
                Outcome::Restart => self.generation = 0,
            }
        }
        Err(Error::Contended(TRIES))
    }

    /// Nothing unread is left from a conversation that ended early.
    fn drain(&mut self) -> Result<(), Error> {
        while self.unread {
            match self.socket.receive() {
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.unread = false,
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => {}
                Err(e) => return Err(Error::Receive(e)),
            }
        }
        Ok(())
    }

    /// A batch is carried out within `send`: all answers are there already, in the order of their
    /// messages.
    fn batch_outcome(&mut self, batch: &Batch) -> Result<Outcome, Error> {
        let mut refused: Option<ExtendedError> = None;
        let mut done = false;
        loop {
            match self.socket.receive() {
                Ok(messages) => {
                    for message in messages {
                        let Some(answer) = ExtendedError::of(&message) else { continue };
                        match answer.errno {
                            0 if answer.seq == batch.last_seq => done = true,
                            0 => {}
                            ERESTART => return Ok(Outcome::Restart),
                            _ => {
                                refused.get_or_insert(answer);
                            }
                        }
                    }
                    if done && refused.is_none() {
                        self.unread = false;
                        return Ok(Outcome::Done);
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) => return Err(Error::Receive(e)),
            }
        }
        self.unread = false;
        match refused {
            Some(error) => {
                self.generation = 0;
                if let (libc::ENFILE, Some(set)) = (error.errno, batch.set_of(error.seq)) {
                    return Err(Error::Full(set));
                }
                let object = batch.describe(error.seq);
                Err(Error::Refused { error, object })
            }
            None => Err(Error::NoAnswer),
        }
    }

    /// Now, for a later look at who wrote since.
    pub fn now(&mut self) -> Result<Moment, Error> {
        self.generation = self.read_generation()?;
        Ok(Moment { generation: self.generation, commits: self.commits })
    }

    /// Whether every commit since then was ours: each counts the generation up by one. (Where that
    /// wraps around it skips 0, and the answer is no, once without need.)
    pub fn is_alone_since(&mut self, then: Moment) -> Result<bool, Error> {
        let generations = self.read_generation()?.wrapping_sub(then.generation);
        Ok(generations == self.commits.wrapping_sub(then.commits))
    }

    fn read_generation(&mut self) -> Result<u32, Error> {
        let mut generation = 0;
        self.begin(NFT_MSG_GETGEN, 0);
        self.ask("the ruleset generation", |message| {
            if let Some(id) = message.attributes().find(1).and_then(|a| a.u32()) {
                generation = id;
            }
        })?;
        Ok(generation)
    }

    pub fn has_table(&mut self) -> Result<bool, Error> {
        Ok(self.table()?.is_some())
    }

    pub fn table(&mut self) -> Result<Option<ObservedTable>, Error> {
        let mut flags = 0;
        self.begin(NFT_MSG_GETTABLE, 0);
        self.request.attr_str(1, TABLE);
        let asked = self.ask("table inet vipd", |message| {
            flags = message.attributes().find(2).and_then(|a| a.u32()).unwrap_or(0);
        });
        match asked {
            Ok(()) => Ok(Some(ObservedTable { flags })),
            Err(e) if e.is_not_found() => Ok(None),
            Err(e) => Err(e),
        }
    }

    pub fn sets(&mut self) -> Result<Vec<ObservedSet>, Error> {
        let mut sets = Vec::new();
        let counted = !self.without.element_count;
        self.begin(NFT_MSG_GETSET, NLM_F_DUMP);
        self.request.attr_str(1, TABLE);
        self.ask("the sets of table inet vipd", |message| {
            let attributes = message.attributes();
            let number = |kind| attributes.find(kind).and_then(|a| a.u32());
            let Some(name) = attributes.find(2) else { return };
            if attributes.find(1).is_none_or(|table| table.str() != TABLE) {
                return;
            }
            sets.push(ObservedSet {
                name: name.str().to_owned(),
                flags: number(3).unwrap_or(0),
                key: (number(4).unwrap_or(0), number(5).unwrap_or(0)),
                data: number(6).zip(number(7)),
                count: number(20).map(u64::from).filter(|_| counted),
            });
        })?;
        Ok(sets)
    }

    /// How many elements a set holds, where the kernel tells.
    pub fn count(&mut self, set: Set) -> Result<Option<u64>, Error> {
        let mut count = None;
        self.begin(NFT_MSG_GETSET, 0);
        self.request.attr_str(1, TABLE);
        self.request.attr_str(2, set.name());
        self.ask("a set of table inet vipd", |message| {
            count = message.attributes().find(20).and_then(|a| a.u32());
        })?;
        Ok(count.map(u64::from).filter(|_| !self.without.element_count))
    }

    pub fn chains(&mut self) -> Result<Vec<ObservedChain>, Error> {
        let mut chains: Vec<ObservedChain> = Vec::new();
        self.begin(NFT_MSG_GETCHAIN, NLM_F_DUMP);
        self.ask("the chains of table inet vipd", |message| {
            let attributes = message.attributes();
            let Some(name) = attributes.find(3) else { return };
            if attributes.find(1).is_none_or(|table| table.str() != TABLE) {
                return;
            }
            let hook = attributes.find(4).and_then(|hook| {
                let hook = hook.nested();
                let policy = attributes.find(5)?.u32()?;
                Some((hook.find(1)?.u32()?, hook.find(2)?.u32()? as i32, policy))
            });
            chains.push(ObservedChain { name: name.str().to_owned(), hook, rules: Vec::new() });
        })?;
        let mut rules: HashMap<String, Vec<Option<u64>>> = HashMap::new();
        self.begin(NFT_MSG_GETRULE, NLM_F_DUMP);
        self.request.attr_str(1, TABLE);
        self.ask("the rules of table inet vipd", |message| {
            let attributes = message.attributes();
            let Some(chain) = attributes.find(2) else { return };
            if attributes.find(1).is_none_or(|table| table.str() != TABLE) {
                return;
            }
            let fingerprint = attributes.find(7).and_then(|a| read_fingerprint(a.value));
            rules.entry(chain.str().to_owned()).or_default().push(fingerprint);
        })?;
        for chain in &mut chains {
            chain.rules = rules.remove(&chain.name).unwrap_or_default();
        }
        Ok(chains)
    }

    /// Packets that each counter of a rule has seen, with the rule's chain.
    pub fn counters(&mut self) -> Result<Vec<(String, u64)>, Error> {
        for _ in 0..TRIES {
            let (mut counters, mut interrupted) = (Vec::new(), false);
            self.begin(NFT_MSG_GETRULE, NLM_F_DUMP);
            self.request.attr_str(1, TABLE);
            self.ask("the counters of table inet vipd", |message| {
                interrupted |= message.flags & NLM_F_DUMP_INTR != 0;
                let attributes = message.attributes();
                let ours = attributes.find(1).is_some_and(|table| table.str() == TABLE);
                let (true, Some(chain)) = (ours, attributes.find(2)) else { return };
                let packets = attributes.find(4).and_then(|list| read_counter(list.nested()));
                counters.extend(packets.map(|packets| (chain.str().to_owned(), packets)));
            })?;
            if !interrupted {
                return Ok(counters);
            }
        }
        Err(Error::Contended(TRIES))
    }

    /// All elements of a set. Costs more than its size for large sets (the kernel starts each
    /// part of a dump from the beginning): 100,000 take about a second.
    pub fn dump(&mut self, set: Set) -> Result<Vec<Element>, Error> {
        'again: for _ in 0..TRIES {
            let mut elements = Vec::new();
            let mut interrupted = false;
            self.begin(NFT_MSG_GETSETELEM, NLM_F_DUMP);
            self.request.attr_str(NFTA_SET_ELEM_LIST_TABLE, TABLE);
            self.request.attr_str(NFTA_SET_ELEM_LIST_SET, set.name());
            self.ask("the elements of a set", |message| {
                interrupted |= message.flags & NLM_F_DUMP_INTR != 0;
                elements.extend(read_elements(message));
            })?;
            if interrupted {
                continue 'again;
            }
            return Ok(elements);
        }
        Err(Error::Contended(TRIES))
    }

    /// What a set holds under each of these keys, in their order.
    pub fn get(&mut self, set: Set, keys: &[Bytes]) -> Result<Vec<Option<Data>>, Error> {
        let mut found: Vec<Option<Data>> = Vec::with_capacity(keys.len());
        while found.len() < keys.len() {
            let rest = &keys[found.len()..];
            let asked = rest.len().min(self.keys_at_once);
            self.begin(NFT_MSG_GETSETELEM, 0);
            self.request.attr_str(NFTA_SET_ELEM_LIST_TABLE, TABLE);
            self.request.attr_str(NFTA_SET_ELEM_LIST_SET, set.name());
            let list = self.request.nest(NFTA_SET_ELEM_LIST_ELEMENTS);
            for key in &rest[..asked] {
                let element = Element { key: key.clone(), data: Data::None };
                element.put(&mut self.request, With::KeyOnly);
            }
            self.request.close(list);
            let before = found.len();
            let outcome = self.ask("elements of a set", |message| {
                for element in read_elements(message) {
                    found.push(Some(element.data));
                }
            });
            // The kernel answers key by key and stops at the first that is not there.
            match outcome {
                Ok(()) if found.len() == before + asked => {}
                Ok(()) => return Err(Error::NoAnswer),
                Err(e) if e.is_not_found() => found.push(None),
                Err(e) => return Err(e),
            }
        }
        Ok(found)
    }

    fn begin(&mut self, kind: u16, flags: u16) {
        let seq = self.socket.next_seq();
        self.request.clear();
        let flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        self.request.begin(message_type(kind), flags, seq, NFPROTO_INET, 0, 0);
    }

    /// Sends the request and hands every answer to `each`, until the kernel says that it is done.
    fn ask(&mut self, what: &'static str, mut each: impl FnMut(&Message<'_>)) -> Result<(), Error> {
        self.request.end();
        let seq = self.socket.seq();
        self.drain()?;
        self.unread = true;
        self.socket.send(self.request.bytes()).map_err(Error::Send)?;
        loop {
            let messages = match self.socket.receive() {
                Ok(messages) => messages,
                // Requests are answered within `send`, and a dump is continued by reading it.
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Err(Error::NoAnswer),
                Err(e) => return Err(Error::Receive(e)),
            };
            for message in messages {
                if message.seq != seq {
                    continue;
                }
                if message.kind == NLMSG_DONE {
                    self.unread = false;
                    return Ok(());
                }
                match ExtendedError::of(&message) {
                    Some(answer) if answer.errno == 0 => {
                        self.unread = false;
                        return Ok(());
                    }
                    Some(error) => return Err(Error::Read { what, error }),
                    None => each(&message),
                }
            }
        }
    }
}

enum Outcome {
    Done,
    /// The ruleset has another generation.
    Restart,
}

/// The packets that a rule's counter has seen, if it has one, from its list of expressions.
fn read_counter(mut expressions: Attributes<'_>) -> Option<u64> {
    let counter = expressions.find_map(|expression| {
        let expression = expression.nested();
        let is_counter = expression.find(1)?.str() == "counter";
        expression.find(2).filter(|_| is_counter)
    })?;
    counter.nested().find(2)?.u64()
}

/// The elements that a message lists.
pub fn read_elements<'a>(message: &Message<'a>) -> impl Iterator<Item = Element> + use<'a> {
    let is_list = message.kind == message_type(NFT_MSG_NEWSETELEM);
    message
        .attributes()
        .find(NFTA_SET_ELEM_LIST_ELEMENTS)
        .filter(|_| is_list)
        .into_iter()
        .flat_map(|list| list.nested())
        .filter_map(|element| Element::read(element.nested()))
}
