//! What can go wrong on either end of the socket.

use std::io;
use std::path::PathBuf;

/// Why the daemon cannot answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "cannot make the directory {path} of the admin socket: {source}; check its parent, or pass \
         another --admin-socket"
    )]
    Directory { path: PathBuf, source: io::Error },
    #[error(
        "the admin socket {path} is something else than a socket: remove it, or pass another \
         --admin-socket"
    )]
    NotASocket { path: PathBuf },
    #[error(
        "another vipd answers on {path}: daemons in several network namespaces each need an \
         --admin-socket of their own"
    )]
    InUse { path: PathBuf },
    #[error("cannot listen on the admin socket {path}: {source}; pass another --admin-socket")]
    Listen { path: PathBuf, source: io::Error },
}

/// Why a daemon's answer cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error(
        "no vipd daemon answers at {path}: is it running? (systemctl status vipd / pass \
         --admin-socket / or use --manifests DIR)"
    )]
    NoDaemon { path: PathBuf },
    #[error("{path}: permission denied: the daemon answers only to root (use sudo)")]
    Permission { path: PathBuf },
    #[error("cannot ask the daemon at {path}: {source}")]
    Connect { path: PathBuf, source: io::Error },
    #[error("the daemon at {path} did not answer to the end: {reason}")]
    Answer { path: PathBuf, reason: String },
    /// 404, in the daemon's words.
    #[error("{0}")]
    NotFound(String),
    /// 400, in the daemon's words.
    #[error("{0}")]
    BadRequest(String),
}
