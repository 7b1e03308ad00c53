//! `/metrics` beside the real kube-proxy's: the families that there are, and feature gates.

use crate::control_plane::{Authorization, part};
use crate::runner::Case;
use crate::world::World;
use crate::{NODES, node};
use serde_json::json;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};

pub const CASES: &[Case] = &[
    (
        "each feature gate is told as kube-proxy tells it, and anew when the file changes",
        told_as_upstream,
    ),
    ("kube-proxy's metrics are there, but for those that MIGRATION.md names", are_there),
];

const GIVEN: [&str; 3] = [
    "",
    "AllBeta=true,AllowServiceExternalIPs=false,AuthorizePodWebsocketUpgradeCreatePermission=false",
    "AllAlpha=true,GenericWorkload=true",
];
const METRIC: &str = "kubernetes_feature_enabled{";

fn metrics(w: &World, port: u16) -> String {
    w.node.try_sh(&format!("curl -s http://127.0.0.1:{port}/metrics")).out
}

/// Names of what is told at this port.
fn families(w: &World, port: u16) -> BTreeSet<String> {
    let said = metrics(w, port);
    let types = said.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    types.map(str::to_owned).collect()
}

/// The samples at this port, sorted.
fn samples(w: &World, port: u16) -> Vec<String> {
    let said = metrics(w, port);
    let mut samples: Vec<_> =
        said.lines().filter(|line| line.starts_with(METRIC)).map(str::to_owned).collect();
    samples.sort();
    samples
}

struct KubeProxy(Child);

impl KubeProxy {
    /// Its metrics are at port 20249: vipd has its usual one.
    fn start(w: &World, kubeconfig: &str, gates: &str) -> Self {
        let log = Path::new(kubeconfig).with_file_name("kube-proxy.log");
        let mut command = Command::new(part("kube-proxy"));
        command
            .arg(format!("--kubeconfig={kubeconfig}"))
            .arg(format!("--feature-gates={gates}"))
            .args(["--hostname-override=node-a", "--proxy-mode=nftables"])
            .args(["--conntrack-max-per-core=0", "--metrics-bind-address=127.0.0.1:20249"])
            .arg("--healthz-bind-address=127.0.0.1:20256")
            .stdin(Stdio::null())
            .stderr(File::create(log).expect("it can be made"));
        Self(w.node.enter(|| command.spawn()).expect("kube-proxy can be run"))
    }
}

impl Drop for KubeProxy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn world() -> World {
    let w = World::start(Authorization::AlwaysAllow);
    w.plane.post(NODES, &node());
    let address = json!([{"type": "InternalIP", "address": "192.0.2.1"}]);
    w.plane.patch(&format!("{NODES}/node-a/status"), &json!({"status": {"addresses": address}}));
    w
}

fn file(kubeconfig: &str, gates: &str) -> String {
    let gates = gates.split(',').filter(|gate| !gate.is_empty());
    let gates: Vec<_> = gates.map(|gate| gate.replace('=', ": ")).collect();
    format!(
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n\
         mode: nftables\nclusterCIDR: 10.1.0.0/16\nfeatureGates: {{{}}}\n\
         clientConnection: {{kubeconfig: {kubeconfig}}}\n",
        gates.join(", ")
    )
}

fn are_there() {
    const MIGRATION: &str = include_str!("../../examples/kubernetes/MIGRATION.md");
    let mut w = world();
    let (_, kubeconfig) = w.run_with_file(|kubeconfig| file(kubeconfig, ""));
    let theirs = KubeProxy::start(&w, &kubeconfig, "");
    let begun = |port| {
        let has = |name: &str| families(&w, port).contains(name);
        has("kubeproxy_sync_proxy_rules_duration_seconds") && has("rest_client_requests_total")
    };
    w.soon("both tell", || begun(20249) && begun(10249));
    let (wanted, ours) = (families(&w, 20249), families(&w, 10249));
    drop(theirs);
    // In backquotes, some by what they begin with.
    let table = MIGRATION.split("vipd has all but these").nth(1).expect("it is told");
    let named: Vec<&str> = table.split('`').skip(1).step_by(2).collect();
    let is_named = |family: &String| {
        named.iter().any(|name| match name.strip_suffix('*') {
            Some(begin) => family.starts_with(begin),
            None => family == name,
        })
    };
    let missing: Vec<&String> =
        wanted.iter().filter(|family| !ours.contains(*family) && !is_named(family)).collect();
    assert!(wanted.len() > 40, "{wanted:?}");
    assert_eq!(missing, [""; 0]);
}

fn told_as_upstream() {
    let mut w = world();
    let (path, kubeconfig) = w.run_with_file(|kubeconfig| file(kubeconfig, GIVEN[0]));
    let mut all = Vec::new();
    for gates in GIVEN {
        fs::write(&path, file(&kubeconfig, gates)).expect("it can be written");
        let theirs = KubeProxy::start(&w, &kubeconfig, gates);
        w.soon("kube-proxy's", || !samples(&w, 20249).is_empty());
        let wanted = samples(&w, 20249);
        drop(theirs);
        assert!(wanted.len() > 200, "{gates}: {wanted:?}");
        assert!(!all.contains(&wanted), "{gates}: it makes no difference");
        w.soon(gates, || samples(&w, 10249) == wanted);
        all.push(wanted);
    }
}
