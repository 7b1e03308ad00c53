//! Which file serves which object when several hold it: the lowest path, then the first document.
//!
//! In: the objects of a file. Out: changes for the objects whose serving copy changed, and the
//! file's problems. Never: I/O; work beyond the file and those that share an object with it.

use super::file::{Contents, Value};
use crate::model::{Kind, Origin, Problem, Severity};
use crate::sources::{Change, Scope};
use foldhash::fast::FixedState;
use hashbrown::HashTable;
use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::BuildHasher;
use std::ops::Bound;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

/// An object's name, borrowed.
type Key<'a> = (Kind, &'a str);

/// Objects are shared with the store, so that remembering one costs a pointer.
#[derive(Default)]
pub(super) struct Claims {
    by_path: BTreeMap<ByBytes, u32>,
    files: Vec<Option<File>>,
    free: Vec<u32>,
    /// (file, position in its claims), found by the object's name
    index: HashTable<(u32, u32)>,
}

/// A path in the order of its bytes: to compare two by their components takes ten times as long.
struct ByBytes(Arc<Path>);

impl ByBytes {
    fn bytes(&self) -> &[u8] {
        self.0.as_os_str().as_bytes()
    }
}

impl Borrow<[u8]> for ByBytes {
    fn borrow(&self) -> &[u8] {
        self.bytes()
    }
}

impl Ord for ByBytes {
    fn cmp(&self, other: &Self) -> Ordering {
        self.bytes().cmp(other.bytes())
    }
}

impl PartialOrd for ByBytes {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for ByBytes {
    fn eq(&self, other: &Self) -> bool {
        self.bytes() == other.bytes()
    }
}

impl Eq for ByBytes {}

struct File {
    path: Arc<Path>,
    /// Of the bytes last read; none if they could not be read.
    hash: Option<u64>,
    claims: Vec<Value>,
    documents: Documents,
    /// What is wrong in the contents that serve.
    problems: Vec<Problem>,
    /// Why the newest contents do not serve.
    trouble: Option<Problem>,
    /// Whether problems were told that have to be taken back.
    told: bool,
}

/// The document number of each claim, by its position. Mostly they count on from claim to claim, so
/// only the positions where they do not are kept.
#[derive(Default)]
struct Documents(Vec<(u32, u32)>);

impl Documents {
    fn new(numbers: impl Iterator<Item = u32>) -> Self {
        let mut runs: Vec<(u32, u32)> = Vec::new();
        for (position, number) in (0..).zip(numbers) {
            let expected = runs.last().map(|(first, number)| number + (position - first));
            if expected != Some(number) {
                runs.push((position, number));
            }
        }
        runs.shrink_to_fit();
        Self(runs)
    }

    fn at(&self, position: u32) -> u32 {
        let after = self.0.partition_point(|(first, _)| *first <= position);
        let run = after.checked_sub(1).and_then(|at| self.0.get(at));
        run.map_or(0, |(first, number)| number + (position - first))
    }
}

impl Claims {
    /// Hash of the bytes that were last read there.
    pub fn hash(&self, path: &Path) -> Option<u64> {
        self.file(path).and_then(|file| file.hash)
    }

    /// Known files at and below a path.
    pub fn under(&self, path: &Path) -> Vec<Arc<Path>> {
        let path = path.as_os_str().as_bytes();
        let end = path.iter().rposition(|byte| *byte != b'/').map_or(0, |last| last + 1);
        let inside = [&path[..end], b"/"].concat();
        let from = self.by_path.range::<[u8], _>((Bound::Included(&inside[..]), Bound::Unbounded));
        let below = from.map(|(known, _)| known).take_while(|k| k.bytes().starts_with(&inside));
        let own = self.by_path.get_key_value(path).map(|(known, _)| known);
        own.into_iter().chain(below).map(|known| Arc::clone(&known.0)).collect()
    }

    /// The file now holds these objects.
    pub fn set(&mut self, path: &Arc<Path>, contents: Contents, out: &mut Vec<Change>) {
        let id = self.id(path);
        let documents = Documents::new(contents.values.iter().map(|(document, _)| *document));
        let claims = contents.values.into_iter().map(|(_, value)| value);
        // Not collected in place: that keeps the room of the document numbers.
        let mut values = Vec::with_capacity(claims.len());
        values.extend(claims);
        if let Some(file) = &mut self.files[id as usize] {
            file.hash = Some(contents.hash);
            file.documents = documents;
            file.problems = contents.problems;
            file.trouble = None;
        }
        self.replace(id, values, out);
    }

    /// The file cannot be read or parsed now: what it held goes on serving.
    pub fn keep(
        &mut self,
        path: &Arc<Path>,
        hash: Option<u64>,
        trouble: Problem,
        out: &mut Vec<Change>,
    ) {
        let id = self.id(path);
        if let Some(file) = &mut self.files[id as usize] {
            file.hash = hash;
            file.trouble = Some(trouble);
        }
        self.tell(id, out);
    }

    /// The file is gone.
    pub fn remove(&mut self, path: &Path, out: &mut Vec<Change>) {
        let Some(id) = self.id_of(path) else { return };
        if let Some(file) = &mut self.files[id as usize] {
            file.problems.clear();
            file.trouble = None;
        }
        self.replace(id, Vec::new(), out);
        self.by_path.remove(path.as_os_str().as_bytes());
        self.files[id as usize] = None;
        self.free.push(id);
    }

    fn file(&self, path: &Path) -> Option<&File> {
        self.files[self.id_of(path)? as usize].as_ref()
    }

    fn id_of(&self, path: &Path) -> Option<u32> {
        self.by_path.get(path.as_os_str().as_bytes()).copied()
    }

    fn id(&mut self, path: &Arc<Path>) -> u32 {
        if let Some(id) = self.id_of(path) {
            return id;
        }
        let file = File {
            path: Arc::clone(path),
            hash: None,
            claims: Vec::new(),
            documents: Documents::default(),
            problems: Vec::new(),
            trouble: None,
            told: false,
        };
        let id = self.free.pop().unwrap_or_else(|| {
            self.files.push(None);
            (self.files.len() - 1) as u32
        });
        self.files[id as usize] = Some(file);
        self.by_path.insert(ByBytes(Arc::clone(path)), id);
        id
    }

    fn replace(&mut self, id: u32, mut new: Vec<Value>, out: &mut Vec<Change>) {
        let old = self.claims(id).iter();
        let touched: Vec<Value> = old.chain(&new).cloned().collect();
        let mut before: HashMap<Key<'_>, Served, FixedState> = HashMap::default();
        before.reserve(touched.len());
        for value in &touched {
            before.entry(value.key()).or_insert_with_key(|key| self.served(*key));
        }
        // An equal object stays the one that the store holds, so that there is only one copy.
        for claim in &mut new {
            match before.get(&claim.key()).and_then(|served| served.value.as_ref()) {
                Some(value) if *value == *claim => *claim = value.clone(),
                _ => {}
            }
        }
        self.exchange(id, new);
        let mut shares = BTreeSet::new();
        for value in &touched {
            let Some(before) = before.remove(&value.key()) else { continue };
            let after = self.served(value.key());
            out.extend(difference(before.value.as_ref(), after.value.as_ref()));
            if before.claims > 1 || after.claims > 1 {
                shares.extend(self.claimants(value.key()).map(|(file, _)| file));
            }
        }
        shares.insert(id);
        for file in shares {
            self.tell(file, out);
        }
    }

    fn claims(&self, id: u32) -> &[Value] {
        self.files[id as usize].as_ref().map_or(&[], |file| &file.claims)
    }

    fn exchange(&mut self, id: u32, new: Vec<Value>) {
        let Self { files, index, .. } = self;
        if let Some(file) = &mut files[id as usize] {
            for (position, claim) in file.claims.iter().enumerate() {
                let entry = (id, position as u32);
                if let Ok(found) = index.find_entry(hash(claim.key()), |e| *e == entry) {
                    found.remove();
                }
            }
            file.claims = new;
        }
        let key = |&(file, position): &(u32, u32)| {
            let file = files[file as usize].as_ref();
            hash(file.map_or((Kind::Service, ""), |f| f.claims[position as usize].key()))
        };
        let count = files[id as usize].as_ref().map_or(0, |file| file.claims.len());
        index.reserve(count, key);
        for position in 0..count as u32 {
            let entry = (id, position);
            index.insert_unique(key(&entry), entry, key);
        }
    }

    /// Everyone who has an object of this name.
    fn claimants(&self, key: Key<'_>) -> impl Iterator<Item = (u32, u32)> {
        self.index
            .iter_hash(hash(key))
            .copied()
            .filter(move |(file, position)| self.claims(*file)[*position as usize].key() == key)
    }

    fn winner(&self, key: Key<'_>) -> Option<(u32, u32)> {
        let path = |file: u32| self.files[file as usize].as_ref().map(|file| &file.path);
        self.claimants(key).min_by_key(|&(file, position)| (path(file), position))
    }

    fn served(&self, key: Key<'_>) -> Served {
        let winner = self.winner(key);
        let value = winner.map(|(file, at)| self.claims(file)[at as usize].clone());
        Served { value, claims: self.claimants(key).count() }
    }

    /// Says all that is wrong with a file, unless that is nothing and was nothing.
    fn tell(&mut self, id: u32, out: &mut Vec<Change>) {
        let Some(file) = &self.files[id as usize] else { return };
        let mut problems: Vec<Problem> =
            file.trouble.iter().chain(&file.problems).cloned().collect();
        for (position, claim) in file.claims.iter().enumerate() {
            let Some((winner, at)) = self.winner(claim.key()) else { continue };
            if (winner, at) != (id, position as u32) {
                problems.push(self.shadowed((file, position as u32), (winner, at)));
            }
        }
        let path = Arc::clone(&file.path);
        if problems.is_empty() && !file.told {
            return;
        }
        if let Some(file) = &mut self.files[id as usize] {
            file.told = !problems.is_empty();
        }
        let scope = Scope::Origin(Origin::File { path, document: 0 });
        out.push(Change::Problems { scope, problems });
    }

    fn shadowed(&self, (file, position): (&File, u32), (winner, at): (u32, u32)) -> Problem {
        let first = self.files[winner as usize].as_ref().map_or(file, |winner| winner);
        let document = first.documents.at(at);
        let place = Origin::File { path: Arc::clone(&first.path), document };
        let standing = match &first.claims[at as usize] {
            Value::Object(_) => "and serves".to_owned(),
            Value::Ignored(ignored) => format!("and counts, and is not served: {}", ignored.why),
        };
        Problem {
            severity: Severity::Shadowed,
            origin: Origin::File {
                path: Arc::clone(&file.path),
                document: file.documents.at(position),
            },
            object: Some(file.claims[position as usize].told_as()),
            field: "metadata.name".into(),
            reason: format!("{place} has the same object {standing}; remove one of them").into(),
        }
    }
}

struct Served {
    value: Option<Value>,
    /// How many objects have that name.
    claims: usize,
}

fn hash(key: Key<'_>) -> u64 {
    FixedState::default().hash_one(key)
}

/// What the store has to hear.
fn difference(before: Option<&Value>, after: Option<&Value>) -> Option<Change> {
    match (before, after) {
        (before, Some(Value::Object(object))) => {
            (before != after).then(|| Change::Upsert(object.clone()))
        }
        (Some(Value::Object(object)), _) => Some(Change::Delete(object.object_ref())),
        _ => None,
    }
}
