//! The new process's end.

use super::message::{Kind, Request};
use super::offer::namespace;
use super::stream::{Received, Stream, send};
use super::{Error, LONGEST, VERSION};
use crate::dataplane::userspace::Part;
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Instant;

/// A former process that has handed over, and still has connections.
#[derive(Debug)]
pub struct Former {
    stream: Stream,
    speaker: UnixStream,
}

/// Asks who listens at `path` to hand over, and takes it in. When this returns, that process writes
/// and accepts nothing any more. Blocks.
pub fn ask(path: &Path) -> Result<(Vec<Part>, Former), Error> {
    let nobody = |source| Error::Nobody { path: path.into(), source };
    let socket = UnixStream::connect(path).map_err(nobody)?;
    // nix's, because rustix's has no room for the pid 0 of a process that this one does not see.
    let peer = getsockopt(&socket, PeerCredentials);
    let uid = peer.map_err(|errno| Error::Broken(errno.into()))?.uid();
    if uid != rustix::process::geteuid().as_raw() {
        return Err(Error::Stranger { path: path.into(), uid });
    }
    let mut stream = Stream::new(socket).map_err(Error::Broken)?;
    let namespace = namespace().map_err(Error::Broken)?;
    let request = serde_json::to_vec(&Request { version: VERSION, namespace });
    stream.send(Kind::Request, &request.expect("numbers are JSON"), &[])?;
    let (began, mut parts) = (Instant::now(), Vec::new());
    while began.elapsed() < LONGEST {
        let broken = || Error::Broken(std::io::ErrorKind::UnexpectedEof.into());
        let Received { kind, text, files } = stream.receive()?.ok_or_else(broken)?;
        match kind {
            Kind::Busy => {}
            Kind::Part => parts.push(Part { text, files }),
            Kind::Refusal => {
                return Err(Error::Refused(String::from_utf8_lossy(&text).into_owned()));
            }
            Kind::End => {
                let speaker = stream.speaker().map_err(Error::Broken)?;
                return Ok((parts, Former { stream, speaker }));
            }
            Kind::Request | Kind::Closed | Kind::Serving => {
                return Err(Error::Nonsense("a message that is none of a handover's"));
            }
        }
    }
    Err(Error::TooLong)
}

impl Former {
    /// For who tells it that it may leave the node to this process.
    pub fn speaker(&self) -> std::io::Result<Speaker> {
        Ok(Speaker(self.speaker.try_clone()?))
    }
}

#[derive(Debug)]
pub struct Speaker(UnixStream);

impl Speaker {
    /// This process serves. One that ended before it said so has left the node to nobody.
    pub fn serving(&self) {
        // It has ended already, if not.
        let _ = send(&self.0, Kind::Serving, &[], &[]);
    }
}

/// Waits until the former process listens at nothing any more. Returns the lock, if it had one. Blocks.
pub fn closed(former: &mut Former) -> Result<Option<OwnedFd>, Error> {
    let began = Instant::now();
    while began.elapsed() < LONGEST {
        match former.stream.receive()? {
            Some(Received { kind: Kind::Closed, files, .. }) => {
                return Ok(files.into_iter().next());
            }
            Some(_) => {}
            // It ended instead.
            None => return Ok(None),
        }
    }
    Err(Error::TooLong)
}

/// Waits until the former process has ended, however long its connections take. Blocks.
pub fn ended(mut former: Former) {
    if former.stream.wait(None).is_ok() {
        while let Ok(Some(_)) = former.stream.receive() {}
    }
}
