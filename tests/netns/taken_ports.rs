//! UDP port numbers that a process of the node has bound: a Service has its frontends all the same, and the
//! process what is sent to it.

use super::support::manifests::{Svc, svc, udp};
use super::support::plan::{Ext, L1, L2, L3, NODE_PORT, Node, NodeB, R1, V4, Who};
use super::support::runner::{Case, case};
use super::support::servers::Udp;
use super::support::world::World;
use caps::{CapSet, Capability};
use socket2::{Domain, Protocol, Socket, Type};
use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(5);

fn all(w: &World) -> IpAddr {
    if w.family == V4 { [0, 0, 0, 0].into() } else { [0; 16].into() }
}

/// A process of the node listens there, before any client has been served.
fn host_process(w: &World, address: IpAddr, port: u16) {
    w.servers(Node).listen([(Udp, SocketAddr::new(address, port))]);
}

fn exposed() -> Svc {
    svc().udp().node_port(NODE_PORT)
}

/// Whoever asks there reaches the endpoint, and the process hears nothing of it.
fn endpoint_answers(w: &World, clients: &[Who], to: IpAddr, port: u16) {
    let since = Instant::now();
    for who in clients {
        w.udp(*who, to, port).times(20).only([L1]);
        w.udp(*who, to, port).sized(4000).times(3).only([L1]);
    }
    for who in Who::ALL {
        assert_eq!(w.servers(Node).arrived(w.family.client_address(who), since), 0, "of {who}");
    }
}

/// Whether it is answered is the process's own matter: one that has bound all addresses answers from the
/// one next to the client.
fn process_hears(w: &World, clients: &[Who], at: IpAddr, port: u16) {
    for who in clients {
        let since = Instant::now();
        w.udp(*who, at, port).untraced().patience(Duration::from_millis(200)).times(5).replies();
        assert_eq!(w.servers(Node).arrived(w.family.client_address(*who), since), 5, "of {who}");
    }
}

/// Whole datagrams as they arrive at a client, with what is before the UDP header in IPv4.
fn watch(w: &World, who: Who) -> Socket {
    let at = SocketAddr::new(w.address(who), 0);
    w.netns(who).enter(|| {
        let socket = Socket::new(Domain::for_address(at), Type::RAW, Some(Protocol::UDP));
        let socket = socket.expect("root in its namespace");
        socket.bind(&at.into()).expect("its own address");
        socket.set_read_timeout(Some(PATIENCE)).expect("a socket");
        socket
    })
}

/// The sum of a UDP datagram with its pseudo header, all bits of which are 1 where the checksum is right.
fn sum(from: IpAddr, to: IpAddr, datagram: &[u8]) -> u32 {
    let octets = |address| match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let length = u16::try_from(datagram.len()).expect("a datagram's");
    let mut bytes = [octets(from), octets(to), vec![0, 17]].concat();
    bytes.extend(length.to_be_bytes());
    bytes.extend(datagram);
    bytes.resize(bytes.len().next_multiple_of(2), 0);
    let words = bytes.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
    words.fold(0, |sum, word| {
        let sum = sum + u32::from(word);
        (sum & 0xffff) + (sum >> 16)
    })
}

fn checksums_are_right(w: &World) {
    host_process(w, all(w), 80);
    w.serve(svc().relayed().udp().on([L1]));
    let watching = watch(w, L2);
    for size in [1, 2, 4000] {
        w.udp(L2, w.cip(), 80).sized(size).only([L1]);
        let mut room = vec![0; 64 << 10];
        let came = (&watching).read(&mut room).expect("the answer has come");
        let datagram = if w.family == V4 { &room[20..came] } else { &room[..came] };
        assert_eq!(datagram[..2], 80_u16.to_be_bytes());
        assert_ne!(datagram[6..8], [0, 0], "there is a checksum");
        assert_eq!(sum(w.cip(), w.address(L2), datagram), 0xffff, "{size} bytes were sent");
    }
}

/// The kernel gives a raw socket a copy of all that comes to its address.
fn nothing_is_received(w: &World) {
    host_process(w, all(w), 80);
    w.serve(svc().relayed().udp().on([L1]));
    let flows = [L2, L3, Ext].map(|who| w.talking(who, Udp, w.cip(), 80));
    flows.iter().for_each(|flow| w.answered_by(flow, L1));
    // A raw socket's protocol stands where others have a port.
    let listed = w.sh(Node, &format!("ss -Hanw src {}", SocketAddr::new(w.cip(), 17)));
    let received: Vec<&str> =
        listed.lines().filter_map(|line| line.split_whitespace().nth(1)).collect();
    assert_eq!(received, ["0"], "one socket, of all clients and threads: {listed}");
}

/// R1's own link is narrower than those on the way to it.
fn path_mtus_are_learned(w: &World) {
    const PORT: u16 = 9999;
    host_process(w, all(w), NODE_PORT);
    let at = SocketAddr::new(w.address(L1), PORT);
    let endpoint = w.netns(L1).enter(|| std::net::UdpSocket::bind(at)).expect("a free port");
    std::thread::spawn(move || {
        let mut room = [0; 16];
        while let Ok((_, from)) = endpoint.recv_from(&mut room) {
            endpoint.send_to(&[7; 1400], from).expect("the node is near");
        }
    });
    w.serve(exposed().relayed().on([L1]).to(PORT));
    w.sh(NodeB, "ip link set pR1 mtu 1300");
    w.sh(R1, "ip link set eth0 mtu 1300");
    let own = SocketAddr::new(w.address(R1), 0);
    let client = w.netns(R1).enter(|| std::net::UdpSocket::bind(own)).expect("a free port");
    client.set_read_timeout(Some(Duration::from_millis(300))).expect("a socket");
    client.connect((w.address(Node), NODE_PORT)).expect("there is a route");
    let mut room = [0; 2000];
    w.within(PATIENCE, || {
        client.send(b"x").expect("it is small");
        client.recv(&mut { room }).is_ok()
    });
    // From then on each is in time.
    client.send(b"x").expect("it is small");
    client.set_read_timeout(Some(PATIENCE)).expect("a socket");
    assert_eq!(client.recv(&mut room).expect("the path is known"), 1400);
}

fn without_the_capability(w: &World) {
    // What vipd is started with; this process keeps it.
    caps::drop(None, CapSet::Bounding, Capability::CAP_NET_RAW).expect("this is root");
    w.start(&[]);
    host_process(w, all(w), 80);
    w.write(svc().named("free", 42).relayed().ports([udp("", 81)]).on([L1]));
    w.serve(svc().relayed().udp().on([L1]));
    w.udp(L2, w.cip(), 80).untraced().times(3).dropped();
    w.udp(L2, w.family.cluster_ip(42), 81).times(20).only([L1]);
    let (log, frontend) = (w.log(), SocketAddr::new(w.cip(), 80).to_string());
    let told: Vec<&str> = log.lines().filter(|line| line.contains("CAP_NET_RAW")).collect();
    assert!(told.len() == 1 && told[0].contains(&frontend), "{log}");
    let lost = w.vipd("metrics").out;
    let mut lost = lost.lines().filter(|line| line.starts_with("vipd_relay_refused_total{"));
    let of_service = lost.find(|line| line.contains("service=\"svc\""));
    assert!(of_service.is_some_and(|line| line.ends_with(" 3")), "{of_service:?}");
    w.servers(Node).close(Udp, SocketAddr::new(all(w), 80));
    w.udp(L2, w.cip(), 80).times(20).only([L1]);
}

pub fn cases() -> Vec<Case> {
    let mut cases = vec![
        case("a cluster IP's port number may be a process's at all addresses", |w| {
            host_process(w, all(w), 80);
            w.serve(svc().udp().on([L1]));
            endpoint_answers(w, &[L2, Ext, Node], w.cip(), 80);
            process_hears(w, &[L2, Ext, Node], w.address(Node), 80);
            w.withdraw(svc().udp().on([L1]));
            process_hears(w, &[L2, Ext, Node], w.address(Node), 80);
        }),
        case(
            "35 a UDP node port wins over a process that has bound it, at all addresses or there",
            |w| {
                let at = w.address(Node);
                for address in [all(w), at] {
                    host_process(w, address, NODE_PORT);
                    process_hears(w, &[Ext, L2], at, NODE_PORT);
                    w.serve(exposed().on([L1]));
                    endpoint_answers(w, &[Ext, L2, Node], at, NODE_PORT);
                    if address != at {
                        process_hears(w, &[Ext, L2], w.family.node_second(), NODE_PORT);
                    }
                    w.withdraw(exposed().on([L1]));
                    process_hears(w, &[Ext, L2], at, NODE_PORT);
                    w.servers(Node).close(Udp, SocketAddr::new(address, NODE_PORT));
                }
            },
        ),
    ];
    let relayed = vec![
        case("answers from a port that a process has bear a right checksum", checksums_are_right),
        case("what answers from a port that a process has receives nothing", nothing_is_received),
        case("answers from a port that a process has fit the path", path_mtus_are_learned),
        case("at loopback addresses a relayed node port may be a process's too", |w| {
            host_process(w, all(w), NODE_PORT);
            w.serve(exposed().relayed().on([L1]));
            let home = w.family.loopback();
            w.udp(Node, home, NODE_PORT).from(home).untraced().times(20).only([L1]);
        }),
        case("sessions at a port that a process has go on in another vipd", |w| {
            host_process(w, all(w), 80);
            w.serve(svc().relayed().udp().on([L1]));
            let since = Instant::now();
            let flows = [L2, L3, Ext].map(|who| w.talking(who, Udp, w.cip(), 80));
            flows.iter().for_each(|flow| w.answered_by(flow, L1));
            let mut former = w.replace();
            w.sleep(500);
            assert!(former.wait(PATIENCE).success(), "{}", former.log());
            flows.iter().for_each(|flow| flow.undisturbed(since));
        }),
        case("a port that is free again is answered from as any other", |w| {
            host_process(w, all(w), 80);
            w.serve(svc().relayed().udp().on([L1]));
            let flow = w.talking(L2, Udp, w.cip(), 80);
            w.answered_by(&flow, L1);
            let bound = || w.sh(Node, &format!("ss -Hulpn src {}", SocketAddr::new(w.cip(), 80)));
            assert!(!bound().contains("vipd"), "{}", bound());
            w.servers(Node).close(Udp, SocketAddr::new(all(w), 80));
            w.udp(Ext, w.cip(), 80).times(5).only([L1]);
            assert!(bound().contains("vipd"), "{}", bound());
            w.answered_by(&flow, L1);
        }),
        case(
            "without CAP_NET_RAW clients of such a port are lost, and the log says why",
            without_the_capability,
        )
        .without_vipd(),
    ];
    cases.extend(relayed.into_iter().map(Case::names_its_carrier));
    cases
}
