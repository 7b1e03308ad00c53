//! Walks directories and reads files, on all cores when there are many.
//!
//! In: a path of the tree, its watches. Out: the manifests below it; what they hold.
//! Never: the same directory inside itself (symlinks may form a loop).

use super::file::{Reader, Reading, format_of, is_hidden, read};
use super::watches::Watches;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::thread;

/// What a walk found.
#[derive(Default)]
pub(super) struct Found {
    pub directories: Vec<PathBuf>,
    pub files: Vec<PathBuf>,
    /// Directories whose contents stay unknown.
    pub unreadable: Vec<(PathBuf, io::Error)>,
}

/// Watches each directory before it lists it, so that what comes between is not lost. `path` is in
/// the tree of `root`, whose directories above it count too: a symlink may lead back to one.
pub(super) fn walk(path: &Path, root: &Path, watches: &mut Option<Watches>) -> Found {
    let mut found = Found::default();
    let above = path.ancestors().skip(1).take_while(|above| above.starts_with(root));
    let mut above = above.filter_map(|above| identity(above).ok()).collect();
    enter(path, &mut above, (watches, &mut found));
    found
}

fn identity(directory: &Path) -> io::Result<(u64, u64)> {
    fs::metadata(directory).map(|meta| (meta.dev(), meta.ino()))
}

fn enter(
    path: &Path,
    above: &mut Vec<(u64, u64)>,
    (watches, found): (&mut Option<Watches>, &mut Found),
) {
    let identity = match identity(path) {
        Ok(identity) => identity,
        Err(error) => return found.unreadable.push((path.into(), error)),
    };
    if above.contains(&identity) {
        return;
    }
    if let Some(Err(error)) = watches.as_mut().map(|watches| watches.add_directory(path)) {
        found.unreadable.push((path.into(), error));
    }
    found.directories.push(path.into());
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) => return found.unreadable.push((path.into(), error)),
    };
    above.push(identity);
    for entry in entries.flatten().filter(|entry| !is_hidden(&entry.file_name())) {
        let Ok(kind) = entry.file_type() else { continue };
        let path = entry.path();
        if kind.is_symlink()
            && let Some(watches) = watches
        {
            watches.add_link(&path);
        }
        // Only a symlink has to be followed to know whether it is a directory.
        if kind.is_dir() || (kind.is_symlink() && path.is_dir()) {
            enter(&path, above, (watches, found));
        } else if format_of(&path).is_some() {
            found.files.push(path);
        }
    }
    above.pop();
}

/// A file to read, and the hash of what was last read there.
pub(super) type Wanted = (Arc<Path>, Option<u64>);

/// Threads are started for more files than this.
const ALONE: usize = 4;

/// Reads files in any order and hands each to `sink`, until that says false.
pub(super) fn read_all(
    wanted: &[Wanted],
    stop: &AtomicBool,
    reader: &mut Reader,
    sink: &mut dyn FnMut(&Arc<Path>, Reading) -> bool,
) {
    // Not asked for a file or two: the answer is read from the cgroup's files.
    let cores = || thread::available_parallelism().map_or(1, usize::from);
    let threads = if wanted.len() > ALONE { cores().min(wanted.len() / ALONE) } else { 1 };
    if threads <= 1 {
        for (path, known) in wanted {
            if stop.load(Ordering::Relaxed) || !sink(path, read(path, *known, reader)) {
                return;
            }
        }
        return;
    }
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        // Each reader may be one file ahead: what waits here is memory.
        let (done, results) = sync_channel(threads);
        for _ in 0..threads {
            let (done, next, mut reader) = (done.clone(), &next, reader.twin());
            scope.spawn(move || {
                while let Some((path, known)) = wanted.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let reading = read(path, *known, &mut reader);
                    if stop.load(Ordering::Relaxed) || done.send((path, reading)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(done);
        for (path, reading) in results {
            if !sink(path, reading) {
                return;
            }
        }
    });
}
