//! A frontend and its Service port, as connections see them.

use super::choose::{Ask, Chosen, Picker};
use super::counts::{Held, Number, PortCounts, connect_times};
use super::dials::{Dials, Failure};
use super::maglev::Maglev;
use super::relayed::{PortId, Relayed};
use super::requests::Upstreams;
use crate::histogram::Histogram;
use crate::model::{Balancer, HttpVersion, Limits, ProxyProtocol, ServiceKey};
use crate::planner::{NodePlan, Reach, Scope, Target};
use arc_swap::{ArcSwap, ArcSwapOption};
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// A Service port in one family.
#[derive(Debug)]
pub(super) struct Port {
    pub service: ServiceKey,
    pub id: PortId,
    picker: Mutex<Picker>,
    /// Connections and sessions of the whole Service.
    open: Arc<Open>,
    /// Of the whole Service.
    limits: ArcSwap<Limits>,
    /// What requests are sent on.
    pub upstreams: Upstreams,
    pub refused: Number,
    pub unserved: Number,
    /// Of clients that may not ask at all.
    pub denied: Number,
    /// Once there is a connection.
    connect_times: OnceLock<Histogram>,
}

impl Port {
    pub(super) fn new(
        (service, id): (ServiceKey, PortId),
        open: Arc<Open>,
        limits: Limits,
    ) -> Self {
        Self {
            service,
            id,
            picker: Mutex::default(),
            open,
            limits: ArcSwap::from_pointee(limits),
            upstreams: Upstreams::default(),
            refused: Number::default(),
            unserved: Number::default(),
            denied: Number::default(),
            connect_times: OnceLock::new(),
        }
    }

    pub(super) fn limits(&self) -> Limits {
        **self.limits.load()
    }

    /// Also for what is open. Whether they are others.
    pub(super) fn set_limits(&self, limits: Limits) -> bool {
        let changed = self.limits() != limits;
        if changed {
            self.limits.store(Arc::new(limits));
            self.picker().tell_all();
        }
        changed
    }

    /// A panic while it is held leaves a whole picker: what it holds is written at once.
    pub(super) fn picker(&self) -> MutexGuard<'_, Picker> {
        self.picker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether nobody has come by it.
    pub(super) fn is_unused(&self) -> bool {
        self.refused.get() == 0 && self.unserved.get() == 0 && self.picker().is_unused()
    }

    pub(super) fn counts(&self, now: Instant) -> PortCounts {
        let picker = self.picker();
        let (unpinned, endpoints) = (picker.unpinned(), picker.counts(now));
        drop(picker);
        PortCounts {
            service: self.service.clone(),
            port: self.id.clone(),
            refused: self.refused.get(),
            unserved: self.unserved.get(),
            denied: self.denied.get(),
            unpinned,
            connect_times: self.connect_times.get().cloned().unwrap_or_else(connect_times),
            endpoints,
        }
    }
}

/// How many connections and sessions something has.
#[derive(Debug, Default)]
pub(super) struct Open(AtomicU64);

impl Open {
    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One of them, until this is dropped.
#[derive(Debug)]
pub(super) struct Opened(Arc<Open>);

impl Opened {
    /// `None`: there are as many as there may be.
    pub(super) fn within(open: &Arc<Open>, most: u64) -> Option<Self> {
        let before = open.0.fetch_add(1, Ordering::Relaxed);
        let opened = Self(Arc::clone(open));
        (before < most).then_some(opened)
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Who connects, and where.
#[derive(Debug, Clone, Copy)]
pub(super) struct Caller<'a> {
    pub client: IpAddr,
    pub node: &'a NodePlan,
}

/// How what comes for a frontend gets here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Interception,
    /// One that is bound to the frontend's address and port: packets need not be led here.
    OwnSocket,
}

/// A frontend. It stays the same one while its endpoints change, so that a connection which is
/// dialling sees the change.
#[derive(Debug)]
pub(super) struct Served {
    pub port: Arc<Port>,
    /// Connections at the frontend's address, if it is one that may not be the node's own.
    at_address: Option<Arc<Open>>,
    pub way: Way,
    /// `None`: it is relayed no more.
    wanted: ArcSwapOption<Wanted>,
    /// What it was, once it is not: whose connection was made before goes by this.
    last: ArcSwapOption<Wanted>,
    /// It is not, and will not be again: who comes back to the frontend finds another one.
    closed: Notify,
}

#[derive(Debug)]
struct Wanted {
    relayed: Relayed,
    /// Of the cluster's endpoints and of the local ones, where that is the balancer.
    maglev: Option<[Maglev; 2]>,
}

impl Wanted {
    fn new(relayed: Relayed) -> Self {
        let maglev = (relayed.balancer == Balancer::Maglev)
            .then(|| [&relayed.cluster, &relayed.local].map(|targets| Maglev::new(targets)));
        Self { relayed, maglev }
    }

    fn ask<'a>(&'a self, caller: &Caller<'_>, tried: &'a Dials) -> Ask<'a> {
        let scope = self.relayed.scope(caller.client, caller.node);
        let maglev = self.maglev.as_ref().map(|[cluster, local]| match scope {
            Scope::Cluster => cluster,
            Scope::Local => local,
        });
        Ask {
            targets: self.relayed.targets(scope),
            maglev,
            balancer: self.relayed.balancer,
            affinity: self.relayed.affinity,
            tried,
            client: whose(caller.client),
            now: Instant::now(),
            random: random(),
        }
    }
}

impl Served {
    pub(super) fn new(
        port: Arc<Port>,
        (way, at_address): (Way, Option<Arc<Open>>),
        relayed: Relayed,
    ) -> Self {
        let wanted = ArcSwapOption::from_pointee(Wanted::new(relayed));
        let last = ArcSwapOption::empty();
        Self { port, at_address, way, wanted, last, closed: Notify::new() }
    }

    /// New connections go by this; open ones stay where they are. `None`: there are no new ones, but for
    /// those that the kernel has made by then.
    pub(super) fn update(&self, relayed: Option<Relayed>) {
        let Some(relayed) = relayed else {
            if let Some(last) = self.wanted.load_full() {
                self.last.store(Some(last));
                self.wanted.store(None);
            }
            self.closed.notify_waiters();
            return;
        };
        self.wanted.store(Some(Arc::new(Wanted::new(relayed))));
    }

    /// What a connection goes by that has been made.
    fn asked(&self) -> Option<Arc<Wanted>> {
        // It is stored before the other goes.
        self.wanted.load_full().or_else(|| self.last.load_full())
    }

    /// Whether a client may ask at all; one that may not is counted.
    pub(super) fn admits(&self, client: IpAddr) -> bool {
        let wanted = self.asked();
        let admits = wanted.as_ref().is_none_or(|wanted| wanted.relayed.allows(client));
        if !admits {
            self.port.denied.add(1);
        }
        admits
    }

    /// Where the next dial of a connection goes.
    pub(super) fn choose(&self, caller: &Caller<'_>, tried: &Dials) -> Option<Chosen> {
        let wanted = self.asked()?;
        self.port.picker().choose(&wanted.ask(caller, tried))
    }

    /// The endpoint did not take a connection, or refused a datagram.
    pub(super) fn failed(&self, caller: &Caller<'_>, target: Target, failure: Failure) {
        let (wanted, tried) = (self.asked(), Dials::default());
        if let Some(wanted) = wanted {
            self.port.picker().failed(&wanted.ask(caller, &tried), target, failure);
        }
    }

    /// The endpoint took a connection, and broke it off before it said anything.
    pub(super) fn broke_off(&self, caller: &Caller<'_>, target: Target) {
        let (wanted, tried) = (self.asked(), Dials::default());
        if let Some(wanted) = wanted {
            self.port.picker().broke_off(&wanted.ask(caller, &tried), target);
        }
    }

    pub(super) fn connected(&self, endpoint: &Held, took: Duration) {
        endpoint.opened.add(1);
        self.port.connect_times.get_or_init(connect_times).observe(took);
        self.port.picker().connected(endpoint.target);
    }

    /// An endpoint that answered datagrams.
    pub(super) fn answered(&self, endpoint: &Held) {
        self.port.picker().connected(endpoint.target);
    }

    /// An endpoint that has a session from before.
    pub(super) fn hold(&self, target: Target) -> Held {
        self.port.picker().hold(target)
    }

    /// Where the first dial of a connection may go.
    pub(super) fn endpoints(&self, caller: &Caller<'_>) -> Option<Vec<Target>> {
        let (wanted, untried) = (self.wanted.load(), Dials::default());
        Some(wanted.as_ref()?.ask(caller, &untried).targets.to_vec())
    }

    /// Whether a client has no endpoint where others have some: as the kernel's rules have it then, it is
    /// told nothing.
    pub(super) fn drops(&self, caller: &Caller<'_>) -> bool {
        let wanted = self.wanted.load();
        let asks = wanted.as_ref().is_some_and(|wanted| wanted.relayed.reach != Reach::Cluster);
        asks && self.endpoints(caller).is_some_and(|endpoints| endpoints.is_empty())
    }

    /// Whether a session may stay there.
    pub(super) fn has(&self, caller: &Caller<'_>, target: Target) -> bool {
        let wanted = self.wanted.load();
        wanted.as_ref().is_some_and(|wanted| {
            let scope = wanted.relayed.scope(caller.client, caller.node);
            let lists = [wanted.relayed.targets(scope), &wanted.relayed.serving];
            lists.iter().any(|targets| targets.binary_search(&target).is_ok())
        })
    }

    pub(super) fn is_relayed(&self) -> bool {
        self.wanted.load().is_some()
    }

    /// Until the frontend is relayed no more.
    pub(super) async fn closed(&self) {
        // Before the look: it is woken from here on.
        let closed = self.closed.notified();
        if self.is_relayed() {
            closed.await;
        }
    }

    /// How requests are spoken, where they are balanced.
    pub(super) fn requests(&self) -> Option<HttpVersion> {
        self.wanted.load().as_ref()?.relayed.requests
    }

    pub(super) fn proxy_protocol(&self) -> Option<ProxyProtocol> {
        self.asked()?.relayed.proxy_protocol
    }

    pub(super) fn has_affinity(&self) -> bool {
        self.wanted.load().as_ref().is_some_and(|wanted| wanted.relayed.affinity.is_some())
    }

    /// Whether somebody has another endpoint.
    pub(super) fn has_others(&self, target: Target) -> bool {
        self.asked().is_some_and(|wanted| {
            let Relayed { cluster, local, .. } = &wanted.relayed;
            cluster.iter().chain(local).any(|other| *other != target)
        })
    }

    /// All endpoints, whoever comes.
    pub(super) fn targets(&self) -> Vec<Target> {
        let wanted = self.wanted.load();
        let lists = wanted.iter().flat_map(|wanted| {
            let Relayed { cluster, local, serving, .. } = &wanted.relayed;
            [cluster, local, serving]
        });
        lists.flatten().copied().collect()
    }

    /// Endpoints that keep their connections.
    pub(super) fn serving(&self) -> Vec<Target> {
        let wanted = self.wanted.load();
        wanted.iter().flat_map(|wanted| &wanted.relayed.serving).copied().collect()
    }

    /// For one more connection; `None`: its Service has as many as it may.
    pub(super) fn open(&self, most: u64) -> Option<(Opened, Option<Opened>)> {
        let of_service = Opened::within(&self.port.open, most)?;
        let at_address = self.at_address.as_ref().and_then(|open| Opened::within(open, u64::MAX));
        Some((of_service, at_address))
    }
}

/// Whom a client counts as: all loopback addresses are this node.
fn whose(client: IpAddr) -> IpAddr {
    match client {
        IpAddr::V4(v4) if v4.is_loopback() => Ipv4Addr::LOCALHOST.into(),
        other => other,
    }
}

/// Each hasher of std's is keyed anew.
pub fn random() -> u64 {
    RandomState::new().hash_one(())
}
