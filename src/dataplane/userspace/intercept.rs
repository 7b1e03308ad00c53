//! Table `inet vipd-relay`, kept over a socket that owns it. EDGE.
//!
//! In: elements. Out: netlink transactions, each atomic.
//! Never: a look at what the kernel holds: nobody else can change it.

use super::batch::{AT_ONCE, Link, Move, Table};
use super::error::Error;
use super::sets::{Placed, Set};
use super::table::{Site, TABLE, chains};
use crate::dataplane::Applied;
use crate::nft::expr::NFPROTO_INET;
use std::os::fd::OwnedFd;
use xxhash_rust::xxh3::xxh3_64;

/// `NFT_TABLE_F_OWNER` (Linux 5.12): the kernel removes the table when the socket is closed.
const OWNER: u32 = 2;

const OF_RELAY: Table = Table { family: NFPROTO_INET, name: TABLE, flags: OWNER };

/// What a table is but for its elements: two processes that say the same may share one.
pub(super) fn layout(site: Site) -> u64 {
    let sets = Set::ALL.map(|set| (set.name(), set.definition()));
    xxh3_64(format!("{:?}{sets:?}", chains(site)).as_bytes())
}

#[derive(Debug)]
pub(super) struct Interception(Link);

impl Interception {
    /// Makes the table, in the calling thread's network namespace.
    pub(super) fn open(site: Site, elements: &[Placed]) -> Result<(Self, Applied), Error> {
        let mut link = Link::open(OF_RELAY)?;
        // One of this name that nobody owns; with one that somebody owns the next step fails.
        link.remove_table()?;
        let mut transaction = link.begin();
        transaction.table();
        for (set, id) in Set::ALL.into_iter().zip(1..) {
            transaction.set((set.name(), id), &set.definition());
        }
        chains(site).iter().for_each(|chain| transaction.chain(chain));
        let mut applied = transaction.commit()?;
        let mut made = Self(link);
        applied += made.change(&[], elements)?;
        Ok((made, applied))
    }

    /// Goes on with a table that another process made, over the socket that owns it.
    pub(super) fn inherit(link: OwnedFd) -> Result<Self, Error> {
        Ok(Self(Link::handed(link, OF_RELAY)?))
    }

    /// Gives it to another process: while one of both has the socket, there is the table.
    pub(super) fn hand(&self) -> Option<OwnedFd> {
        self.0.hand().ok()
    }

    /// Takes elements away, and adds others; each list in its order, a long one in several
    /// transactions.
    pub(super) fn change(&mut self, gone: &[Placed], come: &[Placed]) -> Result<Applied, Error> {
        let mut applied = Applied::default();
        let gone = gone.iter().map(|one| (one, Move::Go));
        let all: Vec<_> = gone.chain(come.iter().map(|one| (one, Move::Come))).collect();
        for part in all.chunks(AT_ONCE) {
            let mut transaction = self.0.begin();
            for run in part.chunk_by(|one, other| (one.0.0, one.1) == (other.0.0, other.1)) {
                let ((set, _), what) = run[0];
                let elements = run.iter().map(|((_, element), _)| element);
                transaction.elements(what, set.name(), elements);
            }
            applied += transaction.commit()?;
        }
        Ok(applied)
    }
}
