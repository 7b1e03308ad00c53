//! Real controllers: a Deployment's pods are bound by the scheduler and listed in slices by the
//! controller-manager; only what a kubelet does is done by the case.

use crate::api::{Api, path};
use crate::live::{self, SOON};
use crate::runner::Case;
use crate::support::manifests::{svc, tcp};
use crate::support::plan::{Ext, L1, L2, NODE_A, Node, V4};
use crate::support::servers::Tcp;
use crate::support::world::World;
use serde_json::{Value, json};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

pub const CASES: &[Case] =
    &[("a Deployment that is scaled up and down: traffic reaches exactly its pods", scales)];

const PORT: u16 = 8080;

fn now(w: &World) -> String {
    w.sh(Node, "date -u +%Y-%m-%dT%H:%M:%SZ").trim().to_owned()
}

/// What a kubelet does, as far as slices follow from it.
struct KubeletStandIn<'l> {
    api: &'l Api,
    w: &'l World,
    /// Addresses of pods by name, in L1's further range.
    pods: RefCell<BTreeMap<String, IpAddr>>,
    given: RefCell<u8>,
}

impl KubeletStandIn<'_> {
    /// The node is ready, has room for pods, and is heard of.
    fn register(&self) {
        let room = json!({"cpu": "8", "memory": "16Gi", "pods": "110"});
        let at = now(self.w);
        let ready = json!([{"type": "Ready", "status": "True", "reason": "KubeletReady",
            "lastHeartbeatTime": at, "lastTransitionTime": at}]);
        self.api.patch(
            &format!("{}/status", path("Node", NODE_A)),
            &json!({"status": {"conditions": ready, "capacity": room, "allocatable": room}}),
        );
        self.api.apply(&json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": NODE_A, "namespace": "kube-node-lease"},
            "spec": {"holderIdentity": NODE_A, "leaseDurationSeconds": 40,
                "renewTime": at.replace('Z', ".000000Z")}}));
    }

    /// Runs pods that are bound to this node, ends those that are to go.
    fn step(&self) {
        for pod in self.api.items(&path("Pod", "")) {
            let name = pod["metadata"]["name"].as_str().expect("a name");
            let runs = self.pods.borrow().contains_key(name);
            let goes = pod["metadata"].get("deletionTimestamp").is_some();
            if goes {
                self.pods.borrow_mut().remove(name);
                self.api.delete(&path("Pod", name));
            } else if !runs && pod["spec"]["nodeName"] == NODE_A {
                self.run(name);
            }
        }
    }

    fn run(&self, name: &str) {
        let number = *self.given.borrow() + 1;
        *self.given.borrow_mut() = number;
        let address = V4.extra_endpoint(number);
        self.w.servers(L1).listen([(Tcp, SocketAddr::new(address, PORT))]);
        self.pods.borrow_mut().insert(name.to_owned(), address);
        let conditions = ["PodReadyToStartContainers", "Initialized", "ContainersReady", "Ready"]
            .map(|kind| json!({"type": kind, "status": "True"}));
        let status = json!({"phase": "Running", "startTime": now(self.w), "conditions": conditions,
            "hostIP": self.w.address(Node), "podIP": address, "podIPs": [{"ip": address}]});
        self.api.patch(&format!("{}/status", path("Pod", name)), &json!({"status": status}));
    }

    fn addresses(&self) -> BTreeSet<IpAddr> {
        self.pods.borrow().values().copied().collect()
    }
}

fn deployment(replicas: u32) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "web", "image": "web.test.invalid/web:1",
                    "ports": [{"containerPort": PORT}]}]}}}})
}

fn scales() {
    live::with(|live| {
        live.plane.start_controllers();
        let w = &live.w;
        let kubelet = KubeletStandIn {
            api: &live.api,
            w,
            pods: RefCell::default(),
            given: RefCell::default(),
        };
        kubelet.register();
        live.start(&[]);
        let selector = json!({"app": "web"});
        w.write(svc().ports([tcp("", 80).target(PORT)]).spec("selector", selector));
        for replicas in [3, 6, 2, 0, 4] {
            live.api.apply(&deployment(replicas));
            let reached = |who| {
                let tries = w.tcp(who, w.cip(), 80).times(100).untraced();
                let replies = tries.patience(Duration::from_millis(500)).replies();
                replies.answers().iter().map(|one| one.local.ip()).collect::<BTreeSet<IpAddr>>()
            };
            w.within(SOON, || {
                kubelet.step();
                w.sleep(100);
                let pods = kubelet.addresses();
                pods.len() == replicas as usize && reached(L2) == pods
            });
            let pods = kubelet.addresses();
            if pods.is_empty() {
                w.tcp(L2, w.cip(), 80).times(3).refused();
            } else {
                for who in [L2, Ext] {
                    let replies = w.tcp(who, w.cip(), 80).times(200).reached().all_of_trace();
                    let seen: BTreeSet<IpAddr> =
                        replies.answers().iter().map(|one| one.local.ip()).collect();
                    assert_eq!(seen, pods, "{who}, {replicas} replicas");
                }
            }
        }
        live.plane.stop_controllers();
    });
}
