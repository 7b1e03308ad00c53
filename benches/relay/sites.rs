//! Who relays, and where: client, node and endpoints in namespaces of their own for each proxy. EDGE.
//!
//! In: a [`Proxy`]. Out: a running one, reached at one address and port.
//! Never: two proxies on one node: each would pass the other's rules.

use crate::Outcome;
use crate::daemon::Daemon;
use crate::generate::{NODES, POD_RANGE, SERVICE_RANGE};
use crate::http::Version;
use crate::traffic::{ECHO, Endpoints, PORT};
use crate::world::Namespace;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Endpoints of the service. A proxy that is told of the end by the client is left with TIME_WAIT
/// towards the endpoint: some 28,000 ports for a minute, for each of these.
const ENDPOINTS: u8 = 16;

const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 143, 0, 1);
/// The same endpoints, left to the kernel.
const KERNEL_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 143, 0, 2);
const NODE: Ipv4Addr = Ipv4Addr::new(10, 60, 0, 1);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proxy {
    Vipd,
    /// Led to by the rule that leads to vipd.
    Haproxy,
    /// As the former, for what two equal things differ by.
    HaproxyAgain,
    /// Bound to an address of the node, without any rule.
    HaproxyPlain,
}

impl Proxy {
    pub fn name(self) -> &'static str {
        match self {
            Proxy::Vipd => "vipd",
            Proxy::Haproxy => "HAProxy by tproxy",
            Proxy::HaproxyAgain => "HAProxy by tproxy, again (A/A)",
            Proxy::HaproxyPlain => "HAProxy bound plainly",
        }
    }
}

pub struct Site {
    pub proxy: Proxy,
    pub client: Namespace,
    pub node: Namespace,
    pub daemon: Daemon,
    /// Where clients connect to.
    pub to: SocketAddr,
    _endpoints: Endpoints,
    _server: Namespace,
}

fn endpoints() -> impl Iterator<Item = Ipv4Addr> {
    (2..2 + ENDPOINTS).map(|last| Ipv4Addr::new(10, 61, 0, last))
}

pub fn haproxy_version() -> Option<String> {
    let output = Command::new("haproxy").arg("-v").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    Some(text.lines().next()?.split(" - ").next()?.to_owned())
}

impl Site {
    pub fn start(proxy: Proxy) -> Outcome<Self> {
        let (client, node, server) = (Namespace::new()?, Namespace::new()?, Namespace::new()?);
        link(&client, &node, &server)?;
        let endpoints = Endpoints::start(&server, endpoints())?;
        let to = match proxy {
            Proxy::HaproxyPlain => NODE,
            _ => SERVICE,
        };
        let to = SocketAddrV4::new(to, 80).into();
        let daemon = match proxy {
            Proxy::Vipd => vipd(&node)?,
            Proxy::Haproxy | Proxy::HaproxyAgain => {
                lead(&node)?;
                haproxy(&node, |_, led| format!("127.0.0.1:{led} transparent"))?
            }
            Proxy::HaproxyPlain => haproxy(&node, |port, _| format!("{NODE}:{port}"))?,
        };
        let site = Self { proxy, client, node, daemon, to, _endpoints: endpoints, _server: server };
        site.answers()?;
        Ok(site)
    }

    /// Another port of the same address.
    pub fn at(&self, port: u16) -> SocketAddr {
        (self.to.ip(), port).into()
    }

    pub fn is_bar(&self) -> bool {
        self.proxy == Proxy::Haproxy
    }

    /// Where the kernel serves the same endpoints; vipd's site alone has it.
    pub fn kernel(&self) -> SocketAddr {
        SocketAddrV4::new(KERNEL_SERVICE, 80).into()
    }

    /// Runs `work` among the clients, in a runtime of its own.
    pub fn among_clients<T: Send>(
        &self,
        work: impl AsyncFnOnce() -> Outcome<T> + Send,
    ) -> Outcome<T> {
        self.client.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(work())
        })
    }

    /// Relayed TCP connections that vipd says are open: the sum of its metric.
    pub fn active(&self) -> Outcome<u64> {
        const METRICS: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 10249);
        let text = self.node.run(|| {
            let mut stream = TcpStream::connect(METRICS)?;
            stream.write_all(b"GET /metrics HTTP/1.0\r\nHost: vipd\r\n\r\n")?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text)
        })?;
        let values = text.lines().filter(|line| {
            line.starts_with("vipd_relay_connections{") && line.contains("protocol=\"TCP\"")
        });
        let values: Vec<u64> =
            values.filter_map(|line| line.rsplit(' ').next()?.parse().ok()).collect();
        if values.is_empty() {
            Err("vipd tells no relayed connections".into())
        } else {
            Ok(values.iter().sum())
        }
    }

    /// Waits until an endpoint answers by the proxy.
    fn answers(&self) -> Outcome<()> {
        const PATIENCE: Duration = Duration::from_secs(20);
        let began = Instant::now();
        self.client.run(|| {
            loop {
                match ask(self.to) {
                    Ok(()) => return Ok(()),
                    Err(error) if began.elapsed() > PATIENCE => {
                        return Err(
                            format!("{}: nobody answers: {error}", self.proxy.name()).into()
                        );
                    }
                    Err(_) => std::thread::sleep(Duration::from_millis(50)),
                }
            }
        })
    }
}

fn ask(to: SocketAddr) -> std::io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    stream.write_all(&[ECHO])?;
    stream.read_exact(&mut [0])
}

fn link(client: &Namespace, node: &Namespace, server: &Namespace) -> Outcome<()> {
    node.ip(&format!(
        "link add to-client type veth peer name eth0 netns {}\n\
         link add to-server type veth peer name eth0 netns {}\n\
         addr add {NODE}/24 dev to-client\n\
         addr add 10.61.0.1/24 dev to-server\n\
         link set to-client up\n\
         link set to-server up\n",
        client.path(),
        server.path()
    ))?;
    client.ip(&format!(
        "addr add 10.60.0.2/24 dev eth0\nlink set eth0 up\nroute add default via {NODE}\n"
    ))?;
    let addresses: String =
        endpoints().map(|address| format!("addr add {address}/24 dev eth0\n")).collect();
    server.ip(&format!("{addresses}link set eth0 up\nroute add default via 10.61.0.1\n"))?;
    node.sysctl("net/ipv4/ip_forward", "1")?;
    // Ended connections would fill conntrack's table, whose size is the machine's.
    node.sysctl("net/netfilter/nf_conntrack_tcp_timeout_time_wait", "1")?;
    node.sysctl("net/netfilter/nf_conntrack_tcp_timeout_close", "1")?;
    // One client stands for many: it must not run out of ports before a proxy does.
    client.sysctl("net/ipv4/ip_local_port_range", "1024 65535")?;
    client.sysctl("net/ipv4/tcp_tw_reuse", "1")
}

fn vipd(node: &Namespace) -> Outcome<Daemon> {
    let files = tempfile::Builder::new().prefix("vipd-bench-").tempdir()?;
    let manifests = files.path().join("manifests");
    std::fs::create_dir(&manifests)?;
    let text = serde_json::to_string(&objects())?;
    std::fs::write(manifests.join("objects.json"), text)?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_vipd"));
    command
        .args(["run", "--hostname-override", NODES[0], "--cluster-cidr", POD_RANGE])
        .args(["--service-cluster-ip-range", SERVICE_RANGE, "--log-level", "warn"])
        .arg("--manifests")
        .arg(manifests)
        .arg("--admin-socket")
        .arg(files.path().join("admin.sock"));
    Daemon::spawn(node, &mut command, files)
}

/// A Service that vipd carries itself, with ports whose requests it balances, and one that the kernel does, with the same endpoints.
fn objects() -> Value {
    let service = |name: &str, address: Ipv4Addr, annotations: Value| {
        let port = |protocol: &str| json!({"name": protocol.to_lowercase(), "protocol": protocol, "port": 80, "targetPort": PORT});
        let http = |version: Version| {
            json!({"name": version.app_protocol().replace(['.', '/'], "-"), "protocol": "TCP",
            "port": version.ports().0, "targetPort": version.endpoint_port(), "appProtocol": version.app_protocol()})
        };
        let ports: Vec<Value> =
            ["TCP", "UDP"].map(port).into_iter().chain(Version::ALL.map(http)).collect();
        json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"name": name, "namespace": "bench", "annotations": annotations},
            "spec": {"clusterIP": address, "clusterIPs": [address], "ports": ports}})
    };
    let slice = |name: &str| {
        let port = |protocol: &str| json!({"name": protocol.to_lowercase(), "protocol": protocol, "port": PORT});
        let http = |version: Version| {
            json!({"name": version.app_protocol().replace(['.', '/'], "-"), "protocol": "TCP",
            "port": version.endpoint_port()})
        };
        let ports: Vec<Value> =
            ["TCP", "UDP"].map(port).into_iter().chain(Version::ALL.map(http)).collect();
        let endpoint = |address: Ipv4Addr| json!({"addresses": [address], "conditions": {"ready": true}, "nodeName": NODES[1]});
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": name, "namespace": "bench",
                "labels": {"kubernetes.io/service-name": name}},
            "ports": ports,
            "endpoints": endpoints().map(endpoint).collect::<Vec<_>>()})
    };
    json!({"apiVersion": "v1", "kind": "List", "items": [
        service("relayed", SERVICE, json!({"vipd.io/dataplane": "userspace", "vipd.io/requests": "true"})),
        slice("relayed"),
        service("kernel", KERNEL_SERVICE, json!({})),
        slice("kernel"),
    ]})
}

/// What leads to HAProxy, as vipd's table `inet vipd-relay` and its route lead to vipd: the same
/// expressions, so conntrack too; without the rules of what HAProxy does not do (IPv6, UDP, node
/// ports), and without table `inet vipd`.
fn lead(node: &Namespace) -> Outcome<()> {
    let http: String = Version::ALL
        .map(Version::ports)
        .map(|(port, led)| {
            format!("ip daddr {SERVICE} tcp dport {port} tproxy ip to 127.0.0.1:{led} accept\n")
        })
        .concat();
    node.nft(&format!(
        "table inet lead {{
            set relayed {{
                typeof ip daddr . meta l4proto . th dport
                elements = {{ {SERVICE} . tcp . 80 }}
            }}
            chain mangle {{
                type filter hook prerouting priority -150;
                ct status dnat accept
                meta l4proto tcp meta nfproto ipv4 ip daddr . meta l4proto . th dport @relayed tproxy ip to 127.0.0.1:8000 accept
                {http}
            }}
        }}"
    ))?;
    node.ip(&format!("route add local {SERVICE} dev lo src 10.61.0.1 table local\n"))?;
    Ok(())
}

/// As many threads as vipd has, and as many connections as a file limit of 20,000 allows with pipes. Splicing is asked for in both directions: `splice-auto` leaves it to
/// a guess that streams of this kind do not always pass. Requests go by any connection that is open to
/// their endpoint, and tell the client's address, as vipd's do. `bind`: of a port, and of the one that
/// is led to.
fn haproxy(node: &Namespace, bind: impl Fn(u16, u16) -> String) -> Outcome<Daemon> {
    let files = tempfile::Builder::new().prefix("vipd-bench-").tempdir()?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let servers = |port: u16, more: &str| -> String {
        endpoints()
            .enumerate()
            .map(|(number, address)| format!("    server s{number} {address}:{port}{more}\n"))
            .collect()
    };
    let http: String = Version::ALL
        .map(|version| {
            let (port, led) = version.ports();
            let proto = if version == Version::Two { " proto h2" } else { "" };
            format!(
                "listen {led}\n    mode http\n    option forwardfor\n    http-reuse always\n    \
                 bind {}{proto}\n    balance roundrobin\n{}",
                bind(port, led),
                servers(version.endpoint_port(), proto)
            )
        })
        .concat();
    let text = format!(
        "global\n    nbthread {threads}\n    maxconn 7800\n\
         defaults\n    mode tcp\n    timeout connect 5s\n    timeout client 1h\n    timeout server 1h\n    \
         option splice-request\n    option splice-response\n\
         listen relayed\n    bind {}\n    balance roundrobin\n{}{http}",
        bind(80, 8000),
        servers(PORT, "")
    );
    let configuration = files.path().join("haproxy.cfg");
    std::fs::write(&configuration, text)?;
    check(&configuration)?;
    let mut command = Command::new("haproxy");
    command.arg("-db").arg("-f").arg(&configuration).stderr(Stdio::null());
    Daemon::spawn(node, &mut command, files)
}

fn check(configuration: &Path) -> Outcome<()> {
    let output = Command::new("haproxy").arg("-c").arg("-f").arg(configuration).output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(format!("haproxy does not take its configuration: {said}").into());
    }
    Ok(())
}
