//! What a process hands to the one that replaces it.
//!
//! In: the engine's sockets, what leads to them, what choices remember. Out: parts of text and files, as
//! they pass a Unix socket; and back.
//! Never: a connection: those end where they are; a part that a Unix socket would not take at once.

use super::handed::{
    Ends, HandedEngine, HandedPort, HandedSession, HandedTable, HandoverError, Listeners,
};
use super::written::{self, At, Text};
use std::os::fd::OwnedFd;

/// Files of one part. The kernel takes no more than 253 (`SCM_MAX_FD`).
pub(super) const MOST_FILES: usize = 128;

/// Entries of one part's list.
const MOST_ENTRIES: usize = 1000;

/// Everything that only the relay has; empty, if nothing was ever relayed.
#[derive(Debug, Default)]
pub struct Handover {
    pub(super) engine: Option<HandedEngine>,
    pub(super) table: Option<HandedTable>,
}

/// One message of a handover.
#[derive(Debug)]
pub struct Part {
    /// JSON.
    pub text: Vec<u8>,
    /// [`MOST_FILES`] at most.
    pub files: Vec<OwnedFd>,
}

impl Handover {
    /// To be sent in this order.
    pub fn into_parts(self) -> impl Iterator<Item = Part> {
        let table = self.table.into_iter().flat_map(table_parts);
        table.chain(self.engine.into_iter().flat_map(engine_parts))
    }

    pub fn of_parts(parts: impl IntoIterator<Item = Part>) -> Result<Self, HandoverError> {
        let mut handover = Self::default();
        for Part { text, files } in parts {
            let text = serde_json::from_slice(&text).map_err(HandoverError::Text)?;
            handover.take(text, files)?;
        }
        Ok(handover)
    }

    fn take(&mut self, text: Text, files: Vec<OwnedFd>) -> Result<(), HandoverError> {
        let table = || HandoverError::Order;
        match text {
            Text::Table { layout } => {
                let [link] = exactly(files)?;
                let (frontends, nodes) = (Vec::new(), Vec::new());
                self.table = Some(HandedTable { link, layout, frontends, nodes });
            }
            Text::Frontends(list) => {
                let table = self.table.as_mut().ok_or_else(table)?;
                for (at, guarded) in list {
                    table.frontends.push(at.led(guarded)?);
                }
            }
            Text::Nodes(nodes) => self.table.as_mut().ok_or_else(table)?.nodes.extend(nodes),
            Text::Engine { port } => {
                self.engine = Some(HandedEngine { port, ..HandedEngine::default() });
            }
            Text::Listeners { tcp } => {
                let engine = self.engine.as_mut().ok_or(HandoverError::Order)?;
                let mut files = files;
                if tcp > files.len() {
                    return Err(HandoverError::Files);
                }
                let udp = files.split_off(tcp).into_iter().map(|socket| (socket, Vec::new()));
                engine.listeners.push(Listeners { tcp: files, udp: udp.collect() });
            }
            Text::Sessions { socket, sessions } => {
                let engine = self.engine.as_mut().ok_or(HandoverError::Order)?;
                let of = engine.listeners.last_mut().and_then(|last| last.udp.get_mut(socket));
                let (_, open) = of.ok_or(HandoverError::Order)?;
                open.extend(open_sessions(sessions, files)?);
            }
            Text::Loopback(ports) => {
                let engine = self.engine.as_mut().ok_or(HandoverError::Order)?;
                if ports.len() != files.len() {
                    return Err(HandoverError::Files);
                }
                for (at, socket) in ports.into_iter().zip(files) {
                    let (at, sessions) = (at.key()?, Vec::new());
                    engine.loopback.push(HandedPort { at, socket, sessions });
                }
            }
            Text::LoopbackSessions(sessions) => {
                let engine = self.engine.as_mut().ok_or(HandoverError::Order)?;
                let port = engine.loopback.last_mut().ok_or(HandoverError::Order)?;
                port.sessions.extend(open_sessions(sessions, files)?);
            }
            Text::Memory(memory) => {
                let engine = self.engine.as_mut().ok_or(HandoverError::Order)?;
                engine.memory.push(memory.memory()?);
            }
        }
        Ok(())
    }
}

fn open_sessions(
    sessions: Vec<written::Session>,
    files: Vec<OwnedFd>,
) -> Result<impl Iterator<Item = HandedSession>, HandoverError> {
    if sessions.len() != files.len() {
        return Err(HandoverError::Files);
    }
    let open = |(session, socket): (written::Session, OwnedFd)| {
        let ends = Ends { client: session.client, frontend: session.frontend };
        HandedSession { ends, target: written::target(session.target), socket }
    };
    Ok(sessions.into_iter().zip(files).map(open))
}

fn exactly<const N: usize>(files: Vec<OwnedFd>) -> Result<[OwnedFd; N], HandoverError> {
    files.try_into().map_err(|_| HandoverError::Files)
}

fn part(text: &Text, files: Vec<OwnedFd>) -> Part {
    let text = serde_json::to_vec(text).expect("texts, numbers and lists are JSON");
    Part { text, files }
}

fn table_parts(table: HandedTable) -> Vec<Part> {
    let HandedTable { link, layout, frontends, nodes } = table;
    let mut parts = vec![part(&Text::Table { layout }, vec![link])];
    for some in frontends.chunks(MOST_ENTRIES) {
        let some = some.iter().map(|(at, led)| At::of(*at, *led));
        parts.push(part(&Text::Frontends(some.collect()), Vec::new()));
    }
    for some in nodes.chunks(MOST_ENTRIES) {
        parts.push(part(&Text::Nodes(some.into()), Vec::new()));
    }
    parts
}

fn engine_parts(engine: HandedEngine) -> Vec<Part> {
    let HandedEngine { port, listeners, loopback, memory } = engine;
    let mut parts = vec![part(&Text::Engine { port }, Vec::new())];
    for Listeners { tcp, udp } in listeners.into_iter().flat_map(split) {
        let (sockets, sessions): (Vec<_>, Vec<_>) = udp.into_iter().unzip();
        let count = tcp.len();
        let files = tcp.into_iter().chain(sockets).collect();
        parts.push(part(&Text::Listeners { tcp: count }, files));
        for (socket, sessions) in sessions.into_iter().enumerate() {
            let text = |sessions| Text::Sessions { socket, sessions };
            parts.extend(session_parts(sessions, text));
        }
    }
    parts.extend(loopback_parts(loopback));
    for memory in memory {
        for some in written::Memory::of(memory, MOST_ENTRIES) {
            parts.push(part(&Text::Memory(some), Vec::new()));
        }
    }
    parts
}

/// Sessions follow the port that they are of, the last one of its part.
fn loopback_parts(ports: Vec<HandedPort>) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut some = (Vec::new(), Vec::new());
    let finish = |some: &mut (Vec<At>, Vec<OwnedFd>), parts: &mut Vec<Part>| {
        let (ports, files) = std::mem::take(some);
        parts.extend((!ports.is_empty()).then(|| part(&Text::Loopback(ports), files)));
    };
    for HandedPort { at, socket, sessions } in ports {
        some.0.push(At::alone(at));
        some.1.push(socket);
        if some.0.len() == MOST_FILES || !sessions.is_empty() {
            finish(&mut some, &mut parts);
        }
        parts.extend(session_parts(sessions, Text::LoopbackSessions));
    }
    finish(&mut some, &mut parts);
    parts
}

fn session_parts(
    sessions: Vec<HandedSession>,
    text: impl Fn(Vec<written::Session>) -> Text,
) -> Vec<Part> {
    let mut sessions = sessions.into_iter().peekable();
    let mut parts = Vec::new();
    while sessions.peek().is_some() {
        let (some, files) = sessions.by_ref().take(MOST_FILES).map(written::session).unzip();
        parts.push(part(&text(some), files));
    }
    parts
}

/// One of many sockets as several that each fit into a part.
fn split(mut listeners: Listeners) -> Vec<Listeners> {
    const MOST: usize = MOST_FILES / 2;
    let mut all = Vec::new();
    while listeners.tcp.len() > MOST || listeners.udp.len() > MOST {
        let tcp = listeners.tcp.split_off(listeners.tcp.len().saturating_sub(MOST));
        let udp = listeners.udp.split_off(listeners.udp.len().saturating_sub(MOST));
        all.push(Listeners { tcp, udp });
    }
    all.push(listeners);
    all
}
