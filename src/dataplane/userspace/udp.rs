//! Datagrams: received with where they were sent to, and given to their session.

use super::bursts;
use super::handed::{Ends, HandedSession};
use super::replies::Replies;
use super::served::Served;
use super::session::Session;
use super::shared::{Full, Shared};
use crate::model::Protocol;
use foldhash::HashMap;
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;

/// A session has a socket towards its endpoint.
const FILES: u32 = 1;

/// Sessions that are looked at for each new one, so that the list of them does not grow by those
/// that ended, and when there is no room for it.
const LOOKED_AT: usize = 2;
const LOOKED_AT_WHEN_FULL: usize = 16;

/// After an error of the listening socket, which should have none.
const PAUSE: Duration = Duration::from_millis(100);

/// When a session ends whose frontend is somebody else's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SessionsEnd {
    /// At once: it holds the address that it answers from.
    WithFrontend,
    /// With the socket, which is there for one frontend only; or with the client's next datagram.
    WithSocket,
}

/// Passes datagrams on until `stop`, and returns the socket. Then the sessions end too: what a client
/// sends next must find another relay, which gets them if it follows this one, or the kernel's
/// translation.
pub(super) async fn serve(
    (socket, sessions): (UdpSocket, Vec<HandedSession>),
    (replies, sessions_end): (Replies, SessionsEnd),
    shared: Arc<Shared>,
    stop: CancellationToken,
) -> (UdpSocket, Vec<HandedSession>) {
    bursts::take_together(&socket);
    let table = Arc::new(Table::default());
    let mut receiver =
        Receiver { shared: Arc::clone(&shared), replies, sessions_end, table: Arc::clone(&table) };
    sessions.into_iter().for_each(|handed| receiver.resume(&socket, handed));
    let reviewing = review(Arc::clone(&shared), Arc::clone(&table), sessions_end);
    let serving = async { tokio::join!(receiver.run(&socket), reviewing) };
    let _ = stop.run_until_cancelled(serving).await;
    let open = table.take_all();
    let handed = match shared.is_handed_over() {
        true => open.iter().filter_map(|session| session.hand()).collect(),
        false => Vec::new(),
    };
    open.iter().for_each(|session| session.end());
    (socket, handed)
}

/// Ends sessions whose frontend is relayed no more, or is none of theirs any more; the others go by the
/// limits that hold now.
async fn review(shared: Arc<Shared>, table: Arc<Table>, sessions_end: SessionsEnd) {
    let mut due = shared.frontends.review();
    while due.changed().await.is_ok() {
        for session in table.all() {
            if sessions_end == SessionsEnd::WithSocket || session.has_its_frontend() {
                session.follow_limits();
            } else {
                table.remove(&session);
                session.end();
            }
        }
    }
}

struct Receiver {
    shared: Arc<Shared>,
    replies: Replies,
    sessions_end: SessionsEnd,
    table: Arc<Table>,
}

impl Receiver {
    async fn run(&mut self, socket: &UdpSocket) {
        loop {
            tokio::task::consume_budget().await;
            let received = async {
                socket.readable().await?;
                bursts::from_clients(socket, |ends, datagrams| self.take(socket, ends, datagrams))
            };
            match received.await {
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                    tracing::warn!(%error, "datagrams cannot be received");
                    tokio::time::sleep(PAUSE).await;
                }
                _ => {}
            }
        }
    }

    fn take(&mut self, socket: &UdpSocket, ends: Ends, datagrams: &[&[u8]]) {
        let known = self.table.get(&ends).is_some_and(|session| session.send(datagrams));
        if !known && let Some(session) = self.open(socket, ends, datagrams[0].len()) {
            session.send(datagrams);
        }
    }

    /// A session of a socket that packets are led to holds the address that it answers from, and would keep
    /// a socket of its own from being bound there.
    fn find(&self, frontend: SocketAddr) -> Option<Arc<Served>> {
        let frontends = &self.shared.frontends;
        match self.sessions_end {
            SessionsEnd::WithFrontend => frontends.find_led(Protocol::Udp, frontend),
            SessionsEnd::WithSocket => frontends.find(Protocol::Udp, frontend),
        }
    }

    /// A former process's. If there is no place for it here, the client's next datagram opens one.
    fn resume(&mut self, socket: &UdpSocket, handed: HandedSession) {
        let ends = handed.ends;
        let Some(served) = self.find(ends.frontend) else { return };
        let session = self.session(socket, ends, served);
        let session = session.filter(|session| session.resume(handed));
        if let Some(session) = session {
            self.run_session(&session);
        }
    }

    /// `None`: the datagram is lost.
    fn open(&mut self, socket: &UdpSocket, ends: Ends, size: usize) -> Option<Arc<Session>> {
        let Some(served) = self.find(ends.frontend) else {
            self.shared.frontends.strays.add(1);
            // It came just before the kernel had the Service: the next datagram has a socket to go to.
            if self.shared.frontends.find(Protocol::Udp, ends.frontend).is_none() {
                self.shared.refusals.send(ends.client, ends.frontend, size);
            }
            return None;
        };
        // As the kernel's rules have it: silence.
        if !served.admits(ends.client.ip()) {
            return None;
        }
        let session = self.session(socket, ends, served)?;
        self.run_session(&session);
        Some(session)
    }

    fn session(
        &mut self,
        socket: &UdpSocket,
        ends: Ends,
        served: Arc<Served>,
    ) -> Option<Arc<Session>> {
        let admitted = match self.shared.admit(&served, FILES) {
            Err(Full::Files) => {
                self.table.end_a_quiet_one();
                self.shared.admit(&served, FILES)
            }
            admitted => admitted,
        };
        let admitted = admitted
            .inspect_err(|full| {
                tracing::debug!(?ends, ?full, "a datagram is lost: too many sessions");
            })
            .ok()?;
        let reply = self
            .replies
            .of(socket, ends.frontend)
            .inspect_err(|error| {
                served.port.refused.add(1);
                tracing::debug!(?ends, %error, "a datagram is lost: it could not be answered");
            })
            .ok()?;
        let of = (Arc::clone(&self.shared), served);
        Some(Arc::new(Session::new(ends, of, reply, admitted)))
    }

    fn run_session(&self, session: &Arc<Session>) {
        self.table.insert(session);
        let (table, own) = (Arc::clone(&self.table), Arc::clone(session));
        tokio::spawn(async move {
            own.run().await;
            table.remove(&own);
        });
    }
}

/// The sessions of one thread.
#[derive(Debug, Default)]
struct Table(Mutex<Sessions>);

#[derive(Debug, Default)]
struct Sessions {
    open: HashMap<Ends, Arc<Session>>,
    /// In the order in which they are to be looked at.
    order: VecDeque<Weak<Session>>,
}

impl Table {
    fn sessions(&self) -> MutexGuard<'_, Sessions> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, ends: &Ends) -> Option<Arc<Session>> {
        self.sessions().open.get(ends).cloned()
    }

    fn insert(&self, session: &Arc<Session>) {
        let mut sessions = self.sessions();
        for _ in 0..LOOKED_AT {
            if let Some(looked_at) = sessions.order.pop_front()
                && looked_at.strong_count() > 0
            {
                sessions.order.push_back(looked_at);
            }
        }
        sessions.order.push_back(Arc::downgrade(session));
        sessions.open.insert(session.ends, Arc::clone(session));
    }

    /// Its ends may have another one by now.
    fn remove(&self, session: &Arc<Session>) {
        let mut sessions = self.sessions();
        if sessions.open.get(&session.ends).is_some_and(|open| Arc::ptr_eq(open, session)) {
            sessions.open.remove(&session.ends);
        }
    }

    /// One whose client has said nothing since it was looked at last; of a few that all did, one.
    fn end_a_quiet_one(&self) {
        let mut sessions = self.sessions();
        for left in (0..LOOKED_AT_WHEN_FULL).rev() {
            let Some(looked_at) = sessions.order.pop_front() else { return };
            let Some(session) = looked_at.upgrade() else { continue };
            if left > 0 && session.was_heard() {
                sessions.order.push_back(looked_at);
            } else {
                sessions.open.remove(&session.ends);
                drop(sessions);
                return session.end();
            }
        }
    }

    fn all(&self) -> Vec<Arc<Session>> {
        self.sessions().open.values().cloned().collect()
    }

    fn take_all(&self) -> Vec<Arc<Session>> {
        std::mem::take(&mut self.sessions().open).into_values().collect()
    }
}
