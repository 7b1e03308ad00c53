//! A Service as `vipd get services` lists it.

use crate::model::{
    Balancer, Known, ProxyMode, ProxyProtocol, Service, ServicePort, TargetPort, TrafficPolicy,
    Unit,
};
use crate::planner::ServicePlan;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::net::IpAddr;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceView {
    pub namespace: String,
    pub name: String,
    #[serde(rename = "type")]
    pub service_type: String,
    #[serde(rename = "clusterIPs")]
    pub cluster_ips: Vec<IpAddr>,
    #[serde(rename = "externalIPs")]
    pub external_ips: Vec<IpAddr>,
    #[serde(rename = "loadBalancerIPs")]
    pub load_balancer_ips: Vec<IpAddr>,
    pub ports: Vec<ServicePortView>,
    pub internal_traffic_policy: String,
    pub external_traffic_policy: String,
    /// Timeout of `sessionAffinity: ClientIP`.
    pub session_affinity_seconds: Option<u32>,
    pub publish_not_ready_addresses: bool,
    pub labels: Vec<String>,
    /// Those that count here: `vipd.io/name: value`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub annotations: Vec<String>,
    pub selector: Vec<String>,
    /// Seconds since 1970.
    pub created: Option<i64>,
    pub endpoints: Count,
    pub frontends: Count,
}

/// How many there are, and how many of them this node uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    pub used: usize,
    pub total: usize,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServicePortView {
    pub name: String,
    pub protocol: String,
    pub port: u16,
    pub node_port: Option<u16>,
    /// As written; `None` where the object gives none.
    pub target_port: Option<String>,
}

/// `plan` is this service's plan, where there is one.
pub fn service_view(service: &Service, known: &Known, plan: Option<&ServicePlan>) -> ServiceView {
    let external = service.external();
    ServiceView {
        namespace: service.key.namespace().to_owned(),
        name: service.key.name().to_owned(),
        service_type: service.service_type.name().to_owned(),
        cluster_ips: service.cluster_ips.iter().collect(),
        external_ips: external.map(|e| e.ips.to_vec()).unwrap_or_default(),
        load_balancer_ips: external.map(|e| e.vips.to_vec()).unwrap_or_default(),
        ports: service.ports.iter().map(port_view).collect(),
        internal_traffic_policy: policy_name(service.internal_policy).to_owned(),
        external_traffic_policy: policy_name(service.external_policy).to_owned(),
        session_affinity_seconds: service.affinity.map(Into::into),
        publish_not_ready_addresses: service.publish_not_ready_addresses,
        labels: pairs(service.shown.labels()),
        annotations: annotations(service),
        selector: pairs(service.shown.selector()),
        created: service.created.seconds(),
        endpoints: count_endpoints(known, plan),
        frontends: count_frontends(plan),
    }
}

fn port_view(port: &ServicePort) -> ServicePortView {
    ServicePortView {
        name: port.name.0.to_string(),
        protocol: port.protocol.name().to_owned(),
        port: port.port,
        node_port: port.node_port.map(Into::into),
        target_port: match &port.target_port {
            TargetPort::Unset => None,
            TargetPort::Number(number) => Some(number.to_string()),
            TargetPort::Name(name) => Some(name.to_string()),
        },
    }
}

fn policy_name(policy: TrafficPolicy) -> &'static str {
    match policy {
        TrafficPolicy::Cluster => "Cluster",
        TrafficPolicy::Local => "Local",
    }
}

fn annotations(service: &Service) -> Vec<String> {
    let given = service.annotations;
    let all = [
        ("dataplane", given.mode().map(ProxyMode::name)),
        ("balancer", given.balancer().map(Balancer::name)),
        ("proxy-protocol", given.proxy_protocol().map(ProxyProtocol::name)),
        ("requests", (given.unit() == Unit::Requests).then_some("true")),
    ];
    let given = all.into_iter().filter_map(|(name, value)| Some((name, value?.to_owned())));
    let limits = service.limits();
    let given = given.chain(limits.asked());
    given.map(|(name, value)| format!("vipd.io/{name}: {value}")).collect()
}

/// `key=value,…` taken apart.
fn pairs(text: &str) -> Vec<String> {
    text.split(',').filter(|pair| !pair.is_empty()).map(str::to_owned).collect()
}

/// Endpoint addresses: a pod counts once, whatever the number of its ports.
fn count_endpoints(known: &Known, plan: Option<&ServicePlan>) -> Count {
    let total: BTreeSet<IpAddr> =
        known.sets().flat_map(|set| set.endpoints.iter().map(|e| e.address)).collect();
    let used: BTreeSet<IpAddr> = plan
        .iter()
        .flat_map(|plan| plan.ports.iter())
        .flat_map(|port| port.cluster.keys().chain(port.local.keys()))
        .map(|target| target.address)
        .collect();
    Count { used: used.len(), total: total.len() }
}

fn count_frontends(plan: Option<&ServicePlan>) -> Count {
    let Some(plan) = plan else { return Count::default() };
    let total = plan.ports.iter().map(|port| port.frontends.len()).sum();
    Count { used: plan.held().count(), total }
}
