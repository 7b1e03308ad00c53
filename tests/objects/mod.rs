//! Small objects for tests that look below the manifests.
//!
//! In: a name and a number. Out: a Service and its EndpointSlices.
//! Never: an address that two examples share.

use std::net::IpAddr;
use std::num::{NonZeroU16, NonZeroU32};
use std::sync::Arc;
use vipd::model::*;
use vipd::planner::{DetectLocal, Policy};
use vipd::sources::Change;

/// A Service with one port, and ready endpoints on another node.
#[derive(Debug, Clone)]
pub struct Example {
    name: String,
    number: u8,
    families: &'static [Family],
    protocol: Protocol,
    port: u16,
    node_port: Option<NonZeroU16>,
    affinity: Option<NonZeroU32>,
    endpoints: Vec<u8>,
}

/// A TCP service on port 80 with cluster IP number `number` and no endpoints.
pub fn service(name: &str, number: u8) -> Example {
    Example {
        name: name.into(),
        number,
        families: &[Family::V4],
        protocol: Protocol::Tcp,
        port: 80,
        node_port: None,
        affinity: None,
        endpoints: Vec::new(),
    }
}

#[allow(dead_code, reason = "no test target needs all of them")]
impl Example {
    pub fn dual_stack(mut self) -> Self {
        self.families = &Family::BOTH;
        self
    }

    pub fn udp(mut self) -> Self {
        self.protocol = Protocol::Udp;
        self
    }

    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    pub fn node_port(mut self, port: u16) -> Self {
        self.node_port = NonZeroU16::new(port);
        self
    }

    pub fn sticky(mut self, seconds: u32) -> Self {
        self.affinity = NonZeroU32::new(seconds);
        self
    }

    pub fn endpoints(mut self, endpoints: &[u8]) -> Self {
        self.endpoints = endpoints.into();
        self
    }

    pub fn key(&self) -> ServiceKey {
        ServiceKey::new("default", &self.name)
    }

    pub fn cluster_ip(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => IpAddr::from([10, 254, 0, self.number]),
            Family::V6 => IpAddr::from([0xfd00, 0x254, 0, 0, 0, 0, 0, u16::from(self.number)]),
        }
    }

    pub fn objects(&self) -> Vec<Object> {
        let v6 = self.families.contains(&Family::V6).then(|| self.cluster_ip(Family::V6));
        let service = Service {
            key: self.key(),
            created: Created(None),
            service_type: match self.node_port {
                None => ServiceType::ClusterIp,
                Some(_) => ServiceType::NodePort,
            },
            cluster_ips: ClusterIps {
                v4: match self.cluster_ip(Family::V4) {
                    IpAddr::V4(ip) => Some(ip),
                    IpAddr::V6(_) => None,
                },
                v6: match v6 {
                    Some(IpAddr::V6(ip)) => Some(ip),
                    _ => None,
                },
            },
            ports: Box::new([ServicePort {
                name: "".into(),
                protocol: self.protocol,
                port: self.port,
                node_port: self.node_port,
                target_port: TargetPort::Unset,
            }]),
            external: None,
            internal_policy: TrafficPolicy::Cluster,
            external_policy: TrafficPolicy::Cluster,
            affinity: self.affinity,
            publish_not_ready_addresses: false,
            labels: "".into(),
            selector: "".into(),
        };
        let mut objects = vec![Object::Service(Arc::new(service))];
        objects.extend(self.families.iter().map(|family| self.slice(*family)));
        objects
    }

    fn slice(&self, family: Family) -> Object {
        let pod = |host: u8| match family {
            Family::V4 => IpAddr::from([10, 180, self.number, host]),
            Family::V6 => IpAddr::from([
                0xfd00,
                0x180,
                0,
                u16::from(self.number),
                0,
                0,
                0,
                u16::from(host),
            ]),
        };
        let endpoint = |host: &u8| Endpoint {
            address: pod(*host),
            conditions: Conditions::READY,
            node: Some("node-b".into()),
            hints: None,
        };
        let letter = match family {
            Family::V4 => "v4",
            Family::V6 => "v6",
        };
        Object::EndpointSlice(Arc::new(EndpointSlice {
            key: SliceKey::new("default", &format!("{}-{letter}", self.name)),
            service: self.key(),
            origin: SliceOrigin::Own,
            set: EndpointSet {
                family,
                ports: Box::new([EndpointPort {
                    name: "".into(),
                    protocol: self.protocol,
                    port: 8080,
                }]),
                endpoints: self.endpoints.iter().map(endpoint).collect(),
            },
        }))
    }

    pub fn upserts(&self) -> Vec<Change> {
        self.objects().into_iter().map(Change::Upsert).collect()
    }

    pub fn deletes(&self) -> Vec<Change> {
        self.objects().iter().map(|object| Change::Delete(object.object_ref())).collect()
    }
}

/// Pods in 10.180.0.0/16 and fd00:180::/48, services in 10.254.0.0/16 and fd00:254::/112.
pub fn policy() -> Policy {
    let ranges = |texts: [&str; 2]| texts.map(|text| text.parse().expect("a CIDR")).to_vec();
    Policy {
        masquerade_all: false,
        detect: DetectLocal::ClusterCidr(ranges(["10.180.0.0/16", "fd00:180::/48"])),
        service_ranges: ranges(["10.254.0.0/16", "fd00:254::/112"]),
        drop_invalid: true,
    }
}
