//! Who may import whom, which rooms are pure, and how long a file may be.
//!
//! Reads the text of `src/`; a violation names file and line. `use crate::…`, paths in the middle
//! of code and `super::` chains that climb to the crate's root all count, in tests too.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// Room, and the rooms that it may import. `["*"]`: all.
const ROOMS: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("netlink", &[]),
    ("nft", &["model", "netlink"]),
    ("histogram", &[]),
    ("sources", &["model", "histogram"]),
    ("selectors", &["model"]),
    ("store", &["model", "selectors"]),
    ("planner", &["model"]),
    ("config", &["model", "planner", "conntrack"]),
    ("node", &["model", "netlink"]),
    ("dataplane", &["model", "planner", "netlink", "nft", "listen", "histogram"]),
    ("conntrack", &["model", "planner", "netlink", "histogram"]),
    ("sync", &["model", "store", "planner", "dataplane", "conntrack", "sources", "histogram"]),
    ("takeover", &["model", "netlink"]),
    ("admin", &["model", "planner", "sync", "metrics"]),
    ("listen", &[]),
    ("handover", &["dataplane", "admin"]),
    ("events", &["model", "planner", "sources", "sync", "listen"]),
    ("health", &["model", "planner", "sync", "listen", "events"]),
    ("status", &["model", "planner", "config", "conntrack", "sync", "listen", "metrics", "events"]),
    (
        "metrics",
        &[
            "model",
            "planner",
            "config",
            "sources",
            "dataplane",
            "sync",
            "listen",
            "events",
            "histogram",
        ],
    ),
    ("app", &["*"]),
    ("cli", &["*"]),
    // The bin: calls the lib by its name.
    ("main", &["*"]),
    // The map of the crate: declares rooms, uses none.
    ("lib", &[]),
];

/// Rooms, or parts of one, that are functions of their arguments.
const PURE: &[&str] = &[
    "model",
    "histogram",
    "nft",
    "selectors",
    "store",
    "planner",
    "sources/decode",
    "sync/durations",
    "sync/no_local",
    "sync/schedule",
    "sync/sticky",
    "sync/triggers",
    "conntrack/departed",
    "conntrack/stale",
    "conntrack/sysctls",
    "dataplane/nftables/listing",
    "dataplane/nftables/lower",
    "dataplane/nftables/place",
    "dataplane/userspace/lower",
    "dataplane/userspace/sets",
    "dataplane/userspace/table",
    "dataplane/userspace/checksum",
    "dataplane/userspace/choose",
    "dataplane/userspace/counts",
    "dataplane/userspace/dials",
    "dataplane/userspace/eject",
    "dataplane/userspace/header",
    "dataplane/userspace/loopback/places",
    "dataplane/userspace/maglev",
    "dataplane/userspace/pins",
    "dataplane/userspace/refusal",
    "dataplane/userspace/redirect",
    "dataplane/userspace/relayed",
    "dataplane/userspace/requests/answers",
    "dataplane/userspace/requests/heads",
    "dataplane/userspace/udp_header",
    "dataplane/userspace/written",
    "events/findings",
    "events/ledger",
    "events/notice",
    "events/rate",
    "events/wire",
    "takeover/messages",
    "takeover/names",
    "takeover/removal",
    "takeover/report",
    "takeover/saved",
    "takeover/services",
    "listen/kept",
    "handover/message",
    "health/answer",
    "health/ports",
    "status/answer",
    "status/configz",
    "metrics/families",
    "metrics/of_process",
    "metrics/relayed",
    "metrics/text",
    "metrics/unpinned",
];

const PURE_LINE: &str = "#![deny(clippy::disallowed_methods, clippy::disallowed_types)]";

const LONGEST_FILE: usize = 800;

#[test]
fn rooms_import_only_what_they_may() {
    let files = sources();
    assert!(files.len() > 10, "src/ was not found: {} files", files.len());
    report(files.iter().flat_map(|file| import_violations(&file.path, &file.text)));
}

#[test]
fn dataplanes_do_not_know_each_other() {
    report(sources().iter().flat_map(|file| dataplane_violations(&file.path, &file.text)));
}

#[test]
fn pure_rooms_deny_what_reaches_outside() {
    let files = sources();
    report(PURE.iter().flat_map(|room| pure_violations(room, &files)));
}

#[test]
fn no_file_is_too_long() {
    report(sources().iter().flat_map(|file| length_violations(&file.path, &file.text)));
}

// ---- the rules, shown on samples that break them ------------------------------------------------

#[test]
fn a_forbidden_import_is_found_wherever_it_hides() {
    let bad = [
        "use crate::store::Store;",
        "use crate::{model::Service, store};",
        "use crate::{\n    model::{Family, Service},\n    store::Store,\n};",
        "pub(in crate::store) fn f() {}",
        "fn f() { let x = crate::store::Store::default(); }",
        "use super::super::store::Store;",
        "mod tests { use super::super::super::store::Store; }",
        "fn f(x: &crate :: store :: Store) {}",
        "use crate::r#store::Store;",
    ];
    for text in bad {
        let found = import_violations("planner/plan.rs", text);
        assert_eq!(found.len(), 1, "{text}: {found:?}");
        assert!(found[0].contains("store"), "{text}: {found:?}");
    }
}

#[test]
fn what_is_allowed_or_only_text_is_left_alone() {
    let good = [
        "use crate::model::{Service, Family};",
        "use super::claims::Claims;",
        "mod tests { use super::super::claims::Claims; }",
        "// use crate::store::Store;",
        "/* use crate::store; /* nested */ crate::store */",
        "/// [`crate::store::Store`]\nfn f() {}",
        "const X: &str = \"crate::store::Store\";",
        "const X: &str = r#\"\"crate::store\"#;",
        "const X: char = '\"'; fn f<'a>(x: &'a str) {}",
        "pub(crate) fn f() {}",
        "use crate::planner::Plan;",
    ];
    for text in good {
        assert_eq!(import_violations("planner/plan.rs", text), Vec::<String>::new(), "{text}");
    }
}

#[test]
fn a_violation_names_file_and_line() {
    let found = import_violations("store/mod.rs", "//! Doc.\n\nuse crate::sync::Snapshot;\n");
    assert_eq!(found.len(), 1);
    assert!(found[0].starts_with("src/store/mod.rs:3: "), "{found:?}");
}

#[test]
fn an_unknown_room_is_found_on_both_sides() {
    assert_eq!(import_violations("helpers/mod.rs", "").len(), 1);
    assert_eq!(import_violations("helpers.rs", "").len(), 1);
    assert_eq!(import_violations("sync/mod.rs", "use crate::helpers::x;").len(), 1);
}

#[test]
fn a_dataplane_that_imports_its_neighbour_is_found() {
    let text = "use crate::dataplane::userspace::Relay;";
    assert_eq!(dataplane_violations("dataplane/nftables/apply.rs", text).len(), 1);
    assert_eq!(dataplane_violations("dataplane/userspace/mod.rs", text).len(), 0);
    let text = "use crate::dataplane::Applied;";
    assert_eq!(dataplane_violations("dataplane/nftables/apply.rs", text).len(), 0);
}

#[test]
fn a_pure_room_without_its_line_is_found() {
    let file = |path: &str, text: &str| Source { path: path.into(), text: text.into() };
    let without = [file("store/mod.rs", "//! Doc.\n// #![deny(clippy::disallowed_methods)]\n")];
    assert_eq!(pure_violations("store", &without).len(), 1);
    let with = [file("store/mod.rs", &format!("//! Doc.\n\n{PURE_LINE}\n"))];
    assert_eq!(pure_violations("store", &with).len(), 0);
    let allowed_again = [
        file("store/mod.rs", &format!("{PURE_LINE}\n")),
        file("store/slices.rs", "#[allow(clippy::disallowed_methods)]\nfn f() {}\n"),
    ];
    assert_eq!(pure_violations("store", &allowed_again).len(), 1);
}

#[test]
fn a_long_file_is_found() {
    assert_eq!(length_violations("model/key.rs", &"x\n".repeat(LONGEST_FILE + 1)).len(), 1);
    assert_eq!(length_violations("model/key.rs", &"x\n".repeat(LONGEST_FILE)).len(), 0);
}

// ---- the rules ----------------------------------------------------------------------------------

fn import_violations(path: &str, text: &str) -> Vec<String> {
    let room = room_of(path);
    let Some((_, allowed)) = ROOMS.iter().find(|(name, _)| *name == room) else {
        return vec![format!(
            "src/{path}:1: room `{room}` is not in the list of tests/layering.rs"
        )];
    };
    let mut found = Vec::new();
    for (line, target) in imports(path, text) {
        let known = ROOMS.iter().any(|(name, _)| *name == target);
        if !known {
            found.push(format!("src/{path}:{line}: `{target}` is not a room"));
        } else if target != room && !allowed.contains(&"*") && !allowed.contains(&target.as_str()) {
            found.push(format!("src/{path}:{line}: `{room}` must not import `{target}`"));
        }
    }
    found
}

fn dataplane_violations(path: &str, text: &str) -> Vec<String> {
    const DATAPLANES: [&str; 3] = ["nftables", "userspace", "ebpf"];
    let mut parts = path.split('/');
    let (Some("dataplane"), Some(own)) = (parts.next(), parts.next()) else { return Vec::new() };
    let own = own.trim_end_matches(".rs");
    if !DATAPLANES.contains(&own) {
        return Vec::new();
    }
    let tokens = tokens(text);
    tokens
        .windows(4)
        .filter(|w| w[0].text == "dataplane" && w[1].text == ":" && w[2].text == ":")
        .filter(|w| w[3].text != own && DATAPLANES.contains(&w[3].text.as_str()))
        .map(|w| format!("src/{path}:{}: `{own}` must not know `{}`", w[3].line, w[3].text))
        .collect()
}

/// A part of `PURE` that does not exist yet has nothing to deny.
fn pure_violations(room: &str, files: &[Source]) -> Vec<String> {
    let roots = [format!("{room}.rs"), format!("{room}/mod.rs")];
    let mut found = Vec::new();
    for file in files {
        if roots.contains(&file.path) && !file.text.lines().any(|line| line == PURE_LINE) {
            found.push(format!("src/{}:1: a pure room must say `{PURE_LINE}`", file.path));
        }
        if roots.contains(&file.path) || file.path.starts_with(&format!("{room}/")) {
            for (number, line) in file.text.lines().enumerate() {
                let line = line.trim_start();
                let lowers = line.starts_with("#[allow")
                    || line.starts_with("#![allow")
                    || line.starts_with("#[expect")
                    || line.starts_with("#![expect");
                if lowers && line.contains("clippy::disallowed_") {
                    found.push(format!("src/{}:{}: a pure room stays pure", file.path, number + 1));
                }
            }
        }
    }
    found
}

fn length_violations(path: &str, text: &str) -> Vec<String> {
    let lines = text.lines().count();
    if lines <= LONGEST_FILE {
        return Vec::new();
    }
    vec![format!(
        "src/{path}:{lines}: {lines} lines, more than {LONGEST_FILE}: split it by what it does"
    )]
}

fn report(violations: impl Iterator<Item = String>) {
    let mut text = String::new();
    for violation in violations {
        writeln!(text, "{violation}").expect("a String takes all");
    }
    assert!(text.is_empty(), "\n{text}");
}

// ---- reading ------------------------------------------------------------------------------------

struct Source {
    /// Relative to `src/`.
    path: String,
    text: String,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders: Vec<PathBuf> = vec![root.clone()];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("src/ can be listed") {
            let path = entry.expect("src/ can be listed").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("a source file is text");
                let path = path.strip_prefix(&root).expect("it was found below").to_str();
                found.push(Source { path: path.expect("names are ASCII").to_owned(), text });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn room_of(path: &str) -> &str {
    path.split('/').next().unwrap_or(path).trim_end_matches(".rs")
}

/// How many modules a file lies below the crate's root.
fn depth_of(path: &str) -> usize {
    let parts = path.split('/').count();
    match path.rsplit('/').next() {
        Some("lib.rs" | "main.rs" | "mod.rs") => parts - 1,
        _ => parts,
    }
}

/// Lines and names of the rooms that a file speaks of.
fn imports(path: &str, text: &str) -> BTreeSet<(usize, String)> {
    let tokens = tokens(text);
    let base = depth_of(path);
    let mut inline_mods: Vec<usize> = Vec::new();
    let mut braces = 0;
    let mut found = BTreeSet::new();
    let is = |i: usize, text: &str| tokens.get(i).is_some_and(|t: &Token| t.text == text);
    let path_sep = |i: usize| is(i, ":") && is(i + 1, ":");
    let mut i = 0;
    while i < tokens.len() {
        match tokens[i].text.as_str() {
            "{" => {
                braces += 1;
                if i >= 2 && tokens[i - 2].text == "mod" {
                    inline_mods.push(braces);
                }
            }
            "}" => {
                if inline_mods.last() == Some(&braces) {
                    inline_mods.pop();
                }
                braces = usize::saturating_sub(braces, 1);
            }
            "crate" if path_sep(i + 1) => first_names(&tokens, i + 3, &mut found),
            "super" => {
                let mut climbed = 1;
                while path_sep(i + 1) && is(i + 3, "super") {
                    climbed += 1;
                    i += 3;
                }
                if climbed == base + inline_mods.len() && path_sep(i + 1) {
                    first_names(&tokens, i + 3, &mut found);
                }
            }
            _ => {}
        }
        i += 1;
    }
    found
}

/// The first name of a path, or of each path of a group.
fn first_names(tokens: &[Token], start: usize, found: &mut BTreeSet<(usize, String)>) {
    let Some(first) = tokens.get(start) else { return };
    if first.text != "{" {
        found.insert((first.line, first.text.clone()));
        return;
    }
    let mut depth = 1;
    let mut expects_name = true;
    for token in &tokens[start + 1..] {
        match token.text.as_str() {
            "{" => depth += 1,
            "}" => depth -= 1,
            "," if depth == 1 => expects_name = true,
            name if depth == 1 && expects_name => {
                found.insert((token.line, name.to_owned()));
                expects_name = false;
            }
            _ => {}
        }
        if depth == 0 {
            return;
        }
    }
}

struct Token {
    text: String,
    line: usize,
}

/// Words and single signs; no comments, no text of literals.
fn tokens(text: &str) -> Vec<Token> {
    let c: Vec<char> = text.chars().collect();
    let at = |i: usize| c.get(i).copied().unwrap_or('\0');
    let (mut i, mut line) = (0, 1);
    let mut found: Vec<Token> = Vec::new();
    while i < c.len() {
        let start = i;
        match at(i) {
            '/' if at(i + 1) == '/' => {
                while i < c.len() && at(i) != '\n' {
                    i += 1;
                }
            }
            '/' if at(i + 1) == '*' => {
                let mut depth = 1;
                i += 2;
                while i < c.len() && depth > 0 {
                    match (at(i), at(i + 1)) {
                        ('/', '*') => (depth, i) = (depth + 1, i + 2),
                        ('*', '/') => (depth, i) = (depth - 1, i + 2),
                        _ => i += 1,
                    }
                }
            }
            '"' => i = end_of_string(&c, i),
            '\'' if at(i + 1) == '\\' => {
                i += 3;
                while i < c.len() && at(i) != '\'' {
                    i += 1;
                }
                i += 1;
            }
            '\'' if at(i + 2) == '\'' => i += 3,
            x if x.is_alphanumeric() || x == '_' => {
                while at(i).is_alphanumeric() || at(i) == '_' {
                    i += 1;
                }
                let word: String = c[start..i].iter().collect();
                let hashes = (i..c.len()).take_while(|j| at(*j) == '#').count();
                let is_raw = matches!(word.as_str(), "r" | "br" | "cr");
                if is_raw && at(i + hashes) == '"' {
                    i = end_of_raw_string(&c, i + hashes + 1, hashes);
                } else if word == "r" && hashes == 1 {
                    i += 1;
                } else {
                    found.push(Token { text: word, line });
                }
            }
            x if x.is_whitespace() => i += 1,
            x => {
                found.push(Token { text: x.to_string(), line });
                i += 1;
            }
        }
        line += c[start..i.min(c.len())].iter().filter(|x| **x == '\n').count();
    }
    found
}

fn end_of_string(c: &[char], start: usize) -> usize {
    let mut i = start + 1;
    while i < c.len() {
        match c[i] {
            '\\' => i += 2,
            '"' => return i + 1,
            _ => i += 1,
        }
    }
    i
}

fn end_of_raw_string(c: &[char], start: usize, hashes: usize) -> usize {
    let closes = |i: usize| {
        c[i] == '"' && c[i + 1..].iter().take(hashes).filter(|x| **x == '#').count() == hashes
    };
    (start..c.len()).find(|i| closes(*i)).map_or(c.len(), |i| i + 1 + hashes)
}
