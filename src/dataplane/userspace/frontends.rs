//! What is relayed at present, by frontend, and what is counted of it.

use super::counts::{Counts, Number};
use super::handed::PortMemory;
use super::late::Late;
use super::relayed::{PortId, Relayed};
use super::served::{Caller, Open, Port, Served, Way};
use crate::model::{Family, Protocol, ServiceKey};
use crate::planner::{FrontendAddress, FrontendKey, NodePlan, Plan, Target};
use arc_swap::ArcSwap;
use imbl::OrdMap;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Read by all connections, written by one caller.
#[derive(Debug)]
pub struct Frontends {
    table: ArcSwap<Table>,
    node: ArcSwap<NodePlan>,
    known: Mutex<Known>,
    drain: Duration,
    pub(super) strays: Number,
    /// Changes when sessions may have lost their frontend, or have other limits.
    review: watch::Sender<()>,
}

type Table = OrdMap<FrontendKey, Arc<Served>>;
type PortKey = (ServiceKey, PortId);

/// What frontends share. It lives as long as a frontend or a connection has it, and is found here
/// again while it does.
#[derive(Debug, Default)]
struct Known {
    ports: BTreeMap<PortKey, KnownPort>,
    services: BTreeMap<ServiceKey, Weak<Open>>,
    addresses: BTreeMap<IpAddr, Weak<Open>>,
    late: Late,
}

#[derive(Debug, Default)]
struct KnownPort {
    port: Weak<Port>,
    /// Each once.
    frontends: Vec<FrontendKey>,
}

impl KnownPort {
    /// What the kernel carries and nobody of this node asks for by a loopback address is left out.
    fn with_something_to_tell(&self, table: &Table) -> Option<Arc<Port>> {
        let port = self.port.upgrade()?;
        let mut frontends = self.frontends.iter().filter_map(|at| table.get(at));
        let of_kernel = frontends.all(|served| served.way == Way::OwnSocket);
        (!of_kernel || !port.is_unused()).then_some(port)
    }
}

impl Frontends {
    /// `drain`: how long what is open to an endpoint that serves no more may go on.
    pub fn new(drain: Duration) -> Self {
        Self {
            drain,
            table: ArcSwap::default(),
            node: ArcSwap::new(Plan::empty().node),
            known: Mutex::default(),
            strays: Number::default(),
            review: watch::Sender::new(()),
        }
    }

    pub fn set_node(&self, node: Arc<NodePlan>) {
        let before = self.node.swap(Arc::clone(&node));
        let answers =
            |node: &NodePlan| (node.node_port_addresses.clone(), node.localhost_node_ports);
        if !Arc::ptr_eq(&before, &node) && answers(&before) != answers(&node) {
            self.review.send_replace(());
        }
    }

    /// For who looks after sessions: each holds the address that it answers from, and would take what
    /// is sent to who has that by then.
    pub(super) fn review(&self) -> watch::Receiver<()> {
        self.review.subscribe()
    }

    pub(super) fn node(&self) -> Arc<NodePlan> {
        self.node.load_full()
    }

    /// Whose connection it is that came for this address and port.
    pub(super) fn find(&self, protocol: Protocol, to: SocketAddr) -> Option<Arc<Served>> {
        let (table, address, port) = (self.table.load(), to.ip(), to.port());
        let at = FrontendAddress::Address(address);
        if let Some(served) = table.get(&FrontendKey { at, protocol, port }) {
            return Some(Arc::clone(served));
        }
        self.find_node_port(&table, protocol, to)
    }

    /// The same of a connection that was accepted at `now`. It may have been made before its frontend was
    /// relayed no more: who is connected is not told otherwise by a reset.
    pub(super) fn find_accepted(&self, to: SocketAddr, now: Instant) -> Option<Arc<Served>> {
        self.find(Protocol::Tcp, to).or_else(|| {
            let (known, address, port) = (self.known(), to.ip(), to.port());
            let at = |at| FrontendKey { at, protocol: Protocol::Tcp, port };
            let former = known.late.get(&at(FrontendAddress::Address(address)), now);
            former.or_else(|| {
                let node_port = at(FrontendAddress::NodePort(Family::of(address)));
                known.late.get(&node_port, now)
            })
        })
    }

    /// The same of what interception led here: what a frontend with a socket of its own is sent later has
    /// to come by that.
    pub(super) fn find_led(&self, protocol: Protocol, to: SocketAddr) -> Option<Arc<Served>> {
        let table = self.table.load();
        let at = FrontendAddress::Address(to.ip());
        let served = table.get(&FrontendKey { at, protocol, port: to.port() });
        match served.filter(|served| served.way == Way::Interception) {
            Some(served) => Some(Arc::clone(served)),
            None => self.find_node_port(&table, protocol, to),
        }
    }

    fn find_node_port(
        &self,
        table: &Table,
        protocol: Protocol,
        to: SocketAddr,
    ) -> Option<Arc<Served>> {
        let (address, port) = (to.ip(), to.port());
        let (node, family) = (self.node.load(), Family::of(address));
        let answers = if address.is_loopback() {
            node.localhost_node_ports[family.index()]
        } else {
            node.answers_node_ports_at(address)
        };
        let at = FrontendAddress::NodePort(family);
        let served = table.get(&FrontendKey { at, protocol, port });
        served.filter(|_| answers).map(Arc::clone)
    }

    /// Whom a new connection of a client may be passed on to, whatever the balancer; `None`: it is not
    /// relayed.
    pub fn endpoints(
        &self,
        client: IpAddr,
        protocol: Protocol,
        to: SocketAddr,
    ) -> Option<Vec<Target>> {
        let node = self.node.load();
        self.find(protocol, to)?.endpoints(&Caller { client, node: &node })
    }

    /// Whether an endpoint is a relayed frontend itself: a connection to it would come back here, and
    /// so on, each with files of its own. The kernel translates once, and nobody answers then.
    pub(super) fn leads_back(&self, protocol: Protocol, to: Target) -> bool {
        self.find(protocol, SocketAddr::new(to.address, to.port)).is_some()
    }

    pub fn update(&self, changes: Vec<(FrontendKey, Option<Relayed>)>) {
        self.update_by(Way::Interception, changes);
    }

    pub(super) fn update_by(&self, way: Way, changes: Vec<(FrontendKey, Option<Relayed>)>) {
        let (mut known, now) = (self.known(), Instant::now());
        let mut table = Table::clone(&self.table.load());
        known.late.forget(now);
        let (mut touched, mut review) = (BTreeSet::new(), false);
        for (key, relayed) in changes {
            let before = table.get(&key);
            if let (Some(served), Some(relayed)) = (before, &relayed)
                && served.port.service == relayed.service
                && served.port.id == relayed.port
            {
                touched.insert(port_key(&served.port));
                let other_limits = served.port.set_limits(relayed.limits);
                review |= other_limits && key.protocol == Protocol::Udp;
                served.update(Some(relayed.clone()));
                continue;
            }
            if let Some(served) = table.remove(&key) {
                // The former table has it, and who is served.
                review |= key.protocol == Protocol::Udp && Arc::strong_count(&served) > 2;
                served.update(None);
                let port = port_key(&served.port);
                if let Some(port) = known.ports.get_mut(&port) {
                    port.frontends.retain(|at| *at != key);
                }
                touched.insert(port);
                known.late.note(key, served, now);
            }
            if let Some(relayed) = relayed {
                table.insert(key, Arc::new(known.served((key, way), relayed)));
            }
        }
        let ends_at = now + self.drain;
        for port in touched {
            known.settle(port, &table, ends_at);
        }
        self.table.store(Arc::new(table));
        if review {
            self.review.send_replace(());
        }
    }

    /// Those that have a socket of their own.
    pub(super) fn with_own_socket(&self) -> Vec<FrontendKey> {
        let table = self.table.load();
        let own = table.iter().filter(|(_, served)| served.way == Way::OwnSocket);
        own.map(|(at, _)| *at).collect()
    }

    pub(super) fn has_own_socket(&self, at: &FrontendKey) -> bool {
        self.table.load().get(at).is_some_and(|served| served.way == Way::OwnSocket)
    }

    /// Whether a connection to it is open, or may come yet.
    pub(super) fn is_busy(&self, address: IpAddr, now: Instant) -> bool {
        let known = self.known();
        let open = known.addresses.get(&address).and_then(Weak::upgrade);
        open.is_some_and(|open| open.get() > 0) || known.late.has(address, now)
    }

    pub(super) fn counts(&self, now: Instant) -> Counts {
        let mut known = self.known();
        known.late.forget(now);
        known.forget();
        let table = self.table.load();
        let ports: Vec<Arc<Port>> =
            known.ports.values().filter_map(|port| port.with_something_to_tell(&table)).collect();
        drop(known);
        let ports = ports.iter().map(|port| port.counts(now)).collect();
        Counts { ports, strays: self.strays.get() }
    }

    /// What choices remember, for the next process.
    pub(super) fn memory(&self, now: Instant) -> Vec<PortMemory> {
        let ports: Vec<Arc<Port>> =
            self.known().ports.values().filter_map(|known| known.port.upgrade()).collect();
        let memory = |port: &Arc<Port>| PortMemory {
            service: port.service.clone(),
            port: port.id.clone(),
            memory: port.picker().memory(now),
        };
        ports.iter().map(memory).collect()
    }

    /// Takes over what a former process remembered of ports that are relayed here.
    pub(super) fn remember(&self, memory: Vec<PortMemory>, now: Instant) {
        for PortMemory { service, port, memory } in memory {
            let known =
                self.known().ports.get(&(service, port)).and_then(|known| known.port.upgrade());
            if let Some(port) = known {
                port.picker().remember(memory, now);
            }
        }
    }

    /// A panic while it is held leaves nothing half-written that a later look-up would mind.
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn served(&mut self, (key, way): (FrontendKey, Way), relayed: Relayed) -> Served {
        let service = self.services.entry(relayed.service.clone()).or_default();
        let of_service = found_or(service, Open::default);
        // Sessions are not counted: what they send needs nothing to lead packets here.
        let at_address = match (key.at, key.protocol) {
            (FrontendAddress::Address(address), Protocol::Tcp) => {
                Some(found_or(self.addresses.entry(address).or_default(), Open::default))
            }
            _ => None,
        };
        let (service, id) = (relayed.service.clone(), relayed.port.clone());
        let known = self.ports.entry((service.clone(), id.clone())).or_default();
        known.frontends.push(key);
        let limits = relayed.limits;
        let port = found_or(&mut known.port, || Port::new((service, id), of_service, limits));
        port.set_limits(limits);
        Served::new(port, (way, at_address), relayed)
    }

    /// A port's endpoints may have gone, or its affinity, or the port. What is open to an endpoint that
    /// serves no more has until `ends_at`.
    fn settle(&mut self, port: PortKey, table: &Table, ends_at: Instant) {
        let Some(known) = self.ports.get(&port) else { return };
        let Some(living) = known.port.upgrade() else {
            self.ports.remove(&port);
            return;
        };
        let frontends: Vec<&Arc<Served>> =
            known.frontends.iter().filter_map(|key| table.get(key)).collect();
        let mut targets: Vec<Target> =
            frontends.iter().flat_map(|served| served.targets()).collect();
        targets.sort_unstable();
        let mut picker = living.picker();
        let is_endpoint = |target| targets.binary_search(&target).is_ok();
        picker.retain(is_endpoint);
        living.upstreams.retain(is_endpoint);
        targets.extend(frontends.iter().flat_map(|served| served.serving()));
        targets.sort_unstable();
        picker.end_others(|target| targets.binary_search(&target).is_ok(), ends_at);
        if !frontends.iter().any(|served| served.has_affinity()) {
            picker.unpin_all();
        }
    }

    /// What neither a frontend nor a connection has any more.
    fn forget(&mut self) {
        self.ports.retain(|_, known| known.port.strong_count() > 0);
        self.services.retain(|_, open| open.strong_count() > 0);
        self.addresses.retain(|_, open| open.strong_count() > 0);
    }
}

fn port_key(port: &Port) -> PortKey {
    (port.service.clone(), port.id.clone())
}

fn found_or<T>(known: &mut Weak<T>, new: impl FnOnce() -> T) -> Arc<T> {
    known.upgrade().unwrap_or_else(|| {
        let made = Arc::new(new());
        *known = Arc::downgrade(&made);
        made
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::userspace::dials::Dials;
    use crate::dataplane::userspace::late::LATE;
    use crate::model::{Balancer, Limits};
    use crate::planner::Reach;
    use std::num::NonZeroU32;

    fn targets(lasts: &[u8]) -> Box<[Target]> {
        let target = |last| Target { address: IpAddr::from([10, 180, 0, last]), port: 8080 };
        lasts.iter().map(|last| target(*last)).collect()
    }

    fn relayed(service: &str, lasts: &[u8]) -> Relayed {
        Relayed {
            service: ServiceKey::new("ns", service),
            port: PortId { name: "".into(), protocol: Protocol::Tcp, family: Family::V4 },
            reach: Reach::Cluster,
            cluster: targets(lasts),
            local: Box::default(),
            serving: Box::default(),
            affinity: NonZeroU32::new(600),
            balancer: Balancer::RoundRobin,
            proxy_protocol: None,
            requests: None,
            limits: Limits::default(),
            allow: None,
        }
    }

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn address(text: &str) -> FrontendKey {
        let at = at(text);
        FrontendKey {
            at: FrontendAddress::Address(at.ip()),
            protocol: Protocol::Tcp,
            port: at.port(),
        }
    }

    fn node_port(port: u16) -> FrontendKey {
        FrontendKey { at: FrontendAddress::NodePort(Family::V4), protocol: Protocol::Tcp, port }
    }

    fn node() -> NodePlan {
        NodePlan {
            node_port_addresses: vec![IpAddr::from([192, 0, 2, 1])],
            localhost_node_ports: [true, false],
            ..NodePlan::clone(&Plan::empty().node)
        }
    }

    fn service(frontends: &Frontends, to: &str) -> Option<String> {
        let served = frontends.find(Protocol::Tcp, at(to))?;
        Some(served.port.service.name().to_owned())
    }

    #[test]
    fn a_frontend_is_found_by_its_address_or_as_a_node_port() {
        let frontends = Frontends::new(Duration::from_secs(600));
        frontends.update(vec![
            (address("10.96.0.1:80"), Some(relayed("web", &[1]))),
            (address("192.0.2.1:30080"), Some(relayed("external", &[1]))),
            (node_port(30080), Some(relayed("web", &[1]))),
            (node_port(30081), Some(relayed("other", &[1]))),
        ]);
        assert_eq!(service(&frontends, "127.0.0.1:30080"), None, "the node plan is not known");
        frontends.set_node(Arc::new(node()));
        let found = [
            ("10.96.0.1:80", Some("web")),
            ("10.96.0.1:81", None),
            ("10.96.0.2:30080", None),
            ("192.0.2.1:30080", Some("external")),
            ("192.0.2.1:30081", Some("other")),
            ("192.0.2.2:30081", None),
            ("127.0.0.1:30080", Some("web")),
            ("127.1.2.3:30081", Some("other")),
            ("[::1]:30080", None),
        ];
        for (to, name) in found {
            assert_eq!(service(&frontends, to).as_deref(), name, "{to}");
        }
        assert!(frontends.find(Protocol::Udp, at("10.96.0.1:80")).is_none());
        frontends.update(vec![(node_port(30080), None), (address("10.96.0.1:80"), None)]);
        assert_eq!(service(&frontends, "127.0.0.1:30080"), None);
        assert_eq!(service(&frontends, "10.96.0.1:80"), None);
    }

    fn choose(frontends: &Frontends, to: &str) -> Option<Target> {
        let (served, node) = (frontends.find(Protocol::Tcp, at(to))?, node());
        let caller = Caller { client: IpAddr::from([10, 0, 0, 1]), node: &node };
        Some(served.choose(&caller, &Dials::default())?.endpoint.target)
    }

    #[test]
    fn frontends_of_a_port_share_its_pins() {
        let frontends = Frontends::new(Duration::from_secs(600));
        frontends.update(vec![
            (address("10.96.0.1:80"), Some(relayed("web", &[1, 2, 3]))),
            (address("10.96.0.2:80"), Some(relayed("web", &[1, 2, 3]))),
            (address("10.96.0.3:80"), Some(relayed("other", &[1, 2, 3]))),
        ]);
        let first = choose(&frontends, "10.96.0.1:80");
        assert_eq!(choose(&frontends, "10.96.0.2:80"), first);
        let counts = frontends.counts(Instant::now());
        let names: Vec<&str> = counts.ports.iter().map(|port| port.service.name()).collect();
        assert_eq!(names, ["other", "web"]);
        assert_eq!(counts.ports[1].endpoints.len(), 1);
    }

    #[test]
    fn a_frontend_that_another_service_takes_is_another_one() {
        let frontends = Frontends::new(Duration::from_secs(600));
        let key = address("10.96.0.1:80");
        frontends.update(vec![(key, Some(relayed("web", &[1])))]);
        let former = frontends.find(Protocol::Tcp, at("10.96.0.1:80")).unwrap();
        let node = node();
        let caller = Caller { client: IpAddr::from([10, 0, 0, 1]), node: &node };
        frontends.update(vec![(key, Some(relayed("web", &[2])))]);
        let chosen = former.choose(&caller, &Dials::default()).unwrap();
        assert_eq!(chosen.endpoint.target, targets(&[2])[0], "who dials sees the change");
        frontends.update(vec![(key, Some(relayed("other", &[3])))]);
        let last = former.choose(&caller, &Dials::default()).unwrap();
        assert_eq!(last.endpoint.target, targets(&[2])[0], "who came before is its client");
        assert!(!former.is_relayed());
        assert_eq!(choose(&frontends, "10.96.0.1:80"), Some(targets(&[3])[0]));
    }

    #[test]
    fn an_address_is_busy_while_a_connection_is_open() {
        let frontends = Frontends::new(Duration::from_secs(600));
        let (key, ip) = (address("10.96.0.1:80"), IpAddr::from([10, 96, 0, 1]));
        let is_busy = |later| frontends.is_busy(ip, Instant::now() + later);
        frontends.update(vec![(key, Some(relayed("web", &[1])))]);
        assert!(!is_busy(LATE));
        let served = frontends.find(Protocol::Tcp, at("10.96.0.1:80")).unwrap();
        let open = served.open(2).unwrap();
        let second = served.open(2).unwrap();
        assert!(served.open(2).is_none(), "as many as there may be");
        assert!(is_busy(LATE));
        frontends.update(vec![(key, None)]);
        drop((second, served));
        assert!(is_busy(LATE));
        assert!(is_busy(Duration::ZERO));
        // The address comes back and the connection is still counted.
        frontends.update(vec![(key, Some(relayed("web", &[1])))]);
        drop(open);
        assert!(!is_busy(LATE));
        frontends.update(vec![(key, None)]);
        assert!(!is_busy(LATE));
        assert_eq!(frontends.counts(Instant::now()).ports.len(), 0);
    }

    #[test]
    fn who_was_connected_before_is_served() {
        let frontends = Frontends::new(Duration::from_secs(600));
        frontends.set_node(Arc::new(node()));
        let keys = [address("10.96.0.1:80"), node_port(30080)];
        frontends.update(keys.map(|key| (key, Some(relayed("web", &[1])))).into());
        frontends.update(keys.map(|key| (key, None)).into());
        let now = Instant::now();
        for to in ["10.96.0.1:80", "192.0.2.1:30080"].map(at) {
            assert!(frontends.find(Protocol::Tcp, to).is_none());
            let late = frontends.find_accepted(to, now).unwrap();
            assert_eq!(late.port.service.name(), "web");
            assert!(frontends.find_accepted(to, now + LATE).is_none());
        }
        assert!(frontends.find_accepted(at("10.96.0.1:81"), now).is_none());
        assert!(!frontends.is_busy(IpAddr::from([10, 96, 0, 2]), now));
        // One that comes again meanwhile is found as it is then.
        frontends.update(vec![(keys[0], Some(relayed("other", &[2])))]);
        let found = frontends.find_accepted(at("10.96.0.1:80"), now).unwrap();
        assert_eq!(found.port.service.name(), "other");
        frontends.known().late.forget(now + LATE);
        assert!(frontends.known().late.is_empty());
    }
}
