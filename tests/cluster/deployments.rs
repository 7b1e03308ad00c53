//! Real controllers: a Deployment's pods are bound by the scheduler and listed in slices by the
//! controller-manager; only what a kubelet does is done by the case.

use crate::api::{Api, path};
use crate::away::clients;
use crate::live::{self, Live, SOON};
use crate::runner::Case;
use crate::support::manifests::{svc, tcp};
use crate::support::plan::{Ext, L1, L2, NODE_A, Node, V4};
use crate::support::servers::Tcp;
use crate::support::world::World;
use serde_json::{Value, json};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

pub const CASES: &[Case] = &[
    ("a Deployment that is scaled up and down: traffic reaches exactly its pods", scales),
    ("a Deployment's rolling update under load: no connection fails", updates),
];

/// As long a pod that is to go still serves, as with a `preStop` hook that sleeps.
const GRACE: Duration = Duration::from_secs(3);
const CONNECTIONS_PER_SECOND: u32 = 300;

const PORT: u16 = 8080;

fn now(w: &World) -> String {
    w.sh(Node, "date -u +%Y-%m-%dT%H:%M:%SZ").trim().to_owned()
}

/// What a kubelet does, as far as slices follow from it.
struct KubeletStandIn<'l> {
    api: &'l Api,
    w: &'l World,
    /// By name.
    pods: RefCell<BTreeMap<String, Pod>>,
    given: Cell<u8>,
    grace: Duration,
}

struct Pod {
    /// In L1's further range.
    address: SocketAddr,
    /// Since when it is to go.
    going: Option<Instant>,
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

    /// Runs pods that are bound to this node, ends those that are to go and had their time.
    fn step(&self) {
        for pod in self.api.items(&path("Pod", "")) {
            let name = pod["metadata"]["name"].as_str().expect("a name");
            let goes = pod["metadata"].get("deletionTimestamp").is_some();
            let mut pods = self.pods.borrow_mut();
            let runs = pods.contains_key(name);
            let had_its_time = pods.get_mut(name).is_some_and(|pod| {
                goes && pod.going.get_or_insert_with(Instant::now).elapsed() >= self.grace
            });
            if had_its_time || goes && !runs {
                if let Some(Pod { address, .. }) = pods.remove(name) {
                    self.w.servers(L1).close(Tcp, address);
                }
                self.api.delete(&path("Pod", name));
            } else if !runs && pod["spec"]["nodeName"] == NODE_A {
                pods.insert(name.to_owned(), self.run(name));
            }
        }
    }

    fn run(&self, name: &str) -> Pod {
        self.given.set(self.given.get() + 1);
        let address = V4.extra_endpoint(self.given.get());
        let at = SocketAddr::new(address, PORT);
        self.w.servers(L1).listen([(Tcp, at)]);
        let conditions = ["PodReadyToStartContainers", "Initialized", "ContainersReady", "Ready"]
            .map(|kind| json!({"type": kind, "status": "True"}));
        let status = json!({"phase": "Running", "startTime": now(self.w), "conditions": conditions,
            "hostIP": self.w.address(Node), "podIP": address, "podIPs": [{"ip": address}]});
        self.api.patch(&format!("{}/status", path("Pod", name)), &json!({"status": status}));
        Pod { address: at, going: None }
    }

    fn addresses(&self) -> BTreeSet<IpAddr> {
        self.pods.borrow().values().map(|pod| pod.address.ip()).collect()
    }
}

fn deployment(replicas: u32, version: &str) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "web", "image": format!("web.test.invalid/web:{version}"),
                    "ports": [{"containerPort": PORT}]}]}}}})
}

/// Controllers, a node with room, and a Service that selects the Deployment's pods.
fn with_controllers(grace: Duration, story: impl FnOnce(&Live, &KubeletStandIn<'_>)) {
    live::with(|live| {
        live.plane.start_controllers();
        let (api, w) = (&*live.api, &live.w);
        let (pods, given) = (RefCell::default(), Cell::default());
        let kubelet = KubeletStandIn { api, w, pods, given, grace };
        kubelet.register();
        live.start(&[]);
        let selector = json!({"app": "web"});
        w.write(svc().ports([tcp("", 80).target(PORT)]).spec("selector", selector));
        story(live, &kubelet);
        drop(kubelet);
        live.plane.stop_controllers();
    });
}

fn scales() {
    with_controllers(Duration::ZERO, |live, kubelet| {
        let w = &live.w;
        for replicas in [3, 6, 2, 0, 4] {
            live.api.apply(&deployment(replicas, "1"));
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
    });
}

fn updates() {
    const REPLICAS: u32 = 6;
    with_controllers(GRACE, |live, kubelet| {
        let w = &live.w;
        let rolled_out = || {
            kubelet.step();
            w.sleep(20);
            let web = live.api.get(&path("Deployment", "web"));
            let status = &web["status"];
            let all = ["replicas", "updatedReplicas", "readyReplicas"];
            status["observedGeneration"] == web["metadata"]["generation"]
                && all.iter().all(|count| status[count] == REPLICAS)
                && kubelet.addresses().len() == REPLICAS as usize
        };
        live.api.apply(&deployment(REPLICAS, "1"));
        w.within(SOON, rolled_out);
        live.settle();
        let before = kubelet.addresses();
        let served = || w.tcp(L2, w.cip(), 80).times(100).untraced().replies().failures() == 0;
        w.within(SOON, served);
        let clients = clients(w);
        let load = w.crowd(&clients, (w.cip(), 80), CONNECTIONS_PER_SECOND);
        w.sleep(1000);
        live.api.apply(&deployment(REPLICAS, "2"));
        let took = w.within(SOON, rolled_out);
        w.sleep(1000);
        let attempts = load.stop();
        println!("{attempts}, {REPLICAS} pods replaced in {took:.1?}");
        attempts.at_rate(CONNECTIONS_PER_SECOND).of_clients(8);
        let failed = attempts.failed();
        assert!(failed.is_empty(), "{attempts}: {:#?}", &failed[..failed.len().min(5)]);
        let after = kubelet.addresses();
        assert!(after.is_disjoint(&before), "{before:?}, then {after:?}");
        w.tcp(L2, w.cip(), 80).times(200).reached().all_of_trace();
    });
}
