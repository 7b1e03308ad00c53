//! An API server that goes away, and comes back to a cluster that changed: what was programmed serves
//! meanwhile, and what is true then is programmed.

use crate::api::path;
use crate::live::{self, SOON};
use crate::runner::Case;
use crate::support::manifests::{slice, svc};
use crate::support::plan::{Ext, L1, L2, L3, Node, R1, Who};
use crate::support::runner::soak;
use crate::support::world::{WORK, World};
use std::net::IpAddr;
use std::time::{Duration, Instant};

pub const CASES: &[Case] = &[
    (
        "59 a server that is killed under traffic: nothing fails, all stays, then news arrive",
        killed,
    ),
    ("a server with a new certificate of its own is trusted once the file says so", renewed),
    ("410 what vanished while etcd forgot is gone after a new list", compacted),
];

/// For the long runs only.
pub const LONG_CASES: &[Case] =
    &[("a connection that died without a word is given up, and news arrive by another", dead)];

const CONNECTIONS_PER_SECOND: u32 = 200;

/// Two pods, the node, and outsiders.
pub fn clients(w: &World) -> Vec<(Who, IpAddr)> {
    let inside = [L2, L3, Node, Ext].map(|who| (who, w.family.client_address(who)));
    let crowd = w.family.crowd().into_iter().take(8).map(|address| (Ext, address));
    inside.into_iter().chain(crowd).collect()
}

fn killed() {
    let away = Duration::from_secs(if soak() { 300 } else { 30 });
    live::with(|live| {
        live.start(&[]);
        live.w.serve(svc().on([L1, R1]));
        let load = live.w.crowd(&clients(&live.w), (live.w.cip(), 80), CONNECTIONS_PER_SECOND);
        live.w.sleep(1000);
        live.plane.kill_server();
        let back = Instant::now() + away;
        live.told("what is programmed stays");
        while Instant::now() < back {
            assert_eq!(live.asked("/healthz").0, 200);
            assert_eq!(live.asked("/livez").0, 200);
            live.w.sleep(1000);
        }
        live.plane.start_server();
        let w = &live.w;
        w.write(slice([L1]));
        w.write(svc().named("new", 42).on([R1]));
        live.settle();
        w.tcp(L2, w.family.cluster_ip(42), 80).times(4).only([R1]);
        w.tcp(L2, w.cip(), 80).times(20).only([L1]);
        live.told("the API server answers again");
        w.sleep(1000);
        let attempts = load.stop();
        println!("{attempts}, the server was away for {away:?}");
        attempts.at_rate(CONNECTIONS_PER_SECOND).of_clients(8);
        let failed = attempts.failed();
        assert!(failed.is_empty(), "{attempts}: {:#?}", &failed[..failed.len().min(5)]);
        // A server that is away for hours must not fill the disk.
        let complaints = live.log().matches("what is programmed stays").count();
        assert!((4..40).contains(&complaints), "{complaints} lines");
    });
}

/// The kubeconfig names a file, in which there is another certificate by then.
fn renewed() {
    live::with(|live| {
        live.start(&[]);
        live.w.serve(svc().on([L1, R1]));
        live.plane.kill_server();
        live.w.sh(Node, &format!("rm -r {WORK}/certs"));
        live.plane.start_server();
        let w = &live.w;
        w.write(svc().named("new", 42).on([L1]));
        live.settle();
        w.tcp(L2, w.family.cluster_ip(42), 80).times(4).only([L1]);
        w.tcp(L2, w.cip(), 80).times(40).only([L1, R1]);
    });
}

/// Deletes in etcd, as another API server would that vipd does not know, then has etcd forget it: a
/// server that starts now knows no more than what is there.
fn compacted() {
    live::with(|live| {
        live.start(&[]);
        live.w.write(svc().named("old", 42).on([R1]));
        live.w.serve(svc().on([L1, R1]));
        let old = live.w.family.cluster_ip(42);
        live.w.tcp(L2, old, 80).times(4).only([R1]);
        live.plane.kill_server();
        live.told("what is programmed stays");
        let etcd = |call: &str, body: &str| {
            live.w.sh(Node, &format!("curl -sSf http://127.0.0.1:2379/v3/kv/{call} -d '{body}'"))
        };
        let delete = |key: &str| {
            let key64 = live.w.sh(Node, &format!("printf %s {key} | base64 -w0"));
            let said = etcd("deleterange", &format!(r#"{{"key": "{key64}"}}"#));
            assert!(said.contains(r#""deleted":"1""#), "{key}: {said}");
            said
        };
        delete("/registry/services/specs/default/old");
        let last = delete("/registry/endpointslices/default/old-a");
        let revision = last.split(r#""revision":""#).nth(1).and_then(|rest| rest.split('"').next());
        let revision = revision.unwrap_or_else(|| panic!("no revision: {last}"));
        etcd("compaction", &format!(r#"{{"revision": "{revision}", "physical": true}}"#));
        live.w.tcp(L2, old, 80).times(4).only([R1]);
        live.plane.start_server();
        let known = live.api.items(&path("Service", ""));
        assert!(known.iter().all(|one| one["metadata"]["name"] != "old"), "{known:?}");
        let w = &live.w;
        w.within(SOON, || {
            let tries = w.tcp(L2, old, 80).untraced().patience(Duration::from_millis(200));
            tries.replies().failures() == 1
        });
        w.tcp(L2, old, 80).dropped();
        w.tcp(L2, w.cip(), 80).times(40).only([L1, R1]);
        w.serve(svc().named("new", 43).on([L1]));
        w.tcp(L2, w.family.cluster_ip(43), 80).times(4).only([L1]);
    });
}

/// Both ends believe in the connections; nothing passes on them any more.
fn dead() {
    live::with(|live| {
        live.start(&[]);
        let w = &live.w;
        w.serve(svc().on([L1, R1]));
        let pid = w.pid();
        let open = w.sh(Node, "ss -Htnp state established dport = :6443");
        let ports: Vec<&str> = open
            .lines()
            .filter(|line| line.contains(&format!("pid={pid},")))
            .filter_map(|line| line.split_whitespace().nth(2)?.rsplit(':').next())
            .collect();
        assert!(ports.len() >= 4, "a watch for each kind: {open}");
        let ports = ports.join(", ");
        w.netns(Node).nft(&format!(
            "table inet wire {{
               chain input {{
                 type filter hook input priority -300
                 tcp sport 6443 tcp dport {{ {ports} }} drop
                 tcp dport 6443 tcp sport {{ {ports} }} drop
               }}
             }}"
        ));
        w.write(svc().named("new", 42).on([L1]));
        let began = Instant::now();
        // A connection may be silent for 75 s. Then follow a pause, and a new one.
        w.settle_within(Duration::from_secs(120));
        println!("news arrived by another connection after {:.1?}", began.elapsed());
        w.tcp(L2, w.family.cluster_ip(42), 80).times(4).only([L1]);
        w.tcp(L2, w.cip(), 80).times(40).only([L1, R1]);
        w.sh(Node, "nft delete table inet wire");
    });
}
