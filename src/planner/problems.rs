//! What is served otherwise than its author may think.

use super::{ExternalIps, Plan, Policy, ServicePlan, health_holders, health_shadow};
use crate::model::{
    ClusterIps, Family, Kind, Known, ObjectRef, Origin, Problem, Service, ServiceKey, Severity,
};
use imbl::OrdMap;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

/// Frontends and health check ports that another service holds, external IPs that are ignored, and
/// cluster IPs outside all service ranges of their family. Walks over everything: for inspection, not for the path of a change.
pub fn problems(plan: &Plan, known: &OrdMap<ServiceKey, Arc<Known>>) -> Vec<Problem> {
    let losers: BTreeSet<&ServiceKey> =
        plan.claims.contested().flat_map(|(_, losers)| losers).collect();
    let mut problems = Vec::new();
    for (key, known) in known {
        let Some(object) = &known.service else { continue };
        if losers.contains(key) {
            plan.service(key).iter().for_each(|service| lost_frontends(service, &mut problems));
        }
        stray_cluster_ips(key, &object.cluster_ips, plan, &mut problems);
        problems.extend(ignored_external_ips(object, &plan.policy));
    }
    silent_health_checks(plan, &mut problems);
    problems
}

fn silent_health_checks(plan: &Plan, problems: &mut Vec<Problem>) {
    let holders = health_holders(plan);
    for (key, check) in &plan.health_checks {
        let port = check.port;
        let mut shadowed = |reason: String| {
            problems.push(Problem {
                severity: Severity::Shadowed,
                origin: Origin::Cluster,
                object: Some(ObjectRef::new(Kind::Service, key.as_str())),
                field: "spec.healthCheckNodePort".into(),
                reason: reason.into(),
            });
        };
        if let Some(holder) = holders.get(&port).filter(|holder| **holder != key) {
            shadowed(format!(
                "port {port} answers for Service {holder}, which comes first by age, then by name; \
                 give one of them another port"
            ));
        }
        if let Some((at, holder)) = health_shadow(plan, *check) {
            shadowed(format!(
                "load balancers that ask at port {port} reach endpoints of Service {holder}: it is \
                 {at}; give one of them another port"
            ));
        }
    }
}

fn lost_frontends(service: &ServicePlan, problems: &mut Vec<Problem>) {
    for frontend in service.ports.iter().flat_map(|port| &port.frontends) {
        let Some(holder) = &frontend.lost_to else { continue };
        problems.push(Problem {
            severity: Severity::Shadowed,
            origin: Origin::Cluster,
            object: Some(ObjectRef::new(Kind::Service, service.key.as_str())),
            field: "spec".into(),
            reason: format!(
                "{} is held by Service {holder}, which comes first by age, then by name; \
                 give one of them another address or port",
                frontend.at
            )
            .into(),
        });
    }
}

fn ignored_external_ips(service: &Service, policy: &Policy) -> Option<Problem> {
    let ips = &service.external()?.ips;
    let ignored = policy.external_ips == ExternalIps::Ignored && !ips.is_empty();
    ignored.then(|| Problem {
        severity: Severity::Warning,
        origin: Origin::Cluster,
        object: Some(ObjectRef::new(Kind::Service, service.key.as_str())),
        field: "spec.externalIPs".into(),
        reason: "not served on this node: --external-ips is false".into(),
    })
}

fn stray_cluster_ips(
    key: &ServiceKey,
    cluster_ips: &ClusterIps,
    plan: &Plan,
    problems: &mut Vec<Problem>,
) {
    for address in cluster_ips.iter() {
        if !is_stray(address, plan) {
            continue;
        }
        problems.push(Problem {
            severity: Severity::Warning,
            origin: Origin::Cluster,
            object: Some(ObjectRef::new(Kind::Service, key.as_str())),
            field: "spec.clusterIPs".into(),
            reason: format!(
                "{address} lies in no service range; it is served, but check \
                 --service-cluster-ip-range and the ServiceCIDR objects"
            )
            .into(),
        });
    }
}

/// Nothing can be said of a family that no range is known for.
fn is_stray(address: IpAddr, plan: &Plan) -> bool {
    let family = Family::of(address);
    let mut ranges =
        plan.node.service_ranges.iter().filter(|r| Family::of(r.addr()) == family).peekable();
    ranges.peek().is_some() && !ranges.any(|range| range.contains(&address))
}
