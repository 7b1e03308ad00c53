//! One descriptor for all that foreign edits are heard by. EDGE.

use rustix::event::epoll;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Readable while one of what is watched is.
#[derive(Debug)]
pub(super) struct Edits {
    epoll: OwnedFd,
}

impl Edits {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { epoll: epoll::create(epoll::CreateFlags::CLOEXEC)? })
    }

    /// Until it is closed. Doing so twice is harmless.
    pub(super) fn watch(&self, one: BorrowedFd<'_>) -> io::Result<()> {
        let data = epoll::EventData::new_u64(0);
        match epoll::add(&self.epoll, one, data, epoll::EventFlags::IN) {
            Err(rustix::io::Errno::EXIST) => Ok(()),
            done => Ok(done?),
        }
    }

    pub(super) fn descriptor(&self) -> io::Result<OwnedFd> {
        self.epoll.as_fd().try_clone_to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use std::os::unix::net::UnixDatagram;

    fn is_readable(edits: &Edits) -> bool {
        let descriptor = edits.descriptor().unwrap();
        let mut asked = [PollFd::new(&descriptor, PollFlags::IN)];
        poll(&mut asked, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() > 0
    }

    #[test]
    fn whichever_has_something_makes_it_readable() {
        let edits = Edits::new().unwrap();
        let (one, to_one) = UnixDatagram::pair().unwrap();
        let (other, to_other) = UnixDatagram::pair().unwrap();
        for watched in [&one, &other, &one] {
            edits.watch(watched.as_fd()).unwrap();
        }
        assert!(!is_readable(&edits));
        for (to, at) in [(&to_one, &one), (&to_other, &other), (&to_one, &one)] {
            to.send(b"!").unwrap();
            assert!(is_readable(&edits));
            at.recv(&mut [0]).unwrap();
            assert!(!is_readable(&edits));
        }
        to_one.send(b"!").unwrap();
        drop(one);
        assert!(!is_readable(&edits), "it is closed");
    }
}
