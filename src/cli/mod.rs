//! The commands: arguments in, text out, one file per command.
//!
//! In: arguments, environment. Out: text on stdout, problems on stderr, an exit code.
//! Never: a decision about traffic; a panic because the reader of a pipe went away.

mod age;
mod answers;
mod cleanup;
mod completions;
mod describe;
mod error;
mod get;
mod metrics;
mod offline;
mod output;
mod plan;
mod run;
mod table;
mod trace;

pub use error::Error;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// A Kubernetes service proxy for one node
#[derive(Debug, Parser)]
#[command(name = "vipd", version, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve until told to stop
    Run(Box<crate::config::RunFlags>),
    /// List services, endpoints or what is not served as written
    Get(Box<get::Flags>),
    /// Show one object and what this node does with it
    Describe(Box<describe::Flags>),
    /// Say what must happen to a packet, and why
    Trace(Box<trace::Flags>),
    /// Print everything that this node does
    Plan(Box<plan::Flags>),
    /// Print what a running daemon counts, as Prometheus reads it
    Metrics(metrics::Flags),
    /// Remove everything of vipd's from the kernel
    Cleanup,
    /// Print a completion script for a shell
    Completions(completions::Flags),
    /// Print the version
    Version,
}

/// Runs one command; 0: done, 1: not found or failed, 2: cannot be done as asked.
pub fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run(flags) => run::run(*flags),
        Command::Get(flags) => get::run(*flags),
        Command::Describe(flags) => describe::run(*flags),
        Command::Trace(flags) => trace::run(*flags),
        Command::Plan(flags) => plan::run(*flags),
        Command::Metrics(flags) => metrics::run(&flags),
        Command::Cleanup => cleanup::run(),
        Command::Completions(flags) => completions::run(&flags),
        Command::Version => output::print(&format!("vipd {}\n", env!("CARGO_PKG_VERSION"))),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::note(&format!("vipd: {error}"));
            error.exit_code()
        }
    }
}
