//! vipd beside a real API server and etcd, in a network namespace of their own: what is created
//! through the API is in the kernel, and what goes wrong is told.
//!
//! `cargo test --test cluster -- FILTER`, `-- --list`. The servers are built by
//! `tests/cluster/build-peers`; where they are missing all cases are counted as ignored.

mod access;
mod api;
mod away;
#[path = "../support/control_plane.rs"]
#[allow(dead_code, reason = "the demonstration and the benchmarks use more of it")]
mod control_plane;
mod deployments;
mod events;
mod examples;
mod formats;
mod gates;
mod health;
mod kubeadm;
mod live;
mod many;
mod pod;
#[path = "../netns/rolling.rs"]
#[allow(dead_code, reason = "the cases of `netns` are in it")]
mod rolling;
mod rollout;
#[path = "../nftables/runner.rs"]
#[allow(dead_code, reason = "the cases of `nftables` use more of it")]
mod runner;
#[path = "../support/mod.rs"]
#[allow(dead_code, reason = "the cases of `netns` use more of it")]
mod support;
mod traffic;
mod world;

use control_plane::Authorization;
use runner::Case;
use serde_json::{Value, json};
use std::process::ExitCode;
use std::time::Duration;
use support::{netns, sandbox};
use world::World;

fn main() -> ExitCode {
    let mut groups = vec![
        ("api", CASES),
        ("access", access::CASES),
        ("pod", pod::CASES),
        ("traffic", traffic::CASES),
        ("health", health::CASES),
        ("away", away::CASES),
        ("rollout", rollout::CASES),
        ("deployments", deployments::CASES),
        ("events", events::CASES),
        ("gates", gates::CASES),
    ];
    if support::runner::soak() {
        groups.push(("away", away::LONG_CASES));
        groups.push(("many", many::LONG_CASES));
    }
    let code = runner::main(("cluster", world::peers), &groups);
    live::end();
    code
}

const CASES: &[Case] = &[
    ("what is created, changed and deleted through the API is in the kernel", follows),
    ("with the server away everything stays, and what changed meanwhile comes with it", outlives),
    ("the access rights of the example are enough; without them the missing one is named", rights),
    ("a token that rotates", rotates),
    ("no server at all: nothing is programmed, and it is said", waits),
    ("what is watched as protobuf is what the server says in JSON", formats::say_the_same),
    ("the example's objects are taken to the letter", examples::are_taken_to_the_letter),
    ("the example's containers start vipd as they say", examples::start_vipd_as_they_say),
    (
        "kubeadm's command line and file; the file changes while it runs",
        kubeadm::serves_and_follows_its_file,
    ),
];

fn service(name: &str, ip: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"clusterIP": ip, "ports": [{"port": 80, "targetPort": 8080}]}})
}

fn slice(service: &str, pods: &[&str]) -> Value {
    let endpoints: Vec<Value> =
        pods.iter().map(|pod| json!({"addresses": [pod], "conditions": {"ready": true}})).collect();
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": format!("{service}-1"), "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4", "ports": [{"name": "", "port": 8080}], "endpoints": endpoints})
}

/// The one that vipd takes itself for.
fn node() -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-a"}})
}

const NODES: &str = "/api/v1/nodes";
const SERVICES: &str = "/api/v1/namespaces/default/services";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";

fn serve(w: &World, name: &str, ip: &str, pods: &[&str]) {
    w.plane.post(SERVICES, &service(name, ip));
    w.plane.post(SLICES, &slice(name, pods));
}

fn follows() {
    let mut w = World::start(Authorization::AlwaysAllow);
    serve(&w, "web", "10.254.0.41", &["10.1.0.1", "10.1.0.2"]);
    w.run(&[]);
    w.soon("the first lists", || w.holds("services4", "10.254.0.41 . tcp . 80"));
    w.soon("their endpoints", || w.holds("endpoints4", "10.1.0.2 . 8080"));
    // The API server makes a Service for itself, with an address of the range.
    w.soon("its own", || w.said("get services -A").contains("kubernetes"));
    serve(&w, "api", "10.254.0.42", &["10.1.0.3"]);
    w.soon("a new one", || {
        w.holds("services4", "10.254.0.42") && w.holds("endpoints4", "10.1.0.3")
    });
    w.plane.put(&format!("{SLICES}/web-1"), &slice("web", &["10.1.0.9"]));
    w.soon("other endpoints", || {
        w.holds("endpoints4", "10.1.0.9") && !w.holds("endpoints4", "10.1.0.1 ")
    });
    w.plane.delete(&format!("{SERVICES}/web"));
    w.soon("one less", || !w.holds("services4", "10.254.0.41"));
    assert!(w.holds("services4", "10.254.0.42"));
    let healthz =
        || w.node.sh("curl -s -o /dev/null -w '%{http_code}' http://127.0.0.1:10256/healthz");
    assert_eq!(healthz(), "503", "no load balancer should send anything to a node without a Node");
    w.plane.post(NODES, &node());
    w.soon("its Node", || healthz() == "200");
    assert!(w.node.sh("curl -s http://127.0.0.1:10249/metrics").contains("vipd_"));
}

fn outlives() {
    let mut w = World::start(Authorization::AlwaysAllow);
    serve(&w, "web", "10.254.0.41", &["10.1.0.1"]);
    w.run(&[]);
    w.soon("the first lists", || w.holds("services4", "10.254.0.41"));
    w.plane.kill_server();
    std::thread::sleep(Duration::from_secs(5));
    assert!(w.holds("services4", "10.254.0.41") && w.holds("endpoints4", "10.1.0.1"));
    assert!(w.log().contains("what is programmed stays"), "{}", w.log());
    w.plane.start_server();
    serve(&w, "new", "10.254.0.43", &["10.1.0.4"]);
    w.soon("what came since", || w.holds("services4", "10.254.0.43"));
    assert!(w.holds("services4", "10.254.0.41"));
    w.soon("that it is told", || w.log().contains("the API server answers again"));
}

fn rights() {
    let mut w = World::start(Authorization::Rbac);
    serve(&w, "web", "10.254.0.41", &["10.1.0.1"]);
    w.run(&[]);
    for resource in ["services", "endpointslices", "nodes", "servicecidrs"] {
        // In whichever way the log writes quotes, and for whichever verb came first.
        let named = |verb: &str| {
            let log = w.log().replace('\\', "");
            log.contains(&format!("cannot {verb} resource \"{resource}\""))
        };
        w.soon(resource, || named("list") || named("watch"));
    }
    assert!(!w.node.try_sh("nft list table inet vipd").out.contains("10.254.0.41"));
    let example = include_str!("../../examples/kubernetes/rbac.yaml");
    w.apply_rights(example);
    w.soon("with the example's rights", || w.holds("services4", "10.254.0.41"));
    assert!(w.holds("endpoints4", "10.1.0.1"));
}

fn rotates() {
    let mut w = World::start(Authorization::AlwaysAllow);
    serve(&w, "web", "10.254.0.41", &["10.1.0.1"]);
    w.run(&[]);
    w.soon("the first lists", || w.holds("services4", "10.254.0.41"));
    w.plane.kill_server();
    w.rotate_token();
    w.plane.start_server();
    serve(&w, "new", "10.254.0.43", &["10.1.0.4"]);
    w.soon("what only the new token may read", || w.holds("services4", "10.254.0.43"));
}

fn waits() {
    let mut w = World::start(Authorization::AlwaysAllow);
    w.plane.kill_server();
    w.run(&[]);
    w.soon("that it is told", || w.log().contains("the next try is in"));
    assert!(!w.node.try_sh("nft list table inet vipd").out.contains("chain prerouting"));
    let livez = w.node.sh("curl -s -o /dev/null -w '%{http_code}' http://127.0.0.1:10256/livez");
    assert_eq!(livez, "200", "to start it again would not help");
    w.plane.start_server();
    serve(&w, "web", "10.254.0.41", &["10.1.0.1"]);
    w.soon("the first lists", || w.holds("services4", "10.254.0.41"));
}
