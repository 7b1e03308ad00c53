//! Follows the objects of one kind: a list, then what changes.
//!
//! In: events of the client. Out: batches, and [`Change::Synced`] after the first list.
//! Never: a relist because a connection broke (the watch goes on where it stood, unless that fails for
//! minutes); a deletion because the server is away.

use super::access::Access;
use super::failure::{Remedy, is_bad_selector, is_expired, remedy, told};
use super::pace::{Pace, pauses};
use super::seen::Seen;
use crate::model::{Kind, ObjectRef, Problem};
use crate::sources::decode::{Decoded, Names, Read, decode_object};
use crate::sources::{Batch, Change, Scope, Trigger};
use backon::ExponentialBackoff;
use futures_util::StreamExt as _;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, Resource};
use std::collections::HashSet;
use std::hash::{BuildHasher as _, RandomState};
use std::ops::RangeInclusive;
use std::pin::pin;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::Sender;
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

/// Seconds until the server ends a watch; some more, and the client takes the connection for dead. (Bookmarks
/// come once a minute, but of a kind of which the server has seen no event yet none does.) The watches of many
/// nodes, which began together when a server came back, do not go on ending together.
pub(super) const WATCH: RangeInclusive<u32> = 45..=60;
/// How long a list by stream may say nothing before its end.
const STREAM_PATIENCE: Duration = Duration::from_secs(5);
/// Pauses after failures: the first, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));
/// After so many failures in a row, a minute or two, the files that say who we are are read again; what
/// follows begins with a list.
const PATIENCE: u32 = 12;
/// Between two questions whether the server shows the kind by now.
const WITHOUT: Duration = Duration::from_secs(60);
/// Objects of one batch of a list.
const BATCH: usize = 1024;

/// Which objects of a kind.
#[derive(Debug, Clone, Default)]
pub(super) struct Selection {
    pub labels: Option<String>,
    pub fields: Option<String>,
}

/// How a list is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// As a watch that begins with what there is (Kubernetes 1.27, on by default since 1.32).
    Stream,
    /// In pages.
    Pages,
}

/// Whether this server has lists by stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Streams {
    MayBe,
    Never,
}

/// Why the watcher is made anew.
enum Anew {
    NobodyListens,
    After(Duration),
}

/// What is known of one kind.
pub(super) struct Follower {
    kind: Kind,
    selection: Selection,
    out: Sender<Batch>,
    names: Names,
    /// Keys of the objects that were told.
    known: HashSet<Box<str>>,
    /// Those of a list that has not ended.
    listed: HashSet<Box<str>>,
    /// Those of objects with problems.
    troubled: HashSet<Box<str>>,
    synced: bool,
    changes: Vec<Change>,
    triggers: Vec<Trigger>,
    way: Way,
    streams: Streams,
    failures: u32,
    pauses: ExponentialBackoff,
    /// The failure that the log told last, while it lasts.
    complaint: Option<String>,
}

/// Until nobody receives any more. `first`: a client that the followers share until one needs another.
pub(super) async fn follow<K>(
    (access, pace): (&Access, &Pace),
    mut first: Option<Client>,
    mut follower: Follower,
) where
    K: Resource<DynamicType = ()> + 'static,
{
    loop {
        let client = match first.take() {
            Some(client) => Ok(client),
            None => access.client(pace).await,
        };
        let pause = match client {
            Ok(client) => match follower.watch::<K>(client).await {
                Anew::NobodyListens => return,
                Anew::After(pause) => pause,
            },
            Err(error) => {
                let pause = follower.pause();
                follower.complain(format!("{error}"), pause);
                pause
            }
        };
        sleep(pause).await;
    }
}

impl Follower {
    pub fn new(kind: Kind, selection: Selection, out: Sender<Batch>) -> Self {
        Self {
            kind,
            selection,
            out,
            names: Names::default(),
            known: HashSet::new(),
            listed: HashSet::new(),
            troubled: HashSet::new(),
            synced: false,
            changes: Vec::new(),
            triggers: Vec::new(),
            way: Way::Stream,
            streams: Streams::MayBe,
            failures: 0,
            pauses: pauses(PAUSES),
            complaint: None,
        }
    }

    async fn watch<K>(&mut self, client: Client) -> Anew
    where
        K: Resource<DynamicType = ()> + 'static,
    {
        let api = Api::<Seen<K>>::all(client);
        let mut events = pin!(watcher::watcher(api, self.config()));
        let (mut listing, mut begun) = (true, false);
        loop {
            // Before it begins the server has not answered at all, which has limits of its own.
            let next = match listing && begun && self.way == Way::Stream {
                true => timeout(STREAM_PATIENCE, events.next()).await,
                false => Ok(events.next().await),
            };
            let event = match next {
                // It took the list for a mere watch, and will never say that it ends; or it is slow.
                Err(_) => return Anew::After(self.no_stream()),
                Ok(None) => return Anew::After(self.pause()),
                Ok(Some(Err(error))) => match self.failed(&error).await {
                    Some(anew) => return anew,
                    // What begins anew now has been waited for.
                    None => {
                        begun = false;
                        continue;
                    }
                },
                Ok(Some(Ok(event))) => event,
            };
            match event {
                // The server ended the list before it was whole, as it does after a watch's time.
                Event::Init if std::mem::replace(&mut listing, true) && begun => {
                    self.streams = Streams::Never;
                    return Anew::After(self.no_stream());
                }
                Event::Init => begun = true,
                Event::InitDone => {
                    listing = false;
                    // What was slow once need not be so the next time.
                    if self.streams == Streams::MayBe {
                        self.way = Way::Stream;
                    }
                }
                _ => {}
            }
            // A list that breaks off again and again is no recovery.
            if matches!(event, Event::InitDone | Event::Apply(_) | Event::Delete(_)) {
                self.recovered();
            }
            if !self.take(event).await {
                return Anew::NobodyListens;
            }
        }
    }

    fn config(&self) -> watcher::Config {
        let Selection { labels, fields } = self.selection.clone();
        let config = watcher::Config {
            label_selector: labels,
            field_selector: fields,
            ..Default::default()
        };
        let config = config.timeout(watch_seconds());
        match self.way {
            Way::Stream => config.streaming_lists(),
            Way::Pages => config,
        }
    }

    /// Waits if the same watcher is to go on.
    async fn failed(&mut self, error: &watcher::Error) -> Option<Anew> {
        let kind = self.kind.name();
        // Older servers cannot tell Services apart by their cluster IPs: those without are then read,
        // and ignored.
        if self.kind == Kind::Service && is_bad_selector(error) && self.selection.fields.is_some() {
            self.selection.fields = None;
            return Some(Anew::After(Duration::ZERO));
        }
        let remedy = remedy(error, self.way == Way::Stream);
        match remedy {
            Remedy::List => {
                (self.way, self.streams) = (Way::Pages, Streams::Never);
                return Some(Anew::After(Duration::ZERO));
            }
            // Ranges of cluster IPs are kept from nobody upstream: a server may be too old for them, or
            // its rights may be. What was known stays.
            Remedy::Without if self.kind == Kind::ServiceCidr => {
                if std::mem::replace(&mut self.synced, true) {
                    self.failures += 1;
                    self.complain(
                        format!("{}; the ranges that were known stay", told(error)),
                        WITHOUT,
                    );
                    return Some(Anew::After(WITHOUT));
                }
                warn!(kind, "{}; going on without", told(error));
                self.changes.push(Change::Synced(self.kind));
                return match self.flush().await {
                    true => Some(Anew::After(WITHOUT)),
                    false => Some(Anew::NobodyListens),
                };
            }
            Remedy::Again if is_expired(error) => return None,
            Remedy::Again | Remedy::Anew | Remedy::Without => {}
        }
        let pause = self.pause();
        self.complain(format!("{}; what is programmed stays", told(error)), pause);
        if remedy == Remedy::Anew || self.failures.is_multiple_of(PATIENCE) {
            return Some(Anew::After(pause));
        }
        sleep(pause).await;
        None
    }

    /// From now on lists come in pages.
    fn no_stream(&mut self) -> Duration {
        let pause = self.pause();
        if std::mem::replace(&mut self.way, Way::Pages) == Way::Stream {
            info!(kind = self.kind.name(), "no list came by stream; it is asked for in pages");
        }
        pause
    }

    fn pause(&mut self) -> Duration {
        self.failures += 1;
        self.pauses.next().unwrap_or(PAUSES.1)
    }

    /// Says it once, and again now and then while it stays the same: a server may be away for hours.
    fn complain(&mut self, failure: String, pause: Duration) {
        let kind = self.kind.name();
        let is_news = self.complaint.as_ref() != Some(&failure);
        if is_news || self.failures.is_multiple_of(PATIENCE) {
            warn!(kind, "{failure}; the next try is in {pause:.1?}");
        } else {
            debug!(kind, "{failure}; the next try is in {pause:.1?}");
        }
        self.complaint = Some(failure);
    }

    fn recovered(&mut self) {
        if std::mem::take(&mut self.failures) > 0 {
            self.pauses = pauses(PAUSES);
            self.complaint = None;
            info!(kind = self.kind.name(), "the API server answers again");
        }
    }

    /// False when nobody wants more.
    async fn take<K>(&mut self, event: Event<Seen<K>>) -> bool {
        match event {
            Event::Init => self.listed.clear(),
            Event::InitApply(object) => {
                let key = self.upsert(&object);
                // Known from now on, should this list not come to its end.
                self.known.insert(key.clone());
                self.listed.insert(key);
                if self.changes.len() >= BATCH {
                    return self.flush().await;
                }
            }
            Event::InitDone => return self.end_of_list().await,
            Event::Apply(object) => {
                let key = self.upsert(&object);
                self.known.insert(key);
                return self.flush().await;
            }
            Event::Delete(object) => {
                let key = object.key(self.kind);
                self.known.remove(&key);
                self.delete(key);
                return self.flush().await;
            }
        }
        true
    }

    /// What the list left out is gone.
    async fn end_of_list(&mut self) -> bool {
        let listed = std::mem::take(&mut self.listed);
        let before = std::mem::replace(&mut self.known, listed);
        for key in before {
            if !self.known.contains(&key) {
                self.delete(key);
            }
        }
        if !std::mem::replace(&mut self.synced, true) {
            self.changes.push(Change::Synced(self.kind));
        }
        self.flush().await
    }

    fn upsert<K>(&mut self, object: &Seen<K>) -> Box<str> {
        let key = object.key(self.kind);
        let read = decode_object(self.kind, object.text.get(), &mut self.names);
        let Read { decoded, warnings: mut problems, triggered } = read;
        let is = match decoded {
            Decoded::Object(object) => Change::Upsert(object),
            Decoded::Ignored { .. } => Change::Delete(ObjectRef::new(self.kind, &key)),
            Decoded::Rejected(problem) => {
                problems.push(problem);
                Change::Delete(ObjectRef::new(self.kind, &key))
            }
        };
        self.tell_problems(&key, problems);
        self.triggers.extend(triggered.map(|at| Trigger { change: self.changes.len(), at }));
        self.changes.push(is);
        key
    }

    fn delete(&mut self, key: Box<str>) {
        self.tell_problems(&key, Vec::new());
        self.changes.push(Change::Delete(ObjectRef::new(self.kind, &key)));
    }

    fn tell_problems(&mut self, key: &str, problems: Vec<Problem>) {
        let had = match problems.is_empty() {
            true => self.troubled.remove(key),
            false => !self.troubled.insert(key.into()),
        };
        if had || !problems.is_empty() {
            let scope = Scope::Object(ObjectRef::new(self.kind, key));
            self.changes.push(Change::Problems { scope, problems });
        }
    }

    async fn flush(&mut self) -> bool {
        if self.changes.is_empty() {
            return true;
        }
        let changes = std::mem::take(&mut self.changes);
        let triggers = std::mem::take(&mut self.triggers);
        self.out.send(Batch { changes, triggers, seen: Instant::now() }).await.is_ok()
    }
}
/// Each hasher of std's is keyed anew.
fn watch_seconds() -> u32 {
    let (first, last) = WATCH.into_inner();
    let random = RandomState::new().hash_one(()) % u64::from(last - first + 1);
    first + random as u32
}
