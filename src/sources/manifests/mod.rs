//! A directory of manifests as a source: read whole once, then followed file by file.
//!
//! In: a directory. Out: [`Batch`]es; [`Change::Synced`] for every kind after the first scan.
//! Never: a lost change (it watches before it reads), a debounce, an object twice.
//!
//! inotify is used directly: the task that waits on its descriptor acts on an event without a
//! hand-over to another thread, and sees close-write, rename cookies and overflow as the kernel
//! tells them.

mod claims;
mod file;
mod follow;
mod one_file;
mod scan;
#[cfg(test)]
mod tests;
mod tree;
mod watches;

use crate::model::Kind;
use crate::sources::{Batch, Change};
use follow::Follower;
pub use one_file::FollowedFile;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use tokio::sync::mpsc::Sender;
use tokio::task::spawn_blocking;
use tree::Tree;
use watches::Watches;

const KINDS: [Kind; 6] =
    [Kind::Service, Kind::EndpointSlice, Kind::Endpoints, Kind::Pod, Kind::Node, Kind::ServiceCidr];

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

/// A directory to be followed.
pub struct Source {
    dir: PathBuf,
    watches: Watches,
}

/// Opens a directory as a source. What changes from now on is not missed.
pub fn open(dir: PathBuf) -> Result<Source, Error> {
    check(&dir)?;
    let mut watches = Watches::new().map_err(Error::Inotify)?;
    watches.add_directory(&dir).map_err(|source| Error::Watch { path: dir.clone(), source })?;
    Ok(Source { dir, watches })
}

impl Source {
    /// Reads the directory and follows it, until the future or the receiver is dropped.
    ///
    /// What is long (the first scan, a directory, a large file) is done on another thread; a small
    /// file in the task that calls this. Where that is the thread of whoever receives, a change goes
    /// from its event to them without waking anybody.
    pub async fn run(self, out: Sender<Batch>) {
        let stop = Stop::default();
        let mut tree = Tree::new(&self.dir, Some(self.watches));
        let (stopped, batches) = (stop.flag(), out.clone());
        let scanned = spawn_blocking(move || {
            let mut send = |batch| batches.blocking_send(batch).is_ok();
            first_scan(&mut tree, &stopped, &mut send).then_some(tree)
        });
        match scanned.await {
            Ok(Some(tree)) => Follower::new(tree, stop.flag()).run(&out).await,
            Ok(None) => {}
            Err(error) => tracing::error!(%error, "the first scan of the manifests failed"),
        }
    }
}

/// Ends what runs on another thread once it is dropped.
#[derive(Default)]
struct Stop(Arc<AtomicBool>);

impl Stop {
    fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.0)
    }
}

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
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
            wanted = wanted && send(Batch::new(std::mem::take(changes), Instant::now()));
        }
        wanted
    });
    changes.extend(KINDS.map(Change::Synced));
    let wanted = wanted && !stop.load(Ordering::Relaxed);
    wanted && send(Batch::new(changes, Instant::now()))
}
