//! YAML is read as kubectl reads it: each document becomes JSON, and everything after that is
//! the same for both.
//!
//! In: YAML text. Out: JSON text, one per document. Never: a document that only holds comments.

use super::SyntaxError;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use std::fmt;
use std::io::Write;

/// The documents of `text`; the first that is not YAML ends them with an error.
pub(super) fn to_json(text: &str) -> impl Iterator<Item = Result<String, SyntaxError>> {
    let options = options();
    split(text).map(move |chunk| {
        let mut out = Vec::with_capacity(chunk.text.len());
        let parsed = serde_saphyr::with_deserializer_from_str_with_options(
            chunk.text,
            options.clone(),
            |d| Transcode { out: &mut out, place: Place::Value }.deserialize(d),
        );
        match parsed {
            Ok(()) => Ok(String::from_utf8(out).expect("only strings were written")),
            Err(error) => Err(syntax_error(&error, &chunk)),
        }
    })
}

/// Size limits are off: the file's size bounds what it can hold. The limits on aliases stay,
/// because a few aliases can stand for any amount.
fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_events: usize::MAX,
            max_nodes: usize::MAX,
            max_total_scalar_bytes: usize::MAX,
        },
        emit_comments: false,
        with_snippet: false,
    }
}

fn syntax_error(error: &serde_saphyr::Error, chunk: &Chunk<'_>) -> SyntaxError {
    let (line, column) = error.location().map_or((1, 1), |at| (at.line(), at.column()));
    // The other formatter speaks to programmers, of options in code.
    let text = error.without_snippet().render_with_formatter(&serde_saphyr::UserMessageFormatter);
    // The parser counts lines within the document and says so in its text too.
    let reason = text.split(" at line ").next().unwrap_or(&text).trim_end_matches([':', ',', ' ']);
    SyntaxError { line: chunk.first_line + line.saturating_sub(1), column, reason: reason.into() }
}

struct Chunk<'a> {
    text: &'a str,
    /// Counts from 1.
    first_line: u64,
}

/// Cuts at lines that begin with `---` or `...`: YAML 1.2 (9.1.2) forbids them inside any
/// scalar, so no parser is needed, and a document's budget and errors are its own.
fn split(text: &str) -> impl Iterator<Item = Chunk<'_>> {
    let mut chunks = Vec::new();
    let (mut start, mut first_line) = (0, 1);
    let (mut offset, mut line_number) = (0, 1);
    let mut content = Content::Nothing;
    for line in text.split_inclusive('\n') {
        let (from, to) = (offset, offset + line.len());
        if is_marker(line, "---") {
            if content == Content::Document {
                chunks.push(Chunk { text: &text[start..from], first_line });
            }
            // Directives stand before the marker of their own document.
            if content != Content::Directives {
                (start, first_line) = (from, line_number);
            }
            content = if is_blank(&line[3..]) { Content::Nothing } else { Content::Document };
        } else if is_marker(line, "...") {
            if content == Content::Document {
                chunks.push(Chunk { text: &text[start..from], first_line });
            }
            (start, first_line, content) = (to, line_number + 1, Content::Nothing);
        } else if line.starts_with('%')
            && content != Content::Document
            && !text[start..].starts_with("---")
        {
            content = Content::Directives;
        } else if !is_blank(line) {
            content = Content::Document;
        }
        (offset, line_number) = (to, line_number + 1);
    }
    if content == Content::Document {
        chunks.push(Chunk { text: &text[start..], first_line });
    }
    chunks.into_iter()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Content {
    /// Empty lines and comments.
    Nothing,
    Directives,
    Document,
}

fn is_marker(line: &str, marker: &str) -> bool {
    line.strip_prefix(marker)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

fn is_blank(line: &str) -> bool {
    let line = line.trim_start();
    line.is_empty() || line.starts_with('#')
}

/// Writes whatever it visits as JSON. JSON knows only strings as keys, so a key of another type
/// is written as kubectl writes it: as its text.
struct Transcode<'a> {
    out: &'a mut Vec<u8>,
    place: Place,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Key,
    Value,
}

impl Transcode<'_> {
    fn scalar<E: Error>(self, text: impl fmt::Display) -> Result<(), E> {
        let written = match self.place {
            Place::Key => write!(self.out, "\"{text}\""),
            Place::Value => write!(self.out, "{text}"),
        };
        written.map_err(E::custom)
    }
}

impl<'de> DeserializeSeed<'de> for Transcode<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Transcode<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value that JSON can express")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        self.scalar(value)
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        self.scalar(value)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        self.scalar(value)
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        match serde_json::Number::from_f64(value) {
            Some(number) => self.scalar(number),
            None => Err(E::custom("not a finite number")),
        }
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<(), E> {
        serde_json::to_writer(self.out, value).map_err(E::custom)
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.scalar("null")
    }

    fn visit_none<E: Error>(self) -> Result<(), E> {
        self.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        self.deserialize(deserializer)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        self.deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        self.no_key()?;
        let mut separator = b'[';
        loop {
            let mark = self.out.len();
            self.out.push(separator);
            let item = Transcode { out: &mut *self.out, place: Place::Value };
            if seq.next_element_seed(item)?.is_none() {
                self.out.truncate(mark);
                break;
            }
            separator = b',';
        }
        self.out.extend_from_slice(if separator == b'[' { b"[]" } else { b"]" });
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        self.no_key()?;
        let mut separator = b'{';
        loop {
            let mark = self.out.len();
            self.out.push(separator);
            let key = Transcode { out: &mut *self.out, place: Place::Key };
            if map.next_key_seed(key)?.is_none() {
                self.out.truncate(mark);
                break;
            }
            self.out.push(b':');
            map.next_value_seed(Transcode { out: &mut *self.out, place: Place::Value })?;
            separator = b',';
        }
        self.out.extend_from_slice(if separator == b'{' { b"{}" } else { b"}" });
        Ok(())
    }
}

impl Transcode<'_> {
    fn no_key<E: Error>(&self) -> Result<(), E> {
        match self.place {
            Place::Value => Ok(()),
            Place::Key => Err(E::custom("a key must be a string")),
        }
    }
}
