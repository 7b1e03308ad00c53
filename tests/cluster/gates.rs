//! Feature gates as `/metrics` tells them, beside the real kube-proxy with the same gates.

use crate::control_plane::{Authorization, part};
use crate::runner::Case;
use crate::world::World;
use crate::{NODES, node};
use serde_json::json;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};

pub const CASES: &[Case] = &[(
    "each feature gate is told as kube-proxy tells it, and anew when the file changes",
    told_as_upstream,
)];

const GIVEN: [&str; 3] = [
    "",
    "AllBeta=true,AllowServiceExternalIPs=false,AuthorizePodWebsocketUpgradeCreatePermission=false",
    "AllAlpha=true,GenericWorkload=true",
];
const METRIC: &str = "kubernetes_feature_enabled{";

/// The samples at this port, sorted.
fn samples(w: &World, port: u16) -> Vec<String> {
    let said = w.node.try_sh(&format!("curl -s http://127.0.0.1:{port}/metrics")).out;
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

fn told_as_upstream() {
    let mut w = World::start(Authorization::AlwaysAllow);
    w.plane.post(NODES, &node());
    let address = json!([{"type": "InternalIP", "address": "192.0.2.1"}]);
    w.plane.patch(&format!("{NODES}/node-a/status"), &json!({"status": {"addresses": address}}));
    let text = |kubeconfig: &str, gates: &str| {
        let gates = gates.split(',').filter(|gate| !gate.is_empty());
        let gates: Vec<_> = gates.map(|gate| gate.replace('=', ": ")).collect();
        format!(
            "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n\
             mode: nftables\nclusterCIDR: 10.1.0.0/16\nfeatureGates: {{{}}}\n\
             clientConnection: {{kubeconfig: {kubeconfig}}}\n",
            gates.join(", ")
        )
    };
    let (path, kubeconfig) = w.run_with_file(|kubeconfig| text(kubeconfig, GIVEN[0]));
    let mut all = Vec::new();
    for gates in GIVEN {
        fs::write(&path, text(&kubeconfig, gates)).expect("it can be written");
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
