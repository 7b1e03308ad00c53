//! Why a command did not do what it was asked.

use crate::admin::ClientError;
use crate::{app, config, planner, sources};
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Config(#[from] config::Error),
    #[error(transparent)]
    Manifests(#[from] sources::manifests::Error),
    #[error(transparent)]
    Daemon(#[from] ClientError),
    #[error(transparent)]
    Trace(#[from] planner::TraceError),
    #[error(transparent)]
    App(#[from] app::Error),
    #[error("{0}")]
    NotFound(String),
    #[error("{0}")]
    Usage(String),
    #[error("cannot write to standard output: {0}")]
    Output(io::Error),
    #[error("cannot write the answer as {format}: {reason}")]
    Format { format: &'static str, reason: String },
    #[error("--write-config-to {}: {error}; check its directory, and that this user may write there", path.display())]
    WriteConfig { path: PathBuf, error: io::Error },
    #[error("cannot start: {0}; check the limits on threads and open files")]
    Runtime(io::Error),
}

impl Error {
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Error::NotFound(_)
            | Error::Daemon(ClientError::NotFound(_))
            | Error::Output(_)
            | Error::Format { .. } => ExitCode::from(1),
            Error::Config(_)
            | Error::Manifests(_)
            | Error::Daemon(_)
            | Error::Trace(_)
            | Error::App(_)
            | Error::Usage(_)
            | Error::WriteConfig { .. }
            | Error::Runtime(_) => ExitCode::from(2),
        }
    }
}
