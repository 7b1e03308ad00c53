//! How a handover is written: names that another version of vipd reads too. PURE.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use super::choose::PickerMemory;
use super::dials::Failure;
use super::eject::Ejection;
use super::handed::{HandedSession, HandoverError, PortMemory};
use super::lower::{Guard, Led};
use super::pins::PinAge;
use super::relayed::PortId;
use crate::model::{Family, Protocol, ServiceKey};
use crate::planner::{FrontendAddress, FrontendKey, Target, Way};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::Duration;

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Text {
    /// With the socket that owns it.
    Table {
        layout: u64,
    },
    /// Each with whether it is guarded.
    Frontends(Vec<(At, bool)>),
    Nodes(Vec<IpAddr>),
    Engine {
        port: Option<u16>,
    },
    /// One thread's: so many sockets are TCP's, the others UDP's.
    Listeners {
        tcp: usize,
    },
    /// Of the last thread's `socket`th UDP socket; with their sockets.
    Sessions {
        socket: usize,
        sessions: Vec<Session>,
    },
    /// Each with its socket.
    Loopback(Vec<At>),
    /// Of those ports, with their sockets.
    LoopbackSessions(Vec<Session>),
    Memory(Memory),
}

/// A frontend.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct At {
    /// Without one it is a node port.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    address: Option<IpAddr>,
    family: u8,
    protocol: String,
    port: u16,
    /// Who may ask is judged client by client, although everybody may.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    judged: bool,
    /// Led to a port of the node's.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    redirected: bool,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Session {
    pub client: SocketAddr,
    pub frontend: SocketAddr,
    pub target: SocketAddr,
}

/// What choices of one Service port remember; durations are milliseconds.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Memory {
    namespace: String,
    service: String,
    port: String,
    protocol: String,
    family: u8,
    /// Client, endpoint, time since it last connected.
    pins: Vec<(IpAddr, SocketAddr, u64)>,
    /// Endpoint, time left, how often in a row, whether it said nothing.
    ejections: Vec<(SocketAddr, u64, u32, bool)>,
}

impl At {
    /// To which nothing is led.
    pub(super) fn alone(key: FrontendKey) -> Self {
        let address = match key.at {
            FrontendAddress::Address(address) => Some(address),
            FrontendAddress::NodePort(_) => None,
        };
        let (family, protocol) = (family_number(key.at.family()), key.protocol.to_string());
        Self { address, family, protocol, port: key.port, judged: false, redirected: false }
    }

    /// With whether it is guarded.
    pub(super) fn of(key: FrontendKey, led: Led) -> (Self, bool) {
        let Led { guard, way } = led;
        let (judged, redirected) = (guard == Guard::Judged, way == Way::Port);
        (Self { judged, redirected, ..Self::alone(key) }, guard == Guard::Guarded)
    }

    pub(super) fn led(self, guarded: bool) -> Result<(FrontendKey, Led), HandoverError> {
        let guard = match (guarded, self.judged) {
            (true, _) => Guard::Guarded,
            (false, true) => Guard::Judged,
            (false, false) => Guard::Open,
        };
        let way = if self.redirected { Way::Port } else { Way::Address };
        Ok((self.key()?, Led { guard, way }))
    }

    pub(super) fn key(self) -> Result<FrontendKey, HandoverError> {
        let at = match self.address {
            Some(address) => FrontendAddress::Address(address),
            None => FrontendAddress::NodePort(family(self.family)?),
        };
        Ok(FrontendKey { at, protocol: protocol(self.protocol)?, port: self.port })
    }
}

impl Memory {
    /// In lists of `most` entries.
    pub(super) fn of(memory: PortMemory, most: usize) -> Vec<Self> {
        let PortMemory { service, port, memory } = memory;
        let one = |pins: &[PinAge], ejections: &[Ejection]| Self {
            namespace: service.namespace().to_owned(),
            service: service.name().to_owned(),
            port: port.name.0.to_string(),
            protocol: port.protocol.to_string(),
            family: family_number(port.family),
            pins: pins
                .iter()
                .map(|pin| (pin.client, socket(pin.target), milliseconds(pin.age)))
                .collect(),
            ejections: ejections
                .iter()
                .map(|out| {
                    let slow = out.failure == Failure::Slow;
                    (socket(out.target), milliseconds(out.left), out.times, slow)
                })
                .collect(),
        };
        let pins = memory.pins.chunks(most).map(|pins| one(pins, &[]));
        let ejections = memory.ejections.chunks(most).map(|out| one(&[], out));
        pins.chain(ejections).collect()
    }

    pub(super) fn memory(self) -> Result<PortMemory, HandoverError> {
        let (protocol, family) = (protocol(self.protocol)?, family(self.family)?);
        let pin = |(client, at, age)| PinAge {
            client,
            target: target(at),
            age: Duration::from_millis(age),
        };
        let out = |(at, left, times, slow)| Ejection {
            target: target(at),
            left: Duration::from_millis(left),
            times,
            failure: if slow { Failure::Slow } else { Failure::Refused },
        };
        Ok(PortMemory {
            service: ServiceKey::new(&self.namespace, &self.service),
            port: PortId { name: self.port.as_str().into(), protocol, family },
            memory: PickerMemory {
                pins: self.pins.into_iter().map(pin).collect(),
                ejections: self.ejections.into_iter().map(out).collect(),
            },
        })
    }
}

pub(super) fn session(handed: HandedSession) -> (Session, OwnedFd) {
    let HandedSession { ends, target, socket: file } = handed;
    (Session { client: ends.client, frontend: ends.frontend, target: socket(target) }, file)
}

pub(super) fn target(at: SocketAddr) -> Target {
    Target { address: at.ip(), port: at.port() }
}

fn socket(target: Target) -> SocketAddr {
    SocketAddr::new(target.address, target.port)
}

fn milliseconds(duration: Duration) -> u64 {
    duration.as_millis().try_into().unwrap_or(u64::MAX)
}

fn family_number(family: Family) -> u8 {
    match family {
        Family::V4 => 4,
        Family::V6 => 6,
    }
}

fn family(number: u8) -> Result<Family, HandoverError> {
    match number {
        4 => Ok(Family::V4),
        6 => Ok(Family::V6),
        _ => Err(HandoverError::Unknown(number.to_string())),
    }
}

fn protocol(name: String) -> Result<Protocol, HandoverError> {
    let all = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
    let named = all.into_iter().find(|protocol| protocol.to_string() == name);
    named.ok_or(HandoverError::Unknown(name))
}
