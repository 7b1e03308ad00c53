//! What the benchmarks of whole systems share: how much of one is run, and how it ends.

use std::process::ExitCode;

/// The harness has no one to recover for it: errors are printed with what they were about.
pub type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// Small shapes and few rounds: does it work, and is it in the right region.
    Quick,
    Full,
}

impl Effort {
    pub fn pick<T>(self, quick: T, full: T) -> T {
        match self {
            Effort::Quick => quick,
            Effort::Full => full,
        }
    }
}

/// The exit status of the benchmark `name`. A bar that is missed is no failure.
pub fn exit(name: &str, outcome: Outcome<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{name}: {error}");
            ExitCode::from(2)
        }
    }
}
