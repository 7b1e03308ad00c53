//! The directory as it is known: read whole, or one path of it again.
//!
//! In: paths that may be different now. Out: changes. Never: a guess from an event; it looks.

use super::claims::Claims;
use super::file::{Reader, Reading, format_of, problem};
use super::scan::{Found, Wanted, read_all, walk};
use super::watches::Watches;
use crate::model::{Object, Origin, SliceKey};
use crate::sources::{Change, Scope, Trigger};
use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::SystemTime;

/// A path, and what was found there when it was looked at.
pub(super) struct Look {
    path: PathBuf,
    own: io::Result<fs::Metadata>,
}

impl Look {
    pub fn at(path: PathBuf) -> Self {
        let own = fs::symlink_metadata(&path);
        Self { path, own }
    }

    /// Nothing, or a file of no more than `bytes`: neither a directory nor a symlink, which may
    /// lead to one.
    pub fn is_small(&self, bytes: u64) -> bool {
        self.own.as_ref().map_or(true, |own| own.is_file() && own.len() <= bytes)
    }
}

pub(super) struct Tree {
    root: PathBuf,
    /// Its own name is watched by this path: a relative one may have no parent to watch.
    absolute_root: PathBuf,
    /// Without them the tree is read once and not followed.
    pub watches: Option<Watches>,
    claims: Claims,
    reader: Reader,
    /// Directories of which it was said that they cannot be read.
    unreadable: BTreeSet<PathBuf>,
    /// Of the changes that were made last.
    triggers: Vec<Trigger>,
}

impl Tree {
    pub fn new(root: &Path, watches: Option<Watches>) -> Self {
        Self {
            root: root.into(),
            absolute_root: std::path::absolute(root).unwrap_or_else(|_| root.into()),
            watches,
            claims: Claims::default(),
            reader: Reader::default(),
            unreadable: BTreeSet::new(),
            triggers: Vec::new(),
        }
    }

    /// Reads everything and says what is different; `flush` may take changes away after each file,
    /// and ends the scan with false.
    pub fn scan_all(
        &mut self,
        stop: &AtomicBool,
        out: &mut Vec<Change>,
        flush: &mut dyn FnMut(&mut Vec<Change>) -> bool,
    ) {
        let root = self.root.clone();
        let gone = !root.is_dir();
        if let Some(watches) = &mut self.watches {
            if gone {
                // What happens to the directory elsewhere is no longer ours.
                watches.forget(&root);
            }
            watches.add_link(&self.absolute_root);
        }
        self.scan(&root, stop, (out, flush));
        // When all is read anew, nobody waited for what the times tell of.
        self.triggers = Vec::new();
    }

    /// What the changes of the last [`Self::refresh`] follow from.
    pub fn take_triggers(&mut self) -> Vec<Trigger> {
        std::mem::take(&mut self.triggers)
    }

    /// Looks at some paths again, as one step: what came is known before what went is dropped, so
    /// that an object which only moved to another file never ceases to be served.
    pub fn refresh(&mut self, looks: Vec<Look>, out: &mut Vec<Change>) {
        let (mut gone, mut forgotten) = (Vec::new(), Vec::new());
        for Look { path, own } in &looks {
            if *path == self.root || *path == self.absolute_root {
                self.scan_all(&AtomicBool::new(false), out, &mut |_| true);
                continue;
            }
            let is_link = own.as_ref().is_ok_and(fs::Metadata::is_symlink);
            if is_link && let Some(watches) = &mut self.watches {
                watches.add_link(path);
            }
            let followed = is_link.then(|| fs::metadata(path));
            let target = followed.as_ref().unwrap_or(own);
            match target {
                Ok(meta) if meta.is_dir() => {
                    self.scan(path, &AtomicBool::new(false), (out, &mut |_| true));
                }
                Ok(_) if format_of(path).is_some() => {
                    let known = self.claims.under(path).into_iter();
                    gone.extend(known.filter(|known| **known != **path));
                    let file = [path.as_path().into()];
                    self.read(&file, &AtomicBool::new(false), (out, &mut |_| true));
                }
                _ => {
                    gone.extend(self.claims.under(path));
                    forgotten.push((path.clone(), is_link));
                }
            }
        }
        if !gone.is_empty() && !self.root.is_dir() {
            // Nobody removed the files: the whole directory is away, and may come back.
            return self.scan_all(&AtomicBool::new(false), out, &mut |_| true);
        }
        for path in gone {
            self.claims.remove(&path, out);
        }
        for (path, is_link) in forgotten {
            self.forget(&path, is_link, out);
        }
    }

    /// Whether a directory's former contents were kept because it could not be read.
    pub fn is_unreadable(&self, path: &Path) -> bool {
        self.unreadable.contains(path)
    }

    /// A dangling symlink is still followed: its target may come.
    fn forget(&mut self, path: &Path, is_link: bool, out: &mut Vec<Change>) {
        if let Some(watches) = &mut self.watches
            && !is_link
        {
            watches.forget(path);
        }
        let from = self.unreadable.range::<Path, _>((Bound::Included(path), Bound::Unbounded));
        let below: Vec<PathBuf> = from.take_while(|p| p.starts_with(path)).cloned().collect();
        for path in below {
            self.unreadable.remove(&path);
            out.push(readable(&path));
        }
    }

    fn scan(&mut self, path: &Path, stop: &AtomicBool, (out, flush): Sink<'_>) {
        let before = self.claims.under(path);
        let Found { directories, mut files, unreadable } =
            walk(path, &self.root, &mut self.watches);
        // In the order of the paths: the copy that serves tends to be read first.
        files.sort_unstable();
        for directory in directories {
            if self.unreadable.remove(&directory) {
                out.push(readable(&directory));
            }
        }
        for (directory, error) in &unreadable {
            self.unreadable.insert(directory.clone());
            out.push(no_directory(directory, error));
        }
        let files: Vec<Arc<Path>> = files.into_iter().map(Arc::from).collect();
        self.read(&files, stop, (out, flush));
        let found: BTreeSet<&Path> = files.iter().map(|path| &**path).collect();
        let unknown = |path: &Path| unreadable.iter().any(|(dir, _)| path.starts_with(dir));
        for path in before.iter().filter(|path| !found.contains(&***path) && !unknown(path)) {
            self.claims.remove(path, out);
        }
    }

    fn read(&mut self, paths: &[Arc<Path>], stop: &AtomicBool, (out, flush): Sink<'_>) {
        let known = |path: &Arc<Path>| (Arc::clone(path), self.claims.hash(path));
        let wanted: Vec<Wanted> = paths.iter().map(known).collect();
        let Self { claims, root, triggers, .. } = self;
        read_all(&wanted, stop, &mut self.reader, &mut |path, reading| {
            match reading {
                Reading::Unchanged => {}
                Reading::Gone if root.is_dir() => claims.remove(path, out),
                Reading::Gone => {}
                Reading::Contents(mut contents) => {
                    let triggered = std::mem::take(&mut contents.triggered);
                    let first = out.len();
                    claims.set(path, contents, out);
                    triggers.extend(follow_from(triggered, first, out));
                }
                Reading::Trouble { hash, problem } => claims.keep(path, hash, problem, out),
            }
            flush(out)
        });
        self.reader.rest();
    }
}

/// Which changes, from the first of a file on, follow from what was done when.
fn follow_from(
    triggered: Vec<(SliceKey, SystemTime)>,
    first: usize,
    changes: &[Change],
) -> Vec<Trigger> {
    if triggered.is_empty() {
        return Vec::new();
    }
    let triggered: HashMap<SliceKey, SystemTime> = triggered.into_iter().collect();
    let trigger = |(change, is): (usize, &Change)| match is {
        Change::Upsert(Object::EndpointSlice(slice)) => {
            triggered.get(&slice.key).map(|at| Trigger { change, at: *at })
        }
        _ => None,
    };
    changes.iter().enumerate().skip(first).filter_map(trigger).collect()
}

type Sink<'a> = (&'a mut Vec<Change>, &'a mut dyn FnMut(&mut Vec<Change>) -> bool);

fn scope(path: &Arc<Path>) -> Scope {
    Scope::Origin(Origin::File { path: Arc::clone(path), document: 0 })
}

fn readable(directory: &Path) -> Change {
    Change::Problems { scope: scope(&directory.into()), problems: Vec::new() }
}

fn no_directory(directory: &Path, error: &io::Error) -> Change {
    let path: Arc<Path> = directory.into();
    let reason = format!(
        "cannot be read or followed ({error}), so what it held stays; check that it is there, its \
         permissions, and the limit fs.inotify.max_user_watches"
    );
    Change::Problems { scope: scope(&path), problems: vec![problem(&path, reason)] }
}
