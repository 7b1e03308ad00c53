//! Why an object is not served as it was written.

use super::ObjectRef;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Severity {
    /// Not served.
    Rejected,
    /// A good object that another one with the same name, or the same frontend, stands before.
    Shadowed,
    /// Served, but somebody should look.
    Warning,
}

impl Severity {
    pub fn name(self) -> &'static str {
        match self {
            Severity::Rejected => "rejected",
            Severity::Shadowed => "shadowed",
            Severity::Warning => "warning",
        }
    }
}

/// Where an object was read.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Origin {
    /// A manifest; `document` counts from 1 (items of a List are numbered in one go with them).
    /// Document 0 means the file as a whole.
    File { path: Arc<Path>, document: u32 },
    /// An API server, or the plan itself (two services that claim one frontend).
    Cluster,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::File { path, document: 0 } => write!(f, "{}", path.display()),
            Origin::File { path, document } => write!(f, "{} document {document}", path.display()),
            Origin::Cluster => f.write_str("cluster"),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub severity: Severity,
    pub origin: Origin,
    /// The object, where its kind and name could be read.
    pub object: Option<ObjectRef>,
    /// Path of the field (`spec.ports[0].port`); empty for the object as a whole.
    pub field: Box<str>,
    /// What is wrong, and what would be right.
    pub reason: Box<str>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.origin)?;
        if let Some(object) = &self.object {
            write!(f, "{object}: ")?;
        }
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.reason)
    }
}
