//! discovery.k8s.io/v1 EndpointSlice.
//!
//! In: a slice as the API writes it. Out: a model EndpointSlice, or that it is not used.
//! Never: an endpoint list that is lost because of one bad endpoint.

use super::Names;
use super::fields::{Fault, family, port, protocol, routable_ip, subdomain};
use super::findings::{Addresses, Converted, Findings, label_of, namespaced};
use super::metadata::{self, Unread};
use crate::model::{
    Conditions, Endpoint, EndpointPort, EndpointSet, EndpointSlice, Family, Hints, Object,
    PortName, Ports, SliceKey, SliceOrigin,
};
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use serde::Deserialize;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// RFC 3339; the slice controller writes when the pod or Service changed that it reacts to.
const TRIGGERED: &str = "endpoints.kubernetes.io/last-change-trigger-time";
const HEADLESS: &str = "service.kubernetes.io/headless";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MIRRORING: &str = "endpointslicemirroring-controller.k8s.io";

/// As k8s-openapi's, but for the strings: it has one of its own for each of six names per endpoint. What
/// is not read must be of its type all the same.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Slice<'a> {
    #[serde(default, deserialize_with = "metadata::read")]
    metadata: Option<ObjectMeta>,
    #[serde(borrow)]
    address_type: Option<Text<'a>>,
    endpoints: Option<Vec<OneEndpoint<'a>>>,
    ports: Option<Vec<discovery::EndpointPort>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", rename = "Endpoint")]
struct OneEndpoint<'a> {
    #[serde(borrow)]
    addresses: Option<Vec<Text<'a>>>,
    conditions: Option<discovery::EndpointConditions>,
    #[serde(rename = "deprecatedTopology")]
    _deprecated_topology: Option<BTreeMap<String, Unread>>,
    hints: Option<discovery::EndpointHints>,
    #[serde(rename = "hostname")]
    _hostname: Option<Unread>,
    node_name: Option<Text<'a>>,
    #[serde(rename = "targetRef")]
    _target_ref: Option<Reference>,
    #[serde(rename = "zone")]
    _zone: Option<Unread>,
}

/// core/v1 ObjectReference
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", rename = "ObjectReference")]
struct Reference {
    #[serde(rename = "apiVersion")]
    _api_version: Option<Unread>,
    #[serde(rename = "fieldPath")]
    _field_path: Option<Unread>,
    #[serde(rename = "kind")]
    _kind: Option<Unread>,
    #[serde(rename = "name")]
    _name: Option<Unread>,
    #[serde(rename = "namespace")]
    _namespace: Option<Unread>,
    #[serde(rename = "resourceVersion")]
    _resource_version: Option<Unread>,
    #[serde(rename = "uid")]
    _uid: Option<Unread>,
}

/// A string that stays where it is, unless it is written with escapes.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

pub(super) fn endpoint_slice(
    object: &Slice<'_>,
    findings: &mut Findings<'_>,
) -> Result<Converted, Fault> {
    let nothing = ObjectMeta::default();
    let meta = object.metadata.as_ref().unwrap_or(&nothing);
    let address_type = object.address_type.as_ref().map_or("", |text| &*text.0);
    let (namespace, name) = namespaced(meta)?;
    if label_of(meta, HEADLESS).is_some() {
        return Ok(Converted::Ignored("of a headless Service (label headless)"));
    }
    if address_type == "FQDN" {
        return Ok(Converted::Ignored("addressType FQDN has no addresses"));
    }
    let Some(service) = label_of(meta, SERVICE_NAME).filter(|service| !service.is_empty()) else {
        return Ok(Converted::Ignored("of no Service (no label kubernetes.io/service-name)"));
    };
    subdomain("metadata.labels[kubernetes.io/service-name]", service)?;
    let family = family("addressType", address_type)?;
    let origin = match label_of(meta, MANAGED_BY) {
        Some(MIRRORING) => SliceOrigin::Mirrored,
        _ => SliceOrigin::Own,
    };
    let ports = ports(findings.names, object.ports.as_deref().unwrap_or(&[]))?;
    let given = object.endpoints.as_deref().unwrap_or(&[]);
    let mut endpoints = Vec::with_capacity(given.len());
    let mut addresses = Addresses::default();
    for (index, one) in given.iter().enumerate() {
        let Some(address) = one.addresses.iter().flatten().next() else { continue };
        let endpoint = endpoint((one, &address.0), (index, family), findings);
        endpoints.extend(addresses.take(endpoint));
    }
    addresses.check(findings)?;
    findings.triggered = triggered(meta);
    Ok(Converted::Object(Object::EndpointSlice(Arc::new(EndpointSlice {
        key: SliceKey::new(namespace, name),
        service: findings.names.service(namespace, service),
        origin,
        set: EndpointSet { family, ports, endpoints: endpoints.into() },
    }))))
}

/// One that cannot be read costs a measurement, and nothing else.
fn triggered(meta: &ObjectMeta) -> Option<SystemTime> {
    let time: Timestamp = meta.annotations.as_ref()?.get(TRIGGERED)?.parse().ok()?;
    Some(time.into())
}

/// A port without number would mean all ports, which nobody serves. A missing name is the empty
/// name, as the API server defaults it.
fn ports(
    names: &mut Names,
    given: &[discovery::EndpointPort],
) -> Result<Ports<EndpointPort>, Fault> {
    let mut ports = Vec::with_capacity(given.len());
    for (index, one) in given.iter().enumerate() {
        let protocol = protocol(&format!("ports[{index}].protocol"), one.protocol.as_deref())?;
        let Some(number) = one.port.filter(|number| *number != 0) else { continue };
        let name = one.name.as_deref().unwrap_or("");
        let port = port(&format!("ports[{index}].port"), number)?;
        ports.push(EndpointPort { name: PortName(names.intern(name)), protocol, port });
    }
    Ok(names.endpoint_ports(ports))
}

fn endpoint(
    (one, address): (&OneEndpoint<'_>, &str),
    (index, family): (usize, Family),
    findings: &mut Findings<'_>,
) -> Result<Endpoint, Fault> {
    let right = routable_ip("", address).and_then(|address| match Family::of(address) {
        own if own == family => Ok(address),
        _ => Err(Fault::new("", format!("{address} is not of the slice's addressType"))),
    });
    // Which field it is costs more to say than to read.
    let named = |fault| Fault { field: format!("endpoints[{index}].addresses[0]"), ..fault };
    let address = right.map_err(named)?;
    let conditions = one.conditions.as_ref();
    Ok(Endpoint {
        address,
        conditions: Conditions {
            ready: conditions.and_then(|c| c.ready).unwrap_or(true),
            serving: conditions.and_then(|c| c.serving).unwrap_or(true),
            terminating: conditions.and_then(|c| c.terminating).unwrap_or(false),
        },
        place: findings.names.place(
            one.node_name.as_ref().map(|name| &*name.0).filter(|name| !name.is_empty()),
            one.hints.as_ref().map(hints).unwrap_or_default(),
        ),
    })
}

fn hints(given: &discovery::EndpointHints) -> Hints {
    let zones = given.for_zones.iter().flatten().map(|zone| zone.name.as_str().into());
    let nodes = given.for_nodes.iter().flatten().map(|node| node.name.as_str().into());
    Hints { zones: zones.collect(), nodes: nodes.collect() }
}
