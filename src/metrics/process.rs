//! What the kernel says of this process. EDGE: files of /proc.

use rustix::process::{Resource, getrlimit};
use std::fs;

/// Ticks of a second in /proc, on every architecture (`USER_HZ`).
const TICKS: f64 = 100.0;

/// As Prometheus' client libraries name them.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Process {
    /// User and system, in seconds.
    pub cpu: f64,
    /// Seconds since 1970.
    pub started: f64,
    /// Bytes
    pub resident: u64,
    /// Bytes
    pub virtual_size: u64,
    /// Bytes (`RLIMIT_AS`); `None`: no limit.
    pub max_virtual: Option<u64>,
    pub open_files: u64,
    /// `None`: no limit.
    pub max_files: Option<u64>,
}

impl Process {
    /// `None` where /proc does not say.
    pub(super) fn read() -> Option<Self> {
        let read = |path: &str| fs::read_to_string(path).ok();
        let of = of(&read("/proc/self/stat")?, &read("/proc/self/status")?, &read("/proc/stat")?)?;
        // One of them is the listing itself.
        let open_files = fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1) as u64;
        Some(Self {
            open_files,
            max_files: getrlimit(Resource::Nofile).current,
            max_virtual: getrlimit(Resource::As).current,
            ..of
        })
    }
}

fn of(stat: &str, status: &str, machine: &str) -> Option<Process> {
    // The name of the program stands in brackets, and may hold anything.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    // proc_pid_stat(5) counts from 1, and two fields are before these.
    let ticks = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
    let line = |text: &str, name: &str| {
        let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
        rest.split_whitespace().next()?.parse::<u64>().ok()
    };
    Some(Process {
        cpu: (ticks(14)? + ticks(15)?) / TICKS,
        started: line(machine, "btime ")? as f64 + ticks(22)? / TICKS,
        resident: line(status, "VmRSS:")? * 1024,
        virtual_size: line(status, "VmSize:")? * 1024,
        ..Process::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_proc_says() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194304 10 0 0 0 150 50 0 0 20 0 3 0 4200 9 9 0";
        let status = "Name:\ta) b\nVmSize:\t    2048 kB\nVmRSS:\t    1024 kB\n";
        let process = of(stat, status, "cpu 1 2\nbtime 1700000000\n").unwrap();
        let expected = Process {
            cpu: 2.0,
            started: 1_700_000_042.0,
            resident: 1 << 20,
            virtual_size: 2 << 20,
            ..Process::default()
        };
        assert_eq!(process, expected);
        assert_eq!(of("7 (x) S 1", status, ""), None);
    }

    #[test]
    fn this_process_has_open_files_and_a_past() {
        let process = Process::read().expect("there is a /proc");
        assert!(process.open_files > 2 && process.resident > 1 << 20, "{process:?}");
        assert!(process.started > 1_600_000_000.0, "{process:?}");
    }
}
