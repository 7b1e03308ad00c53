//! Namespaces around everything, so that nothing reaches the host or outlives its end.
//!
//! ```text
//! this program ──(stdin, stdout)── itself again, as the first process of a pid namespace
//!   waits, prints                    tells the story; with it the kernel ends everything else
//! ```
//! In: a story. Out: its lines, its exit status.
//! Never: a process, mount, file or link that stays, whatever kills whom; but with `KEEP=1`.

use super::Result;
use super::sandbox::{self, Way};
use rustix::mount::{MountFlags, mount};
use rustix::thread::UnshareFlags;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

pub const PROBE: &str = "--probe";
pub const INSIDE: &str = "--inside";

/// A line from inside: the story is told, and everything goes on.
const KEPT: &str = "\u{1}kept";
/// What the story writes where only the outside knows what belongs there: the first process inside,
/// and a command that enters its namespaces.
pub const PID: &str = "{pid}";
pub const ENTER: &str = "{enter}";

static IS_KEPT: AtomicBool = AtomicBool::new(false);

/// Whether these namespaces can be made here, said by the exit status.
pub fn probe(way: &str) -> Result<ExitCode> {
    let way = Way::from_flag(way).ok_or_else(|| format!("{way}: no such way"))?;
    sandbox::probe(way).map(|()| ExitCode::SUCCESS)
}

fn own() -> Result<Command> {
    let own = std::env::current_exe().map_err(|e| format!("this program's path: {e}"))?;
    Ok(Command::new(own))
}

/// Root's way needs no user namespace; anybody else's does.
fn way() -> Result<Way> {
    let ways: &[Way] = match rustix::process::geteuid().is_root() {
        true => &[Way::Root, Way::Rootless],
        false => &[Way::Rootless],
    };
    let mut reasons = Vec::new();
    for way in ways {
        let probe = own()?
            .args([PROBE, way.flag()])
            .stdin(Stdio::null())
            .output()
            .map_err(|error| format!("cannot start itself: {error}"))?;
        if probe.status.success() {
            return Ok(*way);
        }
        reasons.push(format!("{}: {}", way.flag(), String::from_utf8_lossy(&probe.stderr).trim()));
    }
    Err(format!("no namespaces can be made here; run as root ({})", reasons.join("; ")))
}

/// Outside: starts itself inside, and passes on what that says.
pub fn run() -> Result<ExitCode> {
    let way = way()?;
    sandbox::enter(way)?;
    new_pid_namespace()?;
    let piped = |error| format!("a pipe: {error}");
    let (lines, writer) = std::io::pipe().map_err(piped)?;
    let errors = writer.try_clone().map_err(piped)?;
    // A group of its own, because Ctrl-C is answered here: whoever is inside then loses its input.
    let mut command = own()?;
    // Nobody in there can reach a proxy.
    for name in ["http_proxy", "https_proxy", "all_proxy"] {
        command.env_remove(name).env_remove(name.to_uppercase());
    }
    command.arg(INSIDE).process_group(0).stdin(Stdio::piped()).stdout(writer).stderr(errors);
    let mut inside = command.spawn().map_err(|error| format!("cannot start itself: {error}"))?;
    // It holds the other end of the pipe, which would then have no end.
    drop(command);
    let enter = match way {
        Way::Root => format!("nsenter -m -n -p -t {}", inside.id()),
        Way::Rootless => format!("nsenter -U --preserve-credentials -m -n -p -t {}", inside.id()),
    };
    for line in BufReader::new(lines).lines().map_while(std::result::Result::ok) {
        if line == KEPT {
            return Ok(ExitCode::SUCCESS);
        }
        let line = line.replace(ENTER, &enter).replace(PID, &inside.id().to_string());
        // A reader that has gone takes everything with it.
        writeln!(std::io::stdout(), "{line}").map_err(|error| format!("output: {error}"))?;
    }
    let status = inside.wait().map_err(|error| format!("the story: {error}"))?;
    match status.success() {
        true => Ok(ExitCode::SUCCESS),
        false => Err(format!("failed, see above ({status})")),
    }
}

#[expect(
    deprecated,
    reason = "unsound only with UnshareFlags::FILES, which is not used; needs no unsafe"
)]
fn new_pid_namespace() -> Result<()> {
    // This process stays where it is, and can make no threads any more; its next child is the first
    // one there.
    rustix::thread::unshare(UnshareFlags::NEWPID).map_err(|error| format!("unshare: {error}"))
}

/// Inside: tells the story, and goes on for ever where it says so.
pub fn inside(story: impl FnOnce() -> Result<Kept>) -> Result<ExitCode> {
    // Where it is refused (some containers cover parts of /proc), the outside's numbers are seen.
    let _ = mount("proc", "/proc", "proc", MountFlags::empty(), None);
    thread::spawn(|| {
        for _ in std::io::stdin().lines() {}
        if !IS_KEPT.load(Ordering::SeqCst) {
            // Whoever waited has gone. With the first process of its namespace all others end.
            std::process::exit(130);
        }
    });
    match story()? {
        Kept::No => Ok(ExitCode::SUCCESS),
        Kept::Yes(_everything) => {
            IS_KEPT.store(true, Ordering::SeqCst);
            println!("{KEPT}");
            loop {
                thread::park();
            }
        }
    }
}

/// What becomes of the cluster after the story.
pub enum Kept {
    No,
    Yes(Box<super::cluster::Cluster>),
}
