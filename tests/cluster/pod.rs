//! vipd as a pod: `--master`, because the API server's cluster IP is its own work, and the files of a
//! service account, whose token the kubelet writes anew while the server runs.

use crate::api::path;
use crate::live::{self, Live};
use crate::runner::Case;
use crate::support::manifests::svc;
use crate::support::plan::{L1, L2, Node, R1};
use crate::support::runner::soak;
use crate::support::world::WORK;
use serde_json::json;
use std::fs;

pub const CASES: &[Case] = &[
    ("--master with a service account's token serves; in long runs the token rotates", accounts),
    ("without --master a pod is told at once why it does not start", no_master),
];

const FILES: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// A token of vipd's account, good for as long as this Secret is there.
fn token(live: &Live, bound_to: &str) -> String {
    let namespace = "kube-system";
    let secret = json!({"apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": bound_to, "namespace": namespace}});
    live.api.apply(&secret);
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
        "spec": {"expirationSeconds": 3600,
            "boundObjectRef": {"apiVersion": "v1", "kind": "Secret", "name": bound_to}}});
    let account = "/api/v1/namespaces/kube-system/serviceaccounts/vipd/token";
    let made = live.api.post(account, &request);
    made["status"]["token"].as_str().expect("a token").to_owned()
}

fn accounts() {
    live::with(|live| {
        let w = &live.w;
        // Where it does not lead to `/run`, it is the tests' own from here on.
        w.sh(Node, "[ /run -ef /var/run ] || mount -t tmpfs tmpfs /var/run");
        fs::create_dir_all(FILES).expect("an own /run");
        fs::copy(format!("{WORK}/certs/apiserver.crt"), format!("{FILES}/ca.crt"))
            .expect("both are");
        let write = |token: &str| fs::write(format!("{FILES}/token"), token).expect("an own /run");
        write(&token(live, "first"));
        w.write(svc().on([L1, R1]));
        live.launch_with(&[("--master", crate::control_plane::SERVER)]);
        live.settle();
        assert!(!live.log().contains("there is no token"), "{}", live.log());
        w.tcp(L2, w.cip(), 80).times(40).only([L1, R1]);
        if soak() {
            write(&token(live, "second"));
            let first = path("Secret", "first").replace("/default/", "/kube-system/");
            live.api.delete(&first);
            // By then the server has ended every watch that the first token began, and has forgotten
            // that it knew it.
            w.sleep(90_000);
            w.serve(svc().named("new", 42).on([L1]));
            w.tcp(L2, w.family.cluster_ip(42), 80).times(4).only([L1]);
            w.tcp(L2, w.cip(), 80).times(40).only([L1, R1]);
        }
        fs::remove_dir_all(FILES).expect("made above");
    });
}

fn no_master() {
    live::with(|live| {
        let environment = "KUBERNETES_SERVICE_HOST=10.254.0.1 KUBERNETES_SERVICE_PORT=443";
        let vipd = crate::support::vipd::PROGRAM;
        let said = live.w.netns(Node).try_sh(&format!(
            "{environment} timeout 10 {vipd} run --hostname-override node-a \
             --cluster-cidr 10.180.0.0/16"
        ));
        assert_eq!(said.code, 2, "{}", said.out);
        for word in ["KUBERNETES_SERVICE_HOST", "--master"] {
            assert!(said.out.contains(word), "{word} is missing in {}", said.out);
        }
        assert!(!live.programs());
    });
}
