//! A real directory, real inotify: what the receiver knows after each kind of edit.

mod following;
mod loading;
mod one_file;
mod owners;

use super::open;
use crate::model::{Kind, Object, Problem};
use crate::sources::{Batch, Change, Scope};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, SystemTime};
use tempfile::TempDir;
use tokio::runtime::Builder;
use tokio::sync::mpsc::{Receiver, Sender, channel, error::TryRecvError};
use tokio_util::sync::{CancellationToken, DropGuard};

/// What a store would know.
#[derive(Debug, Default)]
struct Known {
    objects: BTreeMap<String, Object>,
    problems: BTreeMap<Scope, Vec<Problem>>,
    synced: Vec<Kind>,
    deletes: Vec<String>,
    upserts: usize,
    /// Slices whose change followed from what was done when.
    triggers: Vec<(String, SystemTime)>,
}

impl Known {
    fn apply(&mut self, batch: Batch) {
        for trigger in &batch.triggers {
            match &batch.changes[trigger.change] {
                Change::Upsert(Object::EndpointSlice(slice)) => {
                    self.triggers.push((slice.key.to_string(), trigger.at));
                }
                other => panic!("the trigger of {other:?}"),
            }
        }
        for change in batch.changes {
            match change {
                Change::Upsert(object) => {
                    self.upserts += 1;
                    self.objects.insert(object.object_ref().to_string(), object);
                }
                Change::Delete(object) => {
                    self.deletes.push(object.to_string());
                    self.objects.remove(&object.to_string());
                }
                Change::Problems { scope, problems } if problems.is_empty() => {
                    self.problems.remove(&scope).expect("only what was said is taken back");
                }
                Change::Problems { scope, problems } => {
                    self.problems.insert(scope, problems);
                }
                Change::Synced(kind) => self.synced.push(kind),
            }
        }
    }

    /// The port of each Service by name: `a:80 b:81`.
    fn services(&self) -> String {
        let port = |object: &Object| match object {
            Object::Service(s) => Some(format!("{}:{}", s.key.name(), s.ports[0].port)),
            _ => None,
        };
        self.objects.values().filter_map(port).collect::<Vec<_>>().join(" ")
    }

    fn reasons(&self) -> String {
        let all = self.problems.values().flatten().map(ToString::to_string);
        all.collect::<Vec<_>>().join("\n")
    }
}

/// A followed temporary directory.
struct Followed {
    dir: TempDir,
    root: PathBuf,
    batches: Receiver<Batch>,
    known: Known,
    watch: Option<DropGuard>,
}

impl Followed {
    /// Follows `root/` in a new directory that `fill` has put something into.
    fn new(fill: impl FnOnce(&Path)) -> Self {
        let dir = TempDir::new().expect("a temporary directory");
        let root = dir.path().join("root");
        fs::create_dir(&root).expect("mkdir");
        fill(&root);
        let (out, batches) = channel(16);
        let watch = Some(follow(&root, out));
        let mut followed = Self { dir, root, batches, known: Known::default(), watch };
        followed.until("the first scan", |known| !known.synced.is_empty());
        followed
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// A finished write, as an editor or `kubectl -o yaml >` makes it.
    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).expect("write");
    }

    fn next(&mut self, what: &str) {
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            match self.batches.try_recv() {
                Ok(batch) => return self.known.apply(batch),
                Err(TryRecvError::Empty) if Instant::now() < end => {
                    thread::sleep(Duration::from_micros(200));
                }
                Err(error) => panic!("{what} never came ({error}): {:#?}", self.known),
            }
        }
    }

    fn until(&mut self, what: &str, done: impl Fn(&Known) -> bool) {
        while !done(&self.known) {
            self.next(what);
        }
    }

    fn until_services(&mut self, services: &str) {
        self.until(services, |known| known.services() == services);
    }

    /// Everything that was done before has been seen once a later edit is.
    fn settle(&mut self) {
        thread::sleep(super::follow::QUIET * 2);
        self.write("zz-settle.yaml", &service("settle", 1));
        self.until("the settling edit", |known| known.services().contains("settle:1"));
        fs::remove_file(self.path("zz-settle.yaml")).expect("remove");
        self.until("its removal", |known| !known.services().contains("settle:1"));
    }
}

/// Follows the directory on a thread of its own until the guard is dropped.
fn follow(root: &Path, out: Sender<Batch>) -> DropGuard {
    let source = open(root.into()).expect("can be followed");
    let stop = CancellationToken::new();
    let guard = stop.clone().drop_guard();
    thread::spawn(move || {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(stop.run_until_cancelled(source.run(out)));
    });
    guard
}

fn service(name: &str, port: u16) -> String {
    format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, \
         spec: {{clusterIP: 10.254.0.1, ports: [{{port: {port}}}]}}}}\n"
    )
}
