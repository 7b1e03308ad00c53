//! Everything about one Service: as it was written, and what this node does with it.

use super::{
    EndpointView, FrontendView, NodeView, ProblemView, ServiceView, endpoints_view, problems_of,
    service_view, target,
};
use crate::metrics::PortCounts;
use crate::model::{Family, Known, Service, ServiceKey};
use crate::planner::{self, Frontend, Locality, Plan, PortPlan};
use crate::sync::Snapshot;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DescribeView {
    pub service: ServiceView,
    /// Which objects the endpoints follow from, as in [`super::EndpointsView`].
    #[serde(rename = "endpointSource")]
    pub endpoint_source: Option<String>,
    pub endpoints: Vec<EndpointView>,
    pub node: NodeView,
    pub ports: Vec<DescribedPort>,
    /// `healthCheckNodePort`, where the Service names one.
    pub health: Option<DescribedHealth>,
    pub problems: Vec<ProblemView>,
}

/// What load balancers that ask this node about the Service are told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DescribedHealth {
    pub port: u16,
    /// Why they are told nothing of this Service.
    pub why_not: Option<String>,
    /// Of each family that the Service has, while this node follows the plan.
    pub answers: Vec<HealthAnswer>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HealthAnswer {
    /// `IPv4` or `IPv6`
    pub family: String,
    /// Ready ones on this node.
    pub local_endpoints: u32,
    /// HTTP status
    pub status: u16,
}

/// A Service port in one family on this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DescribedPort {
    pub name: String,
    pub protocol: String,
    pub port: u16,
    pub affinity_seconds: Option<u32>,
    /// How local pods are told in this family; `None`: not at all.
    pub local: Option<String>,
    /// How many endpoints connections are spread over.
    pub cluster_pool: usize,
    /// The same under policy Local.
    pub local_pool: usize,
    pub frontends: Vec<FrontendView>,
    pub endpoints: Vec<DescribedEndpoint>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DescribedEndpoint {
    pub address: SocketAddr,
    pub used: bool,
    /// What becomes of it, in words.
    pub why: String,
    /// `here`, `elsewhere` or `unknown`, of an endpoint in use.
    pub locality: Option<String>,
    /// What the relay has counted of it, where it is relayed to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relayed: Option<RelayedView>,
}

/// Connections, and UDP sessions; of requests where these are balanced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayedView {
    pub active: u64,
    pub opened: u64,
    pub failed: u64,
    /// HTTP requests, where they are balanced.
    #[serde(default)]
    pub requests: u64,
    /// Of these, not answered whole.
    #[serde(default)]
    pub broken: u64,
    /// Left out for failing, while others can take connections.
    pub ejected: bool,
}

/// `None` without a Service of this name.
pub fn describe(snapshot: &Snapshot, key: &ServiceKey) -> Option<DescribeView> {
    let known = snapshot.known.get(key)?;
    let service = known.service.as_deref()?;
    let plan = snapshot.plan.service(key);
    let ports = plan.iter().flat_map(|plan| plan.ports.iter());
    let endpoints = endpoints_view(key, known);
    Some(DescribeView {
        service: service_view(service, known, plan.as_ref()),
        endpoint_source: endpoints.source,
        endpoints: endpoints.endpoints,
        node: NodeView::from(&snapshot.plan),
        ports: ports.map(|port| described_port(snapshot, known, port)).collect(),
        health: described_health(&snapshot.plan, service),
        problems: problems_of(snapshot, key),
    })
}

impl DescribeView {
    /// Adds what the relay has counted of this Service.
    pub fn with_counts(mut self, counts: &[PortCounts]) -> Self {
        for port in &mut self.ports {
            let of_port = |one: &&PortCounts| {
                *one.port.name.0 == *port.name && one.port.protocol.name() == port.protocol
            };
            let counted = counts.iter().filter(of_port).flat_map(|one| &one.endpoints);
            let counted: Vec<_> = counted.map(|one| (target(one.target), one)).collect();
            for endpoint in &mut port.endpoints {
                let found = counted.iter().find(|(address, _)| *address == endpoint.address);
                endpoint.relayed = found.map(|(_, one)| RelayedView {
                    active: one.active,
                    opened: one.opened,
                    failed: one.failed,
                    requests: one.requests,
                    broken: one.broken,
                    ejected: one.ejected,
                });
            }
        }
        self
    }
}

/// What to say where there is nothing to describe; a rejected object is not an unknown one.
pub fn not_found(snapshot: &Snapshot, key: &ServiceKey) -> String {
    let own = format!("Service {key}");
    let problems = problems_of(snapshot, key);
    match problems.iter().find(|problem| problem.object.as_ref() == Some(&own)) {
        Some(problem) => format!(
            "service {key} not found: {}: {}: {}",
            problem.severity, problem.source, problem.reason
        ),
        None => format!("service {key} not found"),
    }
}

fn described_port(snapshot: &Snapshot, known: &Known, port: &PortPlan) -> DescribedPort {
    let detector = snapshot.plan.node.local_detector(port.family);
    let endpoints = planner::explain(known, &snapshot.plan.facts, port);
    let member = |at| port.cluster.get(&at).or_else(|| port.local.get(&at));
    let locality = |at| member(at).map(|member| locality_name(member.locality));
    DescribedPort {
        name: port.name.0.to_string(),
        protocol: port.protocol.name().to_owned(),
        port: port.port,
        affinity_seconds: port.affinity.map(Into::into),
        local: (*detector != planner::LocalDetector::None).then(|| detector.to_string()),
        cluster_pool: port.cluster.len(),
        local_pool: port.local.len(),
        frontends: port
            .frontends
            .iter()
            .map(|one| described_frontend(snapshot, port, one))
            .collect(),
        endpoints: endpoints
            .into_iter()
            .map(|(at, use_of)| DescribedEndpoint {
                address: target(at),
                used: use_of.is_used(),
                why: use_of.to_string(),
                locality: locality(at).map(str::to_owned),
                relayed: None,
            })
            .collect(),
    }
}

/// As the plan has it, or as it is while the relay cannot run.
fn described_frontend(snapshot: &Snapshot, port: &PortPlan, frontend: &Frontend) -> FrontendView {
    let mut view = FrontendView::from((port, frontend));
    if let Some(failure) = snapshot.status.relay_failure.as_deref()
        && let Some(relay) = view.relay.take()
    {
        if relay.requests.is_some() {
            view.unsplit = Some(planner::Unsplit::NotRelayed.to_string());
        }
        view.unrelayed = Some(format!("for now: {failure}"));
    }
    view
}

fn described_health(plan: &Plan, service: &Service) -> Option<DescribedHealth> {
    let port = service.external()?.health_check_node_port?;
    let check = plan.service(&service.key).and_then(|plan| plan.health);
    let Some(check) = check else {
        let why = "only of type LoadBalancer with externalTrafficPolicy Local it is answered";
        let why_not = Some(why.to_owned());
        return Some(DescribedHealth { port: port.get(), why_not, answers: Vec::new() });
    };
    let holder = planner::health_holders(plan).get(&port).copied();
    let node = &plan.node;
    let nowhere = node.node_port_addresses.is_empty() && node.localhost_node_ports == [false; 2];
    let why_not = match (holder, planner::health_shadow(plan, check)) {
        (Some(holder), _) if *holder != service.key => {
            Some(format!("the port answers for Service {holder}"))
        }
        (_, Some((at, holder))) => Some(format!("it is {at} of Service {holder}")),
        _ if nowhere => Some("this node has no address for node ports".to_owned()),
        _ => None,
    };
    let families = Family::BOTH.into_iter();
    let answers = families.filter(|family| service.cluster_ips.get(*family).is_some());
    let answers = answers.map(|family| {
        let local_endpoints = check.of(family);
        let status = if local_endpoints > 0 && !plan.facts.going_away { 200 } else { 503 };
        HealthAnswer { family: family.to_string(), local_endpoints, status }
    });
    Some(DescribedHealth { port: port.get(), why_not, answers: answers.collect() })
}

pub(super) fn locality_name(locality: Locality) -> &'static str {
    match locality {
        Locality::Here => "here",
        Locality::Elsewhere => "elsewhere",
        Locality::Unknown => "unknown",
    }
}
