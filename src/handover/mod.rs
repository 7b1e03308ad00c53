//! From one process to the one that replaces it, over a Unix socket. EDGE.
//!
//! In: parts of text and files of the one, on demand. Out: the same at the other.
//! Never: a look into a part; a peer of another user or network namespace; a wait without a bound.
//!
//! ```text
//! the new one                                  the old one
//!    ── Request: version, namespace ──────────►  may refuse
//!    ◄───────────── Busy … while a commit ends   stops writing, closes what it listens at
//!    ◄───────── Part …, End: listeners, tables   accepts nothing more
//!  accepts, writes
//!    ◄── Closed: lock ────────────────────────   lets its connections end
//!    ── Serving ──────────────────────────────►
//!    ◄─────────────────────────────── (closed)   has ended
//! ```

mod ask;
mod message;
mod offer;
mod stream;
#[cfg(test)]
mod tests;

pub use ask::{Former, Speaker, ask, closed, ended};
pub use offer::{Offer, Successor, offer};

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Of what is said here, and of what dataplanes hand over.
pub const VERSION: u32 = 1;

/// For one message of the other process. What takes longer says so (`Busy`), so that one that hangs
/// is told from one that works.
pub const PATIENCE: Duration = Duration::from_secs(3);

/// Between two words that it takes longer.
pub const BUSY: Duration = Duration::from_millis(500);

/// For the whole of a handover; the longest commits take seconds.
pub const LONGEST: Duration = Duration::from_secs(60);

/// Beside the admin socket: what may be in one directory twice, is told apart by that.
pub fn path(admin_socket: &Path) -> PathBuf {
    admin_socket.with_added_extension("handover")
}

/// Why nothing is handed over.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It may not listen yet, or no more.
    #[error("nobody offers a handover at {path}: {source}")]
    Nobody { path: PathBuf, source: io::Error },
    #[error("who offers a handover at {path} runs as user {uid}, not as this one")]
    Stranger { path: PathBuf, uid: u32 },
    #[error("it refuses: {0}")]
    Refused(String),
    #[error("it does not answer within {PATIENCE:?}: it hangs, or is stopped")]
    Silent,
    #[error("it takes longer than {LONGEST:?}")]
    TooLong,
    #[error("it broke off: {0}")]
    Broken(#[source] io::Error),
    #[error("it says something else than a vipd would: {0}")]
    Nonsense(&'static str),
}
