//! The behaviour cases on a real kernel: objects in, packets out.
//!
//! Each case runs in a process and namespaces of its own (see `support::runner`).
//! `cargo test --test netns -- FILTER`, `-- --list`; NETNS_REPEAT=n, NETNS_JOBS=n, NETNS_SOAK=1.

#[path = "../support/mod.rs"]
mod support;

mod harness;

use std::process::ExitCode;

fn main() -> ExitCode {
    support::runner::main(vec![("harness", harness::cases())])
}
