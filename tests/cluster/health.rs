//! What is told of this node's health while it leaves, while another program has vipd's table, and while
//! nothing could be programmed yet.

use crate::api::path;
use crate::live::{self, Live, SOON};
use crate::netns::Netns;
use crate::runner::Case;
use crate::support::manifests::{Svc, svc};
use crate::support::plan::{Ext, L1, L2, NODE_A, NODE_PORT, Node, R1};
use crate::support::runner::soak;
use serde_json::{Value, json};
use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::NamedTempFile;

pub const CASES: &[Case] = &[
    ("58 a node that is leaving says 503, and serves on", leaves),
    ("29, 56 another program takes the table: failures count, and it heals by itself", taken),
    ("56 another program takes the table and keeps its rules: they serve on", taken_as_it_is),
    ("57 a node that could never write anything is not healthy, from the start", never_written),
];

const HEALTH_PORT: u16 = 30555;
const FAILURES: &str =
    "kubeproxy_sync_proxy_rules_nftables_sync_failures_total{ip_family=\"IPv4\"}";

/// A load balancer's service with local traffic only.
fn balanced(live: &Live) -> Svc {
    let service = svc().load_balancer([live.w.vip()]).node_port(NODE_PORT).external_local();
    service.health_port(HEALTH_PORT).on([L1, R1])
}

/// `healthCheckNodePort`, as a load balancer asks it: status, and whether vipd is well.
fn checked(live: &Live) -> (u16, Value) {
    let address = live.w.address(Node);
    let (status, body) = live.http(Ext, &format!("http://{address}:{HEALTH_PORT}/"));
    (status, body["serviceProxyHealthy"].clone())
}

fn leaves() {
    live::with(|live| {
        live.start(&[]);
        let w = &live.w;
        w.serve(balanced(live));
        let node = path("Node", NODE_A);
        let change = |change: Value| live.api.patch(&node, &change);
        let eligible = |wanted: bool| {
            let (status, said) = live.asked("/healthz");
            said["nodeEligible"] == wanted && status == if wanted { 200 } else { 503 }
        };
        w.within(SOON, || eligible(true));
        let taint = json!([{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]);
        let going = |go: &dyn Fn(), stay: &dyn Fn()| {
            go();
            w.within(SOON, || eligible(false));
            let (status, said) = live.asked("/livez");
            assert_eq!((status, said.get("nodeEligible")), (200, None), "{said}");
            w.tcp(Ext, w.address(Node), NODE_PORT).times(10).only([L1]);
            w.tcp(L2, w.cip(), 80).times(40).only([L1, R1]);
            stay();
            w.within(SOON, || eligible(true));
        };
        going(&|| change(json!({"spec": {"taints": taint}})), &|| {
            change(json!({"spec": {"taints": null}}))
        });
        let anew = || w.write(crate::support::manifests::node(NODE_A, Some("z1")));
        going(&|| live.api.delete(&node), &anew);
        // With a finalizer a deleted object stays, and says since when it is to go.
        change(json!({"metadata": {"finalizers": ["test.invalid/stay"]}}));
        going(&|| live.api.delete(&node), &|| {
            assert_eq!(live.api.get(&node)["metadata"]["name"], NODE_A);
            change(json!({"metadata": {"finalizers": null}}));
            anew();
        });
    });
}

/// A program that has the table `inet vipd` as its own: the kernel refuses everybody else.
struct Owner(Child);

impl Owner {
    /// In place of the table that is there, if there is one, at one stroke.
    fn take(node: &Netns, former: &str) -> Owner {
        Self::of(node, &format!("{former} add table inet vipd {{ flags owner; }}"))
    }

    /// The same, with all that is in it.
    fn keep(node: &Netns) -> Owner {
        let listed = node.sh("nft list table inet vipd");
        let head = "table inet vipd {\n";
        let owned = listed.replacen(head, &format!("{head}\tflags owner;\n"), 1);
        assert_ne!(owned, listed, "a listing begins with the table");
        let file = NamedTempFile::new().expect("a temporary file");
        let text = format!("delete table inet vipd\n{owned}");
        std::fs::write(file.path(), text).expect("it is ours");
        let owner = Self::of(node, &format!("include \"{}\"", file.path().display()));
        let start = Instant::now();
        while !node.sh("nft -t list table inet vipd").contains("owner") {
            assert!(start.elapsed() < SOON, "nft did not take the table");
            std::thread::sleep(Duration::from_millis(20));
        }
        owner
    }

    fn of(node: &Netns, line: &str) -> Owner {
        let mut command = Command::new("nft");
        command.arg("-i").stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut nft = node.enter(|| command.spawn()).expect("nft is installed");
        let line = format!("{line}\n");
        nft.stdin.as_mut().expect("piped above").write_all(line.as_bytes()).expect("it reads");
        Owner(nft)
    }

    /// The kernel removes the table with its owner.
    fn leave(self) {}
}

impl Drop for Owner {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn taken() {
    live::with(|live| {
        live.start(&[]);
        let w = &live.w;
        w.serve(balanced(live));
        w.within(SOON, || checked(live) == (200, json!(true)));
        assert_eq!(live.metric(FAILURES), Some(0.0));
        let owner = Owner::take(w.netns(Node), "delete table inet vipd;");
        w.within(SOON, || live.metric(FAILURES).is_some_and(|failures| failures >= 1.0));
        w.write(svc().named("later", 42).on([L1]));
        // What was right a moment ago is still better than no node.
        assert_eq!(live.asked("/healthz").0, 200);
        assert_eq!(checked(live), (200, json!(true)));
        if soak() {
            let unwell = || live.asked("/healthz").0 == 503;
            let after = w.within(Duration::from_secs(90), unwell);
            assert!(after > Duration::from_secs(50), "{after:?}");
            assert_eq!(checked(live), (503, json!(false)));
            assert_eq!(live.asked("/livez").0, 503);
        } else {
            w.sleep(2000);
        }
        let table = w.sh(Node, "nft list table inet vipd");
        assert!(table.contains("owner") && !table.contains("chain"), "it is another's: {table}");
        owner.leave();
        w.within(SOON, || live.log().contains("the kernel follows the plan again"));
        live.settle();
        assert_eq!(live.asked("/healthz").0, 200);
        w.within(SOON, || checked(live) == (200, json!(true)));
        w.tcp(L2, w.cip(), 80).times(40).only([L1, R1]);
        w.tcp(L2, w.family.cluster_ip(42), 80).times(4).only([L1]);
    });
}

fn taken_as_it_is() {
    live::with(|live| {
        live.start(&[]);
        let w = &live.w;
        w.serve(svc().on([L1]));
        let serves = |pod| {
            let tries = w.tcp(L2, w.cip(), 80).times(10).untraced();
            drop(tries.only([pod]));
        };
        serves(L1);
        let owner = Owner::keep(w.netns(Node));
        w.write(svc().on([R1]));
        w.within(SOON, || live.metric(FAILURES).is_some_and(|failures| failures >= 1.0));
        for _ in 0..10 {
            serves(L1);
            w.sleep(200);
        }
        assert_eq!(live.asked("/healthz").0, 200);
        if soak() {
            w.within(Duration::from_secs(90), || live.asked("/healthz").0 == 503);
            serves(L1);
        }
        owner.leave();
        w.within(SOON, || live.log().contains("the kernel follows the plan again"));
        live.settle();
        serves(R1);
        assert_eq!(live.asked("/healthz").0, 200);
    });
}

fn never_written() {
    live::with(|live| {
        let w = &live.w;
        let owner = Owner::take(w.netns(Node), "");
        w.within(SOON, || w.sh(Node, "nft list tables").contains("inet vipd"));
        w.write(balanced(live));
        live.launch(&[]);
        w.within(SOON, || live.metric(FAILURES).is_some_and(|failures| failures >= 3.0));
        let (status, said) = live.asked("/healthz");
        assert_eq!((status, &said["healthy"]), (503, &json!(false)), "{said}");
        let (status, weight) = checked(live);
        assert!(status != 200 && weight != json!(true), "{status} {weight}");
        assert_eq!(live.asked("/livez").0, 200, "for a minute it may still come right");
        owner.leave();
        w.within(SOON, || live.asked("/healthz").0 == 200);
        live.settle();
        w.tcp(L2, w.cip(), 80).times(40).only([L1, R1]);
    });
}
