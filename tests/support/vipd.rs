//! The program under test, as a process in the node's namespace.
//!
//! In: flags. Out: a guard that kills it when dropped; its log.
//! Never: a process outside of the case's namespaces.

use super::netns::{Netns, Said};
use super::plan::{CLUSTER_CIDRS, NODE_A, SERVICE_RANGES};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_vipd");

/// A flag and its value; later ones replace earlier ones of the same name.
pub type Flag = (&'static str, &'static str);

/// Who carries the Services that do not say so themselves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Carrier {
    #[default]
    Kernel,
    Relay,
}

impl Carrier {
    pub fn flags(self) -> &'static [Flag] {
        match self {
            Carrier::Kernel => &[],
            Carrier::Relay => &[("--proxy-mode", "userspace")],
        }
    }
}

/// The value of a default flag that is not to be given.
pub const LEFT_OUT: &str = "(left out)";

const DEFAULTS: [Flag; 4] = [
    ("--hostname-override", NODE_A),
    ("--detect-local-mode", "ClusterCIDR"),
    ("--cluster-cidr", CLUSTER_CIDRS),
    ("--service-cluster-ip-range", SERVICE_RANGES),
];

/// Arguments of `vipd run` on a directory.
pub fn arguments(manifests: &Path, flags: &[Flag]) -> Vec<String> {
    arguments_of(vec!["--manifests".to_owned(), manifests.display().to_string()], flags)
}

/// Arguments of `vipd run` on what these `source` flags name. An empty value is a flag without one.
pub fn arguments_of(source: Vec<String>, flags: &[Flag]) -> Vec<String> {
    let replaced = |name: &str| flags.iter().any(|(other, _)| *other == name);
    let kept = DEFAULTS.iter().filter(|(name, _)| !replaced(name));
    let mut arguments = vec!["run".to_owned()];
    arguments.extend(source);
    for (name, value) in kept.chain(flags).filter(|(_, value)| *value != LEFT_OUT) {
        arguments.push(if value.is_empty() {
            (*name).to_owned()
        } else {
            format!("{name}={value}")
        });
    }
    arguments
}

pub struct Vipd {
    child: Child,
    log: PathBuf,
}

impl Vipd {
    pub fn start(netns: &Netns, arguments: &[String], log: PathBuf) -> Vipd {
        let file = File::create(&log).expect("an own /run");
        let errors = file.try_clone().expect("a plain file");
        let child = netns.enter(|| {
            Command::new(PROGRAM)
                .args(arguments)
                .stdin(Stdio::null())
                .stdout(file)
                .stderr(errors)
                .spawn()
                .unwrap_or_else(|error| panic!("{PROGRAM}: {error}"))
        });
        Vipd { child, log }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Its exit status, once it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("own child")
    }

    /// Waits until it has ended by itself.
    #[track_caller]
    pub fn wait(&mut self, patience: Duration) -> ExitStatus {
        let end = Instant::now() + patience;
        loop {
            if let Some(status) = self.ended() {
                return status;
            }
            assert!(Instant::now() < end, "still running after {patience:?}:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().cast_signed()).expect("a pid is positive");
        kill_process(pid, signal).expect("own child");
    }

    /// At once, as by a crash.
    pub fn kill(mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }

    /// SIGTERM; its exit status. Fails if that takes longer than five seconds.
    #[track_caller]
    pub fn terminate(mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait(Duration::from_secs(5))
    }

    /// Resident memory in bytes.
    pub fn resident(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kilobytes = line.and_then(|line| line.trim().strip_suffix("kB"));
        kilobytes.and_then(|text| text.trim().parse::<u64>().ok()).unwrap_or(0) * 1024
    }
}

impl Drop for Vipd {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// One command of vipd in a namespace.
pub fn command(netns: &Netns, arguments: &str) -> Said {
    netns.try_sh(&format!("{PROGRAM} {arguments}"))
}
