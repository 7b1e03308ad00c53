//! `vipd completions`: a script for a shell.

use super::{Cli, Error, output};
use clap::{Args, CommandFactory};
use clap_complete::Shell;

#[derive(Debug, Args)]
pub(super) struct Flags {
    /// The shell to write for
    shell: Shell,
}

pub(super) fn run(flags: &Flags) -> Result<(), Error> {
    let mut script = Vec::new();
    clap_complete::generate(flags.shell, &mut Cli::command(), "vipd", &mut script);
    output::print(&String::from_utf8_lossy(&script))
}
