//! A plan as values to print.

use super::describe::locality_name;
use super::target;
use crate::model::{Family, Limits, Protocol, duration};
use crate::planner::{
    Action, Frontend, Masquerade, Member, Outsiders, Plan, PortPlan, Reach, ServicePlan, Target,
};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanView {
    pub node: NodeView,
    pub services: Vec<ServicePlanView>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeView {
    pub name: String,
    pub zone: Option<String>,
    pub addresses: Vec<String>,
    pub interface_addresses: Vec<String>,
    #[serde(rename = "podCIDRs")]
    pub pod_cidrs: Vec<String>,
    pub service_ranges: Vec<String>,
    pub node_port_addresses: Vec<String>,
    /// Families whose loopback addresses answer at node ports: `IPv4`, `IPv6`.
    pub localhost_node_ports: Vec<String>,
    pub masquerade_all: bool,
    pub drop_invalid: bool,
    /// `served` or `dropped`: clients at cluster IPs that are neither this node nor local pods.
    pub outsiders: String,
    /// How local pods are told, in words.
    pub local_v4: String,
    pub local_v6: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePlanView {
    pub namespace: String,
    pub name: String,
    pub ports: Vec<PortView>,
    /// `healthCheckNodePort`, where the service has one that counts.
    pub health: Option<HealthView>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HealthView {
    pub port: u16,
    /// Ready endpoints on this node, by family.
    #[serde(rename = "localEndpointsIPv4")]
    pub local_endpoints_v4: u32,
    #[serde(rename = "localEndpointsIPv6")]
    pub local_endpoints_v6: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortView {
    pub name: String,
    pub protocol: String,
    pub port: u16,
    /// `IPv4` or `IPv6`
    pub family: String,
    pub affinity_seconds: Option<u32>,
    pub frontends: Vec<FrontendView>,
    pub cluster: Vec<PoolView>,
    pub local: Vec<PoolView>,
    /// UDP: flows to these stay.
    pub serving: Vec<SocketAddr>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FrontendView {
    /// `address:port/protocol`, or `node port N/protocol (family)`.
    pub at: String,
    pub kind: String,
    /// `forward`, `reject` or `drop`
    pub action: String,
    /// Which pool is used: `cluster`, `local`, or `local-from-outside` (this node and its pods use
    /// `cluster`).
    pub scope: Option<String>,
    /// `always`, `never`, `unless-local` or `node-only`
    pub masquerade: Option<String>,
    /// Sources that are let through; `None`: all.
    pub allow: Option<Vec<String>>,
    /// How vipd relays what comes here; `None`: the kernel translates it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relay: Option<RelayView>,
    /// Why it is the kernel, although a relay is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unrelayed: Option<String>,
    /// Why connections are balanced, although requests are asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unsplit: Option<String>,
    /// `namespace/name` of the service with the older claim; then nothing is done here.
    pub lost_to: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RelayView {
    /// As `vipd.io/balancer` has it.
    pub balancer: String,
    /// `v1` or `v2`
    pub proxy_protocol: Option<String>,
    /// `HTTP/1.1` or `HTTP/2`, where requests are balanced; `None`: connections are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<LimitsView>,
}

/// What holds for a relayed frontend, by annotation of its Service or for all. Durations as Go writes
/// them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LimitsView {
    /// Connections and UDP sessions of the whole Service; `None`: as many as there are files.
    pub max_connections: Option<u64>,
    #[serde(flatten)]
    pub timeouts: TimeoutsView,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, rename_all_fields = "camelCase")]
pub enum TimeoutsView {
    Tcp { idle_timeout: String, half_closed_timeout: String, connect_timeout: String },
    Udp { session_timeout: String },
}

impl From<(Limits, Protocol)> for LimitsView {
    fn from((limits, protocol): (Limits, Protocol)) -> Self {
        let most = Some(limits.connections.get()).filter(|most| *most != u64::MAX);
        let timeouts = match protocol {
            Protocol::Udp => TimeoutsView::Udp { session_timeout: duration::text(limits.session) },
            Protocol::Tcp | Protocol::Sctp => TimeoutsView::Tcp {
                idle_timeout: duration::text(limits.idle),
                half_closed_timeout: duration::text(limits.half_closed),
                connect_timeout: duration::text(limits.connect),
            },
        };
        Self { max_connections: most, timeouts }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolView {
    pub address: SocketAddr,
    /// `here`, `elsewhere` or `unknown`
    pub locality: String,
    pub terminating: bool,
}

impl From<&Plan> for PlanView {
    fn from(plan: &Plan) -> Self {
        let services = plan.services().map(|service| (&service).into()).collect();
        Self { node: plan.into(), services }
    }
}

impl From<&Plan> for NodeView {
    fn from(plan: &Plan) -> Self {
        let (facts, node) = (&plan.facts, &plan.node);
        Self {
            name: facts.name.to_string(),
            zone: facts.zone.as_deref().map(str::to_owned),
            addresses: texts(&facts.addresses),
            interface_addresses: texts(&facts.interface_addresses),
            pod_cidrs: texts(&facts.pod_cidrs),
            service_ranges: texts(&node.service_ranges),
            node_port_addresses: texts(&node.node_port_addresses),
            localhost_node_ports: Family::BOTH
                .into_iter()
                .zip(node.localhost_node_ports)
                .filter(|(_, answers)| *answers)
                .map(|(family, _)| family.to_string())
                .collect(),
            masquerade_all: node.masquerade_all,
            drop_invalid: node.drop_invalid,
            outsiders: match node.outsiders {
                Outsiders::Served => "served".to_owned(),
                Outsiders::Dropped => "dropped".to_owned(),
            },
            local_v4: node.local_v4.to_string(),
            local_v6: node.local_v6.to_string(),
        }
    }
}

impl From<&ServicePlan> for ServicePlanView {
    fn from(plan: &ServicePlan) -> Self {
        Self {
            namespace: plan.key.namespace().to_owned(),
            name: plan.key.name().to_owned(),
            ports: plan.ports.iter().map(PortView::from).collect(),
            health: plan.health.map(|health| HealthView {
                port: health.port.into(),
                local_endpoints_v4: health.of(Family::V4),
                local_endpoints_v6: health.of(Family::V6),
            }),
        }
    }
}

impl From<&PortPlan> for PortView {
    fn from(port: &PortPlan) -> Self {
        Self {
            name: port.name.0.to_string(),
            protocol: port.protocol.name().to_owned(),
            port: port.port,
            family: port.family.to_string(),
            affinity_seconds: port.affinity.map(Into::into),
            frontends: port.frontends.iter().map(|one| FrontendView::from((port, one))).collect(),
            cluster: port.cluster.iter().map(PoolView::from).collect(),
            local: port.local.iter().map(PoolView::from).collect(),
            serving: port.serving.iter().copied().map(target).collect(),
        }
    }
}

impl From<(&PortPlan, &Frontend)> for FrontendView {
    fn from((port, frontend): (&PortPlan, &Frontend)) -> Self {
        let forward = match &frontend.action {
            Action::Forward(forward) => Some(forward),
            Action::Reject | Action::Drop => None,
        };
        Self {
            at: frontend.at.to_string(),
            kind: frontend.kind.name().to_owned(),
            action: match frontend.action {
                Action::Forward(_) => "forward",
                Action::Reject => "reject",
                Action::Drop => "drop",
            }
            .to_owned(),
            scope: forward.map(|f| reach(f.reach).to_owned()),
            masquerade: forward.map(|f| masquerade(f.masquerade).to_owned()),
            allow: frontend.allow.as_deref().map(texts),
            relay: port.relay_of(frontend).map(|relay| RelayView {
                balancer: relay.balancer.name().to_owned(),
                proxy_protocol: relay.proxy_protocol.map(|version| version.name().to_owned()),
                requests: port.requests_of(frontend).map(|version| version.name().to_owned()),
                limits: Some((relay.limits, port.protocol).into()),
            }),
            unrelayed: port.unrelayed(frontend).map(|why| why.to_string()),
            unsplit: port.unsplit(frontend).map(|why| why.to_string()),
            lost_to: frontend.lost_to.as_ref().map(ToString::to_string),
        }
    }
}

impl From<(&Target, &Member)> for PoolView {
    fn from((at, member): (&Target, &Member)) -> Self {
        Self {
            address: target(*at),
            locality: locality_name(member.locality).to_owned(),
            terminating: member.terminating,
        }
    }
}

fn reach(reach: Reach) -> &'static str {
    match reach {
        Reach::Cluster => "cluster",
        Reach::Local => "local",
        Reach::LocalFromOutside => "local-from-outside",
    }
}

fn masquerade(masquerade: Masquerade) -> &'static str {
    match masquerade {
        Masquerade::Always => "always",
        Masquerade::Never => "never",
        Masquerade::UnlessLocal => "unless-local",
        Masquerade::NodeOnly => "node-only",
    }
}

fn texts<T: ToString>(values: &[T]) -> Vec<String> {
    values.iter().map(ToString::to_string).collect()
}
