//! The objects of `examples/kubernetes`: what the API server and vipd itself say of each.

use crate::api::collection_of;
use crate::{Authorization, World};
use serde_json::Value;
use std::fs;
use std::process::Command;
use tempfile::TempDir;

const RIGHTS: &str = include_str!("../../examples/kubernetes/rbac.yaml");
const CONFIGURATION: &str = include_str!("../../examples/kubernetes/configmap.yaml");
const DAEMONS: &str = include_str!("../../examples/kubernetes/daemonset.yaml");
const CLEANUP: &str = include_str!("../../examples/kubernetes/cleanup.yaml");

/// The objects of a file, each with its text.
pub fn documents(text: &str) -> impl Iterator<Item = (Value, &str)> {
    let read = |document| (serde_saphyr::from_str(document).expect("YAML"), document);
    text.split("\n---\n").map(read)
}

/// Unknown fields are errors, and so is what the server would refuse; nothing is made.
pub fn are_taken_to_the_letter() {
    let w = World::start(Authorization::AlwaysAllow);
    let cleanup = CLEANUP.replace("nodeName: NODE", "nodeName: node-a");
    let mut count = 0;
    for text in [RIGHTS, CONFIGURATION, DAEMONS, &cleanup] {
        for (object, document) in documents(text) {
            let path = collection_of(&object);
            let strictly = format!("'{path}?dryRun=All&fieldValidation=Strict'");
            w.plane.send("POST", &strictly, ("application/yaml", document));
            count += 1;
        }
    }
    assert_eq!(count, 6, "objects");
}

/// Each container's command line, with the file that the ConfigMap gives it: all of it means something.
pub fn start_vipd_as_they_say() {
    let files = TempDir::new().expect("a temporary directory");
    let map: Value = serde_saphyr::from_str(CONFIGURATION).expect("YAML");
    for (name, text) in map["data"].as_object().expect("files") {
        fs::write(files.path().join(name), text.as_str().expect("text")).expect("it is ours");
    }
    let daemons: Value = serde_saphyr::from_str(DAEMONS).expect("YAML");
    let pod = &daemons["spec"]["template"]["spec"];
    let lists = ["initContainers", "containers"].map(|list| pod[list].as_array().expect("a list"));
    for container in lists.into_iter().flatten() {
        let given = container["args"].as_array().expect("arguments");
        let mut given = given.iter().map(|one| one.as_str().expect("text"));
        assert_eq!(given.next(), Some("run"), "{container}");
        let at = files.path().to_str().expect("UTF-8");
        let arguments = given.filter(|one| *one != "--init-only");
        let arguments = arguments
            .map(|one| one.replace("/var/lib/kube-proxy", at).replace("$(NODE_NAME)", "n"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_vipd"));
        let said = command.arg("config").args(arguments).output().expect("vipd is built");
        let [out, err] = [said.stdout, said.stderr].map(|text| String::from_utf8(text).unwrap());
        assert!(said.status.success() && err.is_empty(), "{container}: {out}{err}");
        for (setting, value) in [
            ("kubeconfig", "/var/lib/kube-proxy/kubeconfig.conf"),
            ("proxy-mode", "nftables"),
            ("cluster-cidr", "10.244.0.0/16"),
            ("oom-score-adj", "-997"),
        ] {
            let line = out.lines().find(|line| line.split_whitespace().next() == Some(setting));
            let line = line.unwrap_or_else(|| panic!("no {setting} in {out}"));
            assert_eq!(line.split_whitespace().nth(1), Some(value), "{container}");
        }
    }
}
