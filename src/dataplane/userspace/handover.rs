//! What a process hands to the one that replaces it.
//!
//! In: the engine's sockets, what leads to them, what choices remember. Out: parts of text and files, as
//! they pass a Unix socket; and back.
//! Never: a connection: those end where they are; a part that a Unix socket would not take at once.

use super::handed::{Ends, HandedEngine, HandedSession, HandedTable, HandoverError, Listeners};
use super::written::{self, Text};
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
                if sessions.len() != files.len() {
                    return Err(HandoverError::Files);
                }
                for (session, socket) in sessions.into_iter().zip(files) {
                    let ends = Ends { client: session.client, frontend: session.frontend };
                    let target = written::target(session.target);
                    open.push(HandedSession { ends, target, socket });
                }
            }
            Text::Memory(memory) => {
                let engine = self.engine.as_mut().ok_or(HandoverError::Order)?;
                engine.memory.push(memory.memory()?);
            }
        }
        Ok(())
    }
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
        let some = some.iter().map(|(at, led)| written::At::of(*at, *led));
        parts.push(part(&Text::Frontends(some.collect()), Vec::new()));
    }
    for some in nodes.chunks(MOST_ENTRIES) {
        parts.push(part(&Text::Nodes(some.into()), Vec::new()));
    }
    parts
}

fn engine_parts(engine: HandedEngine) -> Vec<Part> {
    let HandedEngine { port, listeners, memory } = engine;
    let mut parts = vec![part(&Text::Engine { port }, Vec::new())];
    for Listeners { tcp, udp } in listeners.into_iter().flat_map(split) {
        let (sockets, sessions): (Vec<_>, Vec<_>) = udp.into_iter().unzip();
        let count = tcp.len();
        let files = tcp.into_iter().chain(sockets).collect();
        parts.push(part(&Text::Listeners { tcp: count }, files));
        for (socket, sessions) in sessions.into_iter().enumerate() {
            let mut sessions = sessions.into_iter().peekable();
            while sessions.peek().is_some() {
                let some = sessions.by_ref().take(MOST_FILES);
                let (sessions, files) = some.map(written::session).unzip();
                parts.push(part(&Text::Sessions { socket, sessions }, files));
            }
        }
    }
    for memory in memory {
        for some in written::Memory::of(memory, MOST_ENTRIES) {
            parts.push(part(&Text::Memory(some), Vec::new()));
        }
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
