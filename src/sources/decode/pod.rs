//! v1 Pod, as far as it can be an endpoint.
//!
//! In: what of a Pod matters here. Out: a model Pod, or that it is nobody's endpoint.
//! Never: a pod with an address or a port that the API server would have refused.
//!
//! Of a Pod's thousand fields these few are read: the code for all of them would be a tenth of vipd.

use super::fields::{Fault, pairs, parse_ip, port, port_name, protocol, routable_ip};
use super::findings::{Converted, Findings, namespaced};
use crate::model::{EndpointPort, Family, Hints, Object, Pod, PodKey, PortName, Protocol};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;
use std::net::IpAddr;
use std::sync::Arc;

#[derive(Deserialize)]
pub(super) struct OnePod {
    #[serde(default, deserialize_with = "super::metadata::read")]
    metadata: Option<ObjectMeta>,
    spec: Option<PodSpec>,
    status: Option<PodStatus>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodSpec {
    containers: Option<Vec<Container>>,
    init_containers: Option<Vec<Container>>,
    node_name: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Container {
    ports: Option<Vec<ContainerPort>>,
    restart_policy: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ContainerPort {
    container_port: Option<i32>,
    name: Option<String>,
    protocol: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct PodStatus {
    conditions: Option<Vec<PodCondition>>,
    phase: Option<String>,
    #[serde(rename = "podIP")]
    pod_ip: Option<String>,
    #[serde(rename = "podIPs")]
    pod_ips: Option<Vec<PodIp>>,
}

#[derive(Deserialize)]
struct PodCondition {
    #[serde(rename = "type")]
    type_: Option<String>,
    status: Option<String>,
}

impl PodCondition {
    fn is_ready(&self) -> bool {
        self.type_.as_deref() == Some("Ready") && self.status.as_deref() == Some("True")
    }
}

#[derive(Deserialize)]
struct PodIp {
    ip: Option<String>,
}

pub(super) fn pod(object: &OnePod, findings: &mut Findings<'_>) -> Result<Converted, Fault> {
    let no_metadata = ObjectMeta::default();
    let meta = object.metadata.as_ref().unwrap_or(&no_metadata);
    let (namespace, name) = namespaced(meta)?;
    let labels = pairs("metadata.labels", meta.labels.as_ref())?;
    let spec = object.spec.as_ref();
    let ports = spec.map(named_ports).transpose()?.unwrap_or_default();
    let ports = ports
        .into_iter()
        .map(|(name, protocol, port)| EndpointPort {
            name: PortName(findings.names.intern(name)),
            protocol,
            port,
        })
        .collect();
    let default_status = PodStatus::default();
    let status = object.status.as_ref().unwrap_or(&default_status);
    let addresses = addresses(status)?;
    // The slice controller leaves these out too (`ShouldPodBeInEndpoints`).
    if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return Ok(Converted::Ignored("has ended (status.phase)"));
    }
    if addresses.is_empty() {
        return Ok(Converted::Ignored("has no address yet (status.podIPs)"));
    }
    if labels.is_empty() {
        return Ok(Converted::Ignored("has no label that a selector could name"));
    }
    let conditions = status.conditions.as_deref().unwrap_or(&[]);
    let node = spec.and_then(|spec| spec.node_name.as_deref()).filter(|name| !name.is_empty());
    Ok(Converted::Object(Object::Pod(Arc::new(Pod {
        key: PodKey::new(namespace, name),
        labels: labels.into(),
        addresses: addresses.into(),
        ready: conditions.iter().any(PodCondition::is_ready),
        terminating: meta.deletion_timestamp.is_some(),
        place: findings.names.place(node, Hints::default()),
        ports: findings.names.endpoint_ports(ports),
    }))))
}

/// `podIPs` and `podIP` each stand for the other when one is missing, as in the API server.
fn addresses(status: &PodStatus) -> Result<Vec<IpAddr>, Fault> {
    let single = status.pod_ip.as_deref().filter(|ip| !ip.is_empty());
    let many: Vec<&str> =
        status.pod_ips.iter().flatten().map(|ip| ip.ip.as_deref().unwrap_or_default()).collect();
    let given = match (single, many.first()) {
        (Some(only), None) => return Ok(vec![routable_ip("status.podIP", only)?]),
        (Some(one), Some(first)) if one != *first && parse_ip(one) != parse_ip(first) => {
            let reason = format!("{first} is not status.podIP, which is {one}");
            return Err(Fault::new("status.podIPs[0].ip", reason));
        }
        _ => many,
    };
    let mut addresses: Vec<IpAddr> = Vec::with_capacity(given.len());
    for (index, text) in given.into_iter().enumerate() {
        let field = format!("status.podIPs[{index}].ip");
        let address = routable_ip(&field, text)?;
        if addresses.iter().any(|other| Family::of(*other) == Family::of(address)) {
            return Err(Fault::new(field, "a second address of the same family"));
        }
        addresses.push(address);
    }
    Ok(addresses)
}

type NamedPort<'a> = (&'a str, Protocol, u16);

/// In the order in which the slice controller looks for a name (`FindPort`): the containers, then
/// the init containers that run beside them.
fn named_ports(spec: &PodSpec) -> Result<Vec<NamedPort<'_>>, Fault> {
    let mut named = Vec::new();
    let lists = [("containers", &spec.containers), ("initContainers", &spec.init_containers)];
    for (list, containers) in lists {
        for (index, container) in containers.iter().flatten().enumerate() {
            let runs =
                list == "containers" || container.restart_policy.as_deref() == Some("Always");
            for (at, one) in container.ports.iter().flatten().enumerate() {
                let path = |field: &str| format!("spec.{list}[{index}].ports[{at}].{field}");
                let number = port(&path("containerPort"), one.container_port.unwrap_or_default())?;
                let protocol = protocol(&path("protocol"), one.protocol.as_deref())?;
                let Some(name) = one.name.as_deref().filter(|name| !name.is_empty()) else {
                    continue;
                };
                port_name(&path("name"), name)?;
                if runs {
                    named.push((name, protocol, number));
                }
            }
        }
    }
    Ok(named)
}
