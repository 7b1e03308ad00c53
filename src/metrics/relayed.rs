//! What is counted of relayed Services. PURE.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use super::text::{Text, counter, gauge, labels};
use super::{EndpointCounts, PortCounts};
use crate::dataplane::userspace::Counts;

/// Costs O(endpoints that are relayed to).
pub(super) fn relayed(text: &mut Text, counts: &Counts) {
    let endpoints = |value: fn(&EndpointCounts) -> u64| {
        counts.ports.iter().flat_map(move |port| {
            port.endpoints.iter().map(move |one| (of_endpoint(port, one), value(one)))
        })
    };
    text.labelled(
        gauge(
            "vipd_relay_connections",
            "Relayed connections, UDP sessions and, where requests are balanced, requests in flight, by endpoint.",
        ),
        endpoints(|one| one.active),
    );
    text.labelled(
        counter("vipd_relay_opened_total", "Connections and UDP sessions opened to an endpoint."),
        endpoints(|one| one.opened),
    );
    text.labelled(
        counter(
            "vipd_relay_failed_total",
            "Connections that an endpoint did not take in time or refused, and refused datagrams.",
        ),
        endpoints(|one| one.failed),
    );
    let requests = |value: fn(&EndpointCounts) -> u64| {
        let asked = |one: &&EndpointCounts| one.requests + one.retried > 0;
        counts.ports.iter().flat_map(move |port| {
            let endpoints = port.endpoints.iter().filter(asked);
            endpoints.map(move |one| (of_endpoint(port, one), value(one)))
        })
    };
    text.labelled(
        counter("vipd_relay_requests_total", "HTTP requests given to an endpoint one by one."),
        requests(|one| one.requests),
    );
    text.labelled(
        counter(
            "vipd_relay_requests_failed_total",
            "HTTP requests that an endpoint was given and did not answer whole.",
        ),
        requests(|one| one.broken),
    );
    text.labelled(
        counter(
            "vipd_relay_requests_retried_total",
            "HTTP requests that could not be sent to an endpoint and were tried elsewhere.",
        ),
        requests(|one| one.retried),
    );
    text.labelled(
        counter("vipd_relay_sent_bytes_total", "Bytes towards an endpoint."),
        endpoints(|one| one.sent),
    );
    text.labelled(
        counter("vipd_relay_received_bytes_total", "Bytes from an endpoint."),
        endpoints(|one| one.received),
    );
    text.labelled(
        counter("vipd_relay_ejections_total", "Times that an endpoint was left out for failing."),
        endpoints(|one| one.ejections),
    );
    text.labelled(
        gauge("vipd_relay_ejected", "1 while an endpoint is left out for failing."),
        endpoints(|one| one.ejected.into()),
    );
    let ports = |value: fn(&PortCounts) -> u64| {
        counts.ports.iter().map(move |port| (of_port(port), value(port)))
    };
    text.labelled(
        counter(
            "vipd_relay_refused_total",
            "Connections and UDP sessions refused for want of room: too many, or no files.",
        ),
        ports(|port| port.refused),
    );
    text.labelled(
        counter("vipd_relay_unserved_total", "Connections that no endpoint took."),
        ports(|port| port.unserved),
    );
    text.labelled(
        counter(
            "vipd_relay_denied_total",
            "Connections and datagrams of clients outside of loadBalancerSourceRanges that came while others had removed vipd's table.",
        ),
        ports(|port| port.denied),
    );
    text.labelled(
        counter("vipd_relay_unpinned_total", "Clients that found no room among the pins."),
        ports(|port| port.unpinned),
    );
    text.histograms(
        super::text::histogram(
            "vipd_relay_connect_seconds",
            "Until an endpoint took a TCP connection.",
        ),
        counts.ports.iter().map(|port| (of_port(port), &port.connect_times)),
    );
    text.one(
        counter(
            "vipd_relay_strays_total",
            "Connections and datagrams for what is not relayed (any more).",
        ),
        counts.strays,
    );
}

fn of_port(port: &PortCounts) -> String {
    let family = port.port.family.to_string();
    labels(&[
        ("namespace", port.service.namespace()),
        ("service", port.service.name()),
        ("port", &port.port.name.0),
        ("protocol", port.port.protocol.name()),
        ("ip_family", &family),
    ])
}

fn of_endpoint(port: &PortCounts, endpoint: &EndpointCounts) -> String {
    let target = endpoint.target.to_string();
    format!("{},{}", of_port(port), labels(&[("endpoint", &target)]))
}
