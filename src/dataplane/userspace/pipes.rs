//! Pipes, through which bytes go from socket to socket without coming to this process.

use super::budget::{Budget, Files};
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A pipe's room; also the most that it is given in one go. As much as the kernel lets everybody
/// have (`fs.pipe-max-size`).
pub(super) const SIZE: usize = 1 << 20;

/// Pipes at a time. A direction of a connection has one only while there is something in it, so
/// that these serve any number of connections; the kernel lets a user without CAP_SYS_RESOURCE
/// have 64 MiB in pipes (`fs.pipe-user-pages-soft`), and that is also what slow readers can make
/// the kernel hold here.
const MOST: usize = 48;

/// Both ends of one.
const FILES: u32 = 2;

#[derive(Debug)]
pub(super) struct Pipes {
    /// Empty ones.
    idle: Mutex<Vec<Pipe>>,
    places: Arc<Semaphore>,
    budget: Arc<Budget>,
}

#[derive(Debug)]
pub(super) struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    /// Bytes in it. A pipe is filled only when it is empty: "would block" from splice would
    /// otherwise mean that the socket is empty or that the pipe is full, and nobody could tell.
    filled: usize,
    _place: OwnedSemaphorePermit,
    _files: Files,
}

impl Pipes {
    pub(super) fn new(budget: Arc<Budget>) -> Self {
        Self { idle: Mutex::default(), places: Arc::new(Semaphore::new(MOST)), budget }
    }

    /// `None`: there are as many as there may be.
    pub(super) fn take(&self) -> Option<Pipe> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        idle.or_else(|| self.make())
    }

    /// One with something in it is closed: its connection has ended.
    pub(super) fn give_back(&self, pipe: Pipe) {
        if pipe.filled == 0 {
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(pipe);
        }
    }

    fn make(&self) -> Option<Pipe> {
        let place = Arc::clone(&self.places).try_acquire_owned().ok()?;
        let files = self.budget.files(FILES)?;
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
        // As it is made it has 64 KiB, or less where this user has many.
        let _ = fcntl_setpipe_size(&write, SIZE);
        Some(Pipe { read, write, filled: 0, _place: place, _files: files })
    }

    #[cfg(test)]
    pub(super) fn made(&self) -> usize {
        MOST - self.places.available_permits()
    }

    #[cfg(test)]
    pub(super) fn idle(&self) -> usize {
        self.idle.lock().unwrap().len()
    }
}

impl Pipe {
    pub(super) fn is_empty(&self) -> bool {
        self.filled == 0
    }

    /// Out of a socket, which is empty if that would block; 0: it has ended. Only for an empty pipe.
    pub(super) fn fill(&mut self, from: impl AsFd) -> io::Result<usize> {
        debug_assert!(self.is_empty(), "a pipe is filled when it is empty");
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        self.filled = splice(from, None, &self.write, None, SIZE, flags)?;
        Ok(self.filled)
    }

    /// Into a socket, which is full if that would block. Only for a pipe that is not empty.
    pub(super) fn drain(&mut self, to: impl AsFd) -> io::Result<usize> {
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        let drained = splice(&self.read, None, to, None, self.filled, flags)?;
        self.filled -= drained.min(self.filled);
        Ok(drained)
    }
}
