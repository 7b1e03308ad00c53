//! v1 Endpoints, which people still write by hand.
//!
//! In: an Endpoints of k8s-openapi. Out: a model Endpoints, one set per subset and family.
//! Never: an address list that is lost because of one bad address.

use super::Names;
use super::fields::{Fault, port, protocol, routable_ip};
use super::findings::{Addresses, Converted, Findings, namespaced};
use crate::model::{
    Conditions, Endpoint, EndpointPort, EndpointSet, Endpoints, EndpointsOrigin, Family, Hints,
    Object, PortName, Ports,
};
use k8s_openapi::api::core::v1 as core;
use std::sync::Arc;

pub fn endpoints(
    object: &core::Endpoints,
    findings: &mut Findings<'_>,
) -> Result<Converted, Fault> {
    let (namespace, name) = namespaced(&object.metadata)?;
    let mut sets = Vec::new();
    let mut all = Addresses::default();
    for (index, subset) in object.subsets.iter().flatten().enumerate() {
        let path = format!("subsets[{index}]");
        let ports = ports(findings.names, &path, subset.ports.as_deref().unwrap_or(&[]))?;
        let mut members = Vec::new();
        for (list, addresses, conditions) in [
            ("addresses", &subset.addresses, Conditions::READY),
            ("notReadyAddresses", &subset.not_ready_addresses, Conditions::NOT_READY),
        ] {
            for (index, address) in addresses.iter().flatten().enumerate() {
                let endpoint = endpoint(&format!("{path}.{list}[{index}].ip"), address, findings);
                let endpoint = all.take(endpoint);
                members.extend(endpoint.map(|endpoint| Endpoint { conditions, ..endpoint }));
            }
        }
        for family in Family::BOTH {
            let endpoints: Box<[_]> =
                members.iter().filter(|e| Family::of(e.address) == family).cloned().collect();
            if !endpoints.is_empty() {
                sets.push(EndpointSet { family, ports: ports.clone(), endpoints });
            }
        }
    }
    all.check(findings)?;
    let key = findings.names.service(namespace, name);
    Ok(Converted::Object(Object::Endpoints(Arc::new(Endpoints {
        key,
        origin: EndpointsOrigin::Object,
        sets: sets.into(),
    }))))
}

fn ports(
    names: &mut Names,
    path: &str,
    given: &[core::EndpointPort],
) -> Result<Ports<EndpointPort>, Fault> {
    let one = |(index, one): (usize, &core::EndpointPort)| {
        let path = format!("{path}.ports[{index}]");
        Ok(EndpointPort {
            name: PortName(names.intern(one.name.as_deref().unwrap_or(""))),
            protocol: protocol(&format!("{path}.protocol"), one.protocol.as_deref())?,
            port: port(&format!("{path}.port"), one.port)?,
        })
    };
    let ports = given.iter().enumerate().map(one).collect::<Result<_, _>>()?;
    Ok(names.endpoint_ports(ports))
}

fn endpoint(
    field: &str,
    given: &core::EndpointAddress,
    findings: &mut Findings<'_>,
) -> Result<Endpoint, Fault> {
    let node = given.node_name.as_deref().filter(|name| !name.is_empty());
    Ok(Endpoint {
        address: routable_ip(field, &given.ip)?,
        conditions: Conditions::READY,
        place: findings.names.place(node, Hints::default()),
    })
}
