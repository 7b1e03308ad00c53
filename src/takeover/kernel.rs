//! Conversations with nf_tables. EDGE: the only file here that sends to it.
//!
//! In: questions, deletions. Out: what the kernel says.
//! Never: a decision about what goes.

use super::error::Error;
use super::messages::{self, Change, read_chain, read_rule};
use super::removal::{Chain, Rule};
use crate::model::Family;
use crate::netlink::{
    Buffer, ExtendedError, Message, NFNL_MSG_BATCH_BEGIN, NFNL_MSG_BATCH_END, NLM_F_ACK,
    NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, SUBSYS_NFTABLES, Socket,
};
use std::collections::HashMap;
use std::io;
use std::time::Duration;

/// Listings of one kind that somebody's commit interrupts, before vipd gives up.
const TRIES: u32 = 25;
const PAUSE: Duration = Duration::from_millis(20);
/// Room for the end of a batch.
const TAIL: usize = 64;
/// Room for one more message: two names of up to 128 bytes.
const MESSAGE: usize = 512;

#[derive(Debug)]
pub struct Kernel {
    socket: Socket,
    request: Buffer,
}

impl Kernel {
    pub fn open() -> Result<Self, Error> {
        let socket = Socket::open().map_err(Error::Open)?;
        socket.set_nonblocking(true).map_err(Error::Open)?;
        Ok(Self { socket, request: Buffer::default() })
    }

    /// Commits as many changes as the socket takes at once. Returns their number, and those that
    /// were refused: then none was made.
    pub fn commit(
        &mut self,
        changes: &[Change],
    ) -> Result<(usize, Vec<(usize, ExtendedError)>), Error> {
        let capacity = self.socket.send_capacity().map_err(Error::Open)?;
        self.request.clear();
        self.batch_marker(NFNL_MSG_BATCH_BEGIN);
        let first = self.socket.seq().wrapping_add(1);
        let mut taken = 0;
        let mut last_start = 0;
        for change in changes {
            if taken > 0 && self.request.len() + MESSAGE + TAIL > capacity {
                break;
            }
            self.request.end();
            last_start = self.request.len();
            let seq = self.socket.next_seq();
            change.put(&mut self.request, seq);
            taken += 1;
        }
        let last = self.socket.seq();
        self.request.end();
        self.request.flag(last_start, NLM_F_ACK);
        self.batch_marker(NFNL_MSG_BATCH_END);
        self.request.end();
        self.drain()?;
        self.socket.send(self.request.bytes()).map_err(Error::Send)?;

        // A batch is carried out within `send`: all answers are there.
        let (mut refused, mut answered) = (Vec::new(), false);
        loop {
            let messages = match self.socket.receive() {
                Ok(messages) => messages,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) => return Err(Error::Receive(e)),
            };
            for answer in messages.filter_map(|message| ExtendedError::of(&message)) {
                let at = answer.seq.wrapping_sub(first) as usize;
                match answer.errno {
                    0 => answered |= answer.seq == last,
                    _ if at < taken => refused.push((at, answer)),
                    _ => return Err(Error::Read { what: "the answer to a batch", error: answer }),
                }
            }
        }
        if refused.is_empty() && !answered { Err(Error::NoAnswer) } else { Ok((taken, refused)) }
    }

    fn batch_marker(&mut self, kind: u16) {
        let seq = self.socket.next_seq();
        self.request.begin(kind, NLM_F_REQUEST, seq, 0, 0, SUBSYS_NFTABLES);
    }

    pub fn tables(&mut self, family: Family) -> Result<Vec<String>, Error> {
        self.dump(messages::NFT_MSG_GETTABLE, family, None, "tables", |message| {
            Some(message.attributes().find(messages::NFTA_TABLE_NAME)?.str().to_owned())
        })
    }

    /// By table, without rules.
    pub fn chains(&mut self, family: Family) -> Result<HashMap<String, Vec<Chain<u64>>>, Error> {
        let mut chains: HashMap<String, Vec<Chain<u64>>> = HashMap::new();
        for (table, chain) in
            self.dump(messages::NFT_MSG_GETCHAIN, family, None, "chains", read_chain)?
        {
            chains.entry(table).or_default().push(chain);
        }
        Ok(chains)
    }

    /// By chain, in their order.
    pub fn rules(
        &mut self,
        family: Family,
        table: &str,
    ) -> Result<HashMap<String, Vec<Rule<u64>>>, Error> {
        let mut rules: HashMap<String, Vec<Rule<u64>>> = HashMap::new();
        let read = |message: &Message<'_>| read_rule(message, table);
        for (chain, rule) in
            self.dump(messages::NFT_MSG_GETRULE, family, Some(table), "rules", read)?
        {
            rules.entry(chain).or_default().push(rule);
        }
        Ok(rules)
    }

    /// All objects of a kind. A listing that somebody's commit interrupts may lack some, so it is
    /// begun again.
    #[expect(clippy::too_many_arguments, reason = "what is asked for, and how it is read")]
    fn dump<T>(
        &mut self,
        kind: u16,
        family: Family,
        table: Option<&str>,
        what: &'static str,
        read: impl Fn(&Message<'_>) -> Option<T>,
    ) -> Result<Vec<T>, Error> {
        for _ in 0..TRIES {
            let seq = self.socket.next_seq();
            self.request.clear();
            let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_DUMP;
            self.request.begin(
                messages::message_type(kind),
                flags,
                seq,
                messages::number(family),
                0,
                0,
            );
            if let Some(table) = table {
                // The same number for tables, chains and rules.
                self.request.attr_str(messages::NFTA_RULE_TABLE, table);
            }
            self.request.end();
            self.drain()?;
            self.socket.send(self.request.bytes()).map_err(Error::Send)?;
            let mut objects = Vec::new();
            if self.answers(seq, what, |message| objects.extend(read(message)))? == Listing::Whole {
                return Ok(objects);
            }
            std::thread::sleep(PAUSE);
        }
        Err(Error::Contended(TRIES))
    }

    fn answers(
        &mut self,
        seq: u32,
        what: &'static str,
        mut each: impl FnMut(&Message<'_>),
    ) -> Result<Listing, Error> {
        let mut listing = Listing::Whole;
        loop {
            // A dump goes on while it is read, so there is never anything to wait for.
            let messages = match self.socket.receive() {
                Ok(messages) => messages,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Err(Error::NoAnswer),
                Err(e) => return Err(Error::Receive(e)),
            };
            for message in messages.filter(|message| message.seq == seq) {
                if message.flags & NLM_F_DUMP_INTR != 0 {
                    listing = Listing::Interrupted;
                }
                if message.kind == NLMSG_DONE {
                    return Ok(listing);
                }
                match ExtendedError::of(&message) {
                    Some(answer) if answer.errno == 0 => return Ok(listing),
                    Some(error) => return Err(Error::Read { what, error }),
                    None => each(&message),
                }
            }
        }
    }

    /// Nothing unread is left from a conversation that ended early.
    fn drain(&mut self) -> Result<(), Error> {
        loop {
            match self.socket.receive() {
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) => return Err(Error::Receive(e)),
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Listing {
    Whole,
    Interrupted,
}
