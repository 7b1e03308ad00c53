//! What a converter returns, and what it leaves behind.
//!
//! In: the parts of one object. Out: the object for the model, and warnings about it.
//! Never: a word about where the object was read from.

use super::Names;
use super::fields::{Fault, label, subdomain};
use crate::model::Object;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::time::SystemTime;

/// What a valid object means to vipd.
#[derive(Debug, Clone, PartialEq)]
pub enum Converted {
    Object(Object),
    /// Nothing that this node serves, and nothing wrong.
    Ignored(&'static str),
}

/// The addresses of one object: those that are wrong cost only themselves, as long as one is right.
#[derive(Default)]
pub(super) struct Addresses {
    right: usize,
    wrong: Vec<Fault>,
}

impl Addresses {
    /// The value of a right one.
    pub fn take<T>(&mut self, one: Result<T, Fault>) -> Option<T> {
        match one {
            Ok(value) => {
                self.right += 1;
                Some(value)
            }
            Err(fault) => {
                self.wrong.push(fault);
                None
            }
        }
    }

    /// An object whose addresses are all wrong is wrong itself: as one without endpoints it would
    /// stand before another that has some.
    pub fn check(self, findings: &mut Findings<'_>) -> Result<(), Fault> {
        let mut wrong = self.wrong;
        if self.right > 0 || wrong.is_empty() {
            findings.warnings.append(&mut wrong);
            return Ok(());
        }
        let others = wrong.len() > 1;
        let mut first = wrong.swap_remove(0);
        if others {
            first.reason += "; no other address of the object is right either";
        }
        Err(first)
    }
}

/// What is right of a part that somebody else than the object's author writes, or that is written piece by
/// piece: what is wrong costs only itself.
pub(super) fn right<T>(
    all: impl Iterator<Item = Result<T, Fault>>,
    warnings: &mut Vec<Fault>,
) -> impl Iterator<Item = T> {
    all.filter_map(|one| {
        one.map_err(|Fault { field, reason }| {
            warnings.push(Fault { field, reason: reason + "; it is left out" });
        })
        .ok()
    })
}

/// What the converters share, and where they put warnings.
pub struct Findings<'a> {
    pub names: &'a mut Names,
    pub warnings: Vec<Fault>,
    /// See [`super::Read`].
    pub triggered: Option<SystemTime>,
}

impl<'a> Findings<'a> {
    pub fn new(names: &'a mut Names) -> Self {
        Self { names, warnings: Vec::new(), triggered: None }
    }
}

/// Namespace and name, checked; a missing namespace is `default`.
pub(super) fn namespaced(meta: &ObjectMeta) -> Result<(&str, &str), Fault> {
    let namespace = meta.namespace.as_deref().filter(|n| !n.is_empty()).unwrap_or("default");
    label("metadata.namespace", namespace)?;
    Ok((namespace, name(meta)?))
}

pub(super) fn name(meta: &ObjectMeta) -> Result<&str, Fault> {
    let name = meta.name.as_deref().unwrap_or("");
    subdomain("metadata.name", name)?;
    Ok(name)
}

pub(super) fn label_of<'a>(meta: &'a ObjectMeta, label: &str) -> Option<&'a str> {
    meta.labels.as_ref()?.get(label).map(String::as_str)
}

pub(super) fn annotation_of<'a>(meta: &'a ObjectMeta, annotation: &str) -> Option<&'a str> {
    meta.annotations.as_ref()?.get(annotation).map(String::as_str)
}
