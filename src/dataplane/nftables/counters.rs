//! What the kernel has counted in the table's rules. EDGE: it asks the kernel.
//!
//! In: nothing. Out: packets, counted since the rule was last written.
//! Never: a change; the writer's socket.
//!
//! One reading is one GETRULE dump of the table. Its rules are constant: there are as many as kinds
//! of services (the skeleton, and a few per class), however many services there are.
//! The kernel answers under RCU, without the lock that commits take, so that no commit waits for it;
//! a commit in between makes the dump begin again. The counters are per CPU and summed up for each
//! rule that has one: at most sixteen of the skeleton, and one per family and affinity timeout.

use super::error::Error;
use super::kernel::{Kernel, Without};
use super::layout::STRAY;
use super::treatment::is_record;

/// Packets, since the rules that count them were last written. A counter starts again at 0 where a
/// rule is written anew: at the first service of a kind, after a foreign edit, with the table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counted {
    /// INVALID packets of services that were dropped.
    pub invalid: u64,
    /// First packets of connections for whose pin the affinity table had no room.
    pub unpinned: u64,
}

/// A reader with a socket of its own.
#[derive(Debug)]
pub struct Counters(Kernel);

impl Counters {
    /// Opens the socket, in the calling thread's network namespace.
    pub fn open() -> Result<Self, Error> {
        Ok(Self(Kernel::open(Without::default())?))
    }

    /// All zero where there is no table.
    pub fn read(&mut self) -> Result<Counted, Error> {
        let mut counted = Counted::default();
        for (chain, packets) in self.0.counters()? {
            if chain == STRAY {
                counted.invalid += packets;
            } else if is_record(&chain) {
                counted.unpinned += packets;
            }
        }
        Ok(counted)
    }
}
