//! A node for each proxy: client, node and servers, linked to the one API server.
//!
//! In: a cluster. Out: [`Site`]s whose proxies hold all of it.
//! Never: two proxies in one namespace, where each would translate for the other.

use crate::connect::{Path, SERVERS};
use crate::daemon::Daemon;
use crate::generate::{Cluster, EndpointSpec, NODES, SERVICE_PORT, ServiceSpec, Shape};
use crate::plane::Plane;
use crate::proxies::Peer;
use crate::{Outcome, progress};
use rustix::process::Signal;
use std::net::{Ipv4Addr, SocketAddrV4};

/// In `control_plane::SERVICE_RANGE`, above what the API server takes itself.
const FIRST_SERVICE: u32 = u32::from_be_bytes([10, 254, 16, 1]);
/// All of it is the servers': two addresses of a target's first server, two of its other one.
const REACHABLE: &str = "10.61.64.0/18";
const FIRST_REACHABLE: u32 = u32::from_be_bytes([10, 61, 64, 0]);

/// Services that lead to somebody, and are changed. More than changes that may be on their way.
pub const TARGETS: usize = 100;

/// N services of two endpoints each. The targets are spread over them.
pub fn cluster(services: usize) -> Cluster {
    let mut cluster = Cluster::new(Shape::new(services as u32, 2));
    for (index, spec) in (0..).zip(&mut cluster.services) {
        spec.cluster_ip = Ipv4Addr::from(FIRST_SERVICE + index);
    }
    for target in 0..TARGETS {
        place(&mut cluster, target, Server::First);
    }
    cluster
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server {
    First,
    Other,
}

impl Server {
    pub fn other(self) -> Self {
        match self {
            Server::First => Server::Other,
            Server::Other => Server::First,
        }
    }

    /// Both, so that any new connection after a move tells that it was made.
    pub fn addresses(self, target: usize) -> [Ipv4Addr; 2] {
        let first = FIRST_REACHABLE + 4 * target as u32;
        match self {
            Server::First => [first, first + 1].map(Ipv4Addr::from),
            Server::Other => [first + 2, first + 3].map(Ipv4Addr::from),
        }
    }
}

/// Moves a target's endpoints to this server.
pub fn place(cluster: &mut Cluster, target: usize, server: Server) -> &ServiceSpec {
    let index = target * cluster.services.len() / TARGETS;
    let spec = &mut cluster.services[index];
    spec.endpoints =
        server.addresses(target).map(|address| EndpointSpec { address, node: NODES[1] }).to_vec();
    spec
}

pub fn frontend(spec: &ServiceSpec) -> SocketAddrV4 {
    SocketAddrV4::new(spec.cluster_ip, SERVICE_PORT)
}

pub struct Site {
    pub peer: Peer,
    pub path: Path,
    pub daemon: Daemon,
}

impl Site {
    /// A running proxy that holds everything.
    pub fn start(peer: Peer, plane: &Plane, cluster: &Cluster) -> Outcome<Self> {
        progress(&format!("{}: {} services", peer.name(), cluster.services.len()));
        let path = Path::new()?;
        path.server.ip(&format!("route add local {REACHABLE} dev lo\n"))?;
        path.node.ip(&format!("route add {REACHABLE} via {} dev to-server\n", SERVERS[0]))?;
        plane.join(&path.node)?;
        let mut daemon = peer.start(&path.node, plane)?;
        peer.settled(&mut daemon, &path.node, cluster.services.len())?;
        Ok(Self { peer, path, daemon })
    }

    /// Nothing of it runs until it is resumed; what the API server says meanwhile waits in its
    /// sockets.
    pub fn pause(&self) -> Outcome<()> {
        self.daemon.signal(Signal::STOP)
    }

    pub fn resume(&self) -> Outcome<()> {
        self.daemon.signal(Signal::CONT)
    }
}
