//! inotify watches, and which paths of the tree an event is about.
//!
//! In: directories and symlinks of the tree. Out: [`Event`]s that name paths of the tree.
//! Never: a file's contents.

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::ops::Bound;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// One thing that happened, as far as it concerns the tree.
#[derive(Debug)]
pub(super) struct Event {
    pub flags: ReadFlags,
    /// The same in both halves of a rename; otherwise 0.
    pub cookie: u32,
    /// Paths of the tree that may be different now.
    pub paths: Vec<PathBuf>,
    /// Whether they lead there through a symlink rather than being the thing itself.
    pub through_link: bool,
}

/// A watch belongs to an inode, and one inode can be several paths of the tree.
pub(super) struct Watches {
    inotify: OwnedFd,
    by_descriptor: HashMap<i32, Watched>,
    directories: BTreeMap<PathBuf, i32>,
    /// For each symlink of the tree, where the names are that it leads through.
    links: BTreeMap<PathBuf, Vec<(i32, OsString)>>,
}

#[derive(Default)]
struct Watched {
    directories: BTreeSet<PathBuf>,
    /// Names in this directory that symlinks of the tree lead through.
    steps: HashMap<OsString, BTreeSet<PathBuf>>,
}

/// A name came, went or now means something else.
const NAMES: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVE)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF);
/// A file's bytes or permissions changed.
const CONTENTS: WatchFlags =
    WatchFlags::CLOSE_WRITE.union(WatchFlags::MODIFY).union(WatchFlags::ATTRIB);

const BUFFER: usize = 64 * 1024;
/// `struct inotify_event` without a name; names are padded to a multiple of it (inotify(7)).
const HEADER: usize = 16;
/// An event with the longest name, NAME_MAX bytes and a zero.
const LARGEST: usize = HEADER + 256;
/// As many links as Linux itself follows in one path (MAXSYMLINKS).
const MAX_LINKS: usize = 40;

impl Watches {
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            inotify: inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?,
            by_descriptor: HashMap::new(),
            directories: BTreeMap::new(),
            links: BTreeMap::new(),
        })
    }

    /// Events of this directory concern the path from now on.
    pub fn add_directory(&mut self, path: &Path) -> io::Result<()> {
        let descriptor = self.watch(path, NAMES | CONTENTS)?;
        if let Some(former) = self.directories.insert(path.into(), descriptor)
            && former != descriptor
        {
            self.drop_directory(former, path);
        }
        self.by_descriptor.entry(descriptor).or_default().directories.insert(path.into());
        Ok(())
    }

    /// Follows what `path` leads through: each symlink on the way, and the last name itself.
    /// Whether that is another way than before.
    pub fn add_link(&mut self, path: &Path) -> bool {
        let mut places = Vec::new();
        let steps = steps(path);
        // Writes matter only in the file where it ends; a busy directory on the way must not wake us.
        let last = if path.is_dir() { NAMES } else { NAMES | CONTENTS };
        let count = steps.len();
        for (position, (directory, name)) in steps.into_iter().enumerate() {
            let flags = if position + 1 == count { last } else { NAMES };
            // A directory that cannot be watched is one whose changes cannot be followed.
            let Ok(descriptor) = self.watch(&directory, flags) else { continue };
            let watched = self.by_descriptor.entry(descriptor).or_default();
            watched.steps.entry(name.clone()).or_default().insert(path.into());
            places.push((descriptor, name));
        }
        // The former way is left after the new one is watched: a watch that is removed, even to be
        // made again, loses the events that are queued for it.
        let former = self.links.insert(path.into(), places.clone()).unwrap_or_default();
        let differs = former != places;
        self.leave(path, former.into_iter().filter(|place| !places.contains(place)));
        differs
    }

    /// Events no longer concern this path nor what is below it.
    pub fn forget(&mut self, path: &Path) {
        for directory in below(&self.directories, path) {
            if let Some(descriptor) = self.directories.remove(&directory) {
                self.drop_directory(descriptor, &directory);
            }
        }
        for link in below(&self.links, path) {
            self.forget_link(&link);
        }
    }

    /// Whether anything on the way of a link is watched.
    pub fn follows(&self, path: &Path) -> bool {
        self.links.get(path).is_some_and(|places| {
            !places.is_empty() && places.iter().all(|(at, _)| self.by_descriptor.contains_key(at))
        })
    }

    fn forget_link(&mut self, path: &Path) {
        let places = self.links.remove(path);
        self.leave(path, places.into_iter().flatten());
    }

    fn leave(&mut self, path: &Path, places: impl IntoIterator<Item = (i32, OsString)>) {
        for (descriptor, name) in places {
            let Some(watched) = self.by_descriptor.get_mut(&descriptor) else { continue };
            if let Some(paths) = watched.steps.get_mut(&name) {
                paths.remove(path);
                if paths.is_empty() {
                    watched.steps.remove(&name);
                }
            }
            self.drop_if_unused(descriptor);
        }
    }

    fn drop_directory(&mut self, descriptor: i32, path: &Path) {
        if let Some(watched) = self.by_descriptor.get_mut(&descriptor) {
            watched.directories.remove(path);
        }
        self.drop_if_unused(descriptor);
    }

    fn drop_if_unused(&mut self, descriptor: i32) {
        let unused = |w: &Watched| w.directories.is_empty() && w.steps.is_empty();
        if self.by_descriptor.get(&descriptor).is_some_and(unused) {
            self.by_descriptor.remove(&descriptor);
            // It is gone already when its directory is.
            let _ = inotify::remove_watch(&self.inotify, descriptor);
        }
    }

    /// One inode has one watch: what it was already watched for stays.
    fn watch(&self, directory: &Path, flags: WatchFlags) -> io::Result<i32> {
        let how = WatchFlags::ONLYDIR | WatchFlags::EXCL_UNLINK | WatchFlags::MASK_ADD;
        Ok(inotify::add_watch(&self.inotify, directory, flags | how)?)
    }

    /// To wait on.
    pub fn descriptor(&self) -> io::Result<OwnedFd> {
        self.inotify.try_clone()
    }

    /// All that has happened.
    pub fn events(&mut self) -> io::Result<Vec<Event>> {
        let mut events = Vec::new();
        let mut buffer = [MaybeUninit::uninit(); BUFFER];
        let mut reader = Reader::new(self.inotify.as_fd(), &mut buffer);
        let mut ended = Vec::new();
        let mut filled = 0;
        loop {
            let event = match reader.next() {
                Ok(event) => event,
                Err(Errno::AGAIN | Errno::INTR) => break,
                Err(errno) => return Err(errno.into()),
            };
            let name = event.file_name().map(|name| OsStr::from_bytes(name.to_bytes()).to_owned());
            let (descriptor, flags, cookie) = (event.wd(), event.events(), event.cookie());
            filled += HEADER + name.as_ref().map_or(0, |n| (n.len() + 1).next_multiple_of(HEADER));
            self.concerns(descriptor, name.as_deref(), |paths, through_link| {
                events.push(Event { flags, cookie, paths, through_link });
            });
            if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
                events.push(Event { flags, cookie, paths: Vec::new(), through_link: false });
            }
            if flags.contains(ReadFlags::IGNORED) {
                ended.push(descriptor);
            }
            if reader.is_buffer_empty() {
                // The kernel fills a buffer for as long as one more event has room in it.
                if filled + LARGEST <= BUFFER {
                    break;
                }
                filled = 0;
            }
        }
        for descriptor in ended {
            self.ended(descriptor);
        }
        Ok(events)
    }

    fn concerns(
        &self,
        descriptor: i32,
        name: Option<&OsStr>,
        mut push: impl FnMut(Vec<PathBuf>, bool),
    ) {
        let Some(watched) = self.by_descriptor.get(&descriptor) else { return };
        let own: Vec<PathBuf> = match name {
            Some(name) => watched.directories.iter().map(|d| d.join(name)).collect(),
            None => watched.directories.iter().cloned().collect(),
        };
        let through: Vec<PathBuf> = match name {
            Some(name) => watched.steps.get(name).into_iter().flatten().cloned().collect(),
            None => watched.steps.values().flatten().cloned().collect(),
        };
        if !own.is_empty() {
            push(own, false);
        }
        if !through.is_empty() {
            push(through, true);
        }
    }

    /// The kernel removed the watch, because the directory is gone.
    fn ended(&mut self, descriptor: i32) {
        let Some(watched) = self.by_descriptor.remove(&descriptor) else { return };
        for directory in watched.directories {
            if self.directories.get(&directory) == Some(&descriptor) {
                self.directories.remove(&directory);
            }
        }
    }
}

fn below<T>(map: &BTreeMap<PathBuf, T>, path: &Path) -> Vec<PathBuf> {
    let from = map.range::<Path, _>((Bound::Included(path), Bound::Unbounded));
    from.map(|(known, _)| known).take_while(|known| known.starts_with(path)).cloned().collect()
}

/// The (directory, name) pairs that decide where `path` leads, from its own directory on.
fn steps(path: &Path) -> Vec<(PathBuf, OsString)> {
    let mut steps = Vec::new();
    let parent = match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => return steps,
    };
    let (Ok(mut at), Some(name)) = (fs::canonicalize(parent), path.file_name()) else {
        return steps;
    };
    let mut pending: VecDeque<OsString> = [name.to_owned()].into();
    let mut links = 0;
    while let Some(name) = pending.pop_front() {
        if name == ".." {
            at.pop();
            continue;
        }
        let next = at.join(&name);
        match fs::read_link(&next) {
            Ok(target) => {
                links += 1;
                if links > MAX_LINKS {
                    break;
                }
                steps.push((at.clone(), name));
                for component in target.components().rev() {
                    match component {
                        Component::Normal(part) => pending.push_front(part.to_owned()),
                        Component::ParentDir => pending.push_front("..".into()),
                        Component::RootDir => at = PathBuf::from("/"),
                        Component::CurDir | Component::Prefix(_) => {}
                    }
                }
            }
            Err(_) if pending.is_empty() || !next.exists() => {
                steps.push((at.clone(), name));
                break;
            }
            Err(_) => at = next,
        }
    }
    steps
}
