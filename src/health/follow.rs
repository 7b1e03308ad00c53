//! Which servers there are.

use super::ports::{Followed, Ports};
use super::server::{Asked, CONNECTIONS, Server, Site};
use crate::events::{About, Notices, Reason};
use crate::listen::{self, Kept, Places, Tally, Tried};
use crate::model::{Family, ServiceKey};
use crate::planner::{HealthCheck, NodePlan};
use crate::sync::Snapshot;
use arc_swap::ArcSwap;
use imbl::OrdMap;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Answers at every `healthCheckNodePort` of the published plan, on each of the node's node-port
/// addresses, until told to stop. `changes` says when to look; how many endpoints there are is
/// looked up for each request. `tally` follows the sockets; `notices` is told of those that cannot be
/// opened.
pub async fn serve(
    snapshot: Arc<ArcSwap<Snapshot>>,
    mut changes: watch::Receiver<()>,
    stop: CancellationToken,
    (tally, notices): (Tally, Notices),
) {
    let mut servers = Servers::new(snapshot);
    servers.notices = notices;
    loop {
        changes.borrow_and_update();
        servers.follow().await;
        tally.set(servers.kept.open_count(), servers.kept.failures());
        let wait = listen::change_or_retry(&mut changes, servers.kept.retry_at());
        if stop.run_until_cancelled(wait).await.is_none() {
            break;
        }
    }
    servers.keep_only(&BTreeSet::new()).await;
}

pub(super) struct Servers {
    site: Arc<Site>,
    seen: OrdMap<ServiceKey, HealthCheck>,
    ports: Ports,
    asked: BTreeMap<u16, Arc<Asked>>,
    addresses: BTreeSet<IpAddr>,
    kept: Kept<SocketAddr, Server>,
    /// Services that were told to be without their port.
    told: BTreeSet<(u16, ServiceKey)>,
    /// Services whose port is answered nowhere.
    unanswered: BTreeSet<(u16, ServiceKey)>,
    pub(super) notices: Notices,
}

impl Servers {
    pub(super) fn new(snapshot: Arc<ArcSwap<Snapshot>>) -> Self {
        let places = Places::new(CONNECTIONS);
        Self {
            site: Arc::new(Site { snapshot, places }),
            seen: OrdMap::new(),
            ports: Ports::default(),
            asked: BTreeMap::new(),
            addresses: BTreeSet::new(),
            kept: Kept::default(),
            told: BTreeSet::new(),
            unanswered: BTreeSet::new(),
            notices: Notices::to_nobody(),
        }
    }

    /// Brings the sockets to what is published now, and tries those again that were refused.
    pub(super) async fn follow(&mut self) {
        let plan = self.site.snapshot.load().plan.clone();
        let followed = self.ports.follow(&self.seen, &plan.health_checks);
        self.seen = plan.health_checks;
        let addresses = addresses(&plan.node);
        if followed == Followed::Same && addresses == self.addresses {
            let refused = self.kept.refused();
            refused.into_iter().for_each(|at| self.open(at));
            return;
        }
        self.addresses = addresses;
        self.assign();
        if self.addresses.is_empty() && !self.asked.is_empty() {
            tracing::warn!(
                "the node has no address that --nodeport-addresses names: health checks of {} \
                 ports are not answered",
                self.asked.len()
            );
        }
        self.tell_unanswered();
        let ports = self.asked.keys();
        let wanted: BTreeSet<SocketAddr> = ports
            .flat_map(|port| self.addresses.iter().map(|ip| SocketAddr::new(*ip, *port)))
            .collect();
        self.keep_only(&wanted).await;
        for at in wanted {
            if self.kept.get(&at).is_none() {
                self.open(at);
            }
        }
    }

    /// Says which service each port answers for.
    fn assign(&mut self) {
        let holders: BTreeMap<u16, &ServiceKey> = self.ports.holders().collect();
        self.asked.retain(|port, _| holders.contains_key(port));
        for (port, service) in holders {
            match self.asked.get(&port) {
                Some(asked) if **asked.service.load() == *service => {}
                Some(asked) => asked.service.store(Arc::new(service.clone())),
                None => {
                    let service = ArcSwap::from_pointee(service.clone());
                    self.asked.insert(port, Arc::new(Asked { service, port }));
                }
            }
        }
        let losers: BTreeSet<_> = self.ports.losers().map(|(port, s)| (port, s.clone())).collect();
        for (port, service) in losers.difference(&self.told) {
            let holder = self.asked.get(port).map(|asked| asked.service.load().to_string());
            tracing::warn!(
                %service,
                holder = holder.unwrap_or_default(),
                "healthCheckNodePort {port} belongs to two services; it answers for the holder only"
            );
        }
        self.told = losers;
    }

    fn tell_unanswered(&mut self) {
        let unanswered: BTreeSet<_> = match self.addresses.is_empty() {
            true => self.ports.holders().map(|(port, service)| (port, service.clone())).collect(),
            false => BTreeSet::new(),
        };
        for (port, service) in unanswered.difference(&self.unanswered) {
            let reason = Reason::FailedToStartServiceHealthcheck;
            let note = format!(
                "this node has no address that --nodeport-addresses names: health checks at port \
                 {port} are not answered"
            );
            self.notices.tell(About::service(service), reason, note);
        }
        self.unanswered = unanswered;
    }

    fn open(&mut self, at: SocketAddr) {
        let Some(asked) = self.asked.get(&at.port()) else { return };
        let opened = Server::open(at, Arc::clone(asked), Arc::clone(&self.site));
        let service = asked.service.load();
        match self.kept.offer(at, Instant::now(), opened) {
            Tried::Opened => tracing::debug!(%service, %at, "health checks are answered"),
            Tried::OpenedAtLast => tracing::info!(%service, %at, "health checks are answered now"),
            Tried::Refused(error) if error.is_of_unused_family(at) => {
                tracing::debug!(%at, "not answered: {error}");
            }
            Tried::Refused(error) => {
                let what = format!("healthCheckNodePort cannot be answered: {error}; trying again");
                tracing::warn!(%service, %at, "{what}");
                let reason = Reason::FailedToStartServiceHealthcheck;
                self.notices.tell(About::service(&service), reason, format!("{at}: {what}"));
            }
            Tried::StillRefused => {}
        }
    }

    async fn keep_only(&mut self, wanted: &BTreeSet<SocketAddr>) {
        for server in self.kept.remove_others(wanted) {
            server.close().await;
        }
    }

    #[cfg(test)]
    pub(super) fn open_at(&self) -> Vec<SocketAddr> {
        self.kept.open().map(|(at, _)| *at).collect()
    }
}

/// Node ports are answered there, and so are health checks.
fn addresses(node: &NodePlan) -> BTreeSet<IpAddr> {
    let loopback = Family::BOTH.into_iter().zip(node.localhost_health_checks);
    let loopback = loopback.filter(|(_, answered)| *answered).map(|(family, _)| match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::LOCALHOST),
        Family::V6 => IpAddr::V6(Ipv6Addr::LOCALHOST),
    });
    node.node_port_addresses.iter().copied().chain(loopback).collect()
}
