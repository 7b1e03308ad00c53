//! Runs cases one after the other, inside namespaces of this process.
//!
//! In: cases, the arguments of a test binary. Out: a line per case, an exit status.
//! Never: a success for what could not run.

use crate::netns::Netns;
use crate::sandbox::{self, Way};
use proptest::test_runner::Config;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

pub type Case = (&'static str, fn());

/// How many random cases: ten times as many in the long runs.
pub fn random(cases: u32) -> Config {
    let soak =
        std::env::var_os("NETNS_SOAK").is_some_and(|value| value != "0" && !value.is_empty());
    let cases = if soak { cases * 10 } else { cases };
    Config { cases, failure_persistence: None, max_shrink_iters: 200, ..Config::default() }
}

/// A network namespace that no other case has.
pub fn namespace() -> Netns {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    Netns::add(&format!("nft{}", NUMBER.fetch_add(1, Ordering::Relaxed)))
}

/// For cases that need many: its rules go at once, and not with the process.
pub fn remove(node: &Netns) {
    node.sh(&format!("ip netns del {}", node.name()));
}

/// `name`: of the test binary. `ready`: whether its cases can be run here, beside what all need.
pub fn main(
    (name, ready): (&str, fn() -> Result<(), String>),
    groups: &[(&str, &[Case])],
) -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let [first, way] = &words[..]
        && first == "--probe"
    {
        return probe(way);
    }
    let filters: Vec<&String> = words.iter().filter(|word| !word.starts_with('-')).collect();
    let all: Vec<(String, fn())> = groups
        .iter()
        .flat_map(|(group, cases)| cases.iter().map(move |(title, run)| (*group, title, *run)))
        .map(|(group, title, run)| (format!("{group}: {title}"), run))
        .collect();
    let total = all.len();
    let wanted: Vec<_> = all
        .into_iter()
        .filter(|(name, _)| filters.is_empty() || filters.iter().any(|f| name.contains(&***f)))
        .collect();
    if words.iter().any(|word| word == "--list") {
        wanted.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    println!("\nrunning {} tests", wanted.len());
    let filtered = total - wanted.len();
    let ignored_only = words.iter().any(|word| word == "--ignored");
    let wanted = if ignored_only { Vec::new() } else { wanted };
    let start = Instant::now();
    let (mut passed, mut failed, mut skipped) = (0, Vec::new(), None);
    let entered = match wanted.is_empty() {
        true => Ok(()),
        false => ready().and_then(|()| sandbox::find_way()).and_then(sandbox::enter),
    };
    match entered {
        Err(reason) => skipped = Some((wanted.len(), reason)),
        Ok(()) => {
            for (name, run) in wanted {
                let since = Instant::now();
                let outcome = catch_unwind(AssertUnwindSafe(run));
                let took = since.elapsed().as_secs_f64();
                match outcome {
                    Ok(()) => {
                        println!("test {name} ... ok ({took:.1} s)");
                        passed += 1;
                    }
                    Err(_) => {
                        println!("test {name} ... FAILED ({took:.1} s)");
                        failed.push(name);
                    }
                }
            }
        }
    }
    failed.iter().for_each(|name| println!("failed: {name}"));
    let word = if failed.is_empty() { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {word}. {passed} passed; {} failed; {} ignored; 0 measured; \
         {filtered} filtered out; finished in {:.2}s\n",
        failed.len(),
        skipped.as_ref().map_or(0, |(count, _)| *count),
        start.elapsed().as_secs_f64()
    );
    if let Some((count, reason)) = skipped {
        sandbox::tell_skipped(name, count, &reason);
    }
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(101) }
}

fn probe(way: &str) -> ExitCode {
    let way = Way::from_flag(way).expect("written by find_way");
    match sandbox::probe(way) {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("{reason}");
            ExitCode::FAILURE
        }
    }
}
