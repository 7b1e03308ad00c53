//! One daemon per network namespace.

use super::Error;
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use std::io;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

/// Abstract, so that it belongs to the network namespace and goes with the process.
const NAME: &[u8] = b"vipd.daemon";

/// Connections that wait for nobody: who asks wants to know whose the name is.
const BACKLOG: i32 = 128;

/// Held as long as this is; `None`: a process of another user holds the name, which does not count.
#[derive(Debug)]
pub(super) struct Lock(Option<UnixListener>);

/// The name can be taken by any process of the namespace, so only a holder with our own user id
/// counts: others could keep vipd from starting.
pub(super) fn lock() -> Result<Lock, Error> {
    let address = SocketAddr::from_abstract_name(NAME).map_err(Error::Lock)?;
    match UnixListener::bind_addr(&address) {
        Ok(listener) => Ok(Lock(Some(listener))),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            let Ok(holder) = UnixStream::connect_addr(&address) else {
                let listener = UnixListener::bind_addr(&address).map_err(Error::Lock)?;
                return Ok(Lock(Some(listener)));
            };
            // nix's, because rustix's type has no room for the pid 0 that the kernel gives for a process
            // of a PID namespace that this one does not see.
            let holder = getsockopt(&holder, PeerCredentials);
            let holder = holder.map_err(|errno| Error::Lock(errno.into()))?;
            if holder.uid() == rustix::process::geteuid().as_raw() {
                return Err(match holder.pid() {
                    pid if pid > 0 => Error::AlreadyRunning { pid },
                    _ => Error::AlreadyRunningInContainer,
                });
            }
            tracing::warn!(
                uid = holder.uid(),
                "a process of another user holds vipd's lock; ignored"
            );
            Ok(Lock(None))
        }
        Err(error) => Err(Error::Lock(error)),
    }
}

impl Lock {
    /// The former process's.
    pub(super) fn inherited(socket: OwnedFd) -> Result<Self, Error> {
        // The kernel tells who connects the credentials of who listened last.
        rustix::net::listen(&socket, BACKLOG).map_err(|errno| Error::Lock(errno.into()))?;
        Ok(Lock(Some(socket.into())))
    }

    pub(super) fn socket(&self) -> Option<&UnixListener> {
        self.0.as_ref()
    }
}
