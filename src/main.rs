//! Arguments in, one command run.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    vipd::cli::main()
}
