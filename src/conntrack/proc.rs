//! Reads and sets the kernel's connection tracking values. EDGE: files of /proc and /sys.
//!
//! /proc/sys/net shows the network namespace of the thread that looks.

use super::netlink::{Error, Table};
use super::sysctls::{Sysctl, Sysctls, Wanted, count_cpus};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

const ONLINE_CPUS: &str = "sys/devices/system/cpu/online";
const TCP_LOOSE: &str = "proc/sys/net/netfilter/nf_conntrack_tcp_loose";

/// The directory that holds `proc` and `sys`.
#[derive(Debug, Clone)]
pub struct Root(PathBuf);

/// A value that was changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    pub path: PathBuf,
    pub from: u64,
    pub to: u64,
}

/// Sets what is asked for, in the network namespace of the calling thread, and logs what was
/// changed and what could not be, which it returns. Nothing of it keeps anybody from serving.
pub fn set_sysctls(sysctls: &Sysctls) -> Vec<Error> {
    let root = Root::of(Path::new("/"));
    let wanted = sysctls.wanted(root.online_cpus());
    let mut refused = Vec::new();
    if wanted.is_empty() {
        return refused;
    }
    if !root.0.join(Sysctl::Max.path()).exists()
        && let Err(error) = Table::open().and_then(|mut table| table.load())
    {
        tracing::warn!("loading connection tracking: {error}");
    }
    for outcome in root.set(&wanted) {
        match outcome {
            Ok(Changed { path, from, to }) => {
                tracing::info!(file = %path.display(), from, to, "connection tracking set");
            }
            Err(error) => {
                tracing::warn!("{error}");
                refused.push(error);
            }
        }
    }
    refused
}

/// Whether connections whose beginning was not seen are tracked (`nf_conntrack_tcp_loose`).
pub(super) fn picks_up_connections() -> bool {
    // A kernel that does not say does what it does by default.
    Root::of(Path::new("/")).read(Path::new(TCP_LOOSE)).map_or(true, |loose| loose != 0)
}

impl Root {
    pub fn of(directory: &Path) -> Self {
        Self(directory.to_owned())
    }

    /// Writes what is not as wanted. What could not be written says why; for what is right already
    /// there is nothing in the answer.
    pub fn set(&self, wanted: &[Wanted]) -> Vec<Result<Changed, Error>> {
        let mut outcomes = Vec::new();
        let mut has_room = true;
        for &one in wanted {
            if one.sysctl == Sysctl::Hashsize && !has_room {
                continue;
            }
            let outcome = self.set_one(one);
            has_room &= !(one.sysctl == Sysctl::Max && outcome.is_err());
            outcomes.extend(outcome.transpose());
        }
        outcomes
    }

    fn set_one(&self, wanted: Wanted) -> Result<Option<Changed>, Error> {
        let path = self.0.join(wanted.sysctl.path());
        let refused = |source| Error::Sysctl {
            file: self.0.join(wanted.sysctl.path()),
            value: wanted.value,
            hint: hint(wanted.sysctl, &source),
            source,
        };
        let current = self.read(Path::new(wanted.sysctl.path())).map_err(refused)?;
        if wanted.is_met_by(current) {
            return Ok(None);
        }
        // Opened without O_CREAT: in a wrong place a new file would look like success.
        let mut options = fs::OpenOptions::new();
        let mut file = options.write(true).truncate(true).open(&path).map_err(refused)?;
        io::Write::write_all(&mut file, wanted.value.to_string().as_bytes()).map_err(refused)?;
        Ok(Some(Changed { path, from: current, to: wanted.value }))
    }

    fn read(&self, path: &Path) -> io::Result<u64> {
        let text = fs::read_to_string(self.0.join(path))?;
        let no_number = || io::Error::new(io::ErrorKind::InvalidData, "it holds no number");
        text.trim().parse().map_err(|_| no_number())
    }

    /// Of the machine, whatever this process may use of it.
    pub fn online_cpus(&self) -> u32 {
        let listed = fs::read_to_string(self.0.join(ONLINE_CPUS)).ok();
        let usable = || std::thread::available_parallelism().map_or(1, |count| count.get() as u32);
        listed.and_then(|list| count_cpus(&list)).unwrap_or_else(usable)
    }
}

/// What to look at, as far as the error tells.
fn hint(sysctl: Sysctl, error: &io::Error) -> &'static str {
    match (error.kind(), sysctl) {
        (io::ErrorKind::ReadOnlyFilesystem, _) => {
            "a container needs a writable mount of it, a systemd unit ProtectKernelTunables=no; or \
             set it outside"
        }
        // 6.18: read-only files, and EOPNOTSUPP for the hash table.
        (
            io::ErrorKind::PermissionDenied | io::ErrorKind::Unsupported,
            Sysctl::Max | Sysctl::Hashsize,
        ) => {
            "the table is one for all network namespaces, and only root in the first may size it: \
             set it there"
        }
        (io::ErrorKind::PermissionDenied, _) => {
            "it takes CAP_NET_ADMIN in the user namespace that owns this network namespace"
        }
        (io::ErrorKind::NotFound, _) => "is the kernel module nf_conntrack there?",
        _ => "set it outside, or leave it alone",
    }
}
