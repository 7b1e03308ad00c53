//! Handovers in parts, and back.

use super::choose::PickerMemory;
use super::dials::Failure;
use super::eject::Ejection;
use super::handed::{
    Ends, HandedEngine, HandedPort, HandedSession, HandedTable, HandoverError, Listeners,
    PortMemory,
};
use super::handover::{Handover, MOST_FILES, Part};
use super::lower::{Guard, Led};
use super::pins::PinAge;
use super::relayed::PortId;
use crate::model::{Family, Protocol, ServiceKey};
use crate::planner::{FrontendAddress, FrontendKey, Target, Way};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

fn file() -> OwnedFd {
    std::fs::File::open("/dev/null").unwrap().into()
}

fn files(count: usize) -> Vec<OwnedFd> {
    let one = file();
    (0..count).map(|_| one.as_fd().try_clone_to_owned().unwrap()).collect()
}

fn target(last: u16) -> Target {
    Target { address: Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last).into(), port: last }
}

fn frontends(count: u16) -> Vec<(FrontendKey, Led)> {
    let address = |port: u16| match port % 3 {
        0 => FrontendAddress::NodePort(Family::V6),
        1 => FrontendAddress::Address(Ipv4Addr::from(u32::from(port)).into()),
        _ => FrontendAddress::Address(Ipv6Addr::from(u128::from(port)).into()),
    };
    let one = |port: u16| {
        let protocol = if port.is_multiple_of(2) { Protocol::Tcp } else { Protocol::Udp };
        let guard = [Guard::Open, Guard::Guarded, Guard::Judged][usize::from(port % 5 % 3)];
        let way = if port.is_multiple_of(7) { Way::Port } else { Way::Address };
        (FrontendKey { at: address(port), protocol, port }, Led { guard, way })
    };
    (1..=count).map(one).collect()
}

fn session(number: u16) -> HandedSession {
    let at = |last: u8| SocketAddr::from(([10, 0, 0, last], number));
    HandedSession {
        ends: Ends { client: at(1), frontend: at(2) },
        target: target(number),
        socket: file(),
    }
}

fn memory(pins: u32) -> PortMemory {
    let pin = |client: u32| PinAge {
        client: IpAddr::V4(client.into()),
        target: target(1),
        age: Duration::from_millis(client.into()),
    };
    let out = Ejection {
        target: target(2),
        left: Duration::from_millis(900),
        times: 3,
        failure: Failure::Slow,
    };
    PortMemory {
        service: ServiceKey::new("ns", "web"),
        port: PortId { name: "http".into(), protocol: Protocol::Tcp, family: Family::V6 },
        memory: PickerMemory { pins: (0..pins).map(pin).collect(), ejections: vec![out] },
    }
}

fn handover(listeners: Vec<Listeners>, memory: Vec<PortMemory>, count: u16) -> Handover {
    let nodes = (0..count).map(|last| target(last).address).collect();
    let table = HandedTable { link: file(), layout: u64::MAX, frontends: frontends(count), nodes };
    let engine = HandedEngine { port: Some(4711), listeners, loopback: Vec::new(), memory };
    Handover { engine: Some(engine), table: Some(table) }
}

fn sent(handover: Handover) -> Vec<Part> {
    handover.into_parts().collect()
}

#[test]
fn much_arrives_as_it_was_in_parts_of_a_bounded_size() {
    const MANY: u16 = 2500;
    let sessions = |from: u16| (from..from + 300).map(session).collect();
    let udp = vec![(file(), sessions(1)), (file(), Vec::new()), (file(), sessions(1000))];
    let listeners = vec![Listeners { tcp: files(2), udp }, Listeners::default()];
    let parts = sent(handover(listeners, vec![memory(2345), memory(0)], MANY));
    for part in &parts {
        assert!(part.files.len() <= MOST_FILES, "{} files", part.files.len());
        assert!(part.text.len() < 200_000, "{} bytes", part.text.len());
    }
    let Handover { engine, table } = Handover::of_parts(parts).unwrap();
    let (engine, table) = (engine.unwrap(), table.unwrap());
    assert_eq!((engine.port, table.layout), (Some(4711), u64::MAX));
    assert_eq!(table.frontends, frontends(MANY));
    assert_eq!(table.nodes.len(), usize::from(MANY));
    let counts: Vec<_> = engine
        .listeners
        .iter()
        .map(|all| (all.tcp.len(), all.udp.iter().map(|(_, all)| all.len()).collect::<Vec<_>>()))
        .collect();
    assert_eq!(counts, [(2, vec![300, 0, 300]), (0, vec![])]);
    let (last, expected) = (engine.listeners[0].udp[2].1.last().unwrap(), session(1299));
    assert_eq!((last.ends, last.target), (expected.ends, expected.target));
    let all = |memory: &[PortMemory]| {
        let pins = memory.iter().flat_map(|one| one.memory.pins.clone()).collect::<Vec<_>>();
        let out = memory.iter().flat_map(|one| one.memory.ejections.clone()).collect::<Vec<_>>();
        (pins, out)
    };
    assert_eq!(all(&engine.memory), all(&[memory(2345), memory(0)]));
    assert_eq!(engine.memory[0].port, memory(0).port);
}

#[test]
fn a_thread_of_more_listeners_than_a_part_has_files_is_split() {
    let udp = files(MOST_FILES + 3).into_iter().map(|socket| (socket, Vec::new())).collect();
    let many = Listeners { tcp: files(MOST_FILES * 2 + 1), udp };
    let parts = sent(handover(vec![many], Vec::new(), 0));
    assert!(parts.iter().all(|part| part.files.len() <= MOST_FILES));
    let engine = Handover::of_parts(parts).unwrap().engine.unwrap();
    let tcp: usize = engine.listeners.iter().map(|all| all.tcp.len()).sum();
    let udp: usize = engine.listeners.iter().map(|all| all.udp.len()).sum();
    assert_eq!((tcp, udp), (MOST_FILES * 2 + 1, MOST_FILES + 3));
}

#[test]
fn node_ports_of_loopback_addresses_arrive_each_with_its_sessions() {
    let count = u16::try_from(MOST_FILES).unwrap() * 2 + 10;
    let at = |port: u16| FrontendKey {
        at: FrontendAddress::Address(Ipv6Addr::LOCALHOST.into()),
        protocol: if port.is_multiple_of(3) { Protocol::Udp } else { Protocol::Tcp },
        port,
    };
    let sessions = |port: u16| -> Vec<HandedSession> {
        let some = if port.is_multiple_of(60) { 150 + port } else { 0 };
        (0..some).map(session).collect()
    };
    let ports = (1..=count).map(|port| HandedPort {
        at: at(port),
        socket: file(),
        sessions: sessions(port),
    });
    let engine = HandedEngine { loopback: ports.collect(), ..HandedEngine::default() };
    let parts = sent(Handover { engine: Some(engine), table: None });
    assert!(parts.iter().all(|part| part.files.len() <= MOST_FILES));
    let engine = Handover::of_parts(parts).unwrap().engine.unwrap();
    assert_eq!((engine.port, engine.listeners.len()), (None, 0));
    let arrived: Vec<_> =
        engine.loopback.iter().map(|port| (port.at, port.sessions.len())).collect();
    let expected: Vec<_> = (1..=count).map(|port| (at(port), sessions(port).len())).collect();
    assert_eq!(arrived, expected);
}

#[test]
fn nothing_is_handed_over_where_nothing_was_relayed() {
    let parts = sent(Handover::default());
    assert!(parts.is_empty());
    let Handover { engine, table } = Handover::of_parts(parts).unwrap();
    assert!(engine.is_none() && table.is_none());
}

#[test]
fn what_is_broken_is_told() {
    let whole = || {
        let udp = vec![(file(), vec![session(1)])];
        sent(handover(vec![Listeners { tcp: files(1), udp }], vec![memory(1)], 3))
    };
    let told = |parts: Vec<Part>| Handover::of_parts(parts).unwrap_err().to_string();
    for number in 0..whole().len() {
        let mut parts = whole();
        parts[number].text.truncate(5);
        assert!(told(parts).contains("cannot be read"));
        let mut parts = whole();
        if parts[number].files.pop().is_some() {
            // One of UDP's sockets less is a session's place less.
            let parts = Handover::of_parts(parts);
            assert!(matches!(parts, Err(HandoverError::Files | HandoverError::Order)));
        }
    }
    let parts = whole().into_iter().skip(1).collect();
    assert!(told(parts).contains("not in order"));
    let mut parts = whole();
    let text = String::from_utf8(parts[1].text.clone()).unwrap();
    parts[1].text = text.replace("UDP", "QUIC").into();
    assert!(told(parts).contains("\"QUIC\""));
}
