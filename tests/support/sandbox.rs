//! Namespaces of the test process itself, so that nothing reaches the host.
//!
//! In: which way to use. Out: a process that is root in user, network and mount namespaces of
//! its own, with an empty `/run`.
//! Never: a change outside of those namespaces; a second thread before they are entered.

use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::thread::UnshareFlags;
use std::fs;
use std::process::{Command, Stdio};

/// How the namespaces are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// By anyone, inside a user namespace.
    Rootless,
    /// By root, where the kernel or its security module refuses user namespaces.
    Root,
}

impl Way {
    pub fn flag(self) -> &'static str {
        match self {
            Way::Rootless => "rootless",
            Way::Root => "root",
        }
    }

    pub fn from_flag(flag: &str) -> Option<Way> {
        [Way::Rootless, Way::Root].into_iter().find(|way| way.flag() == flag)
    }
}

/// Moves this process into its own namespaces. Only before any thread exists: a user namespace
/// is refused to a process with threads.
pub fn enter(way: Way) -> Result<(), String> {
    let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    let mut flags = UnshareFlags::NEWNET | UnshareFlags::NEWNS;
    if way == Way::Rootless {
        flags |= UnshareFlags::NEWUSER;
    }
    unshare(flags).map_err(|error| format!("unshare: {error}"))?;
    if way == Way::Rootless {
        write("/proc/self/setgroups", "deny")?;
        write("/proc/self/uid_map", &format!("0 {uid} 1"))?;
        write("/proc/self/gid_map", &format!("0 {gid} 1"))?;
    }
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(|error| format!("making mounts private: {error}"))?;
    mount("tmpfs", "/run", "tmpfs", MountFlags::empty(), None)
        .map_err(|error| format!("mounting an own /run: {error}"))
}

#[expect(
    deprecated,
    reason = "unsound only with UnshareFlags::FILES, which is not used; keeps the tests free of unsafe"
)]
fn unshare(flags: UnshareFlags) -> rustix::io::Result<()> {
    debug_assert!(!flags.contains(UnshareFlags::FILES), "would need an unsafe contract");
    rustix::thread::unshare(flags)
}

fn write(path: &str, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|error| format!("{path}: {error}"))
}

/// Runs inside the new namespaces: everything that the harness needs works here.
pub fn probe(way: Way) -> Result<(), String> {
    enter(way)?;
    for command in [
        "ip netns add probe",
        "ip -n probe link add v0 type veth peer name v1",
        "nft add table inet probe",
        "nft list tables",
        "conntrack -C",
    ] {
        let output = Command::new("sh").args(["-c", command]).output();
        match output {
            Ok(output) if output.status.success() => {}
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stderr);
                return Err(format!("`{command}`: {}", said.trim()));
            }
            Err(error) => return Err(format!("`{command}`: {error}")),
        }
    }
    let sysctl = "/proc/sys/net/ipv4/ip_forward";
    write(sysctl, "1")
}

/// Asks child processes which way works here; the reasons if none does.
pub fn find_way() -> Result<Way, String> {
    let mut reasons = Vec::new();
    for way in [Way::Rootless, Way::Root] {
        let probe = Command::new("/proc/self/exe")
            .args(["--probe", way.flag()])
            .stdin(Stdio::null())
            .output()
            .map_err(|error| format!("cannot start itself: {error}"))?;
        if probe.status.success() {
            return Ok(way);
        }
        reasons.push(format!("{}: {}", way.flag(), String::from_utf8_lossy(&probe.stderr).trim()));
    }
    Err(reasons.join("; "))
}
