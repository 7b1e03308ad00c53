//! Arguments in, one command run.

use std::process::ExitCode;

fn main() -> ExitCode {
    vipd::cli::main()
}
