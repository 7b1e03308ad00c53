//! A client's datagrams to one frontend, with a socket of their own towards the endpoint.

use super::bursts::{self, Sending, says_nothing};
use super::counts::Held;
use super::dials::{Dials, Failure};
use super::handed::{Ends, HandedSession};
use super::replies::Reply;
use super::served::{Caller, Served};
use super::shared::{Admitted, Shared};
use super::tcp::is_of_this_node;
use crate::model::Protocol;
use socket2::{Domain, Socket, Type};
use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::{Interest, Ready};
use tokio::net::UdpSocket;
use tokio::sync::Notify;

#[derive(Debug)]
pub(super) struct Session {
    pub ends: Ends,
    served: Arc<Served>,
    shared: Arc<Shared>,
    /// Answers go by it.
    reply: Arc<Reply>,
    state: Mutex<State>,
    /// Another endpoint, or over.
    changed: Notify,
    heard: AtomicBool,
}

#[derive(Debug)]
struct State {
    /// `None`: the next datagram goes to a new one.
    with: Option<With>,
    /// Endpoints that refused since one last answered.
    tried: Dials,
    /// The last datagram, until an answer comes: should the endpoint refuse, another gets it.
    unanswered: Option<Box<[u8]>>,
    /// To the client.
    answering: Sending,
    used: Instant,
    /// How long it may be idle, as its task has it.
    limit: Duration,
    /// `None`: it is over.
    admitted: Option<Admitted>,
}

#[derive(Debug)]
struct With {
    socket: Arc<UdpSocket>,
    endpoint: Held,
    answered: bool,
    sending: Sending,
}

impl With {
    fn new(socket: UdpSocket, endpoint: Held) -> Self {
        bursts::take_together(&socket);
        Self { socket: Arc::new(socket), endpoint, answered: false, sending: Sending::Together }
    }
}

impl Session {
    pub(super) fn new(
        ends: Ends,
        (shared, served): (Arc<Shared>, Arc<Served>),
        reply: Arc<Reply>,
        admitted: Admitted,
    ) -> Self {
        let state = State {
            with: None,
            tried: Dials::default(),
            unanswered: None,
            answering: Sending::Together,
            used: Instant::now(),
            limit: served.port.limits().session,
            admitted: Some(admitted),
        };
        Self {
            ends,
            served,
            shared,
            reply,
            state: Mutex::new(state),
            changed: Notify::new(),
            heard: AtomicBool::new(true),
        }
    }

    /// What another process needs to go on with this session; `None`: it has no endpoint.
    pub(super) fn hand(&self) -> Option<HandedSession> {
        let state = self.state();
        let with = state.with.as_ref()?;
        let socket = with.socket.as_fd().try_clone_to_owned().ok()?;
        Some(HandedSession { ends: self.ends, target: with.endpoint.target, socket })
    }

    /// Goes on with a former process's, by its socket, so that the endpoint sees no difference.
    /// `false`: the endpoint is none of the client's any more.
    pub(super) fn resume(&self, handed: HandedSession) -> bool {
        let node = self.shared.frontends.node();
        let caller = Caller { client: self.ends.client.ip(), node: &node };
        let socket = UdpSocket::from_std(handed.socket.into());
        let (true, Ok(socket)) = (self.served.has(&caller, handed.target), socket) else {
            return false;
        };
        self.state().with = Some(With::new(socket, self.served.hold(handed.target)));
        true
    }

    /// Passes a client's datagrams on, of which there are some. `false`: the session is over.
    pub(super) fn send(&self, datagrams: &[&[u8]]) -> bool {
        self.heard.store(true, Ordering::Relaxed);
        let node = self.shared.frontends.node();
        let caller = Caller { client: self.ends.client.ip(), node: &node };
        let mut state = self.state();
        if state.admitted.is_none() {
            return false;
        }
        if !self.served.is_relayed() {
            self.end_state(&mut state);
            return false;
        }
        state.used = Instant::now();
        if let Some(with) = &state.with
            && !self.served.has(&caller, with.endpoint.target)
        {
            (state.with, state.tried) = (None, Dials::default());
        }
        self.pass_on(&mut state, &caller, datagrams);
        true
    }

    /// Whether a datagram came since this was asked last.
    pub(super) fn was_heard(&self) -> bool {
        self.heard.swap(false, Ordering::Relaxed)
    }

    /// Whether what is led here for that frontend is this session's still.
    pub(super) fn has_its_frontend(&self) -> bool {
        let holder = self.shared.frontends.find_led(Protocol::Udp, self.ends.frontend);
        holder.is_some_and(|served| Arc::ptr_eq(&served, &self.served))
    }

    /// Has the task look at the limits, if they are others.
    pub(super) fn follow_limits(&self) {
        if self.state().limit != self.served.port.limits().session {
            self.changed.notify_one();
        }
    }

    pub(super) fn end(&self) {
        self.end_state(&mut self.state());
    }

    fn end_state(&self, state: &mut State) {
        (state.with, state.unanswered, state.admitted) = (None, None, None);
        self.changed.notify_one();
    }

    /// Passes answers on until nothing has been heard for the idle time.
    pub(super) async fn run(&self) {
        let mut limit = self.state().limit;
        let mut idle = pin!(tokio::time::sleep(limit));
        loop {
            tokio::task::consume_budget().await;
            let socket = {
                let mut state = self.state();
                if state.admitted.is_none() {
                    return;
                }
                state.limit = self.served.port.limits().session;
                if std::mem::replace(&mut limit, state.limit) != limit {
                    idle.as_mut().reset((state.used + limit).into());
                }
                state.with.as_ref().map(|with| Arc::clone(&with.socket))
            };
            tokio::select! {
                () = self.changed.notified() => {}
                (socket, ready) = ready(socket) => self.receive(&socket, ready),
                () = &mut idle => {
                    let ends_at = self.state().used + limit;
                    if ends_at <= Instant::now() {
                        return self.end();
                    }
                    idle.as_mut().reset(ends_at.into());
                }
            }
        }
    }

    /// To the endpoint, or to another one as long as they refuse.
    fn pass_on(&self, state: &mut State, caller: &Caller<'_>, mut datagrams: &[&[u8]]) {
        loop {
            if state.with.is_none() {
                state.with = self.connect(state, caller);
                self.changed.notify_one();
            }
            let Some(with) = &mut state.with else {
                self.served.port.unserved.add(1);
                let Ends { client, frontend } = self.ends;
                if !self.served.drops(caller) {
                    self.shared.refusals.send(client, frontend, datagrams[0].len());
                }
                return self.end_state(state);
            };
            let sent = bursts::send(&with.socket, None, datagrams, &mut with.sending);
            with.endpoint.sent.add(sent.bytes);
            let Some((at, error)) = sent.refused else {
                state.unanswered = datagrams.last().map(|last| (*last).into());
                return;
            };
            datagrams = &datagrams[at..];
            self.leave(state, caller, &error);
        }
    }

    /// The endpoint refused.
    fn leave(&self, state: &mut State, caller: &Caller<'_>, error: &io::Error) {
        if let Some(with) = state.with.take() {
            let target = with.endpoint.target;
            tracing::debug!(%target, %error, "an endpoint does not take datagrams");
            self.served.failed(caller, target, Failure::Refused);
            state.tried.failed(target, Failure::Refused);
        }
    }

    fn connect(&self, state: &mut State, caller: &Caller<'_>) -> Option<With> {
        while let Some(chosen) = self.served.choose(caller, &state.tried) {
            let target = chosen.endpoint.target;
            if self.shared.frontends.leads_back(Protocol::Udp, target) {
                tracing::debug!(%target, "an endpoint is a relayed Service's own address");
                self.served.failed(caller, target, Failure::Refused);
                state.tried.failed(target, Failure::Refused);
                continue;
            }
            match connected(SocketAddr::new(target.address, target.port)) {
                Ok(socket) => {
                    chosen.endpoint.opened.add(1);
                    return Some(With::new(socket, chosen.endpoint));
                }
                Err(error) => {
                    tracing::debug!(%target, %error, "datagrams cannot be sent to an endpoint");
                    if is_of_this_node(&error) {
                        self.served.port.refused.add(1);
                    } else {
                        self.served.failed(caller, target, Failure::Refused);
                    }
                    state.tried.failed(target, Failure::Refused);
                }
            }
        }
        None
    }

    /// What the endpoint has said so far. An ICMP error makes a socket erroneous and not readable
    /// (EPOLLERR alone), so it is asked for by itself.
    fn receive(&self, socket: &Arc<UdpSocket>, ready: io::Result<Ready>) {
        let said = ready.and_then(|ready| {
            if ready.is_error() {
                let error = socket.try_io(Interest::ERROR, || match socket.take_error()? {
                    Some(error) => Ok(error),
                    None => Err(io::ErrorKind::WouldBlock.into()),
                });
                if let Ok(error) = error {
                    return Err(error);
                }
            }
            bursts::from_endpoint(socket, |datagrams| self.answer(socket, datagrams))
        });
        if let Err(error) = said
            && !says_nothing(&error)
        {
            self.refused(socket, &error);
        }
    }

    fn answer(&self, socket: &Arc<UdpSocket>, datagrams: &[&[u8]]) {
        let mut state = self.state();
        state.used = Instant::now();
        state.unanswered = None;
        if !state.tried.is_first() {
            state.tried = Dials::default();
        }
        if let Some(with) = state.with.as_mut().filter(|with| Arc::ptr_eq(&with.socket, socket)) {
            with.endpoint.received.add(datagrams.iter().map(|one| one.len() as u64).sum());
            if !std::mem::replace(&mut with.answered, true) {
                self.served.answered(&with.endpoint);
            }
        }
        let mut answering = state.answering;
        drop(state);
        // A late answer, which conntrack sees again, would begin the flow the other way round, and the
        // client's next datagram would belong to it untranslated.
        if self.served.is_relayed() {
            self.reply.send(self.ends.client, datagrams, &mut answering);
        }
        if answering == Sending::Apart {
            self.state().answering = answering;
        }
    }

    fn refused(&self, socket: &Arc<UdpSocket>, error: &io::Error) {
        let node = self.shared.frontends.node();
        let caller = Caller { client: self.ends.client.ip(), node: &node };
        let mut state = self.state();
        if !state.with.as_ref().is_some_and(|with| Arc::ptr_eq(&with.socket, socket)) {
            return;
        }
        self.leave(&mut state, &caller, error);
        if let Some(datagram) = state.unanswered.take() {
            self.pass_on(&mut state, &caller, &[&datagram]);
        }
    }

    /// A panic while it is held leaves a state that the next datagram can go on from.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits for ever without a socket.
async fn ready(socket: Option<Arc<UdpSocket>>) -> (Arc<UdpSocket>, io::Result<Ready>) {
    let Some(socket) = socket else { return pending().await };
    let ready = socket.ready(Interest::READABLE | Interest::ERROR).await;
    (socket, ready)
}

fn connected(to: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(to), Type::DGRAM, None)?;
    socket.set_nonblocking(true)?;
    socket.connect(&to.into())?;
    UdpSocket::from_std(socket.into())
}
