//! Clusters to load: services and endpoints, drawn from a seed. PURE.
//!
//! In: a [`Shape`]. Out: the same [`Cluster`] for the same shape, with no address used twice.
//! Never: a file (see `manifests`), a clock, the process's randomness.

use crate::stats::Rng;
use ipnet::Ipv4Net;
use std::net::Ipv4Addr;

/// Cluster IPs are drawn from here …
pub const SERVICE_RANGE: &str = "10.128.0.0/12";
const FIRST_SERVICE: u32 = u32::from_be_bytes([10, 128, 0, 1]);
/// … and endpoints from here (10.0.0.0/10 holds 4 million).
pub const POD_RANGE: &str = "10.0.0.0/10";
const FIRST_POD: u32 = u32::from_be_bytes([10, 0, 0, 1]);
/// Addresses that changes bring in: in the pods' range, above all that a shape uses.
const FIRST_FRESH: u32 = u32::from_be_bytes([10, 32, 0, 1]);

/// Whether only a change can have brought this address.
pub fn is_fresh(address: Ipv4Addr) -> bool {
    (FIRST_FRESH..FIRST_FRESH + (1 << 20)).contains(&u32::from(address))
}

pub const NODES: [&str; 2] = ["node-a", "node-b"];
pub const NAMESPACE: &str = "bench";
pub const SERVICE_PORT: u16 = 80;
pub const TARGET_PORT: u16 = 8080;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spread {
    Each(u32),
    /// 1–64 endpoints, every 20th service sticky, every 20th with internalTrafficPolicy Local.
    Mixed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    pub services: u32,
    pub endpoints: Spread,
}

impl Shape {
    pub const fn new(services: u32, endpoints: u32) -> Self {
        Self { services, endpoints: Spread::Each(endpoints) }
    }

    pub const MIXED: Self = Self { services: 10_000, endpoints: Spread::Mixed };

    pub fn name(self) -> String {
        let services = match self.services {
            n if n.is_multiple_of(1_000) => format!("{}k", n / 1_000),
            n => n.to_string(),
        };
        match self.endpoints {
            Spread::Each(endpoints) => format!("{services}×{endpoints}"),
            Spread::Mixed => format!("mixed {services}"),
        }
    }
}

#[derive(Debug, Clone)]
pub struct ServiceSpec {
    pub name: String,
    pub cluster_ip: Ipv4Addr,
    pub sticky: bool,
    pub local: bool,
    pub outside: Outside,
    pub endpoints: Vec<EndpointSpec>,
}

/// Where a service answers besides its cluster IP.
#[derive(Debug, Clone, Default)]
pub enum Outside {
    #[default]
    Nowhere,
    NodePort(u16),
    /// A load balancer's address without a node port, and who may ask there: everybody, if no range
    /// is given.
    Vip {
        address: Ipv4Addr,
        ranges: Vec<Ipv4Net>,
    },
}

#[derive(Debug, Clone, Copy)]
pub struct EndpointSpec {
    pub address: Ipv4Addr,
    pub node: &'static str,
}

#[derive(Debug, Clone)]
pub struct Cluster {
    pub services: Vec<ServiceSpec>,
    fresh: u32,
}

impl Cluster {
    pub fn new(shape: Shape) -> Self {
        let mut rng = Rng::new(7);
        let mut pods = (FIRST_POD..).map(Ipv4Addr::from);
        let mut services = Vec::with_capacity(shape.services as usize);
        for index in 0..shape.services {
            let (count, sticky, local) = match shape.endpoints {
                Spread::Each(count) => (count, false, false),
                Spread::Mixed => {
                    let kind = rng.below(20);
                    (1 + rng.below(64) as u32, kind == 0, kind == 1)
                }
            };
            let endpoints = (0..count as usize)
                .zip(&mut pods)
                .map(|(i, address)| EndpointSpec { address, node: NODES[i % NODES.len()] })
                .collect();
            let name = format!("service-{index:06}");
            let cluster_ip = Ipv4Addr::from(FIRST_SERVICE + index);
            let outside = Outside::Nowhere;
            services.push(ServiceSpec { name, cluster_ip, sticky, local, outside, endpoints });
        }
        Self { services, fresh: FIRST_FRESH }
    }

    /// Gives the first endpoint of a service an address that was never used before, and says which.
    pub fn renumber(&mut self, service: usize) -> Ipv4Addr {
        self.renumber_endpoint(service, 0)
    }

    /// The same with any endpoint; nothing is renumbered where there is none.
    pub fn renumber_endpoint(&mut self, service: usize, endpoint: usize) -> Ipv4Addr {
        let address = self.fresh();
        if let Some(endpoint) = self.services[service].endpoints.get_mut(endpoint) {
            endpoint.address = address;
        }
        address
    }

    /// An address that was never used before.
    pub fn fresh(&mut self) -> Ipv4Addr {
        self.fresh += 1;
        Ipv4Addr::from(self.fresh - 1)
    }

    /// N × (1 + E): what any dataplane must hold.
    pub fn elements(&self) -> u64 {
        self.services.iter().map(|s| 1 + s.endpoints.len() as u64).sum()
    }
}
