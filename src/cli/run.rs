//! `vipd run`: the daemon.

use super::Error;
use crate::app;
use crate::config::{Log, LogFormat, LogLevel, RunFlags};
use std::io;
use tracing_subscriber::filter::LevelFilter;

pub(super) fn run(flags: RunFlags) -> Result<(), Error> {
    let config = flags.check()?;
    log_to_stderr(config.log);
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    Ok(app::run(config)?)
}

fn log_to_stderr(log: Log) {
    let level = match log.level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let builder =
        tracing_subscriber::fmt().with_max_level(level).with_writer(io::stderr).with_target(false);
    match log.format {
        LogFormat::Text => {
            builder.with_ansi(io::IsTerminal::is_terminal(&io::stderr())).init();
        }
        LogFormat::Json => builder.json().init(),
    }
}
