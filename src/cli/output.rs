//! Text for a terminal, a pipe or a program.

use super::Error;
use clap::ValueEnum;
use serde::Serialize;
use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, Write};

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    Table,
    Wide,
    Json,
    Yaml,
}

/// The formats of commands that print no table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum TextFormat {
    Text,
    Json,
    Yaml,
}

/// To standard output. A reader that went away (`| head`) has all it wanted.
pub(super) fn print(text: &str) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Error::Output(error)),
        _ => Ok(()),
    }
}

/// A line on standard error, which nobody may be reading.
pub(super) fn note(text: &str) {
    let lines: Vec<_> = text.lines().map(|line| escape(line).into_owned()).collect();
    let _ = writeln!(io::stderr().lock(), "{}", lines.join("\n"));
}

pub(super) fn print_json<T: Serialize>(value: &T) -> Result<(), Error> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Error::Format { format: "JSON", reason: error.to_string() })?;
    // JSON only escapes what is below a space; the rest can stand nowhere but in its strings.
    let safe = text.chars().fold(String::with_capacity(text.len() + 1), |mut safe, c| {
        if is_hostile(c) && c != '\n' {
            let _ = write!(safe, "\\u{:04x}", u32::from(c));
        } else {
            safe.push(c);
        }
        safe
    });
    print(&(safe + "\n"))
}

pub(super) fn print_yaml<T: Serialize>(value: &T) -> Result<(), Error> {
    let failed = |reason: String| Error::Format { format: "YAML", reason };
    // By way of JSON values, whose strings can be made harmless in one place.
    let mut value = serde_json::to_value(value).map_err(|error| failed(error.to_string()))?;
    escape_strings(&mut value);
    let text = serde_saphyr::to_string(&value).map_err(|error| failed(error.to_string()))?;
    print(&text)
}

fn escape_strings(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::String(text) => {
            if let Cow::Owned(escaped) = escape(text) {
                *text = escaped;
            }
        }
        serde_json::Value::Array(values) => values.iter_mut().for_each(escape_strings),
        serde_json::Value::Object(entries) => entries.values_mut().for_each(escape_strings),
        _ => {}
    }
}

/// What manifests say must not move the cursor, set a title or turn the line around.
pub(super) fn escape(text: &str) -> Cow<'_, str> {
    if !text.contains(is_hostile) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if is_hostile(c) {
            safe.extend(c.escape_default());
        } else {
            safe.push(c);
        }
    }
    Cow::Owned(safe)
}

/// Control characters, line and paragraph separators, and what changes the direction of text.
fn is_hostile(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_become_visible() {
        assert_eq!(escape("plain é"), "plain é");
        assert_eq!(escape("a\u{1b}[31mb\nc"), "a\\u{1b}[31mb\\nc");
        assert_eq!(escape("\u{9b}2J\u{202e}x"), "\\u{9b}2J\\u{202e}x");
    }
}
