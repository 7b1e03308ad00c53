//! The behaviour cases on a real kernel: objects in, packets out.
//!
//! Each case runs in a process and namespaces of its own (see `support::runner`).
//! `cargo test --test netns -- FILTER`, `-- --list`; NETNS_REPEAT=n, NETNS_JOBS=n, NETNS_SOAK=1.

#[path = "../support/mod.rs"]
mod support;

mod affinity;
mod bursts;
mod clusterip;
mod config_live;
mod detectors;
mod dying;
mod engine;
mod external;
mod faults;
mod harness;
mod health;
mod hints;
mod http;
mod invalid;
mod lifecycle;
mod limits;
mod loadbalancer;
mod localhost;
mod masquerade;
mod metrics;
mod mtu;
mod nodeport;
mod nothing;
mod path;
mod pods;
mod redirect;
mod relay;
mod repair;
mod replace;
mod requests;
mod resets;
mod rolling;
mod scale;
mod sctp;
mod slices;
mod status;
mod sysctls;
mod taken_ports;
mod takeover;
mod terminating;
mod udp;
mod userspace;

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
        ("pods", pods::cases()),
        ("terminating", terminating::cases()),
        ("rolling", rolling::cases()),
        ("affinity", affinity::cases()),
        ("udp", udp::cases()),
        ("bursts", bursts::cases()),
        ("mtu", mtu::cases()),
        ("sctp", sctp::cases()),
        ("masquerade", masquerade::cases()),
        ("external", external::cases()),
        ("nodeport", nodeport::cases()),
        ("loadbalancer", loadbalancer::cases()),
        ("hints", hints::cases()),
        ("detectors", detectors::cases()),
        ("invalid", invalid::cases()),
        ("taken_ports", taken_ports::cases()),
        ("takeover", takeover::cases()),
        ("health", health::cases()),
        ("localhost", localhost::cases()),
        ("userspace", userspace::cases()),
        ("redirect", redirect::cases()),
        ("faults", faults::cases()),
        ("replace", replace::cases()),
        ("requests", requests::cases()),
        ("dying", dying::cases()),
        ("resets", resets::cases()),
        ("sysctls", sysctls::cases()),
        ("metrics", metrics::cases()),
        ("status", status::cases()),
        ("engine", engine::cases()),
        ("relay", relay::cases()),
        ("limits", limits::cases()),
        ("config_live", config_live::cases()),
    ])
}
