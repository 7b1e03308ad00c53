//! A service at work: one node, a client pod, an outside host and nginx's pods, each in a network
//! namespace of its own; traffic from all of them while the service is scaled and rolled.
//!
//! In: the built `vipd` (beside this program, or `VIPD_BIN`), `examples/nginx`. Out: a line per
//! step; exit status 1 if anything is not as said. `KEEP=1` leaves everything running.
//! Never: anything in the network namespace that it was started in.

mod agent;
mod manifests;
mod story;
mod traffic;
mod world;

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

type Result<T> = std::result::Result<T, String>;

/// Set by Ctrl-C; every command and every wait looks at it.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Says that this process is inside the user namespace that it asked for.
const INSIDE: &str = "VDEMO_INSIDE";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["serve", name, at] => agent::serve(name, at),
        ["client", target, count, pause_ms] => agent::client(target, count, pause_ms),
        ["client", target, "until-answered"] => agent::until_answered(target),
        ["remove", id] => world::remove(id).map(|()| println!("{id} is removed")),
        [] => demo(),
        _ => Err("usage: demo | demo remove ID".to_owned()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            eprintln!("demo: {text}");
            ExitCode::FAILURE
        }
    }
}

fn demo() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Err(in_user_namespace());
    }
    if std::env::var_os(INSIDE).is_some() {
        // /run is the host's and a user cannot write there; `ip netns` keeps its names in it.
        world::run(Command::new("mount").args(["-t", "tmpfs", "tmpfs", "/run"]))?;
    }
    let id = format!("vdemo{}", std::process::id());
    let keep = std::env::var_os("KEEP").is_some_and(|value| !value.is_empty() && value != "0");

    let worker = {
        let id = id.clone();
        thread::spawn(move || story::tell(&id, keep))
    };
    let told = wait_or_interrupt(worker);
    if told.is_err() || !keep {
        world::remove(&id)?;
    }
    told
}

/// Waits for the story; on Ctrl-C tells it to stop, and waits until it did, so that nothing is
/// made while everything is removed.
fn wait_or_interrupt(worker: thread::JoinHandle<Result<()>>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("no runtime for signals: {error}"))?;
    runtime.block_on(async {
        use tokio::signal::unix::{SignalKind, signal};
        let watch = |kind| signal(kind).map_err(|error| format!("signals: {error}"));
        let mut interrupt = watch(SignalKind::interrupt())?;
        let mut terminate = watch(SignalKind::terminate())?;
        let mut hangup = watch(SignalKind::hangup())?;
        while !worker.is_finished() {
            tokio::select! {
                _ = interrupt.recv() => INTERRUPTED.store(true, Ordering::Relaxed),
                _ = terminate.recv() => INTERRUPTED.store(true, Ordering::Relaxed),
                _ = hangup.recv() => INTERRUPTED.store(true, Ordering::Relaxed),
                () = tokio::time::sleep(Duration::from_millis(20)) => {}
            }
        }
        worker.join().unwrap_or_else(|_| Err("a step panicked; see above".to_owned()))
    })
}

/// Starts this program again as root of a user namespace of its own. Returns only why that failed.
fn in_user_namespace() -> String {
    if std::env::var_os(INSIDE).is_some() {
        return "the user namespace did not make this process its root: run as root".to_owned();
    }
    let own = match std::env::current_exe() {
        Ok(path) => path,
        Err(error) => return format!("this program's path is unknown: {error}"),
    };
    println!("not root: going on in a user namespace (if that fails, run as root)");
    let error = Command::new("unshare").arg("-rnm").arg(own).env(INSIDE, "1").exec();
    format!("unshare: {error}. Run as root.")
}

fn check_interrupt() -> Result<()> {
    match INTERRUPTED.load(Ordering::Relaxed) {
        true => Err("interrupted".to_owned()),
        false => Ok(()),
    }
}

/// Sleeps, but not through Ctrl-C.
fn pause(length: Duration) -> Result<()> {
    let end = std::time::Instant::now() + length;
    loop {
        check_interrupt()?;
        let left = end.saturating_duration_since(std::time::Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        thread::sleep(left.min(Duration::from_millis(50)));
    }
}
