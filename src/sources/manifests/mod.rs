//! A directory of manifests as a source: read whole once, then followed file by file.
//!
//! In: a directory. Out: [`Batch`]es; [`Change::Synced`] for every kind after the first scan.
//! Never: a lost change (it watches before it reads), a debounce, an object twice.
//!
//! inotify is used directly: a thread that polls its descriptor acts on an event without a hand-over
//! to another thread, and sees close-write, rename cookies and overflow as the kernel tells them.

mod claims;
mod file;
mod follow;
mod scan;
#[cfg(test)]
mod tests;
mod tree;
mod watches;

use crate::model::Kind;
use crate::sources::{Batch, Change};
use follow::Follower;
use rustix::event::{EventfdFlags, eventfd};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use tokio::sync::mpsc::Sender;
use tree::Tree;
use watches::Watches;

const KINDS: [Kind; 5] =
    [Kind::Service, Kind::EndpointSlice, Kind::Endpoints, Kind::Node, Kind::ServiceCidr];

/// Why a directory cannot be a source.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "cannot read the manifest directory {path}: {source}; check that it exists, that it is a \
         directory, and that this user may list it"
    )]
    Directory { path: PathBuf, source: io::Error },
    #[error(
        "cannot watch {path}: {source}; check the limit fs.inotify.max_user_watches and that this \
         user may read the directory"
    )]
    Watch { path: PathBuf, source: io::Error },
    #[error("cannot use inotify: {0}; check the limit fs.inotify.max_user_instances")]
    Inotify(io::Error),
    #[error("cannot start the thread that follows the manifests: {0}; check the limit on threads")]
    Thread(io::Error),
}

/// Reads the directory once. The last batch says that every kind is complete.
pub fn load(dir: &Path) -> Result<Vec<Batch>, Error> {
    check(dir)?;
    let mut batches = Vec::new();
    let mut tree = Tree::new(dir, None);
    first_scan(&mut tree, &AtomicBool::new(false), &mut |batch| {
        batches.push(batch);
        true
    });
    Ok(batches)
}

/// A followed directory; dropping it ends the thread.
#[derive(Debug)]
pub struct Watch {
    stop: Arc<Stop>,
}

/// Tells the thread to end: the flag while it scans, the descriptor while it waits.
#[derive(Debug)]
struct Stop {
    flag: AtomicBool,
    wake: OwnedFd,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.flag.store(true, Ordering::Relaxed);
        // A full counter is a wake-up as well.
        let _ = rustix::io::write(&self.stop.wake, &1u64.to_ne_bytes());
    }
}

/// Reads the directory and follows it, on a thread of its own, until the returned value or the
/// receiver is dropped.
pub fn spawn(dir: PathBuf, out: Sender<Batch>) -> Result<Watch, Error> {
    check(&dir)?;
    let mut watches = Watches::new().map_err(Error::Inotify)?;
    watches.add_directory(&dir).map_err(|source| Error::Watch { path: dir.clone(), source })?;
    let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
        .map_err(|errno| Error::Thread(errno.into()))?;
    let stop = Arc::new(Stop { flag: AtomicBool::new(false), wake });
    let stopped = Arc::clone(&stop);
    std::thread::Builder::new()
        .name("manifests".into())
        .spawn(move || {
            let mut send = |batch| out.blocking_send(batch).is_ok();
            let mut tree = Tree::new(&dir, Some(watches));
            if first_scan(&mut tree, &stopped.flag, &mut send) {
                Follower::new(tree, stopped).run(&mut send);
            }
        })
        .map_err(Error::Thread)?;
    Ok(Watch { stop })
}

fn check(dir: &Path) -> Result<(), Error> {
    match fs::read_dir(dir) {
        Ok(_) => Ok(()),
        Err(source) => Err(Error::Directory { path: dir.into(), source }),
    }
}

/// Batches of this many changes: large enough that handing them over costs nothing, small enough
/// that few are in memory.
const SCAN_BATCH: usize = 1024;

/// False when nobody wants the rest.
fn first_scan(tree: &mut Tree, stop: &AtomicBool, send: &mut dyn FnMut(Batch) -> bool) -> bool {
    let mut changes = Vec::new();
    let mut wanted = true;
    tree.scan_all(stop, &mut changes, &mut |changes| {
        if changes.len() >= SCAN_BATCH {
            wanted =
                wanted && send(Batch { changes: std::mem::take(changes), seen: Instant::now() });
        }
        wanted
    });
    changes.extend(KINDS.map(Change::Synced));
    let wanted = wanted && !stop.load(Ordering::Relaxed);
    wanted && send(Batch { changes, seen: Instant::now() })
}
