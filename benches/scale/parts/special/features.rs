//! Clusters whose services have something special, and changes of it. PURE.
//!
//! In: nothing but constants: every run has the same clusters. Out: [`Feature`]s, texts of changes.
//! Never: a change that changes nothing.

use crate::Outcome;
use crate::generate::{Cluster, Outside, Shape};
use crate::manifests::{service_alone, slice_alone};
use crate::stats::Rng;
use ipnet::Ipv4Net;
use std::net::Ipv4Addr;

/// The two ranges that a node port moves between begin here. (A cluster with so many has a wider
/// `--service-node-port-range` than the default, which has 2,768.)
const NODE_PORTS: [u16; 2] = [30_000, 40_000];
const FIRST_VIP: u32 = u32::from_be_bytes([198, 18, 0, 1]);
/// Clients' ranges are drawn from 64.0.0.0/2.
const FIRST_CLIENT: u32 = u32::from_be_bytes([64, 0, 0, 0]);
const CLIENTS: usize = 1 << 30;

pub struct Feature {
    pub name: String,
    pub cluster: Cluster,
    /// A set that shows that the feature is there, and how many elements it must have.
    pub witness: Witness,
    /// How much slower than a plain one a load may be.
    pub load_bar: f64,
    /// Changes that are held against one of a plain service's endpoints.
    pub beside_plain: &'static [Change],
    /// Changes with a bar in milliseconds.
    pub timed: Option<(Change, f64)>,
}

pub type Witness = (&'static str, u64);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Endpoint,
    NodePort,
    Range,
}

impl Change {
    pub fn name(self) -> &'static str {
        match self {
            Change::Endpoint => "one endpoint",
            Change::NodePort => "one node port",
            Change::Range => "one source range",
        }
    }

    /// Makes the change to a service; the text of the object that it is of.
    pub fn make(self, cluster: &mut Cluster, at: usize, rng: &mut Rng) -> Outcome<String> {
        let service = &mut cluster.services[at];
        match (self, &mut service.outside) {
            (Change::Endpoint, _) => {
                let endpoint = rng.below(service.endpoints.len());
                cluster.renumber_endpoint(at, endpoint);
                return Ok(slice_alone(&cluster.services[at], endpoint));
            }
            (Change::NodePort, Outside::NodePort(number)) => {
                let [low, high] = NODE_PORTS;
                *number = if *number < high { *number + high - low } else { *number + low - high };
            }
            (Change::Range, Outside::Vip { ranges, .. }) if !ranges.is_empty() => {
                let other = range_beside(ranges, rng);
                let at = rng.below(ranges.len());
                ranges[at] = other;
            }
            (_, outside) => return Err(format!("{self:?} of a service at {outside:?}").into()),
        }
        Ok(service_alone(service))
    }
}

pub fn all() -> [Feature; 4] {
    const BAR: f64 = 2.0;
    let plain = |services, endpoints| Cluster::new(Shape::new(services, endpoints));
    let mut sticky = plain(1_000, 2);
    sticky.services.iter_mut().for_each(|service| service.sticky = true);
    [
        Feature {
            name: "5,000 NodePorts".into(),
            cluster: node_ports(5_000),
            witness: ("nodeports4", 5_000),
            load_bar: BAR,
            beside_plain: &[Change::Endpoint, Change::NodePort],
            timed: None,
        },
        Feature {
            name: "2,000 VIPs with 10 source ranges each".into(),
            cluster: vips(2_000, 10),
            witness: ("allowed4", 20_000),
            load_bar: 6.0,
            beside_plain: &[Change::Endpoint],
            timed: Some((Change::Range, 10.0)),
        },
        Feature {
            name: "1,000 sticky services".into(),
            cluster: sticky,
            witness: ("pinned4", 2_000),
            load_bar: BAR,
            beside_plain: &[Change::Endpoint],
            timed: None,
        },
        Feature {
            name: "one service with 5,000 endpoints".into(),
            cluster: plain(1, 5_000),
            witness: ("endpoints4-49", 5_000),
            load_bar: BAR,
            beside_plain: &[Change::Endpoint],
            timed: None,
        },
    ]
}

fn node_ports(services: u16) -> Cluster {
    let mut cluster = Cluster::new(Shape::new(services.into(), 2));
    for (number, service) in (NODE_PORTS[0]..).zip(&mut cluster.services) {
        service.outside = Outside::NodePort(number);
    }
    cluster
}

/// Load balancers' services with so many ranges each, or for everybody.
pub fn vips(services: u32, ranges: usize) -> Cluster {
    let mut cluster = Cluster::new(Shape::new(services, 2));
    let mut rng = Rng::new(11);
    for (address, service) in (FIRST_VIP..).zip(&mut cluster.services) {
        let mut drawn = Vec::new();
        for _ in 0..ranges {
            drawn.push(range_beside(&drawn, &mut rng));
        }
        service.outside = Outside::Vip { address: address.into(), ranges: drawn };
    }
    cluster
}

/// A range that meets none of `others`: one inside another is no element.
fn range_beside(others: &[Ipv4Net], rng: &mut Rng) -> Ipv4Net {
    const LENGTHS: [u8; 5] = [16, 20, 24, 28, 32];
    loop {
        let address = Ipv4Addr::from(FIRST_CLIENT + rng.below(CLIENTS) as u32);
        let drawn = Ipv4Net::new_assert(address, LENGTHS[rng.below(LENGTHS.len())]).trunc();
        if others.iter().all(|other| !other.contains(&drawn) && !drawn.contains(other)) {
            return drawn;
        }
    }
}
