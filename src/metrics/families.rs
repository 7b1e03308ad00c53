//! Which numbers there are, and what they mean. PURE.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use super::of_process::{asked, durations, of_process, told, walks};
use super::readings::Readings;
use super::relayed::relayed;
use super::text::{Text, counter, gauge, labels};
use crate::config::{Gates, gate_states};
use crate::dataplane::nftables::Counted;
use crate::model::Severity;
use crate::sync::Snapshot;
use std::time::{SystemTime, UNIX_EPOCH};

/// All families. Costs O(what is rejected, contested or relayed), whatever the number of services.
pub fn render(snapshot: &Snapshot, read: &Readings) -> String {
    let mut text = Text::default();
    builds(&mut text);
    features(&mut text, &read.gates);
    following(&mut text, snapshot);
    services(&mut text, snapshot);
    connections(&mut text, snapshot);
    listeners(&mut text, read);
    told(&mut text, read);
    asked(&mut text, &read.requests);
    if let Some(process) = read.process {
        of_process(&mut text, process);
    }
    if let Some(counted) = read.kernel {
        packets(&mut text, counted);
    }
    if let Some(counts) = &read.relay {
        relayed(&mut text, counts);
    }
    text.finish()
}

/// Labels of Kubernetes' own that say nothing of vipd (Go's version, a Git tree's state) are left out.
fn builds(text: &mut Text) {
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    let version = (labels(&[("version", VERSION)]), 1);
    text.labelled(gauge("vipd_build_info", "Which vipd this is; always 1."), [version]);
    // As Go names it.
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let build = labels(&[
        ("compiler", "rustc"),
        ("git_version", &format!("v{VERSION}")),
        ("major", env!("CARGO_PKG_VERSION_MAJOR")),
        ("minor", env!("CARGO_PKG_VERSION_MINOR")),
        ("platform", &format!("linux/{architecture}")),
    ]);
    let help = "Which build of a part of Kubernetes this is: vipd's; always 1.";
    text.labelled(gauge("kubernetes_build_info", help), [(build, 1)]);
}

/// As kube-proxy tells them; what a gate does upstream need not mean anything here.
fn features(text: &mut Text, given: &Gates) {
    let samples = gate_states(given).map(|(name, stage, on)| {
        let stage = if stage == "ga" { String::new() } else { stage.to_uppercase() };
        (labels(&[("name", name), ("stage", &stage)]), u8::from(on))
    });
    text.labelled(
        gauge(
            "kubernetes_feature_enabled",
            "Whether a feature gate of kube-proxy's is on (1) or off (0), by its stage; vipd obeys \
             AllowServiceExternalIPs.",
        ),
        samples,
    );
}

/// How the kernel follows the plan.
fn following(text: &mut Text, snapshot: &Snapshot) {
    let status = &snapshot.status;
    let since_1970 = |at: Option<SystemTime>| {
        at.and_then(|at| at.duration_since(UNIX_EPOCH).ok()).unwrap_or_default().as_secs_f64()
    };
    text.of_both(
        gauge(
            "kubeproxy_sync_proxy_rules_last_timestamp_seconds",
            "When the kernel last held exactly the plan, in seconds since 1970; 0: never.",
        ),
        since_1970(status.last_success),
    );
    text.of_both(
        gauge(
            "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds",
            "When a source last told of a change, in seconds since 1970; 0: never.",
        ),
        since_1970(status.last_queued),
    );
    durations(text, &status.durations);
    text.of_both(
        counter(
            "kubeproxy_sync_proxy_rules_nftables_sync_failures_total",
            "Writes to the kernel, and repairs, that failed; each is followed by a resync.",
        ),
        status.failures,
    );
    text.of_both(
        counter(
            "kubeproxy_sync_proxy_rules_nftables_cleanup_failures_total",
            "Of these, while removing what had not been used for long.",
        ),
        status.cleanup_failures,
    );
    text.one(
        counter(
            "kubeproxy_sync_proxy_rules_service_changes_total",
            "Changes of Services that sources have told of.",
        ),
        status.service_changes,
    );
    text.one(
        counter(
            "kubeproxy_sync_proxy_rules_endpoint_changes_total",
            "Changes of EndpointSlices and Endpoints objects that sources have told of.",
        ),
        status.endpoint_changes,
    );
    text.one(
        gauge(
            "kubeproxy_sync_proxy_rules_service_changes_pending",
            "Changes of Services that the kernel does not have yet.",
        ),
        status.pending_services,
    );
    text.one(
        gauge(
            "kubeproxy_sync_proxy_rules_endpoint_changes_pending",
            "Changes of EndpointSlices and Endpoints objects that the kernel does not have yet.",
        ),
        status.pending_endpoints,
    );
    text.one(
        counter("vipd_commits_total", "Times that changes were written to the kernel."),
        status.commits,
    );
    text.one(
        counter(
            "vipd_operations_written_total",
            "Elements, rules, chains and sets that were written to the kernel or removed from it.",
        ),
        status.applied.operations,
    );
    text.one(
        counter(
            "vipd_resyncs_total",
            "Times that what the kernel holds was read back and the difference written.",
        ),
        status.resyncs,
    );
    text.one(
        counter(
            "vipd_foreign_edits_repaired_total",
            "Times that changes of vipd's table and routes by other programs were undone.",
        ),
        status.repairs,
    );
}

/// What is served, and what is not as written.
fn services(text: &mut Text, snapshot: &Snapshot) {
    let no_local = snapshot.status.no_local;
    text.of_families(
        gauge(
            "kubeproxy_sync_proxy_rules_no_local_endpoints_total",
            "Services with a Local traffic policy whose endpoints are all on other nodes.",
        ),
        "traffic_policy",
        [("internal", no_local.internal), ("external", no_local.external)],
    );
    text.one(gauge("vipd_services", "Services that have a plan."), snapshot.plan.services);
    let lost: usize = snapshot.plan.claims.contested().map(|(_, losers)| losers.len()).sum();
    text.one(
        gauge(
            "vipd_frontends_lost",
            "Addresses and ports of services that an older service holds, and that are therefore \
             not programmed.",
        ),
        lost,
    );
    let of = |severity: Severity| {
        let problems = snapshot.problems.values().flat_map(|problems| problems.iter());
        (severity.name(), problems.filter(|one| one.severity == severity).count())
    };
    text.each(
        gauge(
            "vipd_object_problems",
            "What sources say is wrong with objects: rejected (not served), shadowed by another \
             object of the name, or worth a warning; see `vipd get rejected`.",
        ),
        "severity",
        [Severity::Rejected, Severity::Shadowed, Severity::Warning].map(of),
    );
}

/// What was done to established flows.
fn connections(text: &mut Text, snapshot: &Snapshot) {
    walks(text, snapshot.status.removals.durations());
    let removals = snapshot.status.removals.get();
    text.of_each_family(
        counter(
            "kubeproxy_conntrack_reconciler_deleted_entries_total",
            "Stale conntrack entries that were deleted one by one; the kernel does not say how \
             many a deletion by filter took.",
        ),
        removals.deleted,
    );
    text.one(
        counter(
            "vipd_conntrack_filter_deletions_total",
            "Deletions of stale conntrack entries by filter (Linux 6.12).",
        ),
        removals.filtered,
    );
    text.one(
        counter(
            "vipd_conntrack_failures_total",
            "Walks over conntrack that failed, and removals that found no end; each is repeated.",
        ),
        removals.failures,
    );
    text.one(
        counter(
            "vipd_tcp_connections_reset_total",
            "TCP connections that were reset because their endpoint is gone (--reset-gone-after).",
        ),
        snapshot.status.resets.get(),
    );
}

fn listeners(text: &mut Text, read: &Readings) {
    text.of_each_family(
        gauge(
            "kubeproxy_nftables_localhost_nodeport_listeners",
            "Listeners for node ports on 127.0.0.1 and [::1], TCP and UDP.",
        ),
        read.loopback.open,
    );
    text.of_each_family(
        counter(
            "kubeproxy_nftables_localhost_nodeport_listener_creation_failures_total",
            "Tries to open such a listener that failed; each is repeated.",
        ),
        read.loopback.failures,
    );
    text.one(
        counter(
            "vipd_localhost_nodeport_failed_dials_total",
            "TCP connections to endpoints, for such a listener, that were refused or timed out; \
             each is followed by one to another endpoint, if there is one.",
        ),
        read.loopback.failed_dials,
    );
    text.one(
        gauge("vipd_health_check_listeners", "Listeners for healthCheckNodePort."),
        read.health_listeners.open,
    );
    text.one(
        counter(
            "vipd_health_check_listener_failures_total",
            "Tries to open such a listener that failed; each is repeated.",
        ),
        read.health_listeners.failures,
    );
}

/// Counted by rules, and from 0 again where a rule is written anew.
fn packets(text: &mut Text, counted: Counted) {
    text.one(
        counter(
            "vipd_invalid_packets_dropped_total",
            "Packets of service addresses or endpoints, present or of late, that conntrack calls INVALID, dropped.",
        ),
        counted.invalid,
    );
    text.one(
        counter(
            "vipd_affinity_table_full_total",
            "Connections of services with ClientIP affinity that found the affinity table full and \
             are not pinned.",
        ),
        counted.unpinned,
    );
}
