//! What is told of the process at work: how long it took, what it was asked, what it uses. PURE.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use super::process::Process;
use super::readings::{Answered, Readings};
use super::text::{IP_FAMILIES, Text, counter, gauge, histogram, labels};
use crate::histogram::Histogram;
use crate::sources::kubernetes::Made;
use crate::sync::Durations;

fn of_family(of: [&Histogram; 2]) -> [(String, &Histogram); 2] {
    let [v4, v6] = IP_FAMILIES.map(|ip| labels(&[("ip_family", ip)]));
    [(v4, of[0]), (v6, of[1])]
}

/// How long changes and syncs took; a sync is of both families.
pub(super) fn durations(text: &mut Text, durations: &Durations) {
    let [v4, v6] = &durations.programming;
    text.histograms(
        histogram(
            "kubeproxy_network_programming_duration_seconds",
            "From what somebody did in the cluster (annotation \
             endpoints.kubernetes.io/last-change-trigger-time) to the commit, in seconds.",
        ),
        of_family([v4, v6]),
    );
    for (name, help, of) in [
        (
            "kubeproxy_sync_proxy_rules_duration_seconds",
            "Bringing the kernel to the plan, in seconds.",
            &durations.syncs,
        ),
        (
            "kubeproxy_sync_full_proxy_rules_duration_seconds",
            "Of these, reading back what the kernel holds and writing the difference.",
            &durations.full,
        ),
        (
            "kubeproxy_sync_partial_proxy_rules_duration_seconds",
            "Of these, writing what changed.",
            &durations.partial,
        ),
    ] {
        text.histograms(histogram(name, help), of_family([of; 2]));
    }
}

/// How long conntrack was looked through for stale entries; each time for both families.
pub(super) fn walks(text: &mut Text, of: &Histogram) {
    text.histograms(
        histogram(
            "kubeproxy_conntrack_reconciler_sync_duration_seconds",
            "Looking conntrack through for stale entries, in seconds.",
        ),
        of_family([of; 2]),
    );
}

/// What others were answered, and told.
pub(super) fn told(text: &mut Text, read: &Readings) {
    let by_code = |answered: Answered| [("200", answered.good), ("503", answered.bad)];
    text.each(
        counter("kubeproxy_proxy_healthz_total", "Answers to /healthz, by HTTP status."),
        "code",
        by_code(read.healthz),
    );
    text.each(
        counter("kubeproxy_proxy_livez_total", "Answers to /livez, by HTTP status."),
        "code",
        by_code(read.livez),
    );
    text.one(
        counter("vipd_events_sent_total", "Kubernetes Events that were made or counted up."),
        read.events_sent,
    );
    text.one(
        counter(
            "vipd_events_dropped_total",
            "Kubernetes Events that found no room, or that the API server did not take.",
        ),
        read.events_dropped,
    );
}

/// What the API server was asked, by the names of client-go; nothing where nobody was.
pub(super) fn asked(text: &mut Text, made: &Made) {
    let answers = made.answers.iter().map(|((method, host, code), count)| {
        (labels(&[("code", code), ("host", host), ("method", method.as_str())]), count)
    });
    text.labelled(
        counter(
            "rest_client_requests_total",
            "Requests to the API server, by HTTP status; <error>: without an answer.",
        ),
        answers,
    );
    for (name, help, of) in [
        (
            "rest_client_request_duration_seconds",
            "From a request to the head of its answer, in seconds.",
            &made.durations,
        ),
        (
            "rest_client_rate_limiter_duration_seconds",
            "How long a request was held back before it was sent, in seconds; only watches are.",
            &made.waits,
        ),
        (
            "rest_client_request_size_bytes",
            "Bodies of requests that are no watches, in bytes.",
            &made.sent,
        ),
        (
            "rest_client_response_size_bytes",
            "Bodies of answers to requests that are no watches, in bytes.",
            &made.received,
        ),
    ] {
        let samples = of
            .iter()
            .map(|((method, host), of)| (labels(&[("host", host), ("verb", method.as_str())]), of));
        text.histograms(histogram(name, help), samples);
    }
}

/// By the names of Prometheus' client libraries.
pub(super) fn of_process(text: &mut Text, process: Process) {
    text.one(
        counter("process_cpu_seconds_total", "User and system CPU time spent, in seconds."),
        process.cpu,
    );
    text.one(
        gauge("process_start_time_seconds", "When the process began, in seconds since 1970."),
        process.started,
    );
    text.one(
        gauge("process_resident_memory_bytes", "Resident memory, in bytes."),
        process.resident,
    );
    text.one(
        gauge("process_virtual_memory_bytes", "Virtual memory, in bytes."),
        process.virtual_size,
    );
    // As client_golang says it where there is no limit.
    let max_virtual = process.max_virtual.unwrap_or(u64::MAX);
    text.one(
        gauge("process_virtual_memory_max_bytes", "The limit on virtual memory, in bytes."),
        max_virtual,
    );
    text.one(gauge("process_open_fds", "Open files."), process.open_files);
    if let Some(most) = process.max_files {
        text.one(gauge("process_max_fds", "The limit on open files."), most);
    }
}
