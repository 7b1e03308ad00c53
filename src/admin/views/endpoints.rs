//! The endpoints that are known for one Service name.

use crate::model::{Endpoint, EndpointPort, Known, ServiceKey};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointsView {
    pub namespace: String,
    pub name: String,
    /// Seconds since 1970, of the Service: slices come and go with its pods.
    pub created: Option<i64>,
    /// Which objects they follow from: `EndpointSlices`, `Endpoints`, `mirrored EndpointSlices` or
    /// `Pods`; `None` where none is there.
    pub source: Option<String>,
    /// Sorted and without duplicates.
    pub endpoints: Vec<EndpointView>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointView {
    pub port_name: String,
    pub protocol: String,
    pub address: IpAddr,
    pub port: u16,
    pub node: Option<String>,
    pub ready: bool,
    pub serving: bool,
    pub terminating: bool,
}

pub fn endpoints_view(key: &ServiceKey, known: &Known) -> EndpointsView {
    let mut endpoints: Vec<EndpointView> = known
        .sets()
        .flat_map(|set| set.ports.iter().map(move |port| (set, port)))
        .flat_map(|(set, port)| set.endpoints.iter().map(move |e| endpoint_view(e, port)))
        .collect();
    endpoints.sort();
    endpoints.dedup();
    EndpointsView {
        namespace: key.namespace().to_owned(),
        name: key.name().to_owned(),
        created: known.service.as_ref().and_then(|service| service.created.seconds()),
        source: known.source().map(|source| source.name().to_owned()),
        endpoints,
    }
}

fn endpoint_view(endpoint: &Endpoint, port: &EndpointPort) -> EndpointView {
    EndpointView {
        port_name: port.name.0.to_string(),
        protocol: port.protocol.name().to_owned(),
        address: endpoint.address,
        port: port.port,
        node: endpoint.place.node.as_deref().map(str::to_owned),
        ready: endpoint.conditions.ready,
        serving: endpoint.conditions.serving,
        terminating: endpoint.conditions.terminating,
    }
}
