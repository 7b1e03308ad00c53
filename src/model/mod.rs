//! What vipd knows of the cluster, as plain values.
//!
//! In: nothing. Out: the types that `store` keeps and `planner` reads.
//! Never: I/O, a clock, a Kubernetes API type, an import of another room.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod annotations;
pub mod duration;
mod endpoints;
mod key;
mod known;
mod limits;
mod node;
mod pod;
mod ports;
mod problem;
mod relay;
mod service;

pub use annotations::{Annotations, ProxyMode};
pub use endpoints::{
    Conditions, Endpoint, EndpointPort, EndpointSet, EndpointSlice, Endpoints, EndpointsOrigin,
    Hints, Place, SliceOrigin,
};
pub use key::{Kind, NodeName, ObjectRef, PodKey, ServiceKey, SliceKey};
pub use known::{EndpointSource, Known};
pub use limits::{Limits, MaxConnections, OwnLimits, parse_timeout};
pub use node::{Node, NodeFacts, ServiceCidr};
pub use pod::Pod;
pub use ports::Ports;
pub use problem::{Origin, Problem, Severity};
pub use relay::{AppProtocol, Balancer, HttpVersion, ProxyProtocol, Unit};
pub use service::{
    ClusterIps, Created, External, Family, PortName, Protocol, Service, ServicePort, ServiceType,
    Shown, TargetPort, TrafficPolicy, Uncommon,
};

use std::sync::Arc;

/// One object of the cluster, in vipd's own words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Object {
    Service(Arc<Service>),
    EndpointSlice(Arc<EndpointSlice>),
    Endpoints(Arc<Endpoints>),
    Pod(Arc<Pod>),
    Node(Arc<Node>),
    ServiceCidr(Arc<ServiceCidr>),
}

impl Object {
    pub fn kind(&self) -> Kind {
        match self {
            Object::Service(_) => Kind::Service,
            Object::EndpointSlice(_) => Kind::EndpointSlice,
            Object::Endpoints(_) => Kind::Endpoints,
            Object::Pod(_) => Kind::Pod,
            Object::Node(_) => Kind::Node,
            Object::ServiceCidr(_) => Kind::ServiceCidr,
        }
    }

    /// What a later `Delete` of this object names.
    pub fn object_ref(&self) -> ObjectRef {
        match self {
            Object::Service(s) => ObjectRef::new(Kind::Service, s.key.as_str()),
            Object::EndpointSlice(s) => ObjectRef::new(Kind::EndpointSlice, s.key.as_str()),
            Object::Endpoints(e) => ObjectRef::new(Kind::Endpoints, e.key.as_str()),
            Object::Pod(p) => ObjectRef::new(Kind::Pod, p.key.as_str()),
            Object::Node(n) => ObjectRef::new(Kind::Node, &n.name),
            Object::ServiceCidr(c) => ObjectRef::new(Kind::ServiceCidr, &c.name),
        }
    }

    /// What a problem of this object names.
    pub fn told_as(&self) -> ObjectRef {
        let service = match self {
            Object::EndpointSlice(slice) => Some(slice.service.clone()),
            _ => None,
        };
        self.object_ref().of(service)
    }
}
