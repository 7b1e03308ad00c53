//! What a proxy holds, as /proc and `ss` tell. EDGE.

use crate::Outcome;
use crate::sites::Site;
use std::collections::BTreeMap;
use std::fs::File;
use std::process::Command;

/// Bytes.
#[derive(Debug, Clone, Copy)]
pub struct Held {
    pub resident: u64,
    pub proportional: u64,
    /// In its sockets: received, to be sent, allocated for more.
    pub sockets: u64,
    /// In its pipes, and what a pipe takes for itself.
    pub pipes: u64,
}

impl Held {
    pub fn of(site: &Site) -> Outcome<Self> {
        let at = format!("/proc/{}/smaps_rollup", site.daemon.id());
        let rollup = std::fs::read_to_string(at)?;
        let kib = |name: &str| -> Outcome<u64> {
            let line = rollup.lines().find_map(|line| line.strip_prefix(name));
            let value = line.and_then(|line| line.trim().strip_suffix(" kB"));
            Ok(value.ok_or_else(|| format!("no {name} in smaps_rollup"))?.trim().parse::<u64>()?
                * 1024)
        };
        Ok(Self {
            resident: kib("Rss:")?,
            proportional: kib("Pss:")?,
            sockets: sockets(site)?,
            pipes: pipes(site)?,
        })
    }

    pub fn all(&self) -> u64 {
        self.resident + self.sockets + self.pipes
    }
}

/// Of all TCP sockets in the node's namespace, where the proxy is alone. What the kernel keeps of a
/// socket without a byte in it is the same for every proxy, and not told by `ss`.
fn sockets(site: &Site) -> Outcome<u64> {
    let output = site.node.run(|| Ok(Command::new("ss").args(["-Htanm"]).output()?))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let memory = text.split("skmem:(").skip(1).filter_map(|rest| rest.split(')').next());
    let used = |fields: &str| -> u64 {
        // rmem, forward allocation, write queue, options; "rb" and "tb" are limits.
        let of = |field: &str| {
            let split = field.find(|c: char| c.is_ascii_digit()).unwrap_or(field.len());
            let (name, value) = field.split_at(split);
            matches!(name, "r" | "f" | "w" | "o").then(|| value.parse::<u64>().ok()).flatten()
        };
        fields.split(',').filter_map(of).sum()
    };
    Ok(memory.map(used).sum())
}

fn pipes(site: &Site) -> Outcome<u64> {
    /// `struct pipe_buffer`, one for each page of a pipe's size.
    const SLOT: u64 = 40;
    const PAGE: u64 = 4096;
    let mut total = 0;
    for (path, _) in files(site)?.into_iter().filter(|(_, target)| target.starts_with("pipe:")) {
        // It may have been closed meanwhile.
        let Ok(pipe) = File::open(path) else { continue };
        let size = rustix::pipe::fcntl_getpipe_size(&pipe)? as u64;
        // Both ends of it are met.
        total += (rustix::io::ioctl_fionread(&pipe)? + size / PAGE * SLOT) / 2;
    }
    Ok(total)
}

/// Open files: where they are seen, and what they are.
pub fn files(site: &Site) -> Outcome<BTreeMap<std::path::PathBuf, String>> {
    let directory = format!("/proc/{}/fd", site.daemon.id());
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if let Ok(target) = std::fs::read_link(&path) {
            files.insert(path, target.to_string_lossy().into_owned());
        }
    }
    Ok(files)
}

/// How many files of a kind (`socket`, `pipe`) are open.
pub fn count(site: &Site, kind: &str) -> Outcome<usize> {
    Ok(files(site)?.values().filter(|target| target.starts_with(kind)).count())
}
