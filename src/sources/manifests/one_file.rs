//! One file that somebody else may change: by a write, by a rename, or behind a symlink.
//!
//! In: a path. Out: that it may be another one now.
//! Never: what it says; a word for a file that is only being written.

use super::Error;
use super::follow::{QUIET, watched, woken};
use super::watches::Watches;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::time::{sleep, timeout};

/// Between two looks for a directory that is not there.
const PAUSE: Duration = Duration::from_secs(1);

/// A file that is followed. What changes from the moment on that this is made is not missed.
pub struct FollowedFile {
    path: PathBuf,
    watches: Watches,
    readable: AsyncFd<OwnedFd>,
}

impl FollowedFile {
    /// Needs a runtime.
    pub fn open(path: PathBuf) -> Result<Self, Error> {
        let mut watches = Watches::new().map_err(Error::Inotify)?;
        watches.add_link(&path);
        let readable = watches.descriptor().and_then(watched).map_err(Error::Inotify)?;
        Ok(Self { path, watches, readable })
    }

    /// Returns when the path may lead to another text, and all has been quiet for a moment.
    pub async fn changed(&mut self) -> io::Result<()> {
        loop {
            let found = self.watches.follows(&self.path);
            if found {
                woken(&self.readable).await?;
            } else {
                sleep(PAUSE).await;
            }
            let mut concerned = self.concerned()?;
            while timeout(QUIET, woken(&self.readable)).await.is_ok() {
                concerned |= self.concerned()?;
            }
            // Another link on the way may lead through another directory.
            let elsewhere = self.watches.add_link(&self.path);
            if concerned || elsewhere || (!found && self.watches.follows(&self.path)) {
                return Ok(());
            }
        }
    }

    fn concerned(&mut self) -> io::Result<bool> {
        Ok(!self.watches.events()?.is_empty())
    }
}
