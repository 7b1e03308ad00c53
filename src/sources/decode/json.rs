//! JSON documents and Lists are taken apart, so that each object is decoded alone.
//!
//! In: JSON text. Out: one document per object. Never: a List that fails because of one item.

use super::{Documents, Fault, SyntaxError, object};
use serde::Deserialize;
use serde_json::error::Category;
use serde_json::value::RawValue;

/// As much of any object as is needed to know what it is.
#[derive(Deserialize)]
pub(super) struct Head<'a> {
    #[serde(borrow, rename = "apiVersion")]
    pub api_version: Option<&'a RawValue>,
    #[serde(borrow)]
    pub kind: Option<&'a RawValue>,
    #[serde(borrow)]
    pub metadata: Option<&'a RawValue>,
    #[serde(borrow)]
    pub items: Option<Vec<&'a RawValue>>,
}

pub(super) fn decode(text: &str, out: &mut Documents<'_>) -> Result<(), SyntaxError> {
    let mut heads = serde_json::Deserializer::from_str(text).into_iter::<Head<'_>>();
    loop {
        let start = heads.byte_offset();
        match heads.next() {
            None => return Ok(()),
            Some(Ok(head)) => one(&text[start..heads.byte_offset()], head, out),
            // JSON, but not shaped as an object: it costs only itself.
            Some(Err(error)) if error.classify() == Category::Data => {
                return each_value(text, start, out);
            }
            Some(Err(error)) => return Err(syntax_error(&error, &text[..0])),
        }
    }
}

/// The slow way, for documents of which at least one is no object: finds where each one ends.
fn each_value(text: &str, start: usize, out: &mut Documents<'_>) -> Result<(), SyntaxError> {
    for value in serde_json::Deserializer::from_str(&text[start..]).into_iter::<&RawValue>() {
        let value = value.map_err(|error| syntax_error(&error, &text[..start]))?;
        item(value, None, out);
    }
    Ok(())
}

/// `default` is the type that a typed List (`ServiceList`) gives to items that name none.
fn item(value: &RawValue, default: Option<(&str, &str)>, out: &mut Documents<'_>) {
    match serde_json::from_str::<Head<'_>>(value.get()) {
        Ok(head) => typed(value.get(), head, default, out),
        Err(error) if value.get().starts_with('{') => {
            out.reject(None, Fault::new("", object::reason(&error)));
        }
        Err(_) => {
            let start: String = value.get().chars().take(20).collect();
            out.reject(None, Fault::new("", format!("{start} is not a Kubernetes object")));
        }
    }
}

fn one(text: &str, head: Head<'_>, out: &mut Documents<'_>) {
    typed(text, head, None, out);
}

fn typed(text: &str, head: Head<'_>, default: Option<(&str, &str)>, out: &mut Documents<'_>) {
    let string =
        |value: Option<&RawValue>| value.and_then(|v| serde_json::from_str::<String>(v.get()).ok());
    let (api_version, kind) = (string(head.api_version), string(head.kind));
    let (default_version, default_kind) = default.unwrap_or(("", ""));
    let api_version = api_version.as_deref().unwrap_or(default_version);
    let kind = kind.as_deref().unwrap_or(default_kind);
    let known_list = kind.strip_suffix("List").filter(|_| head.items.is_some());
    match (known_list, head.items) {
        (Some(item_kind), Some(items)) => {
            let default = (!item_kind.is_empty()).then_some((api_version, item_kind));
            for value in items {
                item(value, default, out);
            }
        }
        // `kind: List` without items holds nothing.
        _ if kind == "List" => {}
        _ => {
            object::decode(object::Source { text, api_version, kind, metadata: head.metadata }, out)
        }
    }
}

fn syntax_error(error: &serde_json::Error, before: &str) -> SyntaxError {
    let lines = before.matches('\n').count();
    SyntaxError {
        line: (error.line() + lines) as u64,
        column: error.column() as u64,
        reason: object::reason(error),
    }
}
