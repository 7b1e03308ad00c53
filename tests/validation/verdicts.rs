//! The real kube-proxy's verdict on the configurations of the tables, each asked in a network namespace
//! of its own: it refuses at once, or goes on to its kubeconfig, which is not there.
//!
//! `cargo test --test verdicts -- FILTER`, `-- --list`. Where kube-proxy was not built all cases are
//! counted as ignored.

#[path = "../support/netns.rs"]
#[allow(dead_code, reason = "the cases of `netns` use more of it")]
mod netns;
#[path = "../nftables/runner.rs"]
#[allow(dead_code, reason = "the cases of `nftables` use more of it")]
mod runner;
#[path = "../support/sandbox.rs"]
mod sandbox;
mod table;

use netns::Netns;
use runner::Case;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    runner::main(("verdicts", built), &[("kube-proxy", CASES)])
}

const CASES: &[Case] = &[
    ("refuses and takes the files of the table, and kubeadm's", files),
    ("refuses and takes the command lines of the table", flags),
    ("writes the configuration that vipd writes", writes),
];

fn program() -> PathBuf {
    let var =
        |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = || var("XDG_CACHE_HOME").or_else(|| Some(var("HOME")?.join(".cache")));
    let peers = var("PEERS_DIR").or_else(|| Some(cache()?.join("vipd-peers")));
    peers.unwrap_or_default().join("kube-proxy")
}

fn built() -> Result<(), String> {
    let path = program();
    match path.exists() {
        true => Ok(()),
        false => Err(format!("{} is missing: it is built from its Go module", path.display())),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Taken,
    Refused,
}

/// What kube-proxy says of these flags. Where it goes on for long it has taken them too.
fn asked(node: &Netns, flags: &[&str]) -> (Verdict, String) {
    let mut command = Command::new("timeout");
    command.arg("30").arg(program()).args(flags);
    let output = node.enter(|| command.output()).expect("kube-proxy can be run");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let refused = ["failed validate", "failed complete", "initialize logging", "invalid argument"];
    let verdict = if refused.iter().any(|words| said.contains(words)) {
        assert!(!output.status.success(), "{flags:?}: {said}");
        Verdict::Refused
    } else {
        let went_on =
            said.contains("no such file or directory") || output.status.code() == Some(124);
        assert!(went_on, "{flags:?}: it neither refuses nor looks for its kubeconfig: {said}");
        Verdict::Taken
    };
    (verdict, said)
}

/// Fails with all that differ.
fn expect(node: &Netns, asks: impl Iterator<Item = (String, Vec<String>, Verdict)>) {
    let mut count = 0;
    let differ: Vec<String> = asks
        .filter_map(|(what, flags, wanted)| {
            count += 1;
            let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
            let (verdict, said) = asked(node, &flags);
            (verdict != wanted).then(|| format!("{what}: {verdict:?}, not {wanted:?}: {said}"))
        })
        .collect();
    assert!(differ.is_empty(), "{} of {count} differ:\n{}", differ.len(), differ.join("\n"));
    assert!(count > 20, "only {count} were asked");
    println!("  asked about {count} configurations");
}

fn files() {
    let node = runner::namespace();
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("config.conf");
    let flags = |more: &[&str]| {
        let file = format!("--config={}", path.display());
        [vec![file], more.iter().map(|flag| (*flag).to_owned()).collect()].concat()
    };
    std::fs::write(&path, table::KUBEADM).expect("it can be written");
    let kubeadm = flags(&[table::KUBEADM_FLAGS]);
    let kubeadm: Vec<&str> = kubeadm.iter().map(String::as_str).collect();
    assert_eq!(asked(&node, &kubeadm).0, Verdict::Taken);
    let asks = table::files().into_iter().flat_map(|clause| {
        let what = move |text: &String| format!("{}: {text}", clause.clause);
        let taken = clause.valid.into_iter().map(|text| (what(&text), text, Verdict::Taken));
        let own = clause.ours.into_iter().chain(clause.lenient);
        let refused = clause.invalid.into_iter().chain(own);
        let refused = refused.map(|text| (what(&text), text, Verdict::Refused));
        taken.chain(refused).collect::<Vec<_>>()
    });
    expect(
        &node,
        asks.map(|(what, text, wanted)| {
            table::write(&text, &path);
            (what, flags(&[]), wanted)
        }),
    );
    runner::remove(&node);
}

fn flags() {
    let node = runner::namespace();
    let asks = table::flags().into_iter().flat_map(|clause| {
        let what = move |line: &String| format!("{}: {line}", clause.clause);
        let taken = clause.valid.into_iter().map(|line| (what(&line), line, Verdict::Taken));
        let refused = clause.invalid.into_iter().chain(clause.lenient);
        let refused = refused.map(|line| (what(&line), line, Verdict::Refused));
        taken.chain(refused).collect::<Vec<_>>()
    });
    expect(
        &node,
        asks.map(|(what, line, wanted)| {
            let mut flags: Vec<String> = line.split(' ').map(str::to_owned).collect();
            flags.push("--kubeconfig=/nonexistent".to_owned());
            (what, flags, wanted)
        }),
    );
    runner::remove(&node);
}

/// Runs one of both with `--write-config-to`, and reads what it wrote.
fn written(node: &Netns, program: &Path, flags: &[&str]) -> Value {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("written.yaml");
    let mut command = Command::new(program);
    command.arg(format!("--write-config-to={}", path.display())).args(flags);
    let output = node.enter(|| command.output()).expect("it can be run");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{} {flags:?}: {said}", program.display());
    let text = std::fs::read_to_string(&path).expect("it has written a file");
    serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{flags:?}: {error}:\n{text}"))
}

/// The same but for what vipd's own defaults are: the mode, and the two fields of it that say
/// "the default" rather than kube-proxy's.
fn writes() {
    let node = runner::namespace();
    let vipd = Path::new(env!("CARGO_BIN_EXE_vipd"));
    for flags in [
        "--proxy-mode=nftables",
        "--proxy-mode=iptables --masquerade-all --iptables-sync-period=7s --bind-address=::",
        "--proxy-mode=ipvs --ipvs-sync-period=4s --ipvs-exclude-cidrs=10.0.0.0/8 --ipvs-strict-arp",
        "--proxy-mode=ipvs --ipvs-min-sync-period=3s --masquerade-all --ipvs-scheduler=lc",
        "--proxy-mode=nftables --masquerade-all --iptables-min-sync-period=3s -v=3 --logging-format=json \
         --cluster-cidr=10.0.0.0/8,fd00::/48 --nodeport-addresses=primary,10.0.0.0/8 --oom-score-adj=5 \
         --feature-gates=AllowServiceExternalIPs=false,AllBeta=true --kube-api-qps=2.5 --kubeconfig=/k \
         --healthz-bind-address=1.2.3.4:5 --conntrack-min=3 --conntrack-udp-timeout=90s --profiling \
         --detect-local-mode=BridgeInterface --pod-bridge-interface=cni0 --config-sync-period=1m \
         --show-hidden-metrics-for-version=1.36",
    ] {
        let flags: Vec<&str> = flags.split_whitespace().collect();
        let (mut theirs, ours) = (written(&node, &program(), &flags), written(&node, vipd, &flags));
        for section in ["iptables", "nftables", "ipvs"] {
            let own = &ours[section]["minSyncPeriod"];
            if own == "0s" && theirs[section]["minSyncPeriod"] == "1s" {
                theirs[section]["minSyncPeriod"] = own.clone();
            }
        }
        if ours["nodePortAddresses"].is_null() && theirs["mode"] == "nftables" {
            theirs["nodePortAddresses"] = Value::Null;
        }
        assert_eq!(ours, theirs, "{flags:?}");
    }
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("config.conf");
    table::write("mode: nftables\nportRange: 1000-2000\n", &path);
    let file = format!("--config={}", path.display());
    let [theirs, ours] = [&program(), vipd].map(|of| written(&node, of, &[&file]));
    assert_eq!((&ours["portRange"], &theirs["portRange"]), (&"".into(), &"".into()));
    runner::remove(&node);
}
