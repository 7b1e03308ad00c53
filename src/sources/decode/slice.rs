//! discovery.k8s.io/v1 EndpointSlice.
//!
//! In: a slice of k8s-openapi. Out: a model EndpointSlice, or that it is not used.
//! Never: an endpoint list that is lost because of one bad endpoint.

use super::Names;
use super::fields::{Fault, family, port, protocol, routable_ip, subdomain};
use super::findings::{Addresses, Converted, Findings, label_of, namespaced};
use crate::model::{
    Conditions, Endpoint, EndpointPort, EndpointSet, EndpointSlice, Family, Hints, Object,
    PortName, Ports, SliceKey, SliceOrigin,
};
use k8s_openapi::api::discovery::v1 as discovery;
use std::sync::Arc;

const SERVICE_NAME: &str = "kubernetes.io/service-name";
const HEADLESS: &str = "service.kubernetes.io/headless";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MIRRORING: &str = "endpointslicemirroring-controller.k8s.io";

pub fn endpoint_slice(
    object: &discovery::EndpointSlice,
    findings: &mut Findings<'_>,
) -> Result<Converted, Fault> {
    let meta = &object.metadata;
    let (namespace, name) = namespaced(meta)?;
    if label_of(meta, HEADLESS).is_some() {
        return Ok(Converted::Ignored("of a headless Service (label headless)"));
    }
    if object.address_type == "FQDN" {
        return Ok(Converted::Ignored("addressType FQDN has no addresses"));
    }
    let Some(service) = label_of(meta, SERVICE_NAME).filter(|service| !service.is_empty()) else {
        return Ok(Converted::Ignored("of no Service (no label kubernetes.io/service-name)"));
    };
    subdomain("metadata.labels[kubernetes.io/service-name]", service)?;
    let family = family("addressType", &object.address_type)?;
    let origin = match label_of(meta, MANAGED_BY) {
        Some(MIRRORING) => SliceOrigin::Mirrored,
        _ => SliceOrigin::Own,
    };
    let ports = ports(findings.names, object.ports.as_deref().unwrap_or(&[]))?;
    let given = object.endpoints.as_deref().unwrap_or(&[]);
    let mut endpoints = Vec::with_capacity(given.len());
    let mut addresses = Addresses::default();
    for (index, one) in given.iter().enumerate() {
        let Some(address) = one.addresses.first() else { continue };
        let endpoint = endpoint((one, address), (index, family), findings);
        endpoints.extend(addresses.take(endpoint));
    }
    addresses.check(findings)?;
    Ok(Converted::Object(Object::EndpointSlice(Arc::new(EndpointSlice {
        key: SliceKey::new(namespace, name),
        service: findings.names.service(namespace, service),
        origin,
        set: EndpointSet { family, ports, endpoints: endpoints.into() },
    }))))
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
    (one, address): (&discovery::Endpoint, &str),
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
            one.node_name.as_deref().filter(|name| !name.is_empty()),
            one.hints.as_ref().map(hints).unwrap_or_default(),
        ),
    })
}

fn hints(given: &discovery::EndpointHints) -> Hints {
    let zones = given.for_zones.iter().flatten().map(|zone| zone.name.as_str().into());
    let nodes = given.for_nodes.iter().flatten().map(|node| node.name.as_str().into());
    Hints { zones: zones.collect(), nodes: nodes.collect() }
}
