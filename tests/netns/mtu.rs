//! Clients and endpoints behind a link that takes less in one piece than the node's own: who sends learns
//! that from a router on the way, and what is larger arrives in fragments from then on.

use super::support::manifests::{Svc, svc};
use super::support::netns::Netns;
use super::support::plan::{Ext, L1, NODE_PORT, Node, NodeB, R1, V4, Who};
use super::support::runner::{Case, case};
use super::support::sniff::{ICMP, TCP, UDP};
use super::support::world::World;
use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrStorage, sendmsg};
use socket2::{Domain, Protocol, Socket, Type};
use std::cell::Cell;
use std::io::IoSlice;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

const PORT: u16 = 9999;
const PATIENCE: Duration = Duration::from_secs(10);
/// For what may be lost.
const SHORT: Duration = Duration::from_millis(300);
const BURST: usize = 10;

/// A network behind ext, with its addresses.
struct Far {
    netns: Netns,
    addresses: Vec<IpAddr>,
}

impl Far {
    fn behind_ext(w: &World, mtu: u16) -> Far {
        let netns = Netns::add("far");
        let addresses = w.family.behind_ext();
        w.sh(Ext, "ip link add far0 type veth peer name eth0 netns far && ip link set far0 up");
        netns.sh("ip link set eth0 up");
        let (bits, gateway, nodad) = if w.family == V4 {
            w.sh(Ext, &format!("ip addr add {}/32 dev far0", w.address(Ext)));
            netns.sh(&format!("ip route add {} dev eth0", w.address(Ext)));
            (32, w.address(Ext).to_string(), "")
        } else {
            w.sh(Ext, "ip addr add fe80::1/64 dev far0 nodad");
            (128, "fe80::1".to_owned(), "nodad")
        };
        for address in &addresses {
            netns.sh(&format!("ip addr add {address}/{bits} dev eth0 {nodad}"));
            w.sh(Ext, &format!("ip route add {address}/{bits} dev far0"));
            w.sh(Node, &format!("ip route add {address}/{bits} via {}", w.address(Ext)));
        }
        netns.sh(&format!("ip route add default via {gateway} dev eth0"));
        let far = Far { netns, addresses };
        far.shrink(w, mtu);
        far
    }

    /// Of both ends: what is larger than the MTU of who receives is lost.
    fn shrink(&self, w: &World, mtu: u16) {
        w.sh(Ext, &format!("ip link set far0 mtu {mtu}"));
        self.netns.sh(&format!("ip link set eth0 mtu {mtu}"));
    }

    fn asks(&self, address: usize, to: (IpAddr, u16)) -> Asker {
        Asker::new(&self.netns, self.addresses[address], to)
    }
}

/// An endpoint that answers with as many datagrams, of such a size and such bytes, as it is asked for:
/// `COUNT SIZE BYTE`, and whatever else.
fn endpoint(w: &World, who: Who) {
    let at = SocketAddr::new(w.address(who), PORT);
    let socket = w.netns(who).enter(|| UdpSocket::bind(at)).expect("nobody has the port");
    std::thread::spawn(move || {
        let mut room = vec![0; 64 << 10];
        while let Ok((size, from)) = socket.recv_from(&mut room) {
            let asked = String::from_utf8_lossy(&room[..size]).into_owned();
            let mut words = asked.split(' ').map(|word| word.parse::<usize>());
            let mut number = || words.next().and_then(Result::ok);
            if let (Some(count), Some(size), Some(byte)) = (number(), number(), number()) {
                send(&socket, Some(from), &vec![vec![byte as u8; size]; count]);
            }
        }
    });
}

/// As one where there are several, so that they come to the relay as one (udp(7), UDP_SEGMENT).
fn send(socket: &UdpSocket, to: Option<SocketAddr>, datagrams: &[Vec<u8>]) {
    let name = to.map(SockaddrStorage::from);
    let parts: Vec<IoSlice<'_>> = datagrams.iter().map(|one| IoSlice::new(one)).collect();
    let size = u16::try_from(datagrams[0].len()).expect("a datagram's size");
    let together = [ControlMessage::UdpGsoSegments(&size)];
    let how = if datagrams.len() > 1 { &together[..] } else { &[] };
    let sends = || sendmsg(socket.as_raw_fd(), &parts, how, MsgFlags::empty(), name.as_ref());
    // An error about an earlier datagram is told once. One by one they may be fragments.
    if sends().is_err() && sends().is_err() && datagrams.len() > 1 {
        datagrams.iter().for_each(|one| send(socket, to, std::slice::from_ref(one)));
    }
}

struct Asker {
    socket: UdpSocket,
    /// Tells late answers from those that are waited for.
    turn: Cell<u8>,
}

impl Asker {
    fn new(netns: &Netns, own: IpAddr, to: (IpAddr, u16)) -> Asker {
        let own = SocketAddr::new(own, 0);
        let socket = netns.enter(|| UdpSocket::bind(own)).expect("a free port");
        socket.connect(to).expect("there is a route");
        Asker { socket, turn: Cell::new(0) }
    }

    /// How many whole answers come to what is asked at once, each time for so many of such a size.
    fn answers(&self, times: usize, (count, size): (usize, usize), patience: Duration) -> usize {
        let turn = self.turn.get() + 1;
        self.turn.set(turn);
        self.socket.set_read_timeout(Some(patience)).expect("a socket");
        let mut asked = format!("{count} {size} {turn} ").into_bytes();
        if times > 1 {
            asked.resize(1400, b' ');
        }
        send(&self.socket, None, &vec![asked; times]);
        let (mut room, mut whole) = (vec![0; 64 << 10], 0);
        while whole < times * count
            && let Ok(came) = self.socket.recv(&mut room)
        {
            whole += usize::from(room[0] == turn && came == size);
        }
        whole
    }

    /// What is asked for first may be lost: it is what the path is learned by.
    #[track_caller]
    fn learns(&self, wanted: (usize, usize)) {
        self.answers(1, wanted, SHORT);
        self.all_come(wanted);
    }

    #[track_caller]
    fn all_come(&self, wanted: (usize, usize)) {
        assert_eq!(self.answers(1, wanted, PATIENCE), wanted.0, "answers of {} bytes", wanted.1);
    }
}

fn exposed(w: &World) -> Svc {
    svc().udp().node_port(NODE_PORT).load_balancer([w.vip()])
}

fn ways(w: &World) -> [(IpAddr, u16); 3] {
    [(w.cip(), 80), (w.vip(), 80), (w.address(Node), NODE_PORT)]
}

/// By every way in, with an address for each: what a path takes is known by its destination.
fn answers_arrive(w: &World) {
    endpoint(w, L1);
    let far = Far::behind_ext(w, 1300);
    let mut addresses = 0..;
    // Routers make smaller ones of IPv4 fragments, and teach nothing by them.
    let firsts = if w.family == V4 { &[1400][..] } else { &[1400, 4000] };
    for first in firsts.iter().copied() {
        for (way, number) in ways(w).into_iter().zip(addresses.by_ref()) {
            let asker = far.asks(number, way);
            asker.all_come((1, 100));
            asker.learns((1, first));
            for size in [1400, 4000, 1200] {
                asker.all_come((1, size));
            }
        }
    }
}

/// An error of ext's about a packet, which it need not have seen.
fn forge(w: &World, kind: (u8, u8), (protocol, from, to): (u8, SocketAddr, SocketAddr)) {
    let v4 = from.is_ipv4();
    let ports = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
    let mut packet = vec![kind.0, kind.1, 0, 0];
    packet.extend(1300u32.to_be_bytes());
    let addresses = [from.ip(), to.ip()].map(|address| match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    });
    if v4 {
        let mut header = [0x45, 0, 0x05, 0x78, 0, 1, 0x40, 0, 63, protocol, 0, 0].to_vec();
        header.extend(addresses.concat());
        let sum = checksum(&header);
        header[10..12].copy_from_slice(&sum);
        packet.extend(header);
    } else {
        packet.extend([0x60, 0, 0, 0, 0x05, 0x50, protocol, 63]);
        packet.extend(addresses.concat());
    }
    packet.extend(ports);
    packet.extend([0x05, 0x50, 0, 0, 0, 0, 0, 0]);
    let (domain, number) = if v4 { (Domain::IPV4, ICMP) } else { (Domain::IPV6, 58) };
    if v4 {
        // The kernel writes that of ICMPv6 itself.
        let sum = checksum(&packet);
        packet[2..4].copy_from_slice(&sum);
    }
    let protocol = Protocol::from(i32::from(number));
    let socket = w.netns(Ext).enter(|| Socket::new(domain, Type::RAW, Some(protocol)));
    let to = SocketAddr::new(from.ip(), 0);
    socket.and_then(|socket| socket.send_to(&packet, &to.into())).expect("this is root");
}

fn checksum(bytes: &[u8]) -> [u8; 2] {
    let pairs = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]));
    let sum: u32 = pairs.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    (!((folded & 0xffff) + (folded >> 16)) as u16).to_be_bytes()
}

/// How many packets to this address the node itself has been given.
fn let_in(w: &World) -> usize {
    let seen = w.netns(Node).sh("nft list chain inet witness in");
    let count = seen.split_once("counter packets ").and_then(|(_, rest)| rest.split(' ').next());
    count.and_then(|count| count.parse().ok()).unwrap_or_else(|| panic!("{seen}"))
}

fn forged_errors_open_nothing(w: &World) {
    endpoint(w, L1);
    w.write(svc().named("kernel", 42).udp().on([L1]).to(PORT));
    w.serve(svc().relayed().udp().on([L1]).to(PORT));
    let ip = if w.family == V4 { "ip" } else { "ip6" };
    w.netns(Node).nft(&format!(
        "table inet witness {{
            chain in {{ type filter hook input priority 300;
                meta l4proto {{ icmp, ipv6-icmp }} {ip} daddr {{ {}, {} }} counter
            }}
        }}",
        w.cip(),
        w.family.cluster_ip(42),
    ));
    let to = SocketAddr::new(w.address(Ext), 4444);
    let too_big = if w.family == V4 { (3, 4) } else { (2, 0) };
    let others = if w.family == V4 {
        [(3, 3), (11, 0), (5, 1), (8, 0)]
    } else {
        [(1, 4), (3, 0), (128, 0), (129, 0)]
    };
    let frontend = SocketAddr::new(w.cip(), 80);
    for kind in others {
        forge(w, kind, (UDP, frontend, to));
    }
    forge(w, too_big, (TCP, frontend, to));
    forge(w, too_big, (UDP, SocketAddr::new(w.cip(), 81), to));
    forge(w, too_big, (UDP, SocketAddr::new(w.address(L1), 80), to));
    forge(w, too_big, (UDP, SocketAddr::new(w.family.cluster_ip(42), 80), to));
    assert_eq!(let_in(w), 0, "of the errors that quote no answer of the relay");
    forge(w, too_big, (UDP, frontend, to));
    w.within(PATIENCE, || let_in(w) == 1);
}

pub fn cases() -> Vec<Case> {
    let relayed = vec![
        case("relayed answers arrive at a client behind a smaller link, by every way in", |w| {
            w.serve(exposed(w).relayed().on([L1]).to(PORT));
            answers_arrive(w);
        }),
        case("also where not everybody may ask, which conntrack sees", |w| {
            let ranges = [w.family.outside_half()];
            w.serve(exposed(w).relayed().source_ranges(ranges).on([L1]).to(PORT));
            answers_arrive(w);
        }),
        case("and under policy Local", |w| {
            w.serve(exposed(w).relayed().external_local().on([L1]).to(PORT));
            answers_arrive(w);
        }),
        case("what the kernel carries beside relayed Services, too", |w| {
            w.write(svc().named("relayed", 42).udp().relayed().on([L1]));
            w.serve(exposed(w).on([L1]).to(PORT));
            answers_arrive(w);
        }),
        case("answers that go as one go one by one where the path has become smaller", |w| {
            endpoint(w, L1);
            let far = Far::behind_ext(w, 1500);
            w.serve(exposed(w).relayed().on([L1]).to(PORT));
            let mut addresses = 0..;
            // Over IPv4 the kernel lets routers make fragments of what goes as one.
            for first in [1, BURST] {
                for (way, number) in ways(w).into_iter().zip(addresses.by_ref()) {
                    far.shrink(w, 1500);
                    let asker = far.asks(number, way);
                    asker.all_come((BURST, 1400));
                    far.shrink(w, 1300);
                    asker.learns((first, 1400));
                    asker.all_come((BURST, 1400));
                    asker.all_come((BURST, 1200));
                }
            }
        }),
        case("so do a client's datagrams to an endpoint", |w| {
            endpoint(w, R1);
            w.serve(svc().relayed().udp().on([R1]).to(PORT));
            let asker = Asker::new(w.netns(Ext), w.address(Ext), (w.cip(), 80));
            let burst = |patience| asker.answers(BURST, (1, 100), patience);
            assert_eq!(burst(PATIENCE), BURST);
            w.sh(NodeB, "ip link set pR1 mtu 1300");
            w.sh(R1, "ip link set eth0 mtu 1300");
            burst(SHORT);
            assert_eq!(burst(PATIENCE), BURST);
        }),
        case("a forged error opens nothing", forged_errors_open_nothing),
    ];
    relayed.into_iter().map(Case::names_its_carrier).collect()
}
