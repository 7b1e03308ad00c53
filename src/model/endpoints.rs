//! Where a Service's traffic may go: EndpointSlices, and Endpoints written by hand or made by pods.

use super::{Family, NodeName, PortName, Ports, Protocol, ServiceKey, SliceKey};
use std::net::IpAddr;
use std::sync::Arc;

/// `conditions` with the API's meaning of an absent value already applied
/// (discovery/v1: nil ready and nil serving mean true, nil terminating means false).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Conditions {
    pub ready: bool,
    pub serving: bool,
    pub terminating: bool,
}

impl Conditions {
    pub const READY: Self = Self { ready: true, serving: true, terminating: false };
    pub const NOT_READY: Self = Self { ready: false, serving: false, terminating: false };
}

/// Where an endpoint runs and what it is recommended for: the same for many endpoints of one node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Place {
    pub node: Option<NodeName>,
    pub hints: Hints,
}

/// `hints`: what the slice controller recommends the endpoint for; empty is as good as none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Hints {
    pub zones: Box<[Box<str>]>,
    pub nodes: Box<[Box<str>]>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// `addresses[0]`; the others are never used (discovery/v1 says they are interchangeable).
    pub address: IpAddr,
    pub conditions: Conditions,
    pub place: Arc<Place>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EndpointPort {
    pub name: PortName,
    pub protocol: Protocol,
    pub port: u16,
}

/// Endpoints of one address family that share their ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointSet {
    pub family: Family,
    pub ports: Ports<EndpointPort>,
    pub endpoints: Box<[Endpoint]>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SliceOrigin {
    /// The slice controller, or a person.
    Own,
    /// The mirroring controller made it from an Endpoints object (label
    /// `endpointslice.kubernetes.io/managed-by`).
    Mirrored,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointSlice {
    pub key: SliceKey,
    /// namespace and label `kubernetes.io/service-name`
    pub service: ServiceKey,
    pub origin: SliceOrigin,
    pub set: EndpointSet,
}

/// Who says so, where there are no slices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EndpointsOrigin {
    /// A v1 Endpoints object: one set per subset and family.
    Object,
    /// The pods that a Service's selector names: one set per list of port numbers and family.
    Pods,
}

/// Endpoints of a Service that stand in no slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoints {
    pub key: ServiceKey,
    pub origin: EndpointsOrigin,
    pub sets: Box<[EndpointSet]>,
}
