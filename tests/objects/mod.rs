//! Small objects for tests that look below the manifests.
//!
//! In: a name and a number. Out: a Service and its EndpointSlices.
//! Never: an address that examples of different numbers share.

use std::net::IpAddr;
use std::num::NonZeroU32;
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
    target_port: u16,
    range: Range,
    affinity: Option<NonZeroU32>,
    endpoints: Vec<u8>,
}

/// Whether an example's cluster IP lies in the service ranges of [`policy`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Range {
    Inside,
    Outside,
}

/// A TCP service on port 80 with cluster IP number `number` and no endpoints.
pub fn service(name: &str, number: u8) -> Example {
    Example {
        name: name.into(),
        number,
        families: &[Family::V4],
        protocol: Protocol::Tcp,
        port: 80,
        target_port: 8080,
        range: Range::Inside,
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

    /// Where the endpoints listen.
    pub fn target_port(mut self, port: u16) -> Self {
        self.target_port = port;
        self
    }

    /// With cluster IPs of no service range.
    pub fn outside(mut self) -> Self {
        self.range = Range::Outside;
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
        let (v4, v6) = match self.range {
            Range::Inside => ([10, 254], 0x254),
            Range::Outside => ([172, 20], 0x172),
        };
        match family {
            Family::V4 => IpAddr::from([v4[0], v4[1], 0, self.number]),
            Family::V6 => IpAddr::from([0xfd00, v6, 0, 0, 0, 0, 0, u16::from(self.number)]),
        }
    }

    pub fn objects(&self) -> Vec<Object> {
        let v6 = self.families.contains(&Family::V6).then(|| self.cluster_ip(Family::V6));
        let service = Service {
            key: self.key(),
            created: Created::new(None),
            service_type: ServiceType::ClusterIp,
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
            ports: [ServicePort {
                name: "".into(),
                protocol: self.protocol,
                port: self.port,
                node_port: None,
                app_protocol: AppProtocol::default(),
                target_port: TargetPort::Unset,
            }]
            .into(),
            uncommon: None,
            internal_policy: TrafficPolicy::Cluster,
            external_policy: TrafficPolicy::Cluster,
            affinity: self.affinity,
            publish_not_ready_addresses: false,
            annotations: Annotations::default(),
            shown: Shown::default(),
        };
        let mut objects = vec![Object::Service(Arc::new(service))];
        objects.extend(self.families.iter().map(|family| self.slice(*family)));
        objects
    }

    fn slice(&self, family: Family) -> Object {
        let pod = |host: u8| match family {
            Family::V4 => IpAddr::from([10, 180, self.number, host]),
            Family::V6 => {
                IpAddr::from([0xfd00, 0x180, 0, u16::from(self.number), 0, 0, 0, u16::from(host)])
            }
        };
        let endpoint = |host: &u8| Endpoint {
            address: pod(*host),
            conditions: Conditions::READY,
            place: Arc::new(Place { node: Some("node-b".into()), hints: Hints::default() }),
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
                ports: [EndpointPort {
                    name: "".into(),
                    protocol: self.protocol,
                    port: self.target_port,
                }]
                .into(),
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
        mode: Default::default(),
        masquerade_all: false,
        detect: DetectLocal::ClusterCidr(ranges(["10.180.0.0/16", "fd00:180::/48"])),
        service_ranges: ranges(["10.254.0.0/16", "fd00:254::/112"]),
        drop_invalid: true,
        outsiders: Default::default(),
        external_ips: Default::default(),
        limits: Default::default(),
        node_ports_at: vec![],
        localhost_node_ports: false,
    }
}
