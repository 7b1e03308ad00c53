//! Each clause of kube-proxy's validation: configurations that it takes and refuses, and vipd's verdict.
//!
//! `validation/verdicts.rs` asks the real kube-proxy about the same tables.

#[path = "validation/table.rs"]
mod table;

use std::path::Path;
use std::process::Command;
use table::{KUBEADM, KUBEADM_FLAGS};

/// Its exit code, and what it says on either output.
fn vipd(arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vipd"));
    command.args(arguments);
    for (name, _) in
        std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("VIPD_"))
    {
        command.env_remove(name);
    }
    let output = command.output().expect("vipd can be run");
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&text).into_owned())
}

fn with_file(path: &Path, flags: &[&str]) -> (Option<i32>, String) {
    let file = format!("--config={}", path.display());
    vipd(&[["config", &file].as_slice(), flags].concat())
}

/// The field that a table's text gives a value: `b` of `a: {b: c}`.
fn innermost(text: &str) -> &str {
    let (before, _) = text.rsplit_once(": ").expect("a field and its value");
    before.rsplit(['{', ' ']).next().expect("a name")
}

#[test]
fn files_have_the_verdict_of_their_clause() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.conf");
    for clause in table::files() {
        for text in clause.valid.iter().chain(&clause.lenient) {
            table::write(text, &path);
            let (code, said) = with_file(&path, &[]);
            assert_eq!(code, Some(0), "{}: {text}: {said}", clause.clause);
        }
        for text in &clause.invalid {
            table::write(text, &path);
            let (code, said) = with_file(&path, &[]);
            assert_eq!(code, Some(2), "{}: {text}: {said}", clause.clause);
            assert!(said.contains(path.to_str().unwrap()), "{text}: the file is not named: {said}");
            let field = clause.field.as_deref().unwrap_or_else(|| innermost(text));
            assert!(said.contains(field), "{text}: {field} is not named: {said}");
        }
        for text in &clause.ours {
            table::write(text, &path);
            let (code, said) = with_file(&path, &[]);
            assert_eq!(code, Some(2), "{text}: {said}");
            assert!(said.contains("dataplane does not exist"), "{text}: {said}");
        }
    }
}

#[test]
fn command_lines_have_the_verdict_of_their_clause() {
    for clause in table::flags() {
        let verdict = |line: &str| {
            let flags = ["config", "--kubeconfig=/nonexistent"].into_iter();
            vipd(&flags.chain(line.split(' ')).collect::<Vec<_>>())
        };
        for line in clause.valid.iter().chain(&clause.lenient) {
            let (code, said) = verdict(line);
            assert_eq!(code, Some(0), "{}: {line}: {said}", clause.clause);
        }
        for line in &clause.invalid {
            let (code, said) = verdict(line);
            assert_eq!(code, Some(2), "{}: {line}: {said}", clause.clause);
            // vipd has names of its own for two of them.
            let own = said.replace("--log-format", "--logging-format --log-format");
            let own = own.replace("--min-sync-period", "--iptables-min-sync-period");
            let named = line.split(' ').any(|word| own.contains(word.split('=').next().unwrap()));
            assert!(named, "{line}: no flag is named: {said}");
        }
    }
}

#[test]
fn kubeadm_s_file_and_command_line() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.conf");
    std::fs::write(&path, KUBEADM).unwrap();
    let (code, said) = with_file(&path, &[KUBEADM_FLAGS]);
    assert_eq!(code, Some(0), "{said}");
    let row = |name: &str| {
        let line = said.lines().find(|line| line.starts_with(&format!("{name} ")));
        let line = line.unwrap_or_else(|| panic!("{name} is missing: {said}"));
        line.split_whitespace().skip(1).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(row("hostname-override"), "node-a flag --hostname-override");
    assert_eq!(row("cluster-cidr"), "10.244.0.0/16 file clusterCIDR");
    let kubeconfig = "/var/lib/kube-proxy/kubeconfig.conf file clientConnection.kubeconfig";
    assert_eq!(row("kubeconfig"), kubeconfig);
    assert_eq!(row("conntrack-min"), "131072 default of kube-proxy");
    assert_eq!(row("min-sync-period"), "0s default of vipd");
    assert!(said.contains("no mode is given"), "{said}");
    assert!(!said.contains("WITHOUT A MEANING"), "{said}");
}
