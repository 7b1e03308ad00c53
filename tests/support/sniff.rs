//! What passes the links of a namespace, and packets that no socket would send.
//!
//! In: a namespace. Out: parsed packets.
//! Never: a packet outside of the test's own namespaces.

use super::netns::Netns;
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMPV6: u8 = 58;
pub const SCTP: u8 = 132;

pub const RST: u8 = 0x04;
pub const ACK: u8 = 0x10;
pub const SYN: u8 = 0x02;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    pub src: IpAddr,
    pub dst: IpAddr,
    pub proto: u8,
    pub sport: u16,
    pub dport: u16,
    pub tcp_flags: u8,
    /// Type and code of an ICMP packet, and the packet that an error is about.
    pub icmp: Option<(u8, u8)>,
    pub about: Option<Box<Packet>>,
}

/// Listens on all links of a namespace until dropped.
pub struct Sniffer {
    seen: Arc<Mutex<Vec<Packet>>>,
    /// How often there was nothing to be read for [`PAUSE`].
    pauses: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

const PAUSE: Duration = Duration::from_millis(20);
/// For a pause, where traffic goes on.
const PATIENCE: Duration = Duration::from_secs(1);

impl Sniffer {
    /// Nothing that is sent after this call is missed.
    pub fn start(netns: &Netns) -> Sniffer {
        let socket = netns.enter(|| {
            const ETH_P_ALL: u16 = 3;
            let all = Protocol::from(i32::from(ETH_P_ALL.to_be()));
            let socket =
                Socket::new(Domain::PACKET, Type::DGRAM, Some(all)).expect("root in its namespace");
            socket.set_recv_buffer_size(4 << 20).ok();
            socket.set_read_timeout(Some(PAUSE)).expect("a plain socket option");
            socket
        });
        let seen = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let pauses = Arc::new(AtomicU64::new(0));
        let (log, stopping, paused) = (seen.clone(), stop.clone(), pauses.clone());
        std::thread::spawn(move || {
            let mut buffer = vec![0; 65536];
            while !stopping.load(Ordering::Relaxed) {
                let Ok(size) = (&socket).read(&mut buffer) else {
                    paused.fetch_add(1, Ordering::Relaxed);
                    continue;
                };
                if let Some(packet) = parse(&buffer[..size]) {
                    log.lock().expect("no holder panics").push(packet);
                }
            }
        });
        Sniffer { seen, pauses, stop }
    }

    /// All packets so far for which `wanted` holds. Waits until no more come, so that those under way
    /// are seen, and those that a busy machine has not shown yet.
    pub fn packets(&self, wanted: impl Fn(&Packet) -> bool) -> Vec<Packet> {
        let (since, before) = (Instant::now(), self.pauses.load(Ordering::Relaxed));
        // The first of them may have begun before this call.
        while self.pauses.load(Ordering::Relaxed) < before + 3 && since.elapsed() < PATIENCE {
            std::thread::sleep(PAUSE / 4);
        }
        let seen = self.seen.lock().expect("no holder panics");
        seen.iter().filter(|packet| wanted(packet)).cloned().collect()
    }

    /// Nothing went to this address, nor came from it.
    #[track_caller]
    pub fn nothing_of(&self, address: IpAddr) {
        let leaked = self.packets(|packet| packet.dst == address || packet.src == address);
        assert!(
            leaked.is_empty(),
            "{} packets of {address} were seen: {:?}",
            leaked.len(),
            leaked[0]
        );
    }

    /// ICMP port unreachable errors about packets to this address and port.
    pub fn port_unreachable(&self, about: SocketAddr) -> usize {
        let kind = if about.is_ipv4() { (3, 3) } else { (1, 4) };
        self.icmp_errors(kind, about).len()
    }

    /// ICMP errors of a kind about packets to this address and port.
    pub fn icmp_errors(&self, kind: (u8, u8), about: SocketAddr) -> Vec<Packet> {
        self.packets(|packet| {
            let inner = packet.about.as_ref();
            packet.icmp == Some(kind)
                && inner.is_some_and(|inner| inner.dst == about.ip() && inner.dport == about.port())
        })
    }
}

impl Drop for Sniffer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// An IP packet without link header; `None` for anything else.
fn parse(bytes: &[u8]) -> Option<Packet> {
    const FRAGMENT: u8 = 44;
    let (src, dst, mut proto, mut body): (IpAddr, IpAddr, u8, &[u8]) = match bytes.first()? >> 4 {
        4 => {
            let header = usize::from(bytes[0] & 15) * 4;
            let at = |start: usize| {
                Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes.get(start..start + 4)?).ok()?))
            };
            (at(12)?.into(), at(16)?.into(), *bytes.get(9)?, bytes.get(header..)?)
        }
        6 => {
            let at = |start: usize| {
                Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes.get(start..start + 16)?).ok()?))
            };
            (at(8)?.into(), at(24)?.into(), *bytes.get(6)?, bytes.get(40..)?)
        }
        _ => return None,
    };
    if proto == FRAGMENT {
        proto = *body.first()?;
        body = body.get(8..)?;
    }
    let mut packet =
        Packet { src, dst, proto, sport: 0, dport: 0, tcp_flags: 0, icmp: None, about: None };
    let word =
        |start: usize| Some(u16::from_be_bytes(body.get(start..start + 2)?.try_into().ok()?));
    match proto {
        TCP | UDP | SCTP => {
            packet.sport = word(0)?;
            packet.dport = word(2)?;
            if proto == TCP {
                packet.tcp_flags = body.get(13).copied().unwrap_or(0);
            }
        }
        ICMP | ICMPV6 => {
            let kind = (*body.first()?, *body.get(1)?);
            packet.icmp = Some(kind);
            let error = if proto == ICMP { matches!(kind.0, 3 | 11) } else { kind.0 < 128 };
            if error {
                packet.about = body.get(8..).and_then(parse).map(Box::new);
            }
        }
        _ => {}
    }
    Some(packet)
}

/// A TCP segment with a right checksum, as a raw socket takes it.
#[derive(Debug, Clone, Copy)]
pub struct Segment {
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub flags: u8,
    pub seq: u32,
    pub ack: u32,
}

/// Sends it from inside `netns`, where its source must be an address.
#[track_caller]
pub fn send_segment(netns: &Netns, segment: Segment) {
    offer_segment(netns, segment).expect("a route");
}

/// As [`send_segment`], where the sender's own node may drop it: then the sender is told.
#[track_caller]
pub fn offer_segment(netns: &Netns, segment: Segment) -> io::Result<()> {
    send_raw(netns, Protocol::TCP, (segment.from, segment.to), &encode(segment))
}

/// Sends the first packet of an SCTP association, which needs no socket of that protocol.
#[track_caller]
pub fn send_sctp_init(netns: &Netns, from: SocketAddr, to: SocketAddr) {
    let mut bytes = Vec::with_capacity(32);
    bytes.extend(from.port().to_be_bytes());
    bytes.extend(to.port().to_be_bytes());
    // No verification tag yet, and room for the checksum.
    bytes.extend([0; 8]);
    // Chunk INIT of 20 bytes: a tag, the window, one stream each way, the first number.
    bytes.extend([1, 0, 0, 20]);
    bytes.extend([0, 0, 0, 7, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1]);
    let checksum = crc32c(&bytes);
    bytes[8..12].copy_from_slice(&checksum.to_le_bytes());
    send_raw(netns, Protocol::from(i32::from(SCTP)), (from, to), &bytes).expect("a route");
}

fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| step(crc)))
}

#[track_caller]
fn send_raw(
    netns: &Netns,
    protocol: Protocol,
    way: (SocketAddr, SocketAddr),
    bytes: &[u8],
) -> io::Result<()> {
    let (from, to) = way;
    netns.enter(|| {
        let domain = Domain::for_address(to);
        let socket = Socket::new(domain, Type::RAW, Some(protocol)).expect("root in its namespace");
        socket.bind(&SocketAddr::new(from.ip(), 0).into()).expect("its own address");
        socket.send_to(bytes, &SocketAddr::new(to.ip(), 0).into()).map(drop)
    })
}

fn encode(segment: Segment) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(20);
    bytes.extend(segment.from.port().to_be_bytes());
    bytes.extend(segment.to.port().to_be_bytes());
    bytes.extend(segment.seq.to_be_bytes());
    bytes.extend(segment.ack.to_be_bytes());
    bytes.extend([5 << 4, segment.flags]);
    bytes.extend(512_u16.to_be_bytes());
    bytes.extend([0; 4]);
    let mut sum: u32 = u32::from(TCP) + u32::try_from(bytes.len()).expect("20 bytes");
    let mut add = |part: &[u8]| {
        for pair in part.chunks_exact(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], pair[1]]));
        }
    };
    for address in [segment.from.ip(), segment.to.ip()] {
        match address {
            IpAddr::V4(v4) => add(&v4.octets()),
            IpAddr::V6(v6) => add(&v6.octets()),
        }
    }
    add(&bytes);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let checksum = !u16::try_from(sum).expect("folded above");
    bytes[16..18].copy_from_slice(&checksum.to_be_bytes());
    bytes
}
