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

/// The first one maps all ids, to themselves.
fn is_first_user_namespace() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.split_whitespace().eq(["0", "0", "4294967295"])
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

/// The one way to try, where the environment names it.
const WAY: &str = "NETNS_WAY";

/// Whether the environment asks for namespaces without a user namespace: then nothing limits what
/// a socket may send, and vipd makes its sets as for a root daemon.
pub fn is_root_asked_for() -> bool {
    std::env::var(WAY).is_ok_and(|way| way == Way::Root.flag())
}

/// Asks child processes which way works here; the reasons if none does.
pub fn find_way() -> Result<Way, String> {
    let asked = std::env::var(WAY).unwrap_or_default();
    let ways = match Way::from_flag(&asked) {
        Some(way) => vec![way],
        None if asked.is_empty() => vec![Way::Rootless, Way::Root],
        None => return Err(format!("{WAY}={asked} is neither rootless nor root")),
    };
    if is_root_asked_for() && !is_first_user_namespace() {
        return Err("root: this is a user namespace, where socket buffers are limited".into());
    }
    let mut reasons = Vec::new();
    for way in ways {
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

/// The last line of a run in which nothing could be tested.
pub fn tell_skipped(tests: &str, count: usize, reason: &str) {
    println!(
        "!!!! {tests}: ALL {count} CASES SKIPPED, NOTHING WAS TESTED: \
         no namespaces can be made here ({reason}) !!!!\n"
    );
}
