//! Follows the tree: waits for events, decides which paths to look at again, and when.
//!
//! In: events, the clock. Out: one batch per file or rename. Never: a delay for a finished write.

use super::file::{format_of, is_hidden};
use super::tree::{Look, Tree};
use super::watches::Event;
use crate::sources::{Batch, Change};
use rustix::fs::inotify::ReadFlags;
use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc::Sender;
use tokio::task::{spawn_blocking, yield_now};
use tokio::time::{timeout, timeout_at};
use tracing::{error, warn};

/// A file that its writer keeps open is read when it has been quiet for this long.
pub(super) const QUIET: Duration = Duration::from_millis(50);
/// How long the second half of a rename may take. The kernel queues both in one go, but the reader
/// may wake up in between.
const OTHER_HALF: Duration = Duration::from_millis(2);
/// Bytes of a file that is decoded where events are read: half a millisecond's work.
const SMALL: u64 = 64 * 1024;
/// How long this may keep the thread from whoever receives.
const TURN: Duration = Duration::from_millis(1);

pub(super) struct Follower {
    tree: Tree,
    /// Ends what runs on another thread.
    stop: Arc<AtomicBool>,
    /// Files that are being written, and when they are read all the same.
    writing: HashMap<PathBuf, Instant>,
}

/// When to look at a path.
enum When {
    Now,
    Quiet,
    Never,
}

/// Paths to look at in one step.
struct Step {
    cookie: u32,
    paths: Vec<PathBuf>,
}

impl Follower {
    pub fn new(tree: Tree, stop: Arc<AtomicBool>) -> Self {
        Self { tree, stop, writing: HashMap::new() }
    }

    /// Until nobody receives any more.
    pub async fn run(self, out: &Sender<Batch>) {
        if let Err(error) = self.follow(out).await {
            error!(%error, "cannot read inotify events; manifests are no longer followed");
        }
    }

    async fn follow(mut self, out: &Sender<Batch>) -> io::Result<()> {
        let Some(watches) = &self.tree.watches else { return Ok(()) };
        let readable = watched(watches.descriptor()?)?;
        loop {
            self.wait(&readable).await?;
            let seen = Instant::now();
            let events = self.events(&readable).await?;
            let mut steps = self.steps(events, seen);
            steps.extend(self.quiet(seen));
            let mut turn = seen;
            for step in steps {
                let (changes, after) = self.perform(step).await?;
                self = after;
                let triggers = self.tree.take_triggers();
                let batch = Batch { changes, triggers, seen };
                if !batch.changes.is_empty() && out.send(batch).await.is_err() {
                    return Ok(());
                }
                if turn.elapsed() > TURN {
                    yield_now().await;
                    turn = Instant::now();
                }
            }
        }
    }

    /// Until there are events, or a file has been quiet for long enough.
    async fn wait(&self, readable: &AsyncFd<OwnedFd>) -> io::Result<()> {
        match self.writing.values().min() {
            None => woken(readable).await,
            Some(at) => timeout_at((*at).into(), woken(readable)).await.unwrap_or(Ok(())),
        }
    }

    async fn events(&mut self, readable: &AsyncFd<OwnedFd>) -> io::Result<Vec<Event>> {
        let Some(watches) = &mut self.tree.watches else { return Ok(Vec::new()) };
        let mut events = watches.events()?;
        if events.last().is_some_and(|event| event.flags.contains(ReadFlags::MOVED_FROM)) {
            timeout(OTHER_HALF, woken(readable)).await.unwrap_or(Ok(()))?;
            events.extend(watches.events()?);
        }
        Ok(events)
    }

    /// Carries one step out; where it is long, on another thread.
    async fn perform(mut self, step: Step) -> io::Result<(Vec<Change>, Self)> {
        let mut changes = Vec::new();
        let looks: Vec<Look> = step.paths.into_iter().map(Look::at).collect();
        if !looks.is_empty() && looks.iter().all(|look| look.is_small(SMALL)) {
            self.tree.refresh(looks, &mut changes);
            return Ok((changes, self));
        }
        let long = spawn_blocking(move || {
            if looks.is_empty() {
                warn!("inotify queue overflow; reading all manifests again");
                self.writing.clear();
                self.tree.scan_all(&self.stop, &mut changes, &mut |_| true);
            } else {
                self.tree.refresh(looks, &mut changes);
            }
            (changes, self)
        });
        Ok(long.await?)
    }

    /// One step per path, but one for all that one event or rename touches. A step without paths
    /// stands for everything.
    fn steps(&mut self, events: Vec<Event>, now: Instant) -> Vec<Step> {
        let mut steps: Vec<Step> = Vec::new();
        for event in events {
            if event.flags.contains(ReadFlags::QUEUE_OVERFLOW) {
                return vec![Step { cookie: 0, paths: Vec::new() }];
            }
            let mut due = Vec::new();
            for path in event.paths.iter() {
                match self.when(path, &event) {
                    When::Now => due.push(path.clone()),
                    When::Quiet => {
                        self.writing.insert(path.clone(), now + QUIET);
                    }
                    When::Never => {}
                }
            }
            for path in &due {
                self.writing.remove(path);
            }
            add(&mut steps, event.cookie, due);
        }
        steps
    }

    fn quiet(&mut self, now: Instant) -> Vec<Step> {
        let due = self.writing.extract_if(|_, at| *at <= now);
        due.map(|(path, _)| Step { cookie: 0, paths: vec![path] }).collect()
    }

    fn when(&self, path: &Path, event: &Event) -> When {
        let flags = event.flags;
        if path.file_name().is_some_and(is_hidden) && !event.through_link {
            return When::Never;
        }
        let is_manifest = format_of(path).is_some() && !flags.contains(ReadFlags::ISDIR);
        if flags.contains(ReadFlags::MOVED_TO) {
            return When::Now;
        }
        let content = ReadFlags::CLOSE_WRITE | ReadFlags::MODIFY | ReadFlags::ATTRIB;
        if !flags.intersects(content) {
            return if is_manifest { when_made(path, event) } else { When::Now };
        }
        match is_manifest {
            true if flags.contains(ReadFlags::CLOSE_WRITE) => When::Now,
            true if flags.contains(ReadFlags::MODIFY) || self.writing.contains_key(path) => {
                When::Quiet
            }
            true => When::Now,
            // Its permissions may let it be read now.
            false if self.tree.is_unreadable(path) => When::Now,
            false => When::Never,
        }
    }
}

/// A name came or went. A new regular file is still being written: its close-write is to come,
/// unless it is a second link to a finished one.
fn when_made(path: &Path, event: &Event) -> When {
    let meta = match event.through_link {
        true => fs::metadata(path),
        false => fs::symlink_metadata(path),
    };
    match meta {
        Ok(meta) if meta.is_file() && meta.nlink() == 1 => When::Quiet,
        _ => When::Now,
    }
}

fn add(steps: &mut Vec<Step>, cookie: u32, paths: Vec<PathBuf>) {
    if paths.is_empty() {
        return;
    }
    // The halves of a rename follow one another closely, and so do a rename and the next one of
    // the same file.
    let same = |step: &&mut Step| {
        (cookie != 0 && step.cookie == cookie) || paths.iter().any(|path| step.paths.contains(path))
    };
    match steps.iter_mut().rev().take(4).find(same) {
        Some(step) => {
            for path in paths {
                if !step.paths.contains(&path) {
                    step.paths.push(path);
                }
            }
        }
        None => steps.push(Step { cookie, paths }),
    }
}

/// The descriptor says once that it became readable. That is forgotten before anything is read: what
/// comes later wakes again, and all that came before is read.
pub(super) async fn woken(readable: &AsyncFd<OwnedFd>) -> io::Result<()> {
    readable.readable().await?.clear_ready();
    Ok(())
}

#[expect(
    deprecated,
    reason = "its replacement is unsafe, and an OwnedFd keeps the one promise that it asks for"
)]
pub(super) fn watched(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(descriptor)
}
