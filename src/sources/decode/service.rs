//! v1 Service, with the API server's defaults and checks.
//!
//! In: a Service of k8s-openapi. Out: a model Service, or that it is not served.
//! Never: a frontend that the API server would have refused.

use super::fields::{
    Fault, cidr, family, label, pairs, parse_ip, port, port_name, protocol, routable_ip,
    unsupported,
};
use super::findings::{Converted, Findings, label_of, namespaced, right};
use super::{Names, annotations};
use crate::model::{
    AppProtocol, ClusterIps, Created, External, Family, Object, PortName, Ports, Service,
    ServicePort, ServiceType, Shown, TargetPort, TrafficPolicy, Uncommon,
};
use ipnet::IpNet;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use std::net::IpAddr;
use std::num::{NonZeroU16, NonZeroU32};
use std::sync::Arc;

const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
const DEFAULT_AFFINITY_SECONDS: i32 = 10_800;
const MAX_AFFINITY_SECONDS: i32 = 86_400;

pub fn service(object: &core::Service, findings: &mut Findings<'_>) -> Result<Converted, Fault> {
    let meta = &object.metadata;
    let (namespace, name) = namespaced(meta)?;
    if label_of(meta, PROXY_NAME).is_some() {
        return Ok(Converted::Ignored("another proxy serves it (label service-proxy-name)"));
    }
    let default_spec = core::ServiceSpec::default();
    let spec = object.spec.as_ref().unwrap_or(&default_spec);
    let service_type = match text(&spec.type_) {
        None | Some("ClusterIP") => ServiceType::ClusterIp,
        Some("NodePort") => ServiceType::NodePort,
        Some("LoadBalancer") => ServiceType::LoadBalancer,
        Some("ExternalName") => return Ok(Converted::Ignored("type ExternalName is DNS only")),
        Some(other) => {
            let known = "ClusterIP, NodePort, LoadBalancer, ExternalName";
            return Err(unsupported("spec.type", other, known));
        }
    };
    let Some(cluster_ips) = cluster_ips(spec)? else {
        return Ok(Converted::Ignored("headless (no cluster IP)"));
    };
    Ok(Converted::Object(Object::Service(Arc::new(Service {
        key: findings.names.service(namespace, name),
        created: Created::new(meta.creation_timestamp.as_ref().map(|t| t.0.as_second())),
        service_type,
        cluster_ips,
        ports: ports(findings.names, spec)?,
        uncommon: Uncommon::of(
            external(object, spec, &mut findings.warnings)?,
            annotations::limits(meta, &mut findings.warnings),
        ),
        internal_policy: policy("spec.internalTrafficPolicy", &spec.internal_traffic_policy)?,
        external_policy: policy("spec.externalTrafficPolicy", &spec.external_traffic_policy)?,
        affinity: affinity(spec)?,
        publish_not_ready_addresses: spec.publish_not_ready_addresses.unwrap_or(false),
        annotations: annotations::words(meta, &mut findings.warnings),
        shown: Shown::new(
            &pairs("metadata.labels", meta.labels.as_ref())?,
            &pairs("spec.selector", spec.selector.as_ref())?,
        ),
    }))))
}

/// An absent and an empty string mean the same in the API.
fn text(field: &Option<String>) -> Option<&str> {
    field.as_deref().filter(|text| !text.is_empty())
}

/// `clusterIPs` and `clusterIP` each stand for the other when one is missing; `None` for both.
fn cluster_ips(spec: &core::ServiceSpec) -> Result<Option<ClusterIps>, Fault> {
    let single = text(&spec.cluster_ip);
    let many: Vec<&str> =
        spec.cluster_ips.iter().flatten().map(String::as_str).filter(|ip| !ip.is_empty()).collect();
    let (field, addresses) = match (single, many.as_slice()) {
        (None, []) => {
            let reason = "no cluster IP: set one, or None for a headless Service \
                          (nobody allocates addresses for a manifest)";
            return Err(Fault::new("spec.clusterIP", reason));
        }
        (Some(only), []) => ("spec.clusterIP", vec![only]),
        (None, _) => ("spec.clusterIPs", many),
        (Some(first), [other, ..]) if first != *other && parse_ip(first) != parse_ip(other) => {
            let reason = format!("{other} is not spec.clusterIP, which is {first}");
            return Err(Fault::new("spec.clusterIPs[0]", reason));
        }
        (Some(_), _) => ("spec.clusterIPs", many),
    };
    if addresses == ["None"] {
        return Ok(None);
    }
    let mut ips = ClusterIps::default();
    for (index, address) in addresses.into_iter().enumerate() {
        let field = match field {
            "spec.clusterIPs" => format!("{field}[{index}]"),
            _ => field.to_owned(),
        };
        let address = routable_ip(&field, address)?;
        let taken = match address {
            IpAddr::V4(v4) => ips.v4.replace(v4).is_some(),
            IpAddr::V6(v6) => ips.v6.replace(v6).is_some(),
        };
        if taken {
            return Err(Fault::new(field, "a second address of the same family"));
        }
        check_family(spec, index, (&field, address))?;
    }
    Ok(Some(ips))
}

/// `ipFamilies[i]`, if given, must be the family of address i.
fn check_family(
    spec: &core::ServiceSpec,
    index: usize,
    (field, address): (&str, IpAddr),
) -> Result<(), Fault> {
    let Some(wanted) = spec.ip_families.as_ref().and_then(|families| families.get(index)) else {
        return Ok(());
    };
    if family(&format!("spec.ipFamilies[{index}]"), wanted)? == Family::of(address) {
        return Ok(());
    }
    Err(Fault::new(field, format!("{address} is not {wanted}, as spec.ipFamilies[{index}] says")))
}

fn ports(names: &mut Names, spec: &core::ServiceSpec) -> Result<Ports<ServicePort>, Fault> {
    let given = spec.ports.as_deref().unwrap_or(&[]);
    if given.is_empty() {
        return Err(Fault::new("spec.ports", "no port; a Service needs at least one"));
    }
    let mut ports: Vec<ServicePort> = Vec::with_capacity(given.len());
    for (index, one) in given.iter().enumerate() {
        let path = |field: &str| format!("spec.ports[{index}].{field}");
        let name = text(&one.name).unwrap_or("");
        if !name.is_empty() {
            label(&path("name"), name)?;
        } else if given.len() > 1 {
            return Err(Fault::new(path("name"), "is missing; several ports need names"));
        }
        let port = ServicePort {
            name: PortName(names.intern(name)),
            protocol: protocol(&path("protocol"), one.protocol.as_deref())?,
            port: port(&path("port"), one.port)?,
            node_port: optional_port(&path("nodePort"), one.node_port)?,
            app_protocol: AppProtocol::of(one.app_protocol.as_deref().unwrap_or("")),
            target_port: target_port(&path("targetPort"), one.target_port.as_ref())?,
        };
        if let Some((field, reason)) = ports.iter().find_map(|other| clash(other, &port)) {
            return Err(Fault::new(path(field), reason));
        }
        ports.push(port);
    }
    Ok(names.service_ports(ports))
}

/// What two ports of one Service cannot share.
fn clash(other: &ServicePort, port: &ServicePort) -> Option<(&'static str, String)> {
    if other.name == port.name {
        return Some(("name", format!("{:?} is the name of another port too", port.name.0)));
    }
    if other.protocol != port.protocol {
        return None;
    }
    if other.port == port.port {
        return Some(("port", format!("{} {} is there twice", port.protocol, port.port)));
    }
    match port.node_port {
        Some(node) if other.node_port == port.node_port => {
            Some(("nodePort", format!("{} {node} is there twice", port.protocol)))
        }
        _ => None,
    }
}

/// Absent and 0 mean none.
fn optional_port(field: &str, number: Option<i32>) -> Result<Option<NonZeroU16>, Fault> {
    match number {
        None | Some(0) => Ok(None),
        Some(number) => Ok(NonZeroU16::new(port(field, number)?)),
    }
}

fn target_port(field: &str, target: Option<&IntOrString>) -> Result<TargetPort, Fault> {
    Ok(match target {
        None | Some(IntOrString::Int(0)) => TargetPort::Unset,
        Some(IntOrString::Int(number)) => TargetPort::Number(port(field, *number)?),
        Some(IntOrString::String(name)) if name.is_empty() => TargetPort::Unset,
        Some(IntOrString::String(name)) => {
            port_name(field, name).map_err(|Fault { field, reason }| {
                Fault::new(field, reason + "; a number stands without quotes")
            })?;
            TargetPort::Name(name.as_str().into())
        }
    })
}

fn external(
    object: &core::Service,
    spec: &core::ServiceSpec,
    warnings: &mut Vec<Fault>,
) -> Result<External, Fault> {
    let health = spec.health_check_node_port;
    Ok(External {
        ips: external_ips(spec)?,
        vips: load_balancer_vips(object, warnings),
        source_ranges: source_ranges(spec)?,
        health_check_node_port: optional_port("spec.healthCheckNodePort", health)?,
    })
}

fn external_ips(spec: &core::ServiceSpec) -> Result<Box<[IpAddr]>, Fault> {
    let given = spec.external_ips.iter().flatten().enumerate();
    let ips = given.map(|(index, ip)| routable_ip(&format!("spec.externalIPs[{index}]"), ip));
    Ok(distinct(ips.collect::<Result<_, _>>()?))
}

/// An ingress with only a hostname, or with ipMode Proxy, is the load balancer's own business. Somebody
/// else than the Service's author writes the status: what cannot be served of it costs nothing else.
fn load_balancer_vips(object: &core::Service, warnings: &mut Vec<Fault>) -> Box<[IpAddr]> {
    let status = object.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = status.and_then(|lb| lb.ingress.as_deref()).unwrap_or(&[]);
    let vips = ingress.iter().enumerate().filter_map(|(index, one)| {
        let path = |field: &str| format!("status.loadBalancer.ingress[{index}].{field}");
        let ip = text(&one.ip)?;
        match text(&one.ip_mode) {
            None | Some("VIP") => Some(routable_ip(&path("ip"), ip)),
            Some("Proxy") => None,
            Some(other) => Some(Err(unsupported(&path("ipMode"), other, "VIP, Proxy"))),
        }
    });
    distinct(right(vips, warnings).collect())
}

fn source_ranges(spec: &core::ServiceSpec) -> Result<Box<[IpNet]>, Fault> {
    let given = spec.load_balancer_source_ranges.iter().flatten().enumerate();
    let field = |index| format!("spec.loadBalancerSourceRanges[{index}]");
    let ranges = given.map(|(index, range)| cidr(&field(index), range.trim()));
    Ok(distinct(ranges.collect::<Result<_, _>>()?))
}

fn distinct<T: PartialEq>(all: Vec<T>) -> Box<[T]> {
    let mut kept: Vec<T> = Vec::with_capacity(all.len());
    for one in all {
        if !kept.contains(&one) {
            kept.push(one);
        }
    }
    kept.into()
}

fn policy(field: &str, value: &Option<String>) -> Result<TrafficPolicy, Fault> {
    match text(value) {
        None | Some("Cluster") => Ok(TrafficPolicy::Cluster),
        Some("Local") => Ok(TrafficPolicy::Local),
        Some(other) => Err(unsupported(field, other, "Cluster, Local")),
    }
}

fn affinity(spec: &core::ServiceSpec) -> Result<Option<NonZeroU32>, Fault> {
    match text(&spec.session_affinity) {
        None | Some("None") => return Ok(None),
        Some("ClientIP") => {}
        Some(other) => return Err(unsupported("spec.sessionAffinity", other, "None, ClientIP")),
    }
    let config = spec.session_affinity_config.as_ref().and_then(|c| c.client_ip.as_ref());
    let seconds = config.and_then(|c| c.timeout_seconds).unwrap_or(DEFAULT_AFFINITY_SECONDS);
    let seconds_or_none = (1..=MAX_AFFINITY_SECONDS).contains(&seconds).then_some(seconds as u32);
    match seconds_or_none.and_then(NonZeroU32::new) {
        Some(seconds) => Ok(Some(seconds)),
        None => Err(Fault::new(
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
            format!("{seconds} is not between 1 and {MAX_AFFINITY_SECONDS}"),
        )),
    }
}
