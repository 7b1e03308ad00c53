//! What a process that is replaced gives away, piece by piece.

use super::choose::PickerMemory;
use super::lower::Led;
use super::relayed::PortId;
use crate::model::ServiceKey;
use crate::planner::{FrontendKey, Target};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

#[derive(Debug, Default)]
pub(super) struct HandedEngine {
    /// That interception leads to; `None`: nothing is relayed.
    pub port: Option<u16>,
    /// Of each thread.
    pub listeners: Vec<Listeners>,
    /// Node ports of loopback addresses.
    pub loopback: Vec<HandedPort>,
    pub memory: Vec<PortMemory>,
}

/// The same sockets, not ones of the same kind: what waits in them is not lost.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    pub tcp: Vec<OwnedFd>,
    /// Each with the sessions of the clients whose datagrams it gets.
    pub udp: Vec<(OwnedFd, Vec<HandedSession>)>,
}

/// A socket that is bound to what it serves.
#[derive(Debug)]
pub(super) struct HandedPort {
    pub at: FrontendKey,
    pub socket: OwnedFd,
    /// Of a UDP port.
    pub sessions: Vec<HandedSession>,
}

#[derive(Debug)]
pub(super) struct HandedSession {
    pub ends: Ends,
    pub target: Target,
    /// Towards the endpoint.
    pub socket: OwnedFd,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PortMemory {
    pub service: ServiceKey,
    pub port: PortId,
    pub memory: PickerMemory,
}

/// The table that leads to the relay, by the socket that owns it.
#[derive(Debug)]
pub(super) struct HandedTable {
    pub link: OwnedFd,
    /// Of its chains and sets: one of another version is made anew.
    pub layout: u64,
    pub frontends: Vec<(FrontendKey, Led)>,
    pub nodes: Vec<IpAddr>,
}

/// Who talks to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Ends {
    pub client: SocketAddr,
    pub frontend: SocketAddr,
}

/// A handover that cannot be understood.
#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    #[error("a part of it cannot be read: {0}")]
    Text(#[source] serde_json::Error),
    #[error("a part of it does not have the files that it names")]
    Files,
    #[error("a part of it names {0:?}, which is unknown here")]
    Unknown(String),
    #[error("its parts are not in order")]
    Order,
}
