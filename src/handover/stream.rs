//! Messages with files, over one stream.

use super::message::{HEAD, Head, Kind};
use super::{Error, PATIENCE};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// The kernel sends no more files at once (`SCM_MAX_FD`).
const MOST_FILES: usize = 253;

/// Read in one go.
const CHUNK: usize = 64 << 10;

/// Files keep the order of the messages that they are of, so they are counted off as heads name them.
#[derive(Debug)]
pub(super) struct Stream {
    socket: UnixStream,
    inbox: VecDeque<u8>,
    files: VecDeque<OwnedFd>,
}

pub(super) struct Received {
    pub kind: Kind,
    pub text: Vec<u8>,
    pub files: Vec<OwnedFd>,
}

impl Stream {
    pub fn new(socket: UnixStream) -> io::Result<Self> {
        socket.set_nonblocking(false)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { socket, inbox: VecDeque::new(), files: VecDeque::new() })
    }

    /// For the next messages; `None`: as long as it takes.
    pub fn wait(&self, patience: Option<Duration>) -> Result<(), Error> {
        self.socket.set_read_timeout(patience).map_err(Error::Broken)
    }

    /// The same stream, for who only speaks.
    pub fn speaker(&self) -> io::Result<UnixStream> {
        self.socket.try_clone()
    }

    pub fn send(&self, kind: Kind, text: &[u8], files: &[BorrowedFd<'_>]) -> Result<(), Error> {
        send(&self.socket, kind, text, files).map_err(error)
    }

    /// `None`: the other process has closed its end, or has ended.
    pub fn receive(&mut self) -> Result<Option<Received>, Error> {
        let Some(head) = self.take(HEAD)? else { return Ok(None) };
        let head = head.try_into().ok().and_then(Head::read);
        let Head { kind, files, length } = head.ok_or(Error::Nonsense("an unknown message"))?;
        let text = self.take(length as usize)?;
        let text = text.ok_or(Error::Nonsense("part of a message"))?;
        let count = usize::from(files);
        if self.files.len() < count {
            return Err(Error::Nonsense("a message without its files"));
        }
        Ok(Some(Received { kind, text, files: self.files.drain(..count).collect() }))
    }

    fn take(&mut self, count: usize) -> Result<Option<Vec<u8>>, Error> {
        while self.inbox.len() < count {
            if self.fill().map_err(error)? == 0 {
                return Ok(None);
            }
        }
        Ok(Some(self.inbox.drain(..count).collect()))
    }

    fn fill(&mut self) -> io::Result<usize> {
        let mut bytes = vec![0; CHUNK];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FILES))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            let mut into = [IoSliceMut::new(&mut bytes)];
            match recvmsg(&self.socket, &mut into, &mut control, RecvFlags::CMSG_CLOEXEC) {
                Err(rustix::io::Errno::INTR) => {}
                received => break received?,
            }
        };
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(files) = message {
                self.files.extend(files);
            }
        }
        self.inbox.extend(&bytes[..received.bytes]);
        Ok(received.bytes)
    }
}

/// The files go with the head.
pub(super) fn send(
    mut socket: &UnixStream,
    kind: Kind,
    text: &[u8],
    files: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let too_much = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let length = text.len().try_into().map_err(too_much)?;
    let head = Head { kind, files: files.len().try_into().map_err(too_much)?, length };
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FILES))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() && !control.push(SendAncillaryMessage::ScmRights(files)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let head = head.written();
    let sent = sendmsg(socket.as_fd(), &[IoSlice::new(&head)], &mut control, SendFlags::NOSIGNAL)?;
    socket.write_all(&head[sent..])?;
    socket.write_all(text)
}

fn error(error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Error::Silent,
        _ => Error::Broken(error),
    }
}
