//! The behaviour cases on a real kernel: objects in, packets out.
//!
//! Each case runs in a process and namespaces of its own (see `support::runner`).
//! `cargo test --test netns -- FILTER`, `-- --list`; NETNS_REPEAT=n, NETNS_JOBS=n, NETNS_SOAK=1.

#[path = "../support/mod.rs"]
mod support;

mod affinity;
mod clusterip;
mod detectors;
mod harness;
mod hints;
mod invalid;
mod lifecycle;
mod nothing;
mod path;
mod repair;
mod resets;
mod scale;
mod slices;
mod sysctls;
mod terminating;
mod udp;

use std::process::ExitCode;

fn main() -> ExitCode {
    support::runner::main(vec![
        ("harness", harness::cases()),
        ("scale", scale::cases()),
        ("lifecycle", lifecycle::cases()),
        ("repair", repair::cases()),
        ("clusterip", clusterip::cases()),
        ("nothing", nothing::cases()),
        ("path", path::cases()),
        ("slices", slices::cases()),
        ("terminating", terminating::cases()),
        ("affinity", affinity::cases()),
        ("udp", udp::cases()),
        ("hints", hints::cases()),
        ("detectors", detectors::cases()),
        ("invalid", invalid::cases()),
        ("resets", resets::cases()),
        ("sysctls", sysctls::cases()),
    ])
}
