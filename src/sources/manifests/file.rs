//! One manifest file: what it holds now.
//!
//! In: a path, and the hash of what was last read there. Out: a [`Reading`].
//! Never: a decode of bytes that did not change.

use crate::model::{Kind, Object, ObjectRef, Origin, Problem, Severity};
use crate::sources::decode::{self, Decoded, Format, Names, SyntaxError};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use tracing::debug;
use xxhash_rust::xxh3::xxh3_64;

/// What a file says of one object.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Object(Object),
    /// The object is there and is not served: it stands before copies in higher paths all the same.
    Ignored(Arc<ObjectRef>),
}

impl Value {
    pub fn key(&self) -> (Kind, &str) {
        match self {
            Value::Object(Object::Service(s)) => (Kind::Service, s.key.as_str()),
            Value::Object(Object::EndpointSlice(s)) => (Kind::EndpointSlice, s.key.as_str()),
            Value::Object(Object::Endpoints(e)) => (Kind::Endpoints, e.key.as_str()),
            Value::Object(Object::Node(n)) => (Kind::Node, &n.name),
            Value::Object(Object::ServiceCidr(c)) => (Kind::ServiceCidr, &c.name),
            Value::Ignored(object) => (object.kind, &object.key),
        }
    }
}

pub(super) struct Contents {
    pub hash: u64,
    /// With their document numbers.
    pub values: Vec<(u32, Value)>,
    pub problems: Vec<Problem>,
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

pub(super) fn read(path: &Arc<Path>, known: Option<u64>, names: &mut Names) -> Reading {
    let Some(format) = format_of(path) else { return Reading::Gone };
    let bytes = match bytes(path) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Reading::Gone,
        Err(error) => {
            let reason = format!(
                "cannot be read ({error}), so its former objects stay; check its permissions"
            );
            return Reading::Trouble { hash: None, problem: problem(path, reason) };
        }
    };
    let hash = xxh3_64(&bytes);
    if known == Some(hash) {
        return Reading::Unchanged;
    }
    match decode::decode(&bytes, format, path, names) {
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

/// `None`: no such file (any more), or not a file.
fn bytes(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let gone = |error: io::Error| match error.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::IsADirectory => Ok(None),
        // A loop of symlinks leads nowhere, as a dangling one does.
        _ if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => Ok(None),
        _ => Err(error),
    };
    // Looked at before it is opened: opening a FIFO would wait for a writer.
    let meta = match path.metadata() {
        Ok(meta) if meta.is_file() => meta,
        Ok(_) => return Ok(None),
        Err(error) => return gone(error),
    };
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) => return gone(error),
    };
    let mut bytes = Vec::with_capacity(meta.len() as usize + 1);
    file.read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

fn contents(hash: u64, documents: Vec<decode::Document>, path: &Path) -> Contents {
    let mut contents =
        Contents { hash, values: Vec::with_capacity(documents.len()), problems: Vec::new() };
    for document in documents {
        contents.problems.extend(document.warnings);
        let number = document.number;
        match document.decoded {
            Decoded::Object(object) => contents.values.push((number, Value::Object(object))),
            Decoded::Rejected(problem) => contents.problems.push(problem),
            Decoded::Ignored { object, why } => {
                debug!(path = %path.display(), document = number, ?object, why, "ignored");
                let value = object.map(|object| Value::Ignored(Arc::new(object)));
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
