//! One local route for each relayed address that is not the node's own: packets to it are delivered
//! here, those of the node itself by the loopback interface. EDGE.
//!
//! In: addresses. Out: routes of table local with a protocol number of vipd's own, by which a later
//! process finds them; around them, silence about them ([`Silence`]).
//! Never: another's route; a range of addresses.

use super::arp::Silence;
use super::batch::Move;
use super::departures::{Departed, Departures};
use super::error::Error;
use super::route::{
    RTM_DELROUTE, RTM_GETROUTE, RTM_NEWROUTE, header, host_bits, put_route, read_route,
};
use crate::model::Family;
use crate::netlink::{
    Buffer, ExtendedError, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_EXCL,
    NLM_F_REQUEST, NLMSG_DONE, Socket,
};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, BorrowedFd};

/// Routes that one datagram changes.
const AT_ONCE: usize = 128;
/// Dumps that may meet a change before vipd gives up.
const TRIES: u32 = 20;

/// The routes, and what vipd knows of them.
#[derive(Debug)]
pub struct Routes {
    socket: Socket,
    request: Buffer,
    /// With the source address that the node's own connections get by it.
    held: BTreeMap<IpAddr, Option<IpAddr>>,
    /// Addresses that the kernel takes no route for at present: IPv6 is disabled.
    refused: BTreeSet<IpAddr>,
    /// Of every route held, once they are known.
    sources: Option<[Option<IpAddr>; 2]>,
    silence: Silence,
    /// Whether the kernel's silence is about what is held.
    silent: bool,
    /// What others removed.
    departures: Departures,
}

impl Routes {
    /// Opens the socket, in the calling thread's network namespace, and reads back what a former
    /// process left.
    pub fn open() -> Result<Self, Error> {
        let socket = Socket::open_route().map_err(Error::Route)?;
        socket.set_nonblocking(true).map_err(Error::Route)?;
        let (request, held) = (Buffer::default(), BTreeMap::new());
        let (refused, sources, silence) = (BTreeSet::new(), None, Silence::open()?);
        let departures = Departures::open(&socket)?;
        let mut routes =
            Self { socket, request, held, refused, sources, silence, silent: false, departures };
        routes.observe()?;
        if routes.held.is_empty() {
            routes.silence.remove()?;
        }
        Ok(routes)
    }

    /// Becomes readable when others remove routes of vipd's.
    pub fn departures(&self) -> BorrowedFd<'_> {
        self.departures.as_fd()
    }

    pub fn held(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.held.keys().copied()
    }

    pub fn has(&self, address: IpAddr) -> bool {
        self.held.contains_key(&address)
    }

    /// The node's addresses that its own connections come from, per family; without one they would
    /// have the relayed address itself. Routes with another source are made anew.
    pub fn set_sources(&mut self, sources: [Option<IpAddr>; 2]) -> Result<u64, Error> {
        if self.sources.replace(sources) == Some(sources) {
            return Ok(0);
        }
        let stale = self.held.iter().filter(|(address, source)| self.source(**address) != **source);
        let stale: Vec<IpAddr> = stale.map(|(address, _)| *address).collect();
        // A family that comes back brings addresses of the node's.
        let refused: Vec<IpAddr> = std::mem::take(&mut self.refused).into_iter().collect();
        Ok(self.remove(&stale)? + self.add(&stale)? + self.add(&refused)?)
    }

    fn source(&self, address: IpAddr) -> Option<IpAddr> {
        self.sources?[Family::of(address).index()]
    }

    /// Reads all of vipd's routes. What went before is of no interest any more.
    pub fn observe(&mut self) -> Result<(), Error> {
        self.departures.listen(true)?;
        self.departures.read()?;
        'again: for _ in 0..TRIES {
            let mut held = BTreeMap::new();
            for family in Family::BOTH {
                let (found, interrupted) = self.list(family)?;
                if interrupted {
                    continue 'again;
                }
                held.extend(found);
            }
            self.departures.listen(!held.is_empty())?;
            self.held = held;
            self.refused.clear();
            (self.sources, self.silent) = (None, false);
            return Ok(());
        }
        Err(Error::Route(io::ErrorKind::Interrupted.into()))
    }

    /// Routes these addresses here. Returns how many routes were made.
    pub fn add(&mut self, addresses: &[IpAddr]) -> Result<u64, Error> {
        let addresses: Vec<IpAddr> =
            addresses.iter().copied().filter(|address| !self.has(*address)).collect();
        if addresses.is_empty() {
            return Ok(0);
        }
        self.departures.listen(true)?;
        self.keep_silent()?;
        self.silence.change(Move::Come, &of_v4(&addresses))?;
        let mut made = 0;
        for addresses in addresses.chunks(AT_ONCE) {
            let flags = NLM_F_CREATE | NLM_F_EXCL;
            let write = |routes: &mut Self, address| {
                let source = routes.source(address);
                put_route(&mut routes.request, address, source);
            };
            // One that is there is somebody else's, or the address became the node's own. Where IPv6 is
            // disabled (EACCES) nobody can ask for the address either.
            let harmless = [libc::EEXIST, libc::EACCES];
            let met = self.change((RTM_NEWROUTE, flags), (addresses, &harmless), write)?;
            for address in addresses.iter().filter(|address| !met.contains_key(address)) {
                self.held.insert(*address, self.source(*address));
                made += 1;
            }
            self.note_refused(&met);
            let met: Vec<IpAddr> = met.into_keys().collect();
            self.silence.change(Move::Go, &of_v4(&met))?;
        }
        Ok(made)
    }

    /// Routes these addresses here no more. Returns how many routes went.
    pub fn remove(&mut self, addresses: &[IpAddr]) -> Result<u64, Error> {
        for address in addresses {
            self.refused.remove(address);
        }
        let addresses: Vec<IpAddr> =
            addresses.iter().copied().filter(|address| self.has(*address)).collect();
        for addresses in addresses.chunks(AT_ONCE) {
            let write = |routes: &mut Self, address| put_route(&mut routes.request, address, None);
            // One that is not there was removed by somebody else, or with its interface.
            self.change((RTM_DELROUTE, 0), (addresses, &[libc::ESRCH]), write)?;
            for address in addresses {
                self.held.remove(address);
            }
        }
        if !addresses.is_empty() {
            self.speak_again(&addresses)?;
        }
        Ok(addresses.len() as u64)
    }

    /// Makes anew what others removed. Returns how many routes that were.
    pub fn restore(&mut self) -> Result<u64, Error> {
        let lost: Vec<IpAddr> = match self.departures.read()? {
            Departed::Of(gone) => gone.into_iter().filter(|address| self.has(*address)).collect(),
            Departed::Unknown => {
                let (before, sources) = (std::mem::take(&mut self.held), self.sources);
                self.observe()?;
                self.sources = sources;
                let lost = before.into_keys().filter(|address| !self.has(*address)).collect();
                self.mend()?;
                lost
            }
        };
        for addresses in lost.chunks(AT_ONCE) {
            let write = |routes: &mut Self, address| {
                let source = routes.source(address);
                put_route(&mut routes.request, address, source);
            };
            // One that is there came back, or is another's that the address has a route by.
            let flags = NLM_F_CREATE | NLM_F_EXCL;
            let harmless = [libc::EEXIST, libc::EACCES];
            let met = self.change((RTM_NEWROUTE, flags), (addresses, &harmless), write)?;
            self.note_refused(&met);
            for address in addresses {
                match self.refused.contains(address) {
                    true => self.held.remove(address),
                    false => self.held.insert(*address, self.source(*address)),
                };
            }
        }
        Ok(lost.len() as u64)
    }

    fn note_refused(&mut self, met: &BTreeMap<IpAddr, i32>) {
        let refused = met.iter().filter(|(_, errno)| **errno == libc::EACCES);
        self.refused.extend(refused.map(|(address, _)| *address));
    }

    /// Removes all of vipd's routes.
    pub fn clear(&mut self) -> Result<u64, Error> {
        let all: Vec<IpAddr> = self.held().collect();
        let gone = self.remove(&all)?;
        self.silence.remove()?;
        Ok(gone)
    }

    /// Others may have broken the silence.
    pub fn doubt(&mut self) {
        self.silent = false;
    }

    /// Makes sure of the silence about all addresses held.
    pub fn mend(&mut self) -> Result<(), Error> {
        if self.held.is_empty() { Ok(()) } else { self.keep_silent() }
    }

    fn keep_silent(&mut self) -> Result<(), Error> {
        if !self.silent {
            let held: Vec<IpAddr> = self.held().collect();
            self.silence.make(of_v4(&held).into_iter())?;
            self.silent = true;
        }
        Ok(())
    }

    /// Of addresses that have no route any more.
    fn speak_again(&mut self, addresses: &[IpAddr]) -> Result<(), Error> {
        if self.held.is_empty() {
            self.silent = false;
            self.departures.listen(false)?;
            return self.silence.remove();
        }
        if self.silent {
            return self.silence.change(Move::Go, &of_v4(addresses));
        }
        self.keep_silent()
    }

    /// Sends one message for each address; returns those that the kernel answered with an error that is
    /// `harmless`, with that.
    fn change(
        &mut self,
        (kind, flags): (u16, u16),
        (addresses, harmless): (&[IpAddr], &[i32]),
        write: impl Fn(&mut Self, IpAddr),
    ) -> Result<BTreeMap<IpAddr, i32>, Error> {
        self.request.clear();
        let mut by_seq = BTreeMap::new();
        let mut last = (0, 0);
        for address in addresses {
            self.request.end();
            last = (self.request.len(), self.socket.next_seq());
            by_seq.insert(last.1, *address);
            let header = header(Family::of(*address), host_bits(*address));
            self.request.begin_with(kind, NLM_F_REQUEST | flags, last.1, &header);
            write(self, *address);
        }
        self.request.end();
        // Errors are told anyway.
        self.request.flag(last.0, NLM_F_ACK);
        self.send()?;
        let mut met = BTreeMap::new();
        loop {
            for answer in self.answers()? {
                if harmless.contains(&answer.errno) {
                    met.extend(by_seq.get(&answer.seq).map(|address| (*address, answer.errno)));
                } else if answer.errno != 0 {
                    let address = by_seq.get(&answer.seq).copied();
                    return Err(Error::Refused { address, error: answer });
                }
                if answer.seq == last.1 {
                    return Ok(met);
                }
            }
        }
    }

    fn send(&mut self) -> Result<(), Error> {
        self.socket.send(self.request.bytes()).map_err(Error::Route)
    }

    /// The errors and acknowledgements of one datagram. Requests are carried out within `send`.
    fn answers(&mut self) -> Result<Vec<ExtendedError>, Error> {
        let messages = self.socket.receive().map_err(Error::Route)?;
        Ok(messages.filter_map(|message| ExtendedError::of(&message)).collect())
    }

    /// vipd's routes of a family, and whether others changed some meanwhile.
    fn list(&mut self, family: Family) -> Result<(BTreeMap<IpAddr, Option<IpAddr>>, bool), Error> {
        let seq = self.socket.next_seq();
        self.request.clear();
        // Bits, scope and flags are no filters, and must be 0.
        let mut header = header(family, 0);
        header[6] = 0;
        self.request.begin_with(RTM_GETROUTE, NLM_F_REQUEST | NLM_F_DUMP, seq, &header);
        self.request.end();
        self.send()?;
        let (mut found, mut interrupted) = (BTreeMap::new(), false);
        loop {
            for message in self.socket.receive().map_err(Error::Route)? {
                if message.seq != seq {
                    continue;
                }
                interrupted |= message.flags & NLM_F_DUMP_INTR != 0;
                match ExtendedError::of(&message) {
                    // There is no table local yet.
                    Some(error) if error.errno == libc::ENOENT => return Ok((found, interrupted)),
                    Some(error) => return Err(Error::Refused { address: None, error }),
                    None if message.kind == NLMSG_DONE => return Ok((found, interrupted)),
                    None => found.extend(read_route(&message)),
                }
            }
        }
    }
}

fn of_v4(addresses: &[IpAddr]) -> Vec<Ipv4Addr> {
    let v4 = |address: &IpAddr| match address {
        IpAddr::V4(v4) => Some(*v4),
        IpAddr::V6(_) => None,
    };
    addresses.iter().filter_map(v4).collect()
}
