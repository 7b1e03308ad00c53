//! What is created through the API is reached by pods and by outsiders.

use crate::api;
use crate::live::{self, Live, SOON};
use crate::runner::Case;
use crate::support::manifests::{Ep, Slice, Svc, draining, ep, slice, svc, tcp, udp};
use crate::support::nft::tables;
use crate::support::plan::{Ext, Family, L1, L2, L3, NODE_A, NODE_PORT, Node, R1, R2, V4, V6};
use crate::support::servers::Udp;
use crate::support::trace::Verdict;
use crate::support::world::World;
use serde_json::json;
use std::net::IpAddr;
use std::time::{Duration, Instant};

pub const CASES: &[Case] = &[
    ("a node with no rules at all serves pods, itself and outsiders, by TCP and UDP", serves),
    ("changes and deletions are followed by traffic", follows),
    ("the own Node's zone and address change through the API", own_node),
    ("node ports and a load balancer's addresses of the API are served", exposes),
    ("ranges of cluster IPs come from the API: what is not allocated there is dropped", ranges),
    ("47 labels that leave a Service or a slice to others, put on and taken off", labels),
    ("61 services whose endpoints are all elsewhere under policy Local are counted", no_local),
];

/// A service of one family with a TCP and a UDP port, both 80.
fn web(family: Family) -> Svc {
    svc().named(name(family), 41).ports([tcp("web", 80), udp("dns", 80)])
}

fn name(family: Family) -> String {
    format!("web-{}", family.kubernetes().to_lowercase())
}

fn pods<const N: usize>(family: Family, endpoints: [Ep; N]) -> Slice {
    slice(endpoints).of(name(family)).ports([tcp("web", 8080), udp("dns", 8080)])
}

fn both(live: &Live) -> [World; 2] {
    [V4, V6].map(|family| live.w.over(family))
}

fn serves() {
    live::with(|live| {
        assert_eq!(tables(live.w.netns(Node)), [] as [String; 0]);
        for w in both(live) {
            w.write(web(w.family));
            w.write(pods(w.family, [ep(L1), ep(R1)]));
            let tries = w.tcp(L2, w.cip(), 80).patience(Duration::from_millis(300));
            assert_eq!(tries.replies().failures(), 1, "nobody serves yet");
        }
        live.start(&[]);
        for w in both(live) {
            w.tcp(L2, w.cip(), 80).times(200).spread([L1, R1]).source_kept().on_port(8080);
            w.tcp(Node, w.cip(), 80).times(40).only([L1, R1]).masqueraded();
            w.tcp(Ext, w.cip(), 80).times(40).only([L1, R1]).masqueraded();
            w.udp(L2, w.cip(), 80).times(40).only([L1, R1]).source_kept();
            w.udp(Ext, w.cip(), 80).times(40).only([L1, R1]).masqueraded();
            w.tcp(L1, w.cip(), 80).times(40).only([L1, R1]);
        }
        let (status, said) = live.asked("/healthz");
        assert_eq!((status, &said["nodeEligible"]), (200, &json!(true)), "{said}");
    });
}

fn follows() {
    live::with(|live| {
        live.start(&[]);
        for w in both(live) {
            w.write(web(w.family));
            w.serve(pods(w.family, [ep(L1), ep(R1)]));
            w.tcp(L2, w.cip(), 80).times(40).only([L1, R1]);
            let talk = w.talking(L2, Udp, w.cip(), 80);
            w.serve(pods(w.family, [ep(L3), ep(R2)]));
            w.tcp(L2, w.cip(), 80).times(40).only([L3, R2]);
            w.tcp(Ext, w.cip(), 80).times(40).only([L3, R2]);
            w.within(SOON, || {
                let since = Instant::now();
                w.sleep(100);
                let now = talk.servers(since);
                !now.is_empty() && !now.contains("L1") && !now.contains("R1")
            });
            w.serve(pods(w.family, [draining(L3), ep(R2)]));
            w.tcp(L2, w.cip(), 80).times(40).only([R2]);
            w.withdraw(pods(w.family, [ep(R2)]));
            w.tcp(L2, w.cip(), 80).times(3).refused();
            w.withdraw(web(w.family));
            w.tcp(L2, w.cip(), 80).dropped();
        }
    });
}

fn exposes() {
    live::with(|live| {
        live.start(&[]);
        for w in both(live) {
            let service = svc().named(name(w.family), 41).node_port(NODE_PORT);
            w.serve(service.load_balancer([w.vip()]).external_local().on([L1, R1]));
            w.tcp(Ext, w.address(Node), NODE_PORT).times(20).only([L1]).source_kept();
            w.tcp(Ext, w.vip(), 80).times(20).only([L1]).source_kept();
            w.tcp(L2, w.vip(), 80).times(40).only([L1, R1]);
            let service = svc().named(name(w.family), 41).on([L1, R1]);
            w.serve(service);
            w.tcp(Ext, w.address(Node), NODE_PORT).times(3).untraced().refused();
        }
    });
}

fn own_node() {
    live::with(|live| {
        live.start(&[("--nodeport-addresses", "primary")]);
        let w = &live.w;
        let service = svc().node_port(NODE_PORT);
        w.serve(service.on([ep(L1).zones(["z1"]), ep(R1).zones(["z2"])]));
        w.tcp(L2, w.cip(), 80).times(20).only([L1]);
        let node = api::path("Node", NODE_A);
        let zone = |zone: Option<&str>| {
            let labels = json!({"topology.kubernetes.io/zone": zone});
            live.api.patch(&node, &json!({"metadata": {"labels": labels}}));
        };
        let servers = || {
            let replies = w.tcp(L2, w.cip(), 80).times(20).untraced().replies();
            replies.servers().into_keys().collect::<Vec<_>>()
        };
        zone(Some("z2"));
        w.within(SOON, || servers() == ["R1"]);
        zone(None);
        w.within(SOON, || servers() == ["L1", "R1"]);
        let answers = |at: IpAddr| {
            let tries = w.tcp(Ext, at, NODE_PORT).patience(Duration::from_millis(200));
            tries.untraced().replies().failures() == 0
        };
        let (first, second) = (w.address(Node), w.family.node_second());
        assert!(answers(first) && !answers(second));
        let address = |address: IpAddr| {
            let addresses = json!([{"type": "InternalIP", "address": address}]);
            live.api.patch(&format!("{node}/status"), &json!({"status": {"addresses": addresses}}));
        };
        address(second);
        w.within(SOON, || answers(second) && !answers(first));
        address(first);
        w.within(SOON, || answers(first) && !answers(second));
    });
}

fn ranges() {
    live::with(|live| {
        live.start(&[]);
        for w in both(live) {
            w.tcp(L2, w.family.unallocated(), 80).dropped();
        }
        // One more range: what is in it is dropped too, once vipd has heard of it.
        let another = json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
            "metadata": {"name": "another"}, "spec": {"cidrs": ["10.253.0.0/24"]}});
        live.api.apply(&another);
        let inside = "10.253.0.9".parse().expect("an address");
        live.w.within(SOON, || {
            let tries = live.w.tcp(L2, inside, 80).patience(Duration::from_millis(100));
            tries.replies().trace.is_some_and(|trace| trace.verdict == Verdict::Drop)
        });
        live.api.delete(&api::path("ServiceCIDR", "another"));
    });
}

/// The server selects by them: what does not match any more is deleted for who watches.
fn labels() {
    const OTHER_PROXY: &str = "service.kubernetes.io/service-proxy-name";
    const HEADLESS: &str = "service.kubernetes.io/headless";
    live::with(|live| {
        live.start(&[]);
        let w = &live.w;
        let to = || w.tcp(L2, w.cip(), 80);
        w.serve(svc().on([L1, R1]));
        to().times(40).only([L1, R1]);
        w.serve(svc().label(OTHER_PROXY, "another"));
        to().dropped();
        w.serve(svc());
        to().times(40).only([L1, R1]);
        w.serve(slice([L1, R1]).label(HEADLESS, ""));
        to().times(3).refused();
        w.serve(slice([L1, R1]));
        to().times(40).only([L1, R1]);
        w.serve(svc().label(HEADLESS, ""));
        to().times(40).only([L1, R1]);
    });
}

fn no_local() {
    const GAUGE: &str = "kubeproxy_sync_proxy_rules_no_local_endpoints_total";
    live::with(|live| {
        live.start(&[]);
        let gauges = || {
            ["internal", "external"].map(|policy| {
                let labels = format!("ip_family=\"IPv4\",traffic_policy=\"{policy}\"");
                live.metric(&format!("{GAUGE}{{{labels}}}"))
            })
        };
        let w = &live.w;
        assert_eq!(gauges(), [Some(0.0); 2]);
        let service = || svc().local().node_port(NODE_PORT).external_local().on([R1, R2]);
        w.serve(service());
        assert_eq!(gauges(), [Some(1.0); 2]);
        w.serve(slice([L1, R1]));
        assert_eq!(gauges(), [Some(0.0); 2], "one is here");
        w.serve(slice([R1]));
        assert_eq!(gauges(), [Some(1.0); 2]);
        w.withdraw(service());
        assert_eq!(gauges(), [Some(0.0); 2]);
    });
}
