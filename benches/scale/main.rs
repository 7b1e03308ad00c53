//! vipd at scale, in network namespaces of its own, beside what bounds it.
//!
//! In: `cargo bench --bench scale -- [PART …] [--quick] [--record FILE]`. Out: a table on stdout, JSON
//! in benches/out; the table of a full run of all parts also in benches/RESULTS.md.
//! Never: a failure because a bar is missed; a trace of itself left on the host.

mod alloc;
mod connect;
mod daemon;
mod effort;
mod floor;
mod generate;
mod manifests;
mod nft;
mod parts;
mod report;
mod rooms;
mod stats;
mod watch;
mod world;

use effort::{Effort, Outcome};
use std::path::{Path, PathBuf};
use std::time::Instant;

const USAGE: &str = "usage: cargo bench --bench scale -- [PART …] [--quick] [--record FILE]
parts (all without any): load change special event start restart memory repair connect";

type Part = fn(Effort) -> Outcome<Vec<report::Row>>;

const PARTS: [(&str, Part); 9] = [
    ("load", parts::load::run),
    ("change", parts::change::run),
    ("special", parts::special::run),
    ("event", parts::event::run),
    ("start", parts::start::start),
    ("restart", parts::start::restart),
    ("memory", parts::memory::run),
    ("repair", parts::repair::run),
    ("connect", parts::connect::run),
];

#[global_allocator]
static ALLOCATOR: alloc::Counting = alloc::Counting;

fn main() -> std::process::ExitCode {
    effort::exit("scale", run())
}

fn run() -> Outcome<()> {
    let mut effort = Effort::Full;
    let mut wanted = Vec::new();
    let mut record = None;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            // What cargo itself adds.
            "--bench" => {}
            "--record" => record = Some(PathBuf::from(arguments.next().ok_or(USAGE)?)),
            "--quick" => effort = Effort::Quick,
            name if PARTS.iter().any(|(part, _)| *part == name) => wanted.push(argument),
            _ => return Err(USAGE.into()),
        }
    }
    let started = Instant::now();
    let machine = report::machine();
    let (mut rows, mut failures) = (Vec::new(), Vec::new());
    for (name, part) in PARTS {
        if wanted.is_empty() || wanted.iter().any(|w| w == name) {
            match part(effort) {
                Ok(found) => rows.extend(found),
                // The other parts' results are worth having all the same.
                Err(error) => failures.push(format!("{name}: {error}")),
            }
        }
    }
    println!("{}", report::table(&rows));
    println!("\n{machine}; took {:.0} s", started.elapsed().as_secs_f64());
    let out = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/out/scale.json");
    report::write_json(&rows, &out)?;
    println!("{}", out.display());
    if effort == Effort::Full && wanted.is_empty() && failures.is_empty() && record.is_none() {
        record = Some(Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/RESULTS.md"));
    }
    if let Some(results) = record {
        report::write_results(&rows, &machine, &results)?;
        println!("{}", results.display());
    }
    print!("{}", report::bars(&rows));
    if failures.is_empty() { Ok(()) } else { Err(failures.join("\n").into()) }
}

/// A line on stderr, so that stdout holds the results alone.
fn progress(what: &str) {
    eprintln!("scale: {what}");
}
