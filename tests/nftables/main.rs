//! The nf_tables dataplane on a real kernel, with `nft` as the witness: what is written, what is
//! read back, what is mended.
//!
//! Each case has a network namespace of its own; all are within namespaces of this process.
//! `cargo test --test nftables -- FILTER`, `-- --list`

#[path = "../support/netns.rs"]
#[allow(dead_code, reason = "the cases of `netns` use more of it")]
mod netns;
#[path = "../support/sandbox.rs"]
mod sandbox;

mod commit;
mod damage;
mod elements;
mod goldens;
mod held;
mod idempotence;
mod plans;
mod runner;
mod sctp;
mod sizes;

use std::process::ExitCode;

fn main() -> ExitCode {
    runner::main(
        ("nftables", || Ok(())),
        &[
            ("goldens", goldens::CASES),
            ("elements", elements::CASES),
            ("sctp", sctp::CASES),
            ("sizes", sizes::CASES),
            ("idempotence", idempotence::CASES),
            ("damage", damage::CASES),
            ("commit", commit::CASES),
        ],
    )
}
