//! Traffic of one client in the words of a case.
//!
//! In: a world, who, where to. Out: `Replies`.
//! Never: a packet before a sentence asks for it.

use super::clients::Tries;
use super::plan::Who;
use super::replies::Replies;
use super::world::World;
use std::net::IpAddr;
use std::time::Duration;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Traced {
    Yes,
    No,
}

/// Tries that have not run yet; a sentence about the replies runs them.
#[must_use = "runs with a sentence such as `reached()`"]
pub struct Client<'w> {
    world: &'w World,
    who: Who,
    tries: Tries,
    traced: Traced,
}

impl<'w> Client<'w> {
    /// Where vipd runs, it is asked as well.
    pub fn new(world: &'w World, who: Who, tries: Tries) -> Client<'w> {
        let traced = if world.is_running() { Traced::Yes } else { Traced::No };
        Client { world, who, tries, traced }
    }

    pub fn times(mut self, times: usize) -> Self {
        self.tries.times = times;
        self
    }

    /// From another address of the client's.
    pub fn from(mut self, address: IpAddr) -> Self {
        self.tries.from = address;
        self
    }

    pub fn patience(mut self, patience: Duration) -> Self {
        self.tries.patience = patience;
        self
    }

    /// One after the other.
    pub fn in_turn(mut self) -> Self {
        self.tries.at_once = 1;
        self
    }

    /// Bytes of a datagram.
    pub fn sized(mut self, size: usize) -> Self {
        self.tries.size = size;
        self
    }

    /// vipd is not asked: what it knows may be changing.
    pub fn untraced(mut self) -> Self {
        self.traced = Traced::No;
        self
    }

    /// Runs the tries.
    #[track_caller]
    pub fn replies(self) -> Replies {
        let trace = (self.traced == Traced::Yes).then(|| self.world.trace(self.who, &self.tries));
        self.world.run(self.who, &self.tries, trace)
    }

    #[track_caller]
    pub fn reached(self) -> Replies {
        self.replies().reached()
    }

    #[track_caller]
    pub fn only<const N: usize>(self, names: [Who; N]) -> Replies {
        self.replies().only(names)
    }

    #[track_caller]
    pub fn spread<const N: usize>(self, names: [Who; N]) -> Replies {
        self.replies().spread(names).all_of_trace()
    }

    #[track_caller]
    pub fn left_to<const N: usize>(self, names: [Who; N]) -> Replies {
        self.replies().left_to(names)
    }

    #[track_caller]
    pub fn one_server(self) -> Who {
        self.replies().one_server()
    }

    #[track_caller]
    pub fn refused(self) -> Replies {
        self.replies().refused()
    }

    /// Waits longer than until the kernel's second SYN.
    #[track_caller]
    pub fn dropped(self) -> Replies {
        self.patience(Duration::from_millis(1300)).replies().dropped()
    }
}
