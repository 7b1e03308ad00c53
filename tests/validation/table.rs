//! The tables of configurations, and how each is told to a program.

use serde::Deserialize;
use std::fs;
use std::path::Path;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Clause {
    pub clause: String,
    /// What vipd's refusal names.
    #[allow(dead_code, reason = "kube-proxy has names of its own")]
    pub field: Option<String>,
    #[serde(default)]
    pub valid: Vec<String>,
    #[serde(default)]
    pub invalid: Vec<String>,
    /// Modes of vipd's own.
    #[serde(default)]
    pub ours: Vec<String>,
    /// Taken by vipd alone.
    #[serde(default)]
    pub lenient: Vec<String>,
}

pub const KUBEADM: &str = include_str!("kubeadm.yaml");

/// What kubeadm's DaemonSet runs, but for where the file is.
pub const KUBEADM_FLAGS: &str = "--hostname-override=node-a";

fn read(text: &str) -> Vec<Clause> {
    let clauses: Vec<Clause> = serde_saphyr::from_str(text).expect("a list of clauses");
    assert!(clauses.len() > 5, "{} clauses", clauses.len());
    clauses
}

pub fn files() -> Vec<Clause> {
    read(include_str!("files.yaml"))
}

pub fn flags() -> Vec<Clause> {
    read(include_str!("flags.yaml"))
}

/// Writes a whole file around the fields of a table's text.
pub fn write(text: &str, path: &Path) {
    let mut whole =
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n".to_owned();
    if !text.contains("clientConnection:") {
        whole += "clientConnection: {kubeconfig: /nonexistent}\n";
    }
    // Fields in braces stand in one line of the table, and are fields of the document.
    let inner = text.strip_prefix('{').and_then(|text| text.strip_suffix('}'));
    match inner {
        Some(inner) => split(inner).for_each(|field| whole += &format!("{field}\n")),
        None => whole += &format!("{text}\n"),
    }
    fs::write(path, whole).expect("it can be written");
}

/// At the commas that no bracket is around.
fn split(text: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0;
    text.split(move |c| {
        depth += match c {
            '{' | '[' => 1,
            '}' | ']' => -1,
            _ => 0,
        };
        c == ',' && depth == 0
    })
    .map(str::trim)
}
