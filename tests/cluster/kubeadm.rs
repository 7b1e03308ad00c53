//! In kube-proxy's place as kubeadm deploys it: its command line, its configuration file.

use crate::{Authorization, NODES, World, node, serve};
use std::fs;

const FILE: &str = include_str!("../validation/kubeadm.yaml");

/// Whether a pod's connection to the service is masqueraded.
fn masqueraded(w: &World) -> bool {
    let said = w.said("trace 10.244.0.9 10.254.0.41:80 -o json");
    let trace: serde_json::Value = serde_json::from_str(&said).expect("JSON");
    trace["masquerade"] == true
}

pub fn serves_and_follows_its_file() {
    let mut w = World::start(Authorization::AlwaysAllow);
    w.plane.post(NODES, &node());
    serve(&w, "web", "10.254.0.41", &["10.244.0.1", "10.244.1.1"]);
    let kubeadm_s = "/var/lib/kube-proxy/kubeconfig.conf";
    let (path, kubeconfig) = w.run_with_file(|kubeconfig| FILE.replace(kubeadm_s, kubeconfig));
    w.soon("the first lists", || w.holds("services4", "10.254.0.41 . tcp . 80"));
    w.soon("their endpoints", || w.holds("endpoints4", "10.244.1.1 . 8080"));
    let code = "curl -s -o /dev/null -w '%{http_code}' http://127.0.0.1";
    assert_eq!(w.node.sh(&format!("{code}:10256/healthz")), "200");
    assert_eq!(w.node.sh(&format!("{code}:10249/proxyMode")), "200");
    assert!(w.log().contains("no mode is given"), "{}", w.log());
    assert!(!masqueraded(&w));
    // Without a mode iptables' section counts, as upstream; it is the first one of the file.
    let changed = FILE.replace(kubeadm_s, &kubeconfig);
    let changed = changed.replacen("masqueradeAll: false", "masqueradeAll: true", 1);
    fs::write(&path, &changed).expect("it can be written");
    w.soon("masqueradeAll", || masqueraded(&w));
    fs::write(&path, changed.replace(&kubeconfig, "/other")).expect("it can be written");
    let told =
        "clientConnection.kubeconfig in the file of --config has changed: it needs a restart";
    w.soon("what needs a restart", || w.log().contains(told));
    assert!(masqueraded(&w) && w.holds("services4", "10.254.0.41 . tcp . 80"));
}
