//! Which listeners there are.

use super::handed::Handed;
use super::places::{Families, Place, Port, Services, changes};
use super::served::Served;
use super::{tcp, udp};
use crate::dataplane::userspace::{Budget, ListenerFile};
use crate::listen::{self, Acceptor, Count, Kept, Tally, Tried};
use crate::model::Protocol;
use crate::sync::Snapshot;
use arc_swap::ArcSwap;
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Sockets opened in one go: ten thousand at once would keep everybody else waiting.
const AT_ONCE: usize = 64;

/// What is counted here.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    /// Of each family.
    pub listeners: [Tally; 2],
    /// Dials to endpoints that did not take a TCP connection.
    pub failed_dials: Count,
}

/// What serving needs beside snapshots.
#[derive(Debug)]
pub struct Site {
    pub budget: Arc<Budget>,
    pub counts: Counts,
    /// TCP connections are tasks of it, which go on when nobody listens any more.
    pub connections: TaskTracker,
    /// What a former process listened at.
    pub handed: Handed,
}

/// Listens for every node port of the published plan that has endpoints, on the loopback address of
/// the families that the node's plan names, until told to stop. `changes` says when to look. Returns what
/// it listened at, with the connections that wait there.
pub async fn serve(
    snapshot: Arc<ArcSwap<Snapshot>>,
    mut changes: watch::Receiver<()>,
    stop: CancellationToken,
    site: Site,
) -> Handed {
    let Site { budget, counts, connections, handed } = site;
    let mut listeners = Listeners::new(snapshot, budget);
    (listeners.connections, listeners.handed) = (connections, handed);
    listeners.failed_dials = counts.failed_dials;
    loop {
        changes.borrow_and_update();
        listeners.follow().await;
        for (tally, kept) in counts.listeners.iter().zip(&listeners.kept) {
            tally.set(kept.open_count(), kept.failures());
        }
        let retry_at = listeners.kept.iter().filter_map(Kept::retry_at).min();
        let wait = listen::change_or_retry(&mut changes, retry_at);
        if stop.run_until_cancelled(wait).await.is_none() {
            break;
        }
    }
    listeners.close().await
}

pub(super) struct Listeners {
    snapshot: Arc<ArcSwap<Snapshot>>,
    budget: Arc<Budget>,
    seen: Services,
    families: Families,
    /// Of each family.
    kept: [Kept<Place, Listener>; 2],
    /// Wanted, and not open.
    waiting: BTreeMap<Place, Port>,
    told: Told,
    failed_dials: Count,
    connections: TaskTracker,
    /// Not opened yet, and listened at by nobody.
    handed: Handed,
}

/// What is said once, whatever how many ports it concerns.
#[derive(Default)]
struct Told {
    sctp: bool,
    files: bool,
}

impl Listeners {
    pub(super) fn new(snapshot: Arc<ArcSwap<Snapshot>>, budget: Arc<Budget>) -> Self {
        Self {
            snapshot,
            budget,
            seen: Services::new(),
            families: Families::default(),
            kept: <[_; 2]>::default(),
            waiting: BTreeMap::new(),
            told: Told::default(),
            failed_dials: Count::default(),
            connections: TaskTracker::new(),
            handed: Handed::default(),
        }
    }

    /// Brings the sockets to what is published now, and tries those again that were refused.
    pub(super) async fn follow(&mut self) {
        let snapshot = self.snapshot.load();
        let (plan, programmed) = (snapshot.plan.clone(), snapshot.status.last_success.is_some());
        drop(snapshot);
        let families = Families::of(&plan.node);
        let changes = changes((&self.seen, self.families), (&plan.listening, families));
        (self.seen, self.families) = (plan.listening, families);
        for (place, port) in changes.places {
            let kept = &mut self.kept[place.family().index()];
            match (port, kept.get(&place)) {
                (Some(port), Some(listener)) => listener.served.update(port),
                (Some(port), None) => drop(self.waiting.insert(place, port)),
                (None, _) => {
                    self.waiting.remove(&place);
                    if let Some(listener) = kept.remove(&place) {
                        drop(listener.close().await);
                    }
                }
            }
        }
        if let Some((service, port)) = changes.sctp
            && !std::mem::replace(&mut self.told.sctp, true)
        {
            tracing::warn!(%service, port, "SCTP node ports are not answered on loopback addresses");
        }
        self.open().await;
        // Nobody's any more; but before the first plan is there, that is not known.
        if programmed {
            self.handed = Handed::default();
        }
    }

    async fn open(&mut self) {
        for (count, (place, port)) in std::mem::take(&mut self.waiting).into_iter().enumerate() {
            if count % AT_ONCE == AT_ONCE - 1 {
                tokio::task::yield_now().await;
            }
            let service = port.service.clone();
            let served = Served::new(port.clone(), self.failed_dials.clone());
            let handed = self.handed.0.remove(&place);
            let place_of = (place, handed);
            let opened = Listener::open(place_of, served, &self.budget, &self.connections);
            if opened.is_err() {
                self.waiting.insert(place, port);
            }
            let Place { at, protocol } = place;
            match self.kept[place.family().index()].offer(place, Instant::now(), opened) {
                Tried::Opened => tracing::debug!(%service, %at, %protocol, "node port listens"),
                Tried::OpenedAtLast => {
                    tracing::info!(%service, %at, %protocol, "node port listens now");
                }
                Tried::Refused(listen::Error::Files)
                    if std::mem::replace(&mut self.told.files, true) => {}
                Tried::Refused(error) if error.is_of_unused_family(at) => {
                    tracing::debug!(%at, "not answered: {error}");
                }
                Tried::Refused(error) => tracing::warn!(
                    %service,
                    %at,
                    %protocol,
                    "node port cannot be answered on a loopback address: {error}; trying again"
                ),
                Tried::StillRefused => {}
            }
        }
    }

    async fn close(self) -> Handed {
        let mut handed = self.handed;
        for listener in self.kept.into_iter().flat_map(Kept::into_open) {
            let place = listener.place;
            handed.0.extend(listener.close().await.map(|socket| (place, socket)));
        }
        handed
    }

    #[cfg(test)]
    pub(super) fn open_at(&self) -> Vec<Place> {
        self.kept.iter().flat_map(Kept::open).map(|(place, _)| *place).collect()
    }
}

/// A socket that is listened on until it is closed.
pub(super) struct Listener {
    place: Place,
    served: Arc<Served>,
    stop: CancellationToken,
    task: JoinHandle<Option<OwnedFd>>,
    _file: ListenerFile,
}

impl Listener {
    fn open(
        (place, handed): (Place, Option<OwnedFd>),
        served: Served,
        budget: &Arc<Budget>,
        connections: &TaskTracker,
    ) -> Result<Self, listen::Error> {
        let file = budget.listener().ok_or(listen::Error::Files)?;
        let (served, stop) = (Arc::new(served), CancellationToken::new());
        let (own, budget, end) = (Arc::clone(&served), Arc::clone(budget), stop.clone());
        let task = match place.protocol {
            Protocol::Udp => {
                let socket = match handed {
                    Some(socket) => UdpSocket::from_std(socket.into())?,
                    None => listen::udp(place.at)?,
                };
                tokio::spawn(udp::serve(socket, own, budget, end))
            }
            Protocol::Tcp | Protocol::Sctp => {
                let listener = match handed {
                    Some(socket) => TcpListener::from_std(socket.into())?,
                    None => listen::tcp(place.at)?,
                };
                let acceptor = Acceptor::new(listener);
                let serving = tcp::serve(acceptor, own, budget, (connections.clone(), end));
                tokio::spawn(serving)
            }
        };
        Ok(Self { place, served, stop, task, _file: file })
    }

    /// When it returns, and what it returns is closed, the port is free. Open connections go on.
    async fn close(self) -> Option<OwnedFd> {
        self.stop.cancel();
        self.task.await.ok().flatten()
    }
}
