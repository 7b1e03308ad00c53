//! What vipd counts, as `vipd metrics` prints it.

use super::affinity::{fill, leave_room};
use super::invalid::strays;
use super::support::manifests::{slice, svc};
use super::support::nft::TABLE;
use super::support::plan::{Ext, L1, L2, L3, NODE_PORT, Node, R1, R2, V4, Who};
use super::support::runner::{Case, case};
use super::support::servers::Tcp;
use super::support::sniff::{ACK, SYN};
use super::support::world::World;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const SOON: Duration = Duration::from_secs(1);

const HEALTH_PORT: u16 = 32_100;

const NO_LOCAL: &str = "kubeproxy_sync_proxy_rules_no_local_endpoints_total";

/// The value of a sample, labels included in its name.
#[track_caller]
pub fn metric(w: &World, sample: &str) -> f64 {
    let said = w.vipd("metrics");
    assert_eq!(said.code, 0, "{}", said.out);
    let value = said.out.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
    let value = value.and_then(|text| text.parse().ok());
    value.unwrap_or_else(|| panic!("no {sample} in:\n{}", said.out))
}

/// The sample of the case's family.
fn labelled(w: &World, name: &str) -> String {
    let ip = if w.family == V4 { "IPv4" } else { "IPv6" };
    format!("{name}{{ip_family=\"{ip}\"}}")
}

/// (internal, external)
fn no_local(w: &World) -> (f64, f64) {
    let ip = if w.family == V4 { "IPv4" } else { "IPv6" };
    let of = |policy: &str| {
        metric(w, &format!("{NO_LOCAL}{{ip_family=\"{ip}\",traffic_policy=\"{policy}\"}}"))
    };
    (of("internal"), of("external"))
}

pub fn cases() -> Vec<Case> {
    vec![
        case("61 services whose endpoints are all elsewhere under policy Local", |w| {
            let service = || svc().local().node_port(NODE_PORT).external_local().on([R1, R2]);
            assert_eq!(no_local(w), (0.0, 0.0));
            w.serve(service());
            assert_eq!(no_local(w), (1.0, 1.0));
            w.serve(slice([L1, R1]));
            assert_eq!(no_local(w), (0.0, 0.0), "one is here");
            w.serve(slice([R1]));
            assert_eq!(no_local(w), (1.0, 1.0));
            w.serve(svc().named("second", 42).local().on([R2]));
            assert_eq!(no_local(w), (2.0, 1.0));
            w.restart();
            assert_eq!(no_local(w), (2.0, 1.0), "counted from nothing");
            w.withdraw(service());
            assert_eq!(no_local(w), (1.0, 0.0));
            w.withdraw(svc().named("second", 42).local().on([R2]));
            assert_eq!(no_local(w), (0.0, 0.0));
        }),
        case("60 how long a change took from what it followed from; what went took none", |w| {
            let of = |part: &str| {
                let name = "kubeproxy_network_programming_duration_seconds";
                metric(w, &labelled(w, &format!("{name}_{part}")))
            };
            w.serve(svc().on([L1]));
            assert_eq!(of("count"), 0.0, "a slice without the annotation");
            let changed = |ago: u64, pods: &[Who]| {
                let at = SystemTime::now() - Duration::from_secs(ago);
                let second = at.duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64();
                let time = w.sh(Node, &format!("date -u -d @{second:.6} +%FT%T.%NZ"));
                let key = "endpoints.kubernetes.io/last-change-trigger-time";
                w.serve(slice(pods.iter().copied()).annotation(key, time.trim()));
            };
            changed(0, &[L1, R1]);
            assert_eq!(of("count"), 1.0);
            let once = of("sum");
            assert!(once < 2.0, "{once} s");
            changed(3600, &[R1]);
            assert_eq!(of("count"), 1.0, "before vipd began");
            w.withdraw(slice([R1]));
            assert_eq!(of("count"), 1.0);
        }),
        case("a foreign edit that is repaired counts once", |w| {
            const REPAIRED: &str = "vipd_foreign_edits_repaired_total";
            w.serve(svc().on([L1]));
            assert_eq!(metric(w, REPAIRED), 0.0);
            let commits = metric(w, "vipd_commits_total");
            assert!(commits > 0.0);
            w.netns(Node).nft(&format!("flush chain {TABLE} refuse"));
            w.within(SOON, || metric(w, REPAIRED) == 1.0);
            w.sleep(100);
            assert_eq!(metric(w, REPAIRED), 1.0);
            w.tcp(L2, w.cip(), 80).only([L1]);
            let failed =
                "kubeproxy_sync_proxy_rules_nftables_sync_failures_total{ip_family=\"IPv4\"}";
            assert_eq!(metric(w, failed), 0.0);
        }),
        case("INVALID packets of a service that are dropped count, others do not", |w| {
            const DROPPED: &str = "vipd_invalid_packets_dropped_total";
            w.serve(svc().on([L1]));
            // Neither has a part in a service, so that R2's resets do not count either.
            let (from, to) = (SocketAddr::new(w.address(L3), 8080), w.address(R2));
            strays(w, L3, (from, SocketAddr::new(to, 19_997)), SYN | ACK);
            w.sleep(100);
            assert_eq!(metric(w, DROPPED), 0.0);
            let endpoint = SocketAddr::new(w.address(L1), 8080);
            strays(w, L1, (endpoint, SocketAddr::new(w.address(L2), 19_999)), SYN | ACK);
            w.within(SOON, || metric(w, DROPPED) == 4.0);
        }),
        case("a full table of pins counts each connection that is not pinned", |w| {
            const FULL: &str = "vipd_affinity_table_full_total";
            w.serve(svc().sticky(600).on([L1, R1]));
            leave_room(w, 1);
            let crowd = w.family.crowd();
            w.tcp(Ext, w.cip(), 80).from(crowd[0]).untraced().reached();
            assert_eq!(metric(w, FULL), 0.0, "there was room for one");
            fill(w);
            w.tcp(Ext, w.cip(), 80).from(crowd[1]).times(30).untraced().reached();
            assert_eq!(metric(w, FULL), 30.0);
        })
        .kernel_only("the table is the kernel's; the relay counts by itself"),
        case("a full table of pins is told in the log, once", |w| {
            w.serve(svc().sticky(600).on([L1, R1]));
            leave_room(w, 1);
            let crowd = w.family.crowd();
            let told = |w: &World| w.log().matches("affinity table is full").count();
            w.tcp(Ext, w.cip(), 80).from(crowd[0]).untraced().reached();
            w.sleep(65_000);
            assert_eq!(told(w), 0, "there was room for one");
            fill(w);
            for _ in 0..2 {
                w.tcp(Ext, w.cip(), 80).from(crowd[1]).times(30).untraced().reached();
                w.sleep(65_000);
                assert_eq!(told(w), 1, "{}", w.log());
                assert!(w.log().contains("connections=30"), "{}", w.log());
            }
        })
        .once()
        .soak(),
        case("health-check listeners count, open and refused", |w| {
            const OPEN: &str = "vipd_health_check_listeners";
            const FAILED: &str = "vipd_health_check_listener_failures_total";
            let balanced = || {
                let service = svc().node_port(NODE_PORT).load_balancer([w.vip()]);
                service.external_local().health_port(HEALTH_PORT).on([L1])
            };
            assert_eq!((metric(w, OPEN), metric(w, FAILED)), (0.0, 0.0));
            let at = SocketAddr::new(w.address(Node), HEALTH_PORT);
            w.servers(Node).listen([(Tcp, at)]);
            w.serve(balanced());
            w.within(SOON, || metric(w, FAILED) >= 1.0);
            let open = metric(w, OPEN);
            w.servers(Node).close(Tcp, at);
            w.within(Duration::from_secs(4), || metric(w, OPEN) == open + 1.0);
            w.withdraw(balanced());
            w.within(SOON, || metric(w, OPEN) == 0.0);
        }),
        case("dials to endpoints that refuse count, changes of objects too", |w| {
            const SERVICES: &str = "kubeproxy_sync_proxy_rules_service_changes_total";
            const ENDPOINTS: &str = "kubeproxy_sync_proxy_rules_endpoint_changes_total";
            const DIALS: &str = "vipd_localhost_nodeport_failed_dials_total";
            w.servers(L1).close(Tcp, SocketAddr::new(w.address(L1), 8080));
            let before = (metric(w, SERVICES), metric(w, ENDPOINTS));
            assert!(before.0 > 0.0 && before.1 > 0.0, "{before:?}");
            w.serve(svc().node_port(NODE_PORT).on([L1, R1]));
            assert!(metric(w, SERVICES) > before.0 && metric(w, ENDPOINTS) > before.1);
            let open = labelled(w, "kubeproxy_nftables_localhost_nodeport_listeners");
            w.within(SOON, || metric(w, &open) == 1.0);
            assert_eq!(metric(w, DIALS), 0.0);
            let loopback = w.family.loopback();
            let client = w.tcp(Node, loopback, NODE_PORT).from(loopback).untraced();
            client.times(40).only([R1]);
            assert!(metric(w, DIALS) >= 1.0);
        })
        .kernel_only("a relayed node port needs no listener of its own"),
        case("node-port listeners count, and what is wrong with objects", |w| {
            let name = "kubeproxy_nftables_localhost_nodeport_listener";
            let open = labelled(w, &format!("{name}s"));
            let failed = labelled(w, &format!("{name}_creation_failures_total"));
            assert_eq!(metric(w, &open), 0.0);
            let at = SocketAddr::new(w.family.loopback(), NODE_PORT);
            w.servers(Node).listen([(Tcp, at)]);
            w.serve(svc().node_port(NODE_PORT).on([L1]));
            w.within(SOON, || metric(w, &failed) >= 1.0);
            assert_eq!(metric(w, &open), 0.0);
            w.servers(Node).close(Tcp, at);
            w.within(Duration::from_secs(4), || metric(w, &open) == 1.0);
            assert_eq!(metric(w, "vipd_frontends_lost"), 0.0);
            let services = metric(w, "vipd_services");
            w.serve(svc().named("younger", 41).on([L1]));
            assert_eq!(metric(w, "vipd_frontends_lost"), 1.0, "the same cluster IP and port");
            assert_eq!(metric(w, "vipd_services"), services + 1.0);
            let rejected = "vipd_object_problems{severity=\"rejected\"}";
            assert_eq!(metric(w, rejected), 0.0);
            w.serve(svc().named("bad", 43).spec("clusterIP", "10.254.0.300".into()));
            assert_eq!(metric(w, rejected), 1.0);
        })
        .kernel_only("a relayed node port needs no listener of its own"),
    ]
}
