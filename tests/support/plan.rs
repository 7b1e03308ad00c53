//! The one IP plan of all tests that send packets: who exists and under which addresses.
//!
//! In: a name and an IP family. Out: addresses.
//! Never: an address written anywhere else in the tests.
//!
//! ```text
//!   ext ---- node ---- nodeb ---- R1, R2
//!              |
//!          L1, L2, L3
//! ```

use std::fmt;
use std::net::IpAddr;

/// One network namespace of the topology.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Who {
    L1,
    L2,
    L3,
    R1,
    R2,
    Node,
    NodeB,
    Ext,
}
pub use Who::{Ext, L1, L2, L3, Node, NodeB, R1, R2};

impl Who {
    pub const ALL: [Who; 8] = [Node, NodeB, Ext, L1, L2, L3, R1, R2];
    pub const LOCAL_PODS: [Who; 3] = [L1, L2, L3];
    pub const REMOTE_PODS: [Who; 2] = [R1, R2];
    pub const PODS: [Who; 5] = [L1, L2, L3, R1, R2];

    /// The name of its network namespace, and what its servers answer with.
    pub fn name(self) -> &'static str {
        match self {
            L1 => "L1",
            L2 => "L2",
            L3 => "L3",
            R1 => "R1",
            R2 => "R2",
            Node => "node",
            NodeB => "nodeb",
            Ext => "ext",
        }
    }

    pub fn named(name: &str) -> Option<Who> {
        Who::ALL.into_iter().find(|who| who.name() == name)
    }

    /// The Kubernetes node that it runs on.
    pub fn host(self) -> Option<&'static str> {
        match self {
            L1 | L2 | L3 | Node => Some(NODE_A),
            R1 | R2 | NodeB => Some(NODE_B),
            Ext => None,
        }
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    V4,
    V6,
}
pub use Family::{V4, V6};

impl Family {
    pub fn of(address: IpAddr) -> Family {
        if address.is_ipv4() { V4 } else { V6 }
    }

    pub fn other(self) -> Family {
        match self {
            V4 => V6,
            V6 => V4,
        }
    }

    /// `addressType` of an EndpointSlice, an entry of `ipFamilies`.
    pub fn kubernetes(self) -> &'static str {
        match self {
            V4 => "IPv4",
            V6 => "IPv6",
        }
    }

    fn pick(self, v4: [u8; 4], v6: [u16; 8]) -> IpAddr {
        match self {
            V4 => IpAddr::from(v4),
            V6 => IpAddr::from(v6),
        }
    }

    /// The first address of `who`.
    pub fn address(self, who: Who) -> IpAddr {
        let pod = |network: u8, host: u8| {
            self.pick(
                [10, 180, network, host],
                [0xfd00, 0x10, 0x180, network.into(), 0, 0, 0, host.into()],
            )
        };
        match who {
            L1 => pod(0, 1),
            L2 => pod(0, 2),
            L3 => pod(0, 3),
            R1 => pod(1, 1),
            R2 => pod(1, 2),
            Node => self.lan(2),
            NodeB => self.lan(3),
            Ext => self.outside(2),
        }
    }

    /// The address that `who` speaks from. The node uses its second one, so that masquerading
    /// (to the first) can be seen.
    pub fn client_address(self, who: Who) -> IpAddr {
        match who {
            Node => self.node_second(),
            other => self.address(other),
        }
    }

    fn lan(self, host: u8) -> IpAddr {
        self.pick([192, 168, 0, host], [0xfd00, 0x192, 0x168, 0, 0, 0, 0, host.into()])
    }

    pub fn node_second(self) -> IpAddr {
        self.pick([192, 168, 1, 2], [0xfd00, 0x192, 0x168, 1, 0, 0, 0, 2])
    }

    /// Of every namespace.
    pub fn loopback(self) -> IpAddr {
        self.pick([127, 0, 0, 1], [0, 0, 0, 0, 0, 0, 0, 1])
    }

    /// The default gateway of the node: node-b, which so sees all that leaves.
    pub fn lan_gateway(self) -> IpAddr {
        self.lan(1)
    }

    fn outside(self, host: u16) -> IpAddr {
        self.pick(
            [203, 0, 113, u8::try_from(host).unwrap_or(130)],
            [0x2001, 0xdb8, 0x113, 0, 0, 0, 0, host],
        )
    }

    pub fn outside_gateway(self) -> IpAddr {
        self.outside(1)
    }

    /// The second address of ext: outside of the first half of its network.
    pub fn outside_second(self) -> IpAddr {
        self.outside(0x8002)
    }

    /// Half of ext's network, with its first address and without its second.
    pub fn outside_half(self) -> &'static str {
        match self {
            V4 => "203.0.113.0/25",
            V6 => "2001:db8:113::/113",
        }
    }

    /// Twenty further clients in ext.
    pub fn crowd(self) -> Vec<IpAddr> {
        (20..40).map(|host| self.outside(host)).collect()
    }

    /// Of clients that ext is the router of, in the first half of its network.
    pub fn behind_ext(self) -> Vec<IpAddr> {
        (50..56).map(|host| self.outside(host)).collect()
    }

    /// Address `n` of a range that is all local to L1: one endpoint each for rolling updates.
    pub fn extra_endpoint(self, n: u8) -> IpAddr {
        self.pick([10, 180, 16, n], [0xfd00, 0x10, 0x180, 0x16, 0, 0, 0, n.into()])
    }

    pub fn extra_range(self) -> &'static str {
        match self {
            V4 => "10.180.16.0/24",
            V6 => "fd00:10:180:16::/64",
        }
    }

    /// Cluster IP number `n` of the first 256 of the service range.
    pub fn cluster_ip(self, n: u8) -> IpAddr {
        self.pick([10, 254, 0, n], [0xfd00, 0x10, 0x254, 0, 0, 0, 0, n.into()])
    }

    /// Cluster IP number `n` of a range for many services.
    pub fn bulk_cluster_ip(self, n: u16) -> IpAddr {
        let [high, low] = n.to_be_bytes();
        match self {
            V4 => IpAddr::from([10, 254, 16 + high, low]),
            V6 => IpAddr::from([0xfd00, 0x10, 0x254, 0, 0, 0, 0, 0x2000 + n]),
        }
    }

    /// The cluster IP of the example service `nginx`, which has no IPv6 one of its own.
    pub fn nginx(self) -> IpAddr {
        self.pick([10, 254, 56, 190], [0xfd00, 0x10, 0x254, 0, 0, 0, 0, 0x56be])
    }

    /// In the service range, and no service has it.
    pub fn unallocated(self) -> IpAddr {
        self.pick([10, 254, 9, 9], [0xfd00, 0x10, 0x254, 0, 0, 0, 0, 0x9909])
    }

    /// A load balancer's address. Like `external_ip`, no interface has it: ext and the pods reach it
    /// by way of the node, which without a service would pass it on to its gateway.
    pub fn vip(self) -> IpAddr {
        self.pick([1, 2, 3, 4], [0x2001, 0xdb8, 1, 0, 0, 0, 0, 4])
    }

    /// Another one.
    pub fn second_vip(self) -> IpAddr {
        self.pick([1, 2, 3, 5], [0x2001, 0xdb8, 1, 0, 0, 0, 0, 5])
    }

    pub fn external_ip(self) -> IpAddr {
        self.pick([198, 51, 100, 7], [0x2001, 0xdb8, 0x51, 0, 0, 0, 0, 7])
    }

    /// Pods of the node and of node-b, as CIDRs.
    pub fn pod_cidr(self, host: &str) -> &'static str {
        match (self, host == NODE_A) {
            (V4, true) => "10.180.0.0/24",
            (V4, false) => "10.180.1.0/24",
            (V6, true) => "fd00:10:180::/64",
            (V6, false) => "fd00:10:180:1::/64",
        }
    }

    pub fn outside_cidr(self) -> &'static str {
        match self {
            V4 => "203.0.113.0/24",
            V6 => "2001:db8:113::/64",
        }
    }

    pub fn service_range(self) -> &'static str {
        match self {
            V4 => "10.254.0.0/16",
            V6 => "fd00:10:254::/112",
        }
    }
}

pub const NODE_A: &str = "node-a";
pub const NODE_B: &str = "node-b";

/// Ports that every pod serves, TCP and UDP.
pub const PORTS: [u16; 10] = [80, 8080, 8081, 8443, 9090, 9443, 7001, 7002, 7003, 7004];

pub const CLUSTER_CIDRS: &str = "10.180.0.0/16,fd00:10:180::/48";
pub const SERVICE_RANGES: &str = "10.254.0.0/16,fd00:10:254::/112";

/// The node port of most cases.
pub const NODE_PORT: u16 = 30080;

/// Cluster IPs of a family: that of most cases, and that of the service which tells when vipd
/// has applied what was written.
pub const CASE_SERVICE: u8 = 41;
pub const SENTINEL: u8 = 250;
