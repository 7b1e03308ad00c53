//! The userspace dataplane's engine behind rules that the case writes: the sockets' side of tproxy.

use super::support::client::Client;
use super::support::netns::Netns;
use super::support::plan::{Ext, L1, L2, L3, NODE_PORT, Node, NodeB, R1, V4, Who};
use super::support::runner::{Case, case};
use super::support::servers::{Proto, Tcp, Udp};
use super::support::world::World;
use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};
use vipd::dataplane::userspace::{Budget, Engine, EngineOptions, PortId, Relayed};
use vipd::model::{Balancer, Family, Limits, Protocol, ServiceKey};
use vipd::planner::{FrontendAddress, FrontendKey, NodePlan, Plan, Reach, Target};

/// An engine on the node, with a service at the case's cluster IP and at a node port.
struct Relay<'w> {
    w: &'w World,
    engine: Option<Engine>,
    balancer: Balancer,
}

fn model(w: &World) -> Family {
    if w.family == V4 { Family::V4 } else { Family::V6 }
}

/// Rules by which packets come to the engine, as the control side writes them: those from elsewhere
/// by tproxy; the node's own through lo, where they meet it too.
fn intercept(w: &World, port: u16) {
    let (ip, loopback) = if w.family == V4 { ("ip", "127.0.0.1") } else { ("ip6", "[::1]") };
    let (cip, node, second) = (w.cip(), w.address(Node), w.family.node_second());
    let home = w.family.loopback();
    let both = "meta l4proto { tcp, udp } th dport";
    let to = format!("tproxy {ip} to {loopback}:{port} accept");
    w.netns(Node).nft(&format!(
        "table inet relay {{
            chain mangle {{ type filter hook prerouting priority -150;
                {ip} daddr {cip} {both} 80 {to}
                {ip} daddr {{ {node}, {second}, {home} }} {both} {NODE_PORT} {to}
            }}
            chain output {{ type nat hook output priority -101;
                {ip} daddr {cip} {both} 80 dnat {ip} to {cip}
            }}
        }}"
    ));
    w.netns(Node).ip(&[format!("route add local {cip} dev lo src {node} table local")]);
}

impl<'w> Relay<'w> {
    fn start(w: &'w World) -> Self {
        let started = w
            .netns(Node)
            .enter(|| Engine::start(EngineOptions::new(Arc::new(Budget::of_this_process()))));
        let engine = started.unwrap_or_else(|error| panic!("the engine does not start: {error}"));
        let node = NodePlan {
            node_port_addresses: sorted([w.address(Node), w.family.node_second()]),
            own_addresses: sorted([w.address(Node), w.family.node_second()]),
            localhost_node_ports: [true, true],
            ..NodePlan::clone(&Plan::empty().node)
        };
        engine.set_node(Arc::new(node));
        intercept(w, engine.port().expect("it intercepts"));
        Self { w, engine: Some(engine), balancer: Balancer::Random }
    }

    fn engine(&self) -> &Engine {
        self.engine.as_ref().expect("it is there until the case ends")
    }

    fn serve(&self, pods: &[Who]) {
        let target = |pod: &Who| Target { address: self.w.address(*pod), port: 8080 };
        self.serve_at(pods.iter().map(target).collect());
    }

    fn serve_at(&self, mut targets: Vec<Target>) {
        targets.sort_unstable();
        let mut changes = Vec::new();
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let relayed = Relayed {
                service: ServiceKey::new("ns", "web"),
                port: PortId { name: "".into(), protocol, family: model(self.w) },
                reach: Reach::Cluster,
                cluster: targets.clone().into(),
                local: Box::default(),
                serving: Box::default(),
                affinity: None,
                balancer: self.balancer,
                proxy_protocol: None,
                requests: None,
                limits: Limits::default(),
                allow: None,
            };
            let cluster_ip = FrontendAddress::Address(self.w.cip());
            let node_port = FrontendAddress::NodePort(model(self.w));
            for (at, port) in [(cluster_ip, 80), (node_port, NODE_PORT)] {
                let key = FrontendKey { at, protocol, port };
                changes.push((key, Some(relayed.clone())));
            }
        }
        self.engine().update(changes);
    }
}

impl Drop for Relay<'_> {
    fn drop(&mut self) {
        if let Some(engine) = self.engine.take() {
            engine.stop(Duration::ZERO);
        }
    }
}

fn sorted<const N: usize>(mut addresses: [IpAddr; N]) -> Vec<IpAddr> {
    addresses.sort_unstable();
    addresses.into()
}

const ALL: [Who; 5] = [L2, L3, Node, NodeB, Ext];

fn at(w: &World, who: Who, proto: Proto) -> Client<'_> {
    match proto {
        Tcp => w.tcp(who, w.cip(), 80),
        Udp => w.udp(who, w.cip(), 80),
    }
}

/// The node is on the way of pods and of ext anyhow.
fn lead_node_b_there(w: &World) {
    let (cip, node) = (w.cip(), w.address(Node));
    w.netns(NodeB).ip(&[format!("route add {cip} via {node}")]);
}

/// Takes no new connection, and says nothing.
fn mute(netns: &Netns) {
    netns.nft(
        "table inet mute { chain in { type filter hook prerouting priority -300;
            tcp flags & (syn | ack) == syn drop
        }; }",
    );
}

fn cut(netns: &Netns) {
    netns.nft(
        "table inet cut { chain in { type filter hook prerouting priority -300; policy drop; }; }",
    );
}

fn relayed(w: &World, proto: Proto) {
    let relay = Relay::start(w);
    lead_node_b_there(w);
    relay.serve(&[L1, R1]);
    for who in ALL {
        at(w, who, proto).times(60).spread([L1, R1]).source_replaced().on_port(8080);
    }
    let protocol = if proto == Tcp { Protocol::Tcp } else { Protocol::Udp };
    let counts = relay.engine().counts();
    let port = counts.ports.iter().find(|port| port.port.protocol == protocol).expect("it is used");
    // A client's port may come again, which is the same session: each datagram has one byte.
    let passed: u64 = match proto {
        Tcp => port.endpoints.iter().map(|endpoint| endpoint.opened).sum(),
        Udp => port.endpoints.iter().map(|endpoint| endpoint.sent).sum(),
    };
    assert_eq!(passed, 60 * ALL.len() as u64, "{counts:?}");
    assert_eq!(counts.strays, 0);
}

/// Processor time that the engine's threads have had, in seconds.
fn engine_time() -> f64 {
    let threads = std::fs::read_dir("/proc/self/task").expect("this process has threads");
    let ticks = threads.flatten().filter_map(|thread| {
        let text = std::fs::read_to_string(thread.path().join("stat")).ok()?;
        let (name, fields) = text.rsplit_once(") ")?;
        let spent = |at: usize| fields.split(' ').nth(at)?.parse::<u32>().ok();
        name.contains("vipd-relay").then(|| Some(spent(11)? + spent(12)?))?
    });
    f64::from(ticks.sum::<u32>()) / 100.0
}

/// Bytes that come back as they went, many more than all buffers hold.
fn transfer(w: &World) {
    const SIZE: usize = 256 << 20;
    let relay = Relay::start(w);
    let at = SocketAddr::new(w.address(L1), 9999);
    relay.serve_at(vec![Target { address: at.ip(), port: at.port() }]);
    let listener = w.netns(L1).enter(|| TcpListener::bind(at)).expect("nobody has the port");
    let echo = std::thread::spawn(move || {
        let (stream, _) = listener.accept().expect("one comes");
        std::io::copy(&mut &stream, &mut &stream).expect("it goes on to the end");
    });
    let to = SocketAddr::new(w.cip(), 80);
    let stream = w.netns(L2).enter(|| TcpStream::connect(to)).expect("it is relayed");
    let block: Vec<u8> = (0..1u32 << 20).map(|n| (n ^ n >> 8 ^ n >> 16).to_le_bytes()[0]).collect();
    let (began, before) = (Instant::now(), engine_time());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..SIZE / block.len() {
                (&stream).write_all(&block).expect("it is taken");
            }
            stream.shutdown(Shutdown::Write).expect("it is open");
        });
        let mut received = vec![0; block.len()];
        for number in 0..SIZE / block.len() {
            (&stream).read_exact(&mut received).expect("it comes back");
            assert!(received == block, "block {number} is another one");
        }
        assert_eq!((&stream).read(&mut received).expect("it ends"), 0);
    });
    echo.join().expect("it ends with its client");
    let spent = (engine_time() - before) / (2.0 * SIZE as f64 / 1e9);
    let rate = 2.0 * SIZE as f64 / 1e9 / began.elapsed().as_secs_f64();
    println!("{rate:.2} GB/s, {spent:.2} CPU seconds of the engine per GB");
    let counts = relay.engine().counts();
    let endpoint =
        counts.ports.iter().flat_map(|port| &port.endpoints).next().expect("there is one");
    assert_eq!((endpoint.sent, endpoint.received), (SIZE as u64, SIZE as u64));
}

fn node_port(w: &World, proto: Proto) {
    let relay = Relay::start(w);
    relay.serve(&[L1, R1]);
    let to = |who, address| match proto {
        Tcp => w.tcp(who, address, NODE_PORT),
        Udp => w.udp(who, address, NODE_PORT),
    };
    for who in [L2, NodeB, Ext] {
        to(who, w.address(Node)).times(20).only([L1, R1]);
    }
    to(Node, w.family.loopback()).from(w.family.loopback()).times(20).only([L1, R1]);
    to(Node, w.address(Node)).from(w.address(Node)).times(20).only([L1, R1]);
}

pub fn cases() -> Vec<Case> {
    let cases = vec![
        case("engine TCP: connections from everywhere are relayed", |w| relayed(w, Tcp))
            .without_vipd(),
        case("engine UDP: datagrams from everywhere are relayed", |w| relayed(w, Udp))
            .without_vipd(),
        case("engine TCP: node ports, at loopback addresses too", |w| node_port(w, Tcp))
            .without_vipd(),
        case("engine UDP: node ports, at loopback addresses too", |w| node_port(w, Udp))
            .without_vipd(),
        case("engine UDP: large datagrams pass both ways", |w| {
            let relay = Relay::start(w);
            relay.serve(&[L1]);
            for who in [L2, Node] {
                let big = at(w, who, Udp).sized(9000).reached();
                big.check(big.answers()[0].rest.starts_with("9000 "), "9000 bytes");
            }
        })
        .without_vipd(),
        case("engine: without an endpoint that answers clients are refused", |w| {
            let relay = Relay::start(w);
            relay.serve(&[L1]);
            for proto in [Tcp, Udp] {
                w.servers(L1).close(proto, SocketAddr::new(w.address(L1), 8080));
            }
            let refused = || {
                for who in [L2, Node, Ext] {
                    let reset = at(w, who, Tcp).replies();
                    reset.check(reset.failures() == 1, "a reset");
                    at(w, who, Udp).refused();
                }
            };
            refused();
            relay.serve(&[]);
            refused();
        })
        .without_vipd(),
        case(
            "engine TCP: an endpoint that says nothing costs a quarter of a second, then nobody",
            |w| {
                let mut relay = Relay::start(w);
                relay.balancer = Balancer::RoundRobin;
                relay.serve(&[L1, L3]);
                cut(w.netns(L3));
                let began = Instant::now();
                at(w, L2, Tcp).in_turn().times(20).only([L1]);
                let took = began.elapsed();
                assert!(
                    took > Duration::from_millis(250) && took < Duration::from_secs(3),
                    "{took:?}"
                );
                let counts = relay.engine().counts();
                let failed = &counts.ports[0].endpoints;
                assert!(failed.iter().any(|endpoint| endpoint.ejections > 0), "{counts:?}");
            },
        )
        .without_vipd(),
        case("engine TCP: endpoints that go under load cost nobody a connection", |w| {
            let relay = Relay::start(w);
            relay.serve(&[L1, L3, R1]);
            let load = w.load(L2, w.cip(), 80, 500);
            w.sleep(700);
            w.servers(L1).close(Tcp, SocketAddr::new(w.address(L1), 8080));
            w.sleep(700);
            mute(w.netns(L3));
            w.sleep(1500);
            load.stop().reached();
        })
        .without_vipd(),
        case("engine TCP: a large transfer arrives whole", transfer).without_vipd(),
        case("engine UDP: a dead endpoint is left at once, with the datagram it refused", |w| {
            let mut relay = Relay::start(w);
            relay.balancer = Balancer::RoundRobin;
            relay.serve(&[L1, L3]);
            w.servers(L3).close(Udp, SocketAddr::new(w.address(L3), 8080));
            at(w, L2, Udp).in_turn().times(20).only([L1]);
        })
        .without_vipd(),
        case("engine: what a frontend is no more finds no relay", |w| {
            let relay = Relay::start(w);
            relay.serve(&[L1]);
            at(w, L2, Tcp).reached();
            at(w, L2, Udp).reached();
            assert!(!relay.engine().is_busy(w.family.cluster_ip(99)));
            let gone = [Protocol::Tcp, Protocol::Udp].map(|protocol| {
                let at = FrontendAddress::Address(w.cip());
                (FrontendKey { at, protocol, port: 80 }, None)
            });
            relay.engine().update(gone.into());
            at(w, L2, Udp).refused();
            // The kernel may have connected clients before.
            at(w, L2, Tcp).reached();
            w.sleep(2500);
            let reset = at(w, L2, Tcp).replies();
            reset.check(reset.failures() == 1, "a reset");
            assert!(relay.engine().counts().strays >= 2);
        })
        .without_vipd(),
    ];
    cases.into_iter().map(Case::names_its_carrier).collect()
}
