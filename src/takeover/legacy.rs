//! kube-proxy's leftovers in iptables-legacy tables. EDGE: runs the legacy programs.
//!
//! In: the kernel's list of legacy tables, `iptables-legacy-save`. Out: what of them is
//! kube-proxy's; its removal by `iptables-legacy-restore`.
//! Never: a program where the kernel lists no legacy table (asking would make them).

use super::error::Error;
use super::removal::{Counts, Table};
use super::saved;
use crate::model::Family;
use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::io::{self, Write as _};
use std::process::{Command, Stdio};

/// Removals that another program's change may spoil, before vipd gives up.
const TRIES: u32 = 5;
/// Where the programs are, if not on PATH: a service's PATH often lacks these.
const SBIN: &str = "/usr/local/sbin:/usr/sbin:/sbin";

/// Of one address family.
struct Side {
    family: Family,
    /// One table a line; absent without the kernel's legacy part. Of the thread's namespace.
    tables: &'static str,
    save: &'static str,
    restore: &'static str,
}

const SIDES: [Side; 2] = [
    Side {
        family: Family::V4,
        tables: "/proc/thread-self/net/ip_tables_names",
        save: "iptables-legacy-save",
        restore: "iptables-legacy-restore",
    },
    Side {
        family: Family::V6,
        tables: "/proc/thread-self/net/ip6_tables_names",
        save: "ip6tables-legacy-save",
        restore: "ip6tables-legacy-restore",
    },
];

/// What a removal did.
#[derive(Debug, Default)]
pub struct Removed {
    pub counts: Counts,
    pub left: Vec<Error>,
}

/// Tables with chains of kube-proxy's, and what could not be looked at.
pub fn observe() -> (Vec<Table<String>>, Vec<Error>) {
    let (mut found, mut unread) = (Vec::new(), Vec::new());
    for side in &SIDES {
        match side.observe() {
            Ok(tables) => found.extend(tables),
            Err(error) => unread.push(error),
        }
    }
    (found, unread)
}

pub fn remove(found: &[Table<String>]) -> Removed {
    let mut removed = Removed::default();
    for side in &SIDES {
        let tables = found.iter().filter(|table| table.family == side.family).cloned().collect();
        match side.remove(tables, &mut removed.left) {
            Ok(counts) => {
                removed.counts.chains += counts.chains;
                removed.counts.rules += counts.rules;
            }
            Err(error) => removed.left.push(error),
        }
    }
    removed
}

impl Side {
    fn observe(&self) -> Result<Vec<Table<String>>, Error> {
        let names = match fs::read_to_string(self.tables) {
            Ok(names) => names,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(Error::File { path: self.tables, error }),
        };
        if names.trim().is_empty() {
            return Ok(Vec::new());
        }
        let said =
            run(self.save, &[], "").map_err(|error| self.explain(self.save, error, &names))?;
        let tables = saved::tables(self.family, &said);
        Ok(tables.into_iter().filter(|table| table.counts().chains > 0).collect())
    }

    /// One table after the other: each is replaced as a whole, and what is wrong with one does not
    /// keep the others.
    fn remove(
        &self,
        mut tables: Vec<Table<String>>,
        left: &mut Vec<Error>,
    ) -> Result<Counts, Error> {
        let mut removed = Counts::default();
        if tables.is_empty() {
            return Ok(removed);
        }
        for attempt in 1.. {
            let mut spoiled = None;
            for table in &tables {
                let removal = table.removal(&BTreeSet::new());
                if !removal.chains.is_empty() {
                    let text = saved::restore(table, &removal);
                    if let Err(error) = run(self.restore, &["--noflush", "--wait", "5"], &text) {
                        spoiled = Some(self.explain(self.restore, error, &table.name));
                        continue;
                    }
                    removed.chains += removal.chains.len();
                    removed.rules += removal.jumps.len();
                    removed.rules += removal.chains.iter().map(|c| c.rules.len()).sum::<usize>();
                }
            }
            // Somebody may have changed a table since it was read.
            tables = self.observe()?;
            match spoiled {
                Some(error) if attempt == TRIES => left.push(error),
                Some(_) => continue,
                None => {}
            }
            break;
        }
        for table in &tables {
            let kept = table.removal(&BTreeSet::new()).kept;
            if !kept.is_empty() {
                let chains = kept.into_iter().map(|(chain, why)| (chain.to_owned(), why)).collect();
                left.push(Error::Kept { table: format!("{} (legacy)", table.title()), chains });
            }
        }
        Ok(removed)
    }

    fn explain(&self, program: &'static str, failure: Failure, tables: &str) -> Error {
        let tables = tables.split_whitespace().collect::<Vec<_>>().join(", ");
        match failure {
            Failure::NotInstalled => Error::NoProgram { program, tables },
            Failure::Said(said) => Error::Program { program, said },
        }
    }
}

enum Failure {
    NotInstalled,
    Said(String),
}

/// What a program prints.
fn run(program: &str, arguments: &[&str], input: &str) -> Result<String, Failure> {
    let path = env::var("PATH").map_or_else(|_| SBIN.to_owned(), |path| format!("{path}:{SBIN}"));
    let mut child = Command::new(program)
        .args(arguments)
        .env("PATH", path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Failure::NotInstalled,
            _ => Failure::Said(error.to_string()),
        })?;
    // Both programs read all of their input before they print anything.
    let told = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().map_err(|error| Failure::Said(error.to_string()))?;
    if output.status.success() {
        return told
            .map(|()| String::from_utf8_lossy(&output.stdout).into_owned())
            .map_err(|error| Failure::Said(error.to_string()));
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.lines().find(|line| !line.trim().is_empty()).unwrap_or_default().trim();
    let said = if said.is_empty() { output.status.to_string() } else { said.to_owned() };
    Err(Failure::Said(said))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_fails_is_quoted_and_one_that_is_missing_is_told_apart() {
        assert!(matches!(run("cat", &[], "text"), Ok(said) if said == "text"));
        assert!(matches!(run("vipd-test-no-such-program", &[], ""), Err(Failure::NotInstalled)));
        let failed = run("sh", &["-c", "echo; echo no right >&2; exit 1"], "");
        assert!(matches!(failed, Err(Failure::Said(said)) if said == "no right"));
        let silent = run("sh", &["-c", "exit 3"], "");
        assert!(matches!(silent, Err(Failure::Said(said)) if said.contains('3')));
    }
}
