//! Connection tracking values, in a directory that looks like a machine's.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;
use vipd::conntrack::{Changed, Error, Root, Sysctl, Sysctls, Wanted};

const ALL: [(Sysctl, &str); 7] = [
    (Sysctl::Max, "65536"),
    (Sysctl::Hashsize, "16384"),
    (Sysctl::TcpEstablished, "432000"),
    (Sysctl::TcpCloseWait, "60"),
    (Sysctl::TcpBeLiberal, "0"),
    (Sysctl::Udp, "30"),
    (Sysctl::UdpStream, "120"),
];

fn machine() -> TempDir {
    let directory = TempDir::new().expect("a directory");
    for (sysctl, value) in ALL {
        put(directory.path(), sysctl.path(), value);
    }
    put(directory.path(), "sys/devices/system/cpu/online", "0-2,5");
    directory
}

fn put(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().expect("a file in a directory")).expect("a directory");
    fs::write(path, format!("{text}\n")).expect("a file");
}

fn held(root: &Path, sysctl: Sysctl) -> String {
    fs::read_to_string(root.join(sysctl.path())).expect("it is there").trim().to_owned()
}

fn everything() -> Sysctls {
    let seconds = |seconds| Some(Duration::from_secs(seconds));
    Sysctls {
        max_per_core: Some(32_768),
        min: Some(100_000),
        tcp_established: seconds(86_400),
        tcp_close_wait: seconds(3600),
        udp: seconds(20),
        udp_stream: seconds(180),
        tcp_be_liberal: Some(true),
    }
}

fn wanted(sysctls: &Sysctls, root: &Root) -> Vec<Wanted> {
    sysctls.wanted(root.online_cpus())
}

#[test]
fn what_is_asked_for_is_written_and_then_right() {
    let machine = machine();
    let root = Root::of(machine.path());
    assert_eq!(root.online_cpus(), 4);
    let wanted = wanted(&everything(), &root);
    let outcomes = root.set(&wanted);
    let changed: Vec<Changed> = outcomes.into_iter().map(|one| one.expect("writable")).collect();
    let change =
        |sysctl: Sysctl, from, to| Changed { path: machine.path().join(sysctl.path()), from, to };
    let expected = [
        change(Sysctl::Max, 65_536, 131_072),
        change(Sysctl::Hashsize, 16_384, 32_768),
        change(Sysctl::TcpEstablished, 432_000, 86_400),
        change(Sysctl::TcpCloseWait, 60, 3600),
        change(Sysctl::TcpBeLiberal, 0, 1),
        change(Sysctl::Udp, 30, 20),
        change(Sysctl::UdpStream, 120, 180),
    ];
    assert_eq!(changed, expected);
    for (sysctl, value) in ALL.map(|(sysctl, _)| sysctl).into_iter().zip(expected) {
        assert_eq!(held(machine.path(), sysctl), value.to.to_string());
    }
    assert!(root.set(&wanted).is_empty(), "nothing is written twice");
}

#[test]
fn what_is_not_asked_for_stays() {
    let machine = machine();
    let root = Root::of(machine.path());
    let sysctls = Sysctls { udp: Some(Duration::from_secs(20)), ..Sysctls::default() };
    assert_eq!(root.set(&wanted(&sysctls, &root)).len(), 1);
    for (sysctl, value) in ALL {
        let value = if sysctl == Sysctl::Udp { "20" } else { value };
        assert_eq!(held(machine.path(), sysctl), value, "{sysctl:?}");
    }
}

#[test]
fn the_table_is_never_made_smaller() {
    let machine = machine();
    put(machine.path(), Sysctl::Max.path(), "1000000");
    put(machine.path(), Sysctl::Hashsize.path(), "250000");
    let root = Root::of(machine.path());
    let sysctls = Sysctls { min: Some(100_000), ..Sysctls::default() };
    assert!(root.set(&wanted(&sysctls, &root)).is_empty());
    // Enough entries, but too small a hash table for them: a start in between failed.
    put(machine.path(), Sysctl::Hashsize.path(), "1000");
    assert_eq!(root.set(&wanted(&sysctls, &root)).len(), 1);
    assert_eq!(held(machine.path(), Sysctl::Max), "1000000");
    assert_eq!(held(machine.path(), Sysctl::Hashsize), "25000");
}

fn refusals(root: &Root) -> Vec<String> {
    let outcomes = root.set(&wanted(&everything(), root));
    let text = |outcome: Result<Changed, Error>| outcome.expect_err("not writable").to_string();
    outcomes.into_iter().map(text).collect()
}

#[test]
fn values_that_are_not_there_are_told_one_by_one() {
    let machine = TempDir::new().expect("a directory");
    let refusals = refusals(&Root::of(machine.path()));
    // Without the number of entries there is nothing to size the hash table for.
    let named: Vec<PathBuf> = ALL
        .iter()
        .filter(|(sysctl, _)| *sysctl != Sysctl::Hashsize)
        .map(|(sysctl, _)| machine.path().join(sysctl.path()))
        .collect();
    assert_eq!(refusals.len(), named.len());
    for (text, path) in refusals.iter().zip(named) {
        assert!(text.contains(path.to_str().expect("ASCII")), "{text}");
        assert!(text.contains("No such file") && text.contains("nf_conntrack"), "{text}");
        assert!(!path.exists(), "a file was made");
    }
}

#[test]
fn a_value_that_is_no_number_is_left_alone() {
    let machine = machine();
    put(machine.path(), Sysctl::Udp.path(), "thirty");
    let root = Root::of(machine.path());
    let outcomes = root.set(&wanted(&everything(), &root));
    let refused: Vec<String> =
        outcomes.into_iter().filter_map(Result::err).map(|error| error.to_string()).collect();
    assert_eq!(refused.len(), 1);
    assert!(refused[0].contains("no number") && refused[0].contains("20"), "{}", refused[0]);
    assert_eq!(held(machine.path(), Sysctl::Udp), "thirty");
}

/// Root writes to files without write permission, so the mount must refuse.
#[test]
fn a_read_only_mount_is_told_with_value_and_reason() {
    use rustix::mount::{
        MountFlags, MountPropagationFlags, mount_bind, mount_change, mount_remount,
    };
    let machine = machine();
    let directory = machine.path().to_owned();
    let thread = std::thread::spawn(move || {
        // SAFETY: only the mount namespace of this new thread changes; file descriptors, the
        // concern of this function, stay shared.
        let entered =
            unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) };
        if let Err(error) = entered {
            eprintln!("SKIPPED: no mount namespace of its own: {error}");
            return;
        }
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        mount_change("/", private).expect("mounts of an own namespace");
        mount_bind(&directory, &directory).expect("a bind mount");
        mount_remount(&directory, MountFlags::BIND | MountFlags::RDONLY, "")
            .expect("a read-only mount");
        let refusals = refusals(&Root::of(&directory));
        assert_eq!(refusals.len(), ALL.len() - 1);
        assert!(refusals[0].contains("nf_conntrack_max is not set to 131072"), "{}", refusals[0]);
        for text in &refusals {
            assert!(text.contains("Read-only file system"), "{text}");
            assert!(text.contains("ProtectKernelTunables"), "{text}");
        }
        for (sysctl, value) in ALL {
            assert_eq!(held(&directory, sysctl), value);
        }
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}
