//! One manifest file: what it holds now.
//!
//! In: a path, and the hash of what was last read there. Out: a [`Reading`].
//! Never: a decode of bytes that did not change.

use crate::model::{Kind, Object, ObjectRef, Origin, Problem, Severity, SliceKey};
use crate::sources::decode::{self, Decoded, Format, Names, SyntaxError};
use rustix::buffer::spare_capacity;
use rustix::io::Errno;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;
use tracing::debug;
use xxhash_rust::xxh3::xxh3_64;

/// What a file says of one object.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Object(Object),
    /// The object is there and is not served: it stands before copies in higher paths all the same.
    Ignored(Arc<Ignored>),
}

#[derive(Debug, PartialEq)]
pub(super) struct Ignored {
    pub object: ObjectRef,
    pub why: &'static str,
}

impl Value {
    pub fn key(&self) -> (Kind, &str) {
        match self {
            Value::Object(Object::Service(s)) => (Kind::Service, s.key.as_str()),
            Value::Object(Object::EndpointSlice(s)) => (Kind::EndpointSlice, s.key.as_str()),
            Value::Object(Object::Endpoints(e)) => (Kind::Endpoints, e.key.as_str()),
            Value::Object(Object::Pod(p)) => (Kind::Pod, p.key.as_str()),
            Value::Object(Object::Node(n)) => (Kind::Node, &n.name),
            Value::Object(Object::ServiceCidr(c)) => (Kind::ServiceCidr, &c.name),
            Value::Ignored(ignored) => (ignored.object.kind, &ignored.object.key),
        }
    }

    /// What a problem of this object names.
    pub fn told_as(&self) -> ObjectRef {
        match self {
            Value::Object(object) => object.told_as(),
            Value::Ignored(ignored) => ignored.object.clone(),
        }
    }
}

pub(super) struct Contents {
    pub hash: u64,
    /// With their document numbers.
    pub values: Vec<(u32, Value)>,
    /// Of the slices that say so, when somebody did what led to them.
    pub triggered: Vec<(SliceKey, SystemTime)>,
    pub problems: Vec<Problem>,
}

impl Contents {
    pub fn empty(hash: u64) -> Self {
        Self { hash, values: Vec::new(), triggered: Vec::new(), problems: Vec::new() }
    }
}

pub(super) enum Reading {
    Contents(Contents),
    Unchanged,
    Gone,
    /// What it held before goes on; the hash is that of the bad contents, if they could be read.
    Trouble {
        hash: Option<u64>,
        problem: Problem,
    },
}

/// Hidden files (editors' and ours before a rename) and other extensions are no manifests.
pub(super) fn format_of(path: &Path) -> Option<Format> {
    if is_hidden(path.file_name()?) {
        return None;
    }
    match path.extension()?.to_str()? {
        "json" => Some(Format::Json),
        "yaml" | "yml" => Some(Format::Yaml),
        _ => None,
    }
}

/// Also what begins with two dots: the real directories behind a ConfigMap mount's `..data`.
pub(super) fn is_hidden(name: &OsStr) -> bool {
    name.as_bytes().starts_with(b".")
}

/// What reading needs again and again.
#[derive(Default)]
pub(super) struct Reader {
    pub names: Names,
    /// One buffer for all files: a fresh one for each would leave the allocator with many.
    buffer: Vec<u8>,
}

/// A larger buffer is given back after a large file.
const KEPT_BUFFER: usize = 64 * 1024;

impl Reader {
    /// For another thread.
    pub fn twin(&self) -> Self {
        Self { names: self.names.clone(), buffer: Vec::new() }
    }

    /// Gives back what only pays while many files are read.
    pub fn rest(&mut self) {
        self.names.forget_services();
        if self.buffer.capacity() > KEPT_BUFFER {
            self.buffer = Vec::new();
        }
    }
}

pub(super) fn read(path: &Arc<Path>, known: Option<u64>, reader: &mut Reader) -> Reading {
    let Some(format) = format_of(path) else { return Reading::Gone };
    let Reader { names, buffer } = reader;
    match fill(path, buffer) {
        Ok(Found::File) => {}
        Ok(Found::Nothing) => return Reading::Gone,
        Err(error) => {
            let reason = format!(
                "cannot be read ({error}), so its former objects stay; check its permissions"
            );
            return Reading::Trouble { hash: None, problem: problem(path, reason) };
        }
    };
    let hash = xxh3_64(buffer);
    if known == Some(hash) {
        return Reading::Unchanged;
    }
    match decode::decode(buffer, format, path, names) {
        Ok(documents) => Reading::Contents(contents(hash, documents, path)),
        Err(SyntaxError { line, column, reason }) => {
            let reason = format!(
                "line {line} column {column}: {reason}; its former objects, if any, stay until it \
                 parses again"
            );
            Reading::Trouble { hash: Some(hash), problem: problem(path, reason) }
        }
    }
}

enum Found {
    File,
    /// No such file (any more), or not a file.
    Nothing,
}

fn fill(path: &Path, buffer: &mut Vec<u8>) -> io::Result<Found> {
    let gone = |error: io::Error| match error.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::IsADirectory => {
            Ok(Found::Nothing)
        }
        _ => match Errno::from_io_error(&error) {
            // A loop of symlinks leads nowhere, as a dangling one does; a socket cannot be opened.
            Some(Errno::LOOP | Errno::NXIO) => Ok(Found::Nothing),
            _ => Err(error),
        },
    };
    let file = match open(path) {
        Ok(file) => file,
        Err(error) => return gone(error),
    };
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Ok(Found::Nothing);
    }
    let expected = usize::try_from(meta.len()).unwrap_or(0);
    buffer.clear();
    buffer.reserve(expected + 1);
    loop {
        let room = buffer.capacity() - buffer.len();
        let read = rustix::io::read(&file, spare_capacity(buffer))?;
        // A read that leaves room met the end of the file. Where no size is known (some files of
        // /proc), only a read of nothing tells.
        if read == 0 || (expected > 0 && read < room) {
            return Ok(Found::File);
        }
        buffer.reserve(KEPT_BUFFER);
    }
}

/// Opening a FIFO would wait for a writer, and a terminal must not become ours.
fn open(path: &Path) -> io::Result<File> {
    const WITHOUT_WAITING: i32 = libc::O_NONBLOCK | libc::O_NOCTTY;
    File::options().read(true).custom_flags(WITHOUT_WAITING).open(path)
}

fn contents(hash: u64, documents: Vec<decode::Document>, path: &Path) -> Contents {
    let mut contents =
        Contents { values: Vec::with_capacity(documents.len()), ..Contents::empty(hash) };
    for document in documents {
        contents.problems.extend(document.warnings);
        let number = document.number;
        match document.decoded {
            Decoded::Object(object) => {
                if let (Object::EndpointSlice(slice), Some(at)) = (&object, document.triggered) {
                    contents.triggered.push((slice.key.clone(), at));
                }
                contents.values.push((number, Value::Object(object)));
            }
            Decoded::Rejected(problem) => contents.problems.push(problem),
            Decoded::Ignored { object, why } => {
                debug!(path = %path.display(), document = number, ?object, why, "ignored");
                let value = object.map(|object| Value::Ignored(Arc::new(Ignored { object, why })));
                contents.values.extend(value.map(|value| (number, value)));
            }
        }
    }
    contents.values.shrink_to_fit();
    contents
}

pub(super) fn problem(path: &Arc<Path>, reason: String) -> Problem {
    Problem {
        severity: Severity::Rejected,
        origin: Origin::File { path: Arc::clone(path), document: 0 },
        object: None,
        field: "".into(),
        reason: reason.into(),
    }
}
