//! Whether kube-proxy still runs. EDGE: reads /proc.
//!
//! In: the processes that this one can see. Out: those called kube-proxy that may write rules here.
//! Never: a signal; a guess at a proxy inside another program (k3s), or in a container whose
//! processes are not seen from here.

use super::names::OWN_TABLE;
use std::fs;
use std::io;
use std::path::Path;

/// A process called kube-proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process {
    pub pid: u32,
    pub place: Place,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// In the network namespace of this thread.
    Here,
    /// Its namespace cannot be read: without CAP_SYS_PTRACE, that of a process with more
    /// capabilities.
    Unknown,
}

/// Sorted by pid. Empty where processes cannot be listed.
pub fn running() -> Vec<Process> {
    let own = fs::read_link("/proc/thread-self/ns/net").ok();
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let mut found: Vec<Process> = entries
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let pid = path.file_name()?.to_str()?.parse().ok()?;
            // The name of the program that was executed, cut at 15 bytes.
            let name = fs::read_to_string(path.join("comm")).ok()?;
            (name.trim_end() == OWN_TABLE).then_some(())?;
            let place = match (namespace(&path), &own) {
                (Ok(theirs), Some(own)) if theirs == *own => Place::Here,
                (Ok(_), Some(_)) => return None,
                (Err(error), _) if error.kind() == io::ErrorKind::NotFound => return None,
                _ => Place::Unknown,
            };
            Some(Process { pid, place })
        })
        .collect();
    found.sort_by_key(|process| process.pid);
    found
}

fn namespace(process: &Path) -> io::Result<std::path::PathBuf> {
    fs::read_link(process.join("ns/net"))
}
