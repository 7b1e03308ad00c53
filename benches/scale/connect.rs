//! How long connect() takes from a pod over the node to another pod, rule set by rule set.
//!
//! In: [`Path`]s, each a client, a node and a server namespace of its own. Out: microseconds of
//! every round. All rule sets stand side by side, so that rounds interleave and noise is shared.
//! Never: a rule set that changes while it is measured.

use crate::Outcome;
use crate::stats::{Rng, median};
use crate::world::Namespace;
use socket2::{Domain, Protocol, Socket, Type};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant};

pub const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 60, 0, 2);
pub const CLIENT_RANGE: &str = "10.60.0.0/24";
pub const SERVERS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 61, 0, 2), Ipv4Addr::new(10, 61, 0, 3)];
pub const SERVER_PORT: u16 = 8080;

/// Connections before the server side is emptied: below its backlog, so that nobody has to accept
/// while the client is measured.
const BURST: usize = 500;
const BACKLOG: i32 = 1024;

/// client — node — server.
#[derive(Debug)]
pub struct Path {
    client: Namespace,
    pub node: Namespace,
    _server: Namespace,
    listener: Socket,
}

impl Path {
    pub fn new() -> Outcome<Self> {
        let (client, node, server) = (Namespace::new()?, Namespace::new()?, Namespace::new()?);
        let [first, second] = SERVERS;
        node.ip(&format!(
            "link add to-client type veth peer name eth0 netns {}\n\
             link add to-server type veth peer name eth0 netns {}\n\
             addr add 10.60.0.1/24 dev to-client\n\
             addr add 10.61.0.1/24 dev to-server\n\
             link set to-client up\n\
             link set to-server up\n",
            client.path(),
            server.path()
        ))?;
        client.ip(&format!(
            "addr add {CLIENT}/24 dev eth0\nlink set eth0 up\nroute add default via 10.60.0.1\n"
        ))?;
        server.ip(&format!(
            "addr add {first}/24 dev eth0\naddr add {second}/24 dev eth0\nlink set eth0 up\n\
             route add default via 10.61.0.1\n"
        ))?;
        node.sysctl("net/ipv4/ip_forward", "1")?;
        // Reset connections would fill conntrack's table for ten seconds each.
        node.sysctl("net/netfilter/nf_conntrack_tcp_timeout_close", "1")?;
        let listener = server.run(|| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
            socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, SERVER_PORT)).into())?;
            socket.listen(BACKLOG)?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        })?;
        Ok(Self { client, node, _server: server, listener })
    }

    /// Microseconds of each of `count` connections; the calling thread ends up in the client's
    /// namespace.
    fn connect(&self, to: SocketAddrV4, count: usize) -> Outcome<Vec<f64>> {
        self.client.enter()?;
        let to = SocketAddr::V4(to).into();
        let mut times = Vec::with_capacity(count);
        while times.len() < count {
            for _ in 0..BURST.min(count - times.len()) {
                let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
                // A reset leaves no TIME_WAIT behind, and so no port is ever missing.
                socket.set_linger(Some(Duration::ZERO))?;
                let start = Instant::now();
                socket.connect(&to)?;
                times.push(start.elapsed().as_secs_f64() * 1e6);
            }
            while self.listener.accept().is_ok() {}
        }
        Ok(times)
    }
}

/// One thing to connect to: an address as seen from a path's client.
#[derive(Debug)]
pub struct Variant<'a> {
    pub name: String,
    pub path: &'a Path,
    pub to: SocketAddrV4,
}

/// The p50 of every round, variant by variant.
pub fn measure(
    variants: &[Variant<'_>],
    rounds: usize,
    connections: usize,
) -> Outcome<Vec<Vec<f64>>> {
    let mut order: Vec<usize> = (0..variants.len()).collect();
    let mut rng = Rng::new(3);
    let mut results = vec![Vec::new(); variants.len()];
    // The thread wanders from namespace to namespace, so it must be one that ends afterwards.
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                for round in 0..=rounds {
                    rng.shuffle(&mut order);
                    for &index in &order {
                        let variant = &variants[index];
                        let times = variant
                            .path
                            .connect(variant.to, connections)
                            .map_err(|e| format!("{}: {e}", variant.name))?;
                        // Round 0 fills caches and neighbour tables.
                        if round > 0 {
                            results[index].push(median(&times));
                        }
                    }
                }
                Ok(results)
            })
            .join()
            .unwrap_or_else(|_| Err("the connecting thread panicked".into()))
    })
}
