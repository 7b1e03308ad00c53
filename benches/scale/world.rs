//! Network namespaces that vanish with the process, whatever ends it. EDGE.
//!
//! In: commands and work to do inside. Out: their results.
//! Never: a name under /run/netns, or any touch of the namespace that the bench was started in.

use crate::Outcome;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::process::{Command, Stdio};

/// A network namespace. Only this file descriptor holds it (and what still runs inside), so that
/// nothing is left to delete after a panic or a kill.
#[derive(Debug)]
pub struct Namespace {
    file: File,
}

impl Namespace {
    pub fn new() -> Outcome<Self> {
        // A short-lived child makes the namespace, for unshare(2) is not a safe call in Rust.
        let mut child = Command::new("unshare")
            .args(["--net", "sh", "-c", "ip link set lo up && echo ready && read wait"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| format!("unshare (util-linux): {e}"))?;
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        let file = File::open(format!("/proc/{}/ns/net", child.id()));
        drop(child.stdin.take());
        child.wait()?;
        if line.trim() != "ready" {
            return Err("no new network namespace: is this run as root?".into());
        }
        Ok(Self { file: file? })
    }

    /// Moves the calling thread in, for good.
    pub fn enter(&self) -> Outcome<()> {
        Ok(move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network))?)
    }

    /// Runs `work` on a thread inside. Sockets and processes made there stay inside.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> Outcome<T> + Send) -> Outcome<T> {
        std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    self.enter()?;
                    work()
                })
                .join()
                .unwrap_or_else(|_| Err("a measuring thread panicked".into()))
        })
    }

    /// A path that opens this namespace, for `ip link … netns`.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd())
    }

    /// Feeds a ruleset to the `nft` tool.
    pub fn nft(&self, ruleset: &str) -> Outcome<String> {
        self.run(|| feed(Command::new("nft").args(["-f", "-"]), ruleset))
    }

    /// Runs `ip` with one command per line.
    pub fn ip(&self, commands: &str) -> Outcome<String> {
        self.run(|| feed(Command::new("ip").args(["-batch", "-"]), commands))
    }

    /// Writes a sysctl of this namespace (`net/ipv4/ip_forward`).
    pub fn sysctl(&self, name: &str, value: &str) -> Outcome<()> {
        self.run(|| {
            std::fs::write(format!("/proc/sys/{name}"), value)
                .map_err(|e| format!("sysctl {name}: {e}").into())
        })
    }
}

fn feed(command: &mut Command, input: &str) -> Outcome<String> {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        let program = command.get_program().to_string_lossy();
        return Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
