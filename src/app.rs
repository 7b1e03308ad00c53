//! The daemon's wiring.
//!
//! In: a checked configuration. Out: a running daemon, until it is told to stop.
//! Never: a decision of any other room.

use crate::config::Config;

/// Why the daemon did not run, or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("this build of vipd has no dataplane")]
    NoDataplane,
}

/// Serves until SIGTERM or SIGINT.
pub fn run(_config: Config) -> Result<(), Error> {
    Err(Error::NoDataplane)
}

/// Removes everything of vipd's from the kernel.
pub fn cleanup() -> Result<(), Error> {
    Err(Error::NoDataplane)
}
