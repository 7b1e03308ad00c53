//! The old process's end.

use super::message::{Kind, Request};
use super::stream::{Received, Stream};
use super::{Error, PATIENCE};
use crate::admin;
use crate::dataplane::userspace::Part;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;
use tokio::net::UnixStream;

/// Pause after a refused accept, which is nearly always a lack of file descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// Waits for a process that is to replace this one.
#[derive(Debug)]
pub struct Offer(admin::Listener);

/// The process that replaces this one.
#[derive(Debug)]
pub struct Successor(Stream);

/// Listens at `path`, for this user only. Needs a tokio runtime.
pub fn offer(path: &Path) -> Result<Offer, admin::Error> {
    Ok(Offer(admin::bind(path)?))
}

impl Offer {
    /// The next process that asks, and may.
    pub async fn asked(&self) -> Successor {
        loop {
            match self.0.accept().await {
                Ok(stream) => match admit(stream).await {
                    Ok(successor) => return successor,
                    Err(error) => tracing::warn!("nothing is handed over: {error}"),
                },
                Err(error) => {
                    tracing::warn!(%error, "nobody can ask for a handover: check the limit on open files");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
}

async fn admit(stream: UnixStream) -> Result<Successor, Error> {
    let uid = stream.peer_cred().map_err(Error::Broken)?.uid();
    if uid != rustix::process::geteuid().as_raw() {
        return Err(Error::Refused(format!("user {uid} asks, and only this one may")));
    }
    let stream = stream.into_std().map_err(Error::Broken)?;
    // Bounded by the stream's own patience.
    let asked = tokio::task::spawn_blocking(move || {
        let mut stream = Stream::new(stream).map_err(Error::Broken)?;
        let Some(Received { kind: Kind::Request, text, .. }) = stream.receive()? else {
            return Err(Error::Nonsense("no request"));
        };
        let request = serde_json::from_slice::<Request>(&text);
        let request = request.map_err(|_| Error::Nonsense("a request of an unknown form"))?;
        match request.refusal(namespace().map_err(Error::Broken)?) {
            None => Ok(Successor(stream)),
            Some(refusal) => {
                stream.send(Kind::Refusal, refusal.as_bytes(), &[])?;
                Err(Error::Refused(refusal))
            }
        }
    });
    asked.await.unwrap_or(Err(Error::Nonsense("a request that cannot be read")))
}

/// Device and inode of the calling thread's network namespace: no other that exists has them.
pub(super) fn namespace() -> io::Result<(u64, u64)> {
    let metadata = fs::metadata("/proc/thread-self/ns/net")?;
    Ok((metadata.dev(), metadata.ino()))
}

impl Successor {
    /// It takes longer than a moment.
    pub fn busy(&self) -> Result<(), Error> {
        self.0.send(Kind::Busy, &[], &[])
    }

    /// All that it needs in order to write and to accept. Blocks.
    pub fn hand(&self, parts: impl IntoIterator<Item = Part>) -> Result<(), Error> {
        for Part { text, files } in parts {
            let files: Vec<_> = files.iter().map(AsFd::as_fd).collect();
            self.0.send(Kind::Part, &text, &files)?;
        }
        self.0.send(Kind::End, &[], &[])
    }

    /// Nothing is listened at any more. The lock goes along, if this process has it.
    pub fn closed(&self, lock: Option<impl AsFd>) -> Result<(), Error> {
        let files: Vec<_> = lock.iter().map(AsFd::as_fd).collect();
        self.0.send(Kind::Closed, &[], &files)
    }

    /// Waits until it says that it serves; an error, if it ends before. Blocks.
    pub fn serving(&mut self) -> Result<(), Error> {
        self.0.wait(None)?;
        let ended = || Error::Broken(io::ErrorKind::UnexpectedEof.into());
        match self.0.receive()?.ok_or_else(ended)?.kind {
            Kind::Serving => self.0.wait(Some(PATIENCE)),
            _ => Err(Error::Nonsense("a message that is none of a handover's")),
        }
    }
}
