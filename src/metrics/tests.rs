//! The whole text, and what it must keep to.

use super::families::render;
use super::process::Process;
use super::readings::{Answered, Opened, Readings};
use crate::dataplane::nftables::Counted;
use crate::dataplane::userspace::{Counts, LoopbackCounts};
use crate::histogram::Histogram;
use crate::model::{Origin, Problem, Severity};
use crate::planner::Plan;
use crate::sources::Scope;
use crate::sources::kubernetes::Made;
use crate::sync::{NoLocalEndpoints, Snapshot, SyncStatus};
use hyper::Method;
use imbl::OrdMap;
use std::collections::BTreeSet;
use std::time::{Duration, UNIX_EPOCH};

fn snapshot(status: SyncStatus) -> Snapshot {
    Snapshot { known: OrdMap::new(), plan: Plan::empty(), problems: OrdMap::new(), status }
}

fn readings() -> Readings {
    Readings {
        kernel: Some(Counted { invalid: 11, unpinned: 12 }),
        health_listeners: Opened { open: 13, failures: 14 },
        loopback: LoopbackCounts { open: [15, 30], failures: [16, 31], failed_dials: 17 },
        healthz: Answered { good: 18, bad: 19 },
        livez: Answered { good: 20, bad: 21 },
        events_sent: 22,
        events_dropped: 23,
        process: Some(Process { open_files: 24, ..Process::default() }),
        gates: std::sync::Arc::new([("AllAlpha".to_owned(), true)].into()),
        requests: asked(),
        relay: Some(Counts { strays: 34, ..Counts::default() }),
    }
}

fn asked() -> Made {
    let took = Histogram::new(&[0.5, 1.0]);
    took.observe(Duration::from_millis(750));
    let host = "10.0.0.1:6443";
    let sizes = |bytes| {
        let sizes = Histogram::of_sizes(&[1048576.0]);
        sizes.observe_size(bytes);
        [((Method::POST, host.into()), sizes)].into()
    };
    Made {
        answers: [((Method::GET, host.into(), "200".into()), 29)].into(),
        durations: [((Method::GET, host.into()), took.clone())].into(),
        waits: [((Method::PATCH, host.into()), took)].into(),
        sent: sizes(35),
        received: sizes(36),
    }
}

#[track_caller]
fn says(text: &str, line: &str) {
    assert!(text.lines().any(|other| other == line), "{line} is missing in:\n{text}");
}

#[test]
fn each_number_stands_under_its_name() {
    let mut status = SyncStatus {
        last_success: Some(UNIX_EPOCH + Duration::from_millis(1_700_000_000_250)),
        failures: 1,
        cleanup_failures: 32,
        service_changes: 2,
        endpoint_changes: 3,
        pending_services: 25,
        pending_endpoints: 26,
        last_queued: Some(UNIX_EPOCH + Duration::from_secs(1_700_000_001)),
        commits: 4,
        resyncs: 5,
        repairs: 6,
        no_local: NoLocalEndpoints { internal: [7, 27], external: [8, 28] },
        ..SyncStatus::default()
    };
    status.applied.operations = 9;
    status.durations.programming[1].observe(Duration::from_millis(2500));
    let mut snapshot = snapshot(status);
    snapshot.plan.services = 10;
    let text = render(&snapshot, &readings());
    for line in [
        "kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family=\"IPv6\"} 1700000000.25",
        "kubeproxy_sync_proxy_rules_nftables_sync_failures_total{ip_family=\"IPv4\"} 1",
        "kubeproxy_sync_proxy_rules_service_changes_total 2",
        "kubeproxy_sync_proxy_rules_endpoint_changes_total 3",
        "vipd_commits_total 4",
        "vipd_resyncs_total 5",
        "vipd_foreign_edits_repaired_total 6",
        "kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family=\"IPv4\",traffic_policy=\"internal\"} 7",
        "kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family=\"IPv6\",traffic_policy=\"internal\"} 27",
        "kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family=\"IPv6\"} 0",
        "kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family=\"IPv4\",traffic_policy=\"external\"} 8",
        "vipd_operations_written_total 9",
        "vipd_services 10",
        "vipd_invalid_packets_dropped_total 11",
        "vipd_relay_strays_total 34",
        "vipd_affinity_table_full_total 12",
        "vipd_health_check_listeners 13",
        "vipd_health_check_listener_failures_total 14",
        "kubeproxy_nftables_localhost_nodeport_listeners{ip_family=\"IPv4\"} 15",
        "kubeproxy_nftables_localhost_nodeport_listener_creation_failures_total{ip_family=\"IPv6\"} 31",
        "kubeproxy_sync_proxy_rules_nftables_cleanup_failures_total{ip_family=\"IPv4\"} 32",
        "vipd_localhost_nodeport_failed_dials_total 17",
        "vipd_tcp_connections_reset_total 0",
        "kubeproxy_proxy_healthz_total{code=\"200\"} 18",
        "kubeproxy_proxy_healthz_total{code=\"503\"} 19",
        "kubeproxy_proxy_livez_total{code=\"200\"} 20",
        "kubeproxy_proxy_livez_total{code=\"503\"} 21",
        "vipd_events_sent_total 22",
        "vipd_events_dropped_total 23",
        "process_open_fds 24",
        "process_virtual_memory_max_bytes 18446744073709551615",
        "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds{ip_family=\"IPv4\"} 1700000001",
        "kubeproxy_sync_proxy_rules_service_changes_pending 25",
        "kubeproxy_sync_proxy_rules_endpoint_changes_pending 26",
        "kubeproxy_network_programming_duration_seconds_count{ip_family=\"IPv6\"} 1",
        "kubeproxy_network_programming_duration_seconds_bucket{ip_family=\"IPv6\",le=\"2\"} 0",
        "kubeproxy_network_programming_duration_seconds_bucket{ip_family=\"IPv6\",le=\"3\"} 1",
        "kubeproxy_network_programming_duration_seconds_count{ip_family=\"IPv4\"} 0",
        "rest_client_requests_total{code=\"200\",host=\"10.0.0.1:6443\",method=\"GET\"} 29",
        "rest_client_request_duration_seconds_bucket{host=\"10.0.0.1:6443\",verb=\"GET\",le=\"0.5\"} 0",
        "rest_client_request_duration_seconds_count{host=\"10.0.0.1:6443\",verb=\"GET\"} 1",
        "rest_client_rate_limiter_duration_seconds_sum{host=\"10.0.0.1:6443\",verb=\"PATCH\"} 0.75",
        "rest_client_request_size_bytes_sum{host=\"10.0.0.1:6443\",verb=\"POST\"} 35",
        "rest_client_response_size_bytes_bucket{host=\"10.0.0.1:6443\",verb=\"POST\",le=\"1.048576e+06\"} 1",
        "rest_client_response_size_bytes_sum{host=\"10.0.0.1:6443\",verb=\"POST\"} 36",
        "kubeproxy_conntrack_reconciler_sync_duration_seconds_count{ip_family=\"IPv6\"} 0",
        "kubernetes_feature_enabled{name=\"AllAlpha\",stage=\"ALPHA\"} 1",
        "kubernetes_feature_enabled{name=\"AllBeta\",stage=\"BETA\"} 0",
        "kubernetes_feature_enabled{name=\"AllowDNSOnlyNodeCSR\",stage=\"DEPRECATED\"} 0",
        "kubernetes_feature_enabled{name=\"AllowServiceExternalIPs\",stage=\"\"} 1",
        "kubernetes_feature_enabled{name=\"ClientsAllowCBOR\",stage=\"ALPHA\"} 1",
        "vipd_frontends_lost 0",
        "kubeproxy_conntrack_reconciler_deleted_entries_total{ip_family=\"IPv4\"} 0",
    ] {
        says(&text, line);
    }
    let build = text.lines().find(|line| line.starts_with("kubernetes_build_info{"));
    let version = format!("git_version=\"v{}\"", env!("CARGO_PKG_VERSION"));
    assert!(build.is_some_and(|line| line.contains(&version) && line.ends_with(" 1")), "{build:?}");
}

/// What a parser of the format insists on.
#[test]
fn every_sample_follows_the_help_and_type_of_its_own_family() {
    let text = render(&snapshot(SyncStatus::default()), &readings());
    let (mut seen, mut current) = (BTreeSet::new(), None);
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect("a name and a text");
            assert!(help.ends_with('.'), "{line}");
            assert!(seen.insert(name), "{name} comes twice");
            let kind = lines.next().and_then(|line| line.strip_prefix("# TYPE "));
            let kind = kind.and_then(|rest| rest.strip_prefix(name)).expect("a type").trim();
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{kind}");
            assert!(kind != "counter" || name.ends_with("_total"), "{name} is a {kind}");
            assert!(
                ["vipd_", "kubeproxy_", "kubernetes_", "process_", "rest_client_"]
                    .iter()
                    .any(|p| name.starts_with(p)),
                "{name}"
            );
            current = Some(name);
        } else {
            let (name, value) = line.rsplit_once(' ').expect("a name and a value");
            let name = name.split('{').next();
            let parts = ["_bucket", "_sum", "_count"];
            let whole =
                |name: &str| parts.iter().find_map(|part| name.strip_suffix(part)) == current;
            assert!(name == current || name.is_some_and(whole), "{line}");
            assert!(value.parse::<f64>().is_ok(), "{line}");
        }
    }
    assert!(seen.len() > 20, "{seen:?}");
    assert!(text.ends_with('\n'));
}

#[test]
fn what_the_kernel_does_not_tell_is_left_out() {
    let told = render(&snapshot(SyncStatus::default()), &readings());
    let silent = Readings { kernel: None, ..readings() };
    let untold = render(&snapshot(SyncStatus::default()), &silent);
    for name in ["vipd_invalid_packets_dropped_total", "vipd_affinity_table_full_total"] {
        assert!(told.contains(name) && !untold.contains(name), "{name}");
    }
}

#[test]
fn problems_count_by_their_severity() {
    let problem = |severity| Problem {
        severity,
        origin: Origin::Cluster,
        object: None,
        field: "".into(),
        reason: "".into(),
    };
    let said = [Severity::Rejected, Severity::Warning, Severity::Rejected].map(problem);
    let mut snapshot = snapshot(SyncStatus::default());
    snapshot.problems.insert(Scope::Origin(Origin::Cluster), said.into());
    let text = render(&snapshot, &readings());
    for (severity, count) in [("rejected", 2), ("shadowed", 0), ("warning", 1)] {
        says(&text, &format!("vipd_object_problems{{severity=\"{severity}\"}} {count}"));
    }
}
