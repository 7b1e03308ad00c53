//! `vipd run`, or who stands in its place, as a process in a namespace. EDGE.
//!
//! In: manifests, or a command. Out: what the process costs, and when the kernel holds everything.
//! Never: an answer of the daemon about itself where the kernel or /proc can be asked.

use crate::Outcome;
use crate::generate::{NODES, POD_RANGE, SERVICE_RANGE};
use crate::manifests::Manifests;
use crate::nft::Census;
use crate::world::Namespace;
use rustix::process::{Pid, Signal, kill_process};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const SOCKET: &str = "admin.sock";

#[derive(Debug)]
pub struct Daemon {
    child: Child,
    pub started: Instant,
    files: TempDir,
}

/// When a table's element count came to rest.
#[derive(Debug, Clone, Copy)]
pub struct Rest {
    pub at: Instant,
    pub elements: u64,
}

impl Daemon {
    pub fn start(namespace: &Namespace, manifests: &Manifests) -> Outcome<Self> {
        let socket = tempfile::Builder::new().prefix("vipd-bench-").tempdir()?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_vipd"));
        command
            .arg("run")
            .arg("--manifests")
            .arg(manifests.path())
            .args(["--hostname-override", NODES[0], "--cluster-cidr", POD_RANGE])
            .args(["--service-cluster-ip-range", SERVICE_RANGE, "--log-level", "warn"])
            .arg("--admin-socket")
            .arg(socket.path().join(SOCKET));
        Self::spawn(namespace, &mut command, socket)
    }

    /// Runs this command. `files` are its own, and go with it.
    pub fn spawn(namespace: &Namespace, command: &mut Command, files: TempDir) -> Outcome<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let started = Instant::now();
        let child = namespace.run(|| Ok(command.spawn()?))?;
        Ok(Self { child, started, files })
    }

    /// Waits until at least `expected` elements are held and their number has not changed for a
    /// while; says when it last did.
    pub fn settled(&mut self, census: &mut Census, expected: u64) -> Outcome<Rest> {
        const QUIET: Duration = Duration::from_millis(1_500);
        const PATIENCE: Duration = Duration::from_secs(120);
        let mut rest = Rest { at: Instant::now(), elements: 0 };
        loop {
            let elements = census.total()?;
            let now = Instant::now();
            if elements != rest.elements {
                rest = Rest { at: now, elements };
            } else if elements >= expected && now - rest.at > QUIET {
                return Ok(rest);
            }
            if let Some(status) = self.child.try_wait()? {
                return Err(format!("the daemon ended: {status}").into());
            }
            if now - self.started > PATIENCE {
                return Err(format!("{elements} of {expected} elements after 2 minutes").into());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Seconds from the start until the daemon says that the kernel holds its plan. For when there
    /// may be nothing to write, so that the kernel announces nothing.
    pub fn synced(&self, patience: Duration) -> Outcome<f64> {
        while self.started.elapsed() < patience {
            if let Ok(status) = self.status()
                && !status["lastSuccess"].is_null()
            {
                return Ok(self.started.elapsed().as_secs_f64());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Err("vipd did not come to hold its plan".into())
    }

    fn status(&self) -> Outcome<serde_json::Value> {
        let mut stream = UnixStream::connect(self.files().join(SOCKET))?;
        stream.write_all(b"GET /v1/status HTTP/1.0\r\nHost: vipd\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let body = answer.split_once("\r\n\r\n").ok_or("the admin socket does not speak HTTP")?.1;
        Ok(serde_json::from_str(body)?)
    }

    /// What it was given at [`Daemon::spawn`].
    pub fn files(&self) -> &Path {
        self.files.path()
    }

    #[allow(dead_code, reason = "`relay` uses it")]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// A line of /proc/PID/status in kB (`VmRSS`, `VmHWM`).
    pub fn memory(&self, line: &str) -> Outcome<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let value = status.lines().find_map(|l| l.strip_prefix(line)?.strip_prefix(':'));
        let number = value.and_then(|v| v.trim().strip_suffix(" kB"));
        Ok(number.ok_or_else(|| format!("no {line} of the daemon"))?.parse()?)
    }

    /// CPU seconds so far of all threads, and of what it ran that has ended, in ticks of 10 ms.
    pub fn cpu_seconds(&self) -> Outcome<f64> {
        cpu_seconds_of(&self.child.id().to_string())
    }

    /// As a crash ends it.
    pub fn kill(mut self) -> Outcome<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// As an operator ends it: the rules stay.
    pub fn terminate(mut self) -> Outcome<()> {
        self.signal(Signal::TERM)?;
        let status = self.child.wait()?;
        if status.success() { Ok(()) } else { Err(format!("on SIGTERM: {status}").into()) }
    }

    pub fn signal(&self, signal: Signal) -> Outcome<()> {
        let pid = Pid::from_raw(self.child.id() as i32).ok_or("a daemon has a process id")?;
        Ok(kill_process(pid, signal)?)
    }
}

/// Of a process: its number, or `self`.
pub fn cpu_seconds_of(process: &str) -> Outcome<f64> {
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    // Fields are counted behind the command's name, which may hold anything.
    let fields = stat.rsplit(')').next().unwrap_or("").split_ascii_whitespace();
    let ticks: Vec<f64> = fields.skip(11).take(4).flat_map(str::parse).collect();
    Ok(ticks.iter().sum::<f64>() / TICKS_PER_SECOND)
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Ended already, as a rule; then both fail and that is well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
