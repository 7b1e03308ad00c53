//! `vipd run`: the daemon.

use super::Error;
use crate::app;
use crate::config::{Log, LogFormat, LogLevel, RunFlags};
use std::env;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt as _;

pub(super) fn run(flags: RunFlags) -> Result<(), Error> {
    if flags.show_version {
        return super::version();
    }
    if let Some(path) = flags.write_config_to.clone().filter(|path| !path.as_os_str().is_empty()) {
        return write_config(&flags, path);
    }
    if flags.cleanup {
        return super::cleanup::run();
    }
    let (init_only, replace) = (flags.init_only, flags.replace);
    let config = flags.check()?;
    give_memory_back();
    let set_level = log_to_stderr(config.log);
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    if init_only {
        return Ok(app::initialise(&config)?);
    }
    Ok(app::run(config, launch(replace), set_level)?)
}

/// By its path where it was called by one: that may lead to another version by now, and a link is
/// followed anew.
fn launch(replace: bool) -> app::Launch {
    let mut arguments = env::args_os();
    let called = arguments.next().map(PathBuf::from).unwrap_or_default();
    let program = match called.is_absolute() {
        true => called,
        false => env::current_exe().unwrap_or(called),
    };
    app::Launch { replace, program, arguments: arguments.collect() }
}

fn write_config(flags: &RunFlags, path: PathBuf) -> Result<(), Error> {
    let text = flags.written()?;
    std::fs::write(&path, text).map_err(|error| Error::WriteConfig { path, error })
}

/// Lets the allocator return freed memory at once: it purges late, and only where it is at work, so
/// that what the first reading freed would stay with a quiet daemon. It reads its settings before
/// `main`, hence the same program once more, in the same process. Whoever set it otherwise knows why.
fn give_memory_back() {
    const PURGE_DELAY: &str = "MIMALLOC_PURGE_DELAY";
    if env::var_os(PURGE_DELAY).is_some() {
        return;
    }
    let mut arguments = env::args_os();
    if let (Some(name), Ok(program)) = (arguments.next(), env::current_exe()) {
        // Returns only if it fails: then the daemon is as good, but for some megabytes.
        let _ = Command::new(program).arg0(name).args(arguments).env(PURGE_DELAY, "0").exec();
    }
}

/// Returns what sets another level later.
fn log_to_stderr(log: Log) -> app::SetLevel {
    let (filter, handle) = reload::Layer::new(filter(log.level));
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr).with_target(false);
    let all = tracing_subscriber::registry().with(filter);
    match log.format {
        LogFormat::Text => {
            let ansi = io::IsTerminal::is_terminal(&io::stderr());
            all.with(lines.with_ansi(ansi)).init();
        }
        LogFormat::Json => all.with(lines.json()).init(),
    }
    Box::new(move |level| {
        if let Err(error) = handle.reload(self::filter(level)) {
            tracing::warn!("the log stays at its level: {error}");
        }
    })
}

fn filter(level: LogLevel) -> Targets {
    let level = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    // What the client of the API server says of its failures, the follower says with what to check.
    let client = if level >= LevelFilter::DEBUG { level } else { LevelFilter::OFF };
    let targets = Targets::new().with_default(level);
    targets.with_target("kube_client", client).with_target("kube_runtime", client)
}
