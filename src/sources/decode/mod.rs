//! Kubernetes objects become the model; a bad one is rejected alone, with field and reason.
//!
//! In: the text of a manifest, or objects of k8s-openapi. Out: [`Document`]s.
//! Never: I/O, a clock; a guess where the API server would refuse.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod annotations;
mod cluster;
mod endpoints;
mod fields;
mod findings;
mod json;
mod metadata;
mod names;
mod object;
mod pod;
mod service;
mod slice;
#[cfg(test)]
mod tests;
mod yaml;

pub use fields::{Fault, parse_cidr, parse_ip};
pub use findings::{Converted, Findings};
pub use names::Names;
pub use {
    cluster::{node, service_cidr},
    endpoints::endpoints,
    service::service,
};

use crate::model::{Kind, Object, ObjectRef, Origin, Problem, Severity};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

/// How a manifest is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Json,
    Yaml,
}

/// What became of one object.
#[derive(Debug, Clone, PartialEq)]
pub enum Decoded {
    Object(Object),
    /// Valid, but nothing that this node serves: the same as if the object did not exist.
    /// Without `object` it is of a kind that vipd does not read.
    Ignored {
        object: Option<ObjectRef>,
        why: &'static str,
    },
    Rejected(Problem),
}

/// One object of a manifest.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// Counts from 1; items of a List are numbered in one go with the documents.
    pub number: u32,
    pub decoded: Decoded,
    /// What is wrong with parts of a good object.
    pub warnings: Vec<Problem>,
    /// When somebody did what led to this state of an EndpointSlice, if it says so.
    pub triggered: Option<SystemTime>,
}

/// The text is not JSON or YAML, so that not even the number of its objects is known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line} column {column}: {reason}")]
pub struct SyntaxError {
    pub line: u64,
    pub column: u64,
    pub reason: String,
}

/// Decodes all objects of a file. `path` is only named in problems, never opened.
pub fn decode(
    text: &[u8],
    format: Format,
    path: &Arc<Path>,
    names: &mut Names,
) -> Result<Vec<Document>, SyntaxError> {
    let text = utf8(text)?;
    let mut out = Documents { documents: Vec::new(), path, names };
    match format {
        Format::Json => json::decode(text, &mut out)?,
        Format::Yaml => {
            for document in yaml::to_json(text) {
                json::decode(&document?, &mut out)?;
            }
        }
    }
    Ok(out.documents)
}

/// What one object was read as.
#[derive(Debug, Clone, PartialEq)]
pub struct Read {
    pub decoded: Decoded,
    /// What is wrong with parts of a good object.
    pub warnings: Vec<Problem>,
    /// When somebody did what led to this state of an EndpointSlice, if it says so.
    pub triggered: Option<SystemTime>,
}

impl From<Decoded> for Read {
    /// Nothing more is to be said of it.
    fn from(decoded: Decoded) -> Self {
        Self { decoded, warnings: Vec::new(), triggered: None }
    }
}

/// Decodes one object of an API server. A list names the kind of its items only once.
pub fn decode_object(kind: Kind, text: &str, names: &mut Names) -> Read {
    let metadata = || serde_json::from_str::<json::Head<'_>>(text).ok()?.metadata;
    object::read(kind, (text, &metadata), &|| Origin::Cluster, names)
}

/// Where the decoders put what they find.
struct Documents<'a> {
    documents: Vec<Document>,
    path: &'a Arc<Path>,
    names: &'a mut Names,
}

impl Documents<'_> {
    fn next_number(&self) -> u32 {
        u32::try_from(self.documents.len() + 1).unwrap_or(u32::MAX)
    }

    fn push(&mut self, read: Read) {
        let number = self.next_number();
        let Read { decoded, warnings, triggered } = read;
        self.documents.push(Document { number, decoded, warnings, triggered });
    }

    fn reject(&mut self, object: Option<ObjectRef>, fault: Fault) {
        let origin = Origin::File { path: Arc::clone(self.path), document: self.next_number() };
        let problem = fault.into_problem(Severity::Rejected, origin, object);
        self.push(Decoded::Rejected(problem).into());
    }
}

fn utf8(bytes: &[u8]) -> Result<&str, SyntaxError> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let good = &bytes[..error.valid_up_to()];
        let line_start = good.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
        let line = 1 + good.iter().filter(|b| **b == b'\n').count() as u64;
        let column = 1 + String::from_utf8_lossy(&good[line_start..]).chars().count() as u64;
        SyntaxError { line, column, reason: "not UTF-8; save the file as UTF-8".into() }
    })?;
    Ok(text.strip_prefix('\u{feff}').unwrap_or(text))
}
