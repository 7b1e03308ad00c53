//! Plans to what is relayed, led to the relay, and routed. PURE.
//!
//! In: plans and their differences. Out: a [`Turn`] from what is there to what shall be.
//! Never: work beyond the services that changed; a socket.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use super::relayed::{PortId, Relayed};
use super::sets::{Placed, guarded_element, leading_element, node_element, untracked_element};
use crate::model::{Balancer, Family, Limits, ProxyMode, ServiceKey};
use crate::planner::{
    Action, Carrier, Frontend, FrontendAddress, FrontendKey, NodePlan, Outsiders, Plan, Pool,
    PortPlan, Reach, ServiceDelta, ServicePlan, Target, Way,
};
use foldhash::HashMap;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Whether what the node itself sends to a frontend is left to the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guard {
    Open,
    /// All may ask, but not all are sent to the same endpoints, and some to none: the kernel's rules
    /// must have a look at each client.
    Judged,
    /// Not everybody may ask: the rule that knows who may is the kernel's, and what the node sends
    /// would step over it.
    Guarded,
}

impl Guard {
    fn of(frontend: &Frontend, reach: Reach) -> Self {
        match (&frontend.allow, reach) {
            (Some(_), _) => Guard::Guarded,
            (None, Reach::LocalFromOutside) => Guard::Judged,
            (None, Reach::Cluster | Reach::Local) => Guard::Open,
        }
    }
}

/// How a frontend's packets come to the relay, and which do not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Led {
    pub guard: Guard,
    pub way: Way,
}

/// What shall be relayed at a frontend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    pub relayed: Relayed,
    pub led: Led,
}

/// By the default balancer and limits.
pub(super) fn relayed(
    service: &ServiceKey,
    (port, frontend): (&PortPlan, &Frontend),
    reach: Reach,
) -> Relayed {
    let targets = |pool: &Pool| -> Box<[Target]> { pool.keys().copied().collect() };
    Relayed {
        service: service.clone(),
        port: PortId { name: port.name.clone(), protocol: port.protocol, family: port.family },
        reach,
        cluster: targets(&port.cluster),
        local: targets(&port.local),
        serving: port.serving.clone(),
        affinity: port.affinity,
        balancer: Balancer::default(),
        proxy_protocol: None,
        requests: None,
        limits: Limits::default(),
        allow: frontend.allow.clone(),
    }
}

/// What becomes of who came to the relay for a frontend that the kernel has from now on. `None`: it is
/// no Service's any more.
pub fn relayed_last(plan: &Plan, at: &FrontendKey) -> Option<Relayed> {
    let service = plan.service(plan.claims.holder(at)?)?;
    let (port, frontend) = service.held().find(|(_, frontend)| frontend.at == *at)?;
    let Action::Forward(forward) = frontend.action else { return None };
    Some(relayed(&service.key, (port, frontend), forward.reach))
}

/// The relayed frontends that a service holds.
pub fn wanted(plan: &ServicePlan) -> impl Iterator<Item = (FrontendKey, Wanted)> + '_ {
    let any = plan.ports.iter().any(|port| matches!(port.carrier, Carrier::Relay(_)));
    let held = any.then(|| plan.held()).into_iter().flatten();
    held.filter_map(move |(port, frontend)| {
        let relay = port.relay_of(frontend)?;
        let Action::Forward(forward) = frontend.action else { return None };
        let relayed = Relayed {
            balancer: relay.balancer,
            proxy_protocol: relay.proxy_protocol,
            requests: port.requests_of(frontend),
            limits: relay.limits,
            ..relayed(&plan.key, (port, frontend), forward.reach)
        };
        let led = Led { guard: Guard::of(frontend, forward.reach), way: port.way_of(frontend) };
        Some((frontend.at, Wanted { relayed, led }))
    })
}

/// All relayed frontends of a plan. Costs a glance at each service that is not relayed.
pub fn all_wanted(plan: &Plan) -> BTreeMap<FrontendKey, Wanted> {
    let relayed = plan.known.values().filter(|known| {
        let mode = known.service.as_deref().map(|service| plan.policy.mode_of(service));
        mode == Some(ProxyMode::Userspace)
    });
    let mut all = BTreeMap::new();
    for service in relayed.filter_map(|known| plan.service_of(known)) {
        all.extend(wanted(&service));
    }
    all
}

/// What deltas ask for at frontends; `None`: no relay.
pub fn changes(deltas: &[ServiceDelta]) -> BTreeMap<FrontendKey, Option<Wanted>> {
    differences(deltas, wanted)
}

/// What is another one at frontends, by what plans want there; `None`: nothing any more. A frontend that
/// changes hands is its new holder's, whoever is looked at first.
pub(super) fn differences<'a, T: PartialEq, I: Iterator<Item = (FrontendKey, T)>>(
    deltas: &'a [ServiceDelta],
    wanted: impl Fn(&'a ServicePlan) -> I,
) -> BTreeMap<FrontendKey, Option<T>> {
    let mut changes = BTreeMap::new();
    for delta in deltas {
        let mut old: BTreeMap<_, _> = delta.old.iter().flat_map(|plan| wanted(plan)).collect();
        for (at, new) in delta.new.iter().flat_map(|plan| wanted(plan)) {
            if old.remove(&at).as_ref() != Some(&new) {
                changes.insert(at, Some(new));
            }
        }
        for at in old.into_keys() {
            changes.entry(at).or_insert(None);
        }
    }
    changes
}

/// From what is there to what shall be.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Turn {
    /// Frontends that take no new connection.
    pub closed: Vec<FrontendKey>,
    /// What is relayed now.
    pub open: Vec<(FrontendKey, Relayed)>,
    /// Elements of the table, each in the order that keeps a guard longest.
    pub gone: Vec<Placed>,
    pub come: Vec<Placed>,
    /// Addresses that are to be routed here, and those that are to be no more.
    pub entered: Vec<IpAddr>,
    pub left: Vec<IpAddr>,
}

impl Turn {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What is relayed.
#[derive(Debug, Default)]
pub struct State {
    frontends: HashMap<FrontendKey, Led>,
    /// How many of them need all of an address.
    addresses: HashMap<IpAddr, u32>,
    /// Where node ports answer.
    nodes: BTreeSet<IpAddr>,
    /// Addresses that need no route of vipd's.
    own: Vec<IpAddr>,
    /// Who may ask at cluster IPs, which of a packet the kernel's rules tell.
    outsiders: Outsiders,
}

impl State {
    /// What another process has left so; which addresses are the node's own is not known yet.
    pub fn inherited(frontends: Vec<(FrontendKey, Led)>, nodes: Vec<IpAddr>) -> Self {
        let mut state = Self { nodes: nodes.into_iter().collect(), ..Self::default() };
        for (at, led) in frontends {
            if state.frontends.insert(at, led).is_none()
                && let Some(address) = whole_address(at, led)
            {
                *state.addresses.entry(address).or_default() += 1;
            }
        }
        state
    }

    /// The same, for another process.
    pub fn handed(&self) -> (Vec<(FrontendKey, Led)>, Vec<IpAddr>) {
        let frontends = self.frontends.iter().map(|(at, led)| (*at, *led));
        (frontends.collect(), self.nodes.iter().copied().collect())
    }

    /// Makes these changes.
    pub fn turn(&mut self, changes: BTreeMap<FrontendKey, Option<Wanted>>, turn: &mut Turn) {
        for (at, wanted) in changes {
            match (self.frontends.get(&at).copied(), wanted) {
                (None, None) => {}
                (None, Some(Wanted { relayed, led })) => {
                    self.frontends.insert(at, led);
                    turn.come.extend(self.elements_of(at, led));
                    turn.open.push((at, relayed));
                    self.enter(whole_address(at, led), turn);
                }
                (Some(before), Some(Wanted { relayed, led })) => {
                    self.frontends.insert(at, led);
                    let [old, new] = [before, led].map(|led| self.elements_of(at, led));
                    turn.gone.extend(old.iter().filter(|one| !new.contains(one)).cloned());
                    turn.come.extend(new.into_iter().filter(|one| !old.contains(one)));
                    turn.open.push((at, relayed));
                    if before.way != led.way {
                        self.leave(whole_address(at, before), turn);
                        self.enter(whole_address(at, led), turn);
                    }
                }
                (Some(led), None) => {
                    self.frontends.remove(&at);
                    turn.gone.extend(self.elements_of(at, led).into_iter().rev());
                    turn.closed.push(at);
                    self.leave(whole_address(at, led), turn);
                }
            }
        }
    }

    /// The same from nothing: what is not wanted goes.
    pub fn turn_to(&mut self, wanted: BTreeMap<FrontendKey, Wanted>, turn: &mut Turn) {
        let gone = self.frontends.keys().filter(|at| !wanted.contains_key(at));
        let mut changes: BTreeMap<_, _> = gone.map(|at| (*at, None)).collect();
        changes.extend(wanted.into_iter().map(|(at, wanted)| (at, Some(wanted))));
        self.turn(changes, turn);
    }

    /// Follows what the node is: where node ports answer, and which addresses are its own.
    pub fn turn_node(&mut self, node: &NodePlan, turn: &mut Turn) {
        let nodes = node_addresses(node);
        turn.gone.extend(self.nodes.difference(&nodes).copied().map(node_element));
        turn.come.extend(nodes.difference(&self.nodes).copied().map(node_element));
        self.nodes = nodes;
        if self.outsiders != node.outsiders {
            let open = self.frontends.iter().filter(|(_, led)| led.guard == Guard::Open);
            let untracked = open.filter_map(|(at, _)| untracked_element(*at));
            match node.outsiders {
                Outsiders::Served => turn.come.extend(untracked),
                Outsiders::Dropped => turn.gone.extend(untracked),
            }
            self.outsiders = node.outsiders;
        }
        if self.own == node.own_addresses {
            return;
        }
        let before = std::mem::replace(&mut self.own, node.own_addresses.clone());
        for address in self.addresses.keys() {
            let was = before.binary_search(address).is_ok();
            match (was, self.is_own(*address)) {
                (true, false) => turn.entered.push(*address),
                (false, true) => turn.left.push(*address),
                _ => {}
            }
        }
    }

    /// What the table holds of a frontend; guards first, and last what leads there.
    fn elements_of(&self, at: FrontendKey, led: Led) -> Vec<Placed> {
        let beside = match led.guard {
            Guard::Guarded => guarded_element(at),
            Guard::Open if self.outsiders == Outsiders::Served => untracked_element(at),
            Guard::Open | Guard::Judged => None,
        };
        beside.into_iter().chain([leading_element(at, led.way)]).collect()
    }

    fn enter(&mut self, address: Option<IpAddr>, turn: &mut Turn) {
        let Some(address) = address else { return };
        let count = self.addresses.entry(address).or_default();
        *count += 1;
        if *count == 1 && !self.is_own(address) {
            turn.left.retain(|left| *left != address);
            turn.entered.push(address);
        }
    }

    fn leave(&mut self, address: Option<IpAddr>, turn: &mut Turn) {
        let Some(address) = address else { return };
        let Some(count) = self.addresses.get_mut(&address) else { return };
        *count -= 1;
        if *count == 0 {
            self.addresses.remove(&address);
            turn.entered.retain(|entered| *entered != address);
            turn.left.push(address);
        }
    }

    pub fn is_own(&self, address: IpAddr) -> bool {
        self.own.binary_search(&address).is_ok()
    }

    /// Addresses that a route must lead here by.
    pub fn routed(&self) -> BTreeSet<IpAddr> {
        self.addresses.keys().copied().filter(|address| !self.is_own(*address)).collect()
    }

    pub fn is_empty(&self) -> bool {
        self.frontends.is_empty()
    }

    pub fn frontends(&self) -> impl Iterator<Item = FrontendKey> + '_ {
        self.frontends.keys().copied()
    }

    /// All that the table shall hold; guards first.
    pub fn elements(&self) -> Vec<Placed> {
        let of_frontends = self.frontends.iter().flat_map(|(at, led)| self.elements_of(*at, *led));
        let (leads, guards): (Vec<Placed>, Vec<Placed>) =
            of_frontends.partition(|(set, _)| set.leads());
        let nodes = self.nodes.iter().map(|address| node_element(*address));
        guards.into_iter().chain(nodes).chain(leads).collect()
    }
}

/// The address that a frontend needs all of.
fn whole_address(at: FrontendKey, led: Led) -> Option<IpAddr> {
    match (at.at, led.way) {
        (FrontendAddress::Address(address), Way::Address) => Some(address),
        (FrontendAddress::Address(_), Way::Port) | (FrontendAddress::NodePort(_), _) => None,
    }
}

/// The relay takes what comes to loopback addresses where a listener would.
fn node_addresses(node: &NodePlan) -> BTreeSet<IpAddr> {
    let mut nodes: BTreeSet<IpAddr> = node.node_port_addresses.iter().copied().collect();
    let loopback = [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)];
    let answers = |address: &IpAddr| node.localhost_node_ports[Family::of(*address).index()];
    nodes.extend(loopback.into_iter().filter(answers));
    nodes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Balancer, HttpVersion, PortName, Protocol, ProxyProtocol, ServiceKey};
    use crate::planner::{
        Balanced, Forward, Frontend, FrontendKind, Locality, Masquerade, Member, PodsToldBy, Pool,
        Reach, Relay,
    };
    use std::sync::Arc;

    const RELAY: Relay = Relay {
        balancer: Balancer::Maglev,
        proxy_protocol: Some(ProxyProtocol::V2),
        pods_told_by: PodsToldBy::Address,
        limits: Limits::DEFAULT,
    };

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn at(text: &str) -> FrontendKey {
        let (at, port) = match text.strip_prefix("node:") {
            Some(port) => (FrontendAddress::NodePort(Family::V4), port),
            None => {
                let (ip, port) = text.rsplit_once(':').unwrap();
                (FrontendAddress::Address(address(ip)), port)
            }
        };
        FrontendKey { at, protocol: Protocol::Tcp, port: port.parse().unwrap() }
    }

    /// A service with these frontends; a `!` before one: not everybody may ask there; an `@`: it is a
    /// load balancer's.
    fn plan(name: &str, carrier: Carrier, frontends: &[&str]) -> ServicePlan {
        let forward = Forward { reach: Reach::Cluster, masquerade: Masquerade::Never };
        let frontend = |text: &&str| Frontend {
            at: at(text.trim_start_matches(['!', '@'])),
            kind: match text.contains('@') {
                true => FrontendKind::LoadBalancer,
                false => FrontendKind::ClusterIp,
            },
            action: Action::Forward(forward),
            allow: text.starts_with('!').then(Arc::default),
            foreign: false,
            lost_to: None,
        };
        let member = Member { locality: Locality::Unknown, terminating: false };
        let target = Target { address: address("10.1.0.1"), port: 8080 };
        let port = PortPlan {
            name: PortName::from("http"),
            protocol: Protocol::Tcp,
            port: 80,
            family: Family::V4,
            affinity: None,
            carrier,
            balanced: Balanced::default(),
            cluster: [(target, member)].into_iter().collect(),
            local: Pool::new(),
            serving: Box::default(),
            frontends: frontends.iter().map(frontend).collect(),
        };
        let (ports, idle) = ([port].into(), Box::default());
        ServicePlan { key: ServiceKey::new("ns", name), ports, idle, health: None }
    }

    fn relayed(frontends: &[&str]) -> ServicePlan {
        plan("web", Carrier::Relay(RELAY), frontends)
    }

    #[test]
    fn requests_are_told_to_the_engine() {
        let mut plan = relayed(&["10.96.0.1:80"]);
        let requests = |plan: &ServicePlan| wanted(plan).next().unwrap().1.relayed.requests;
        assert_eq!(requests(&plan), None);
        plan.ports[0].balanced = Balanced::Requests(HttpVersion::H2c);
        assert_eq!(requests(&plan), Some(HttpVersion::H2c));
        plan.ports[0].carrier = Carrier::Kernel;
        assert!(wanted(&plan).next().is_none());
    }

    fn delta(old: Option<ServicePlan>, new: Option<ServicePlan>) -> ServiceDelta {
        let key = old.as_ref().or(new.as_ref()).unwrap().key.clone();
        ServiceDelta { key, old: old.map(Arc::new), new: new.map(Arc::new) }
    }

    fn turned(state: &mut State, deltas: &[ServiceDelta]) -> Turn {
        let mut turn = Turn::default();
        state.turn(changes(deltas), &mut turn);
        turn
    }

    #[test]
    fn a_relayed_frontend_is_opened_led_to_and_routed() {
        let mut state = State::default();
        let one = relayed(&["10.96.0.1:80", "!1.2.3.4:80", "node:30080"]);
        let turn = turned(&mut state, &[delta(None, Some(one.clone()))]);
        let open: Vec<FrontendKey> = turn.open.iter().map(|(at, _)| *at).collect();
        assert_eq!(open, [at("1.2.3.4:80"), at("10.96.0.1:80"), at("node:30080")]);
        let relayed = &turn.open[0].1;
        assert_eq!(
            (relayed.balancer, relayed.proxy_protocol),
            (Balancer::Maglev, RELAY.proxy_protocol)
        );
        assert_eq!(relayed.cluster.len(), 1);
        let guard = guarded_element(at("1.2.3.4:80")).unwrap();
        let leads = ["1.2.3.4:80", "10.96.0.1:80", "node:30080"]
            .map(|text| leading_element(at(text), Way::Address));
        assert_eq!(turn.come, [&[guard][..], &leads].concat());
        assert_eq!(turn.entered, ["1.2.3.4", "10.96.0.1"].map(address));
        assert_eq!((&turn.closed[..], &turn.gone[..], &turn.left[..]), (&[][..], &[][..], &[][..]));
        assert_eq!(state.elements().len(), 4);

        assert!(turned(&mut state, &[delta(Some(one.clone()), Some(one.clone()))]).is_empty());
        let turn = turned(&mut state, &[delta(Some(one), None)]);
        assert_eq!((turn.closed.len(), turn.gone.len(), turn.open.len()), (3, 4, 0));
        assert_eq!(turn.left, ["1.2.3.4", "10.96.0.1"].map(address));
        assert!(state.is_empty() && state.routed().is_empty());
    }

    #[test]
    fn what_the_kernel_carries_is_none_of_the_relays() {
        let mut state = State::default();
        let kernel = plan("web", Carrier::Kernel, &["10.96.0.1:80"]);
        assert!(turned(&mut state, &[delta(None, Some(kernel.clone()))]).is_empty());
        let turn =
            turned(&mut state, &[delta(Some(kernel.clone()), Some(relayed(&["10.96.0.1:80"])))]);
        assert_eq!((turn.open.len(), turn.come.len(), turn.entered.len()), (1, 1, 1));
        let turn = turned(&mut state, &[delta(Some(relayed(&["10.96.0.1:80"])), Some(kernel))]);
        assert_eq!((turn.closed.len(), turn.gone.len(), turn.left.len()), (1, 1, 1));
    }

    #[test]
    fn other_endpoints_change_nothing_but_the_engine() {
        let mut state = State::default();
        let one = relayed(&["10.96.0.1:80"]);
        turned(&mut state, &[delta(None, Some(one.clone()))]);
        let mut other = one.clone();
        other.ports[0].cluster = Pool::new();
        let turn = turned(&mut state, &[delta(Some(one), Some(other))]);
        assert_eq!(turn.open.len(), 1);
        assert_eq!(Turn { open: Vec::new(), ..turn }, Turn::default());
    }

    #[test]
    fn what_is_led_by_its_port_alone_has_no_route() {
        let mut state = State::default();
        let load_balancer = relayed(&["@1.2.3.4:80"]);
        let turn = turned(&mut state, &[delta(None, Some(load_balancer.clone()))]);
        assert_eq!(turn.come, [leading_element(at("1.2.3.4:80"), Way::Port)]);
        assert_eq!((turn.open.len(), &turn.entered[..]), (1, &[][..]));
        assert_eq!(state.handed().0.len(), 1);
        let inherited = State::inherited(state.handed().0, Vec::new());
        assert!(inherited.routed().is_empty());

        // The same address and port, as a cluster IP.
        let cluster_ip = relayed(&["1.2.3.4:80"]);
        let both = [delta(Some(load_balancer.clone()), Some(cluster_ip.clone()))];
        let turn = turned(&mut state, &both);
        assert_eq!(turn.gone, [leading_element(at("1.2.3.4:80"), Way::Port)]);
        assert_eq!(turn.come, [leading_element(at("1.2.3.4:80"), Way::Address)]);
        assert_eq!((&turn.entered[..], &turn.left[..]), (&[address("1.2.3.4")][..], &[][..]));
        let turn = turned(&mut state, &[delta(Some(cluster_ip), Some(load_balancer))]);
        assert_eq!((&turn.entered[..], &turn.left[..]), (&[][..], &[address("1.2.3.4")][..]));
        assert!(state.routed().is_empty());
    }

    #[test]
    fn a_frontend_that_changes_hands_stays_led_to() {
        let with = |name| Some(plan(name, Carrier::Relay(RELAY), &["10.96.0.1:80"]));
        for [loser, winner] in [["a", "b"], ["b", "a"]] {
            let mut state = State::default();
            turned(&mut state, &[delta(None, with(loser))]);
            let mut deltas = [delta(with(loser), None), delta(None, with(winner))];
            deltas.sort_by(|one, other| one.key.cmp(&other.key));
            let turn = turned(&mut state, &deltas);
            assert_eq!(turn.open[0].1.service.name(), winner);
            assert_eq!(Turn { open: Vec::new(), ..turn }, Turn::default());
        }
    }

    #[test]
    fn an_address_is_routed_while_it_has_frontends_and_is_not_the_nodes() {
        let node = |own: &[&str]| NodePlan {
            own_addresses: own.iter().map(|text| address(text)).collect(),
            node_port_addresses: vec![address("192.0.2.1")],
            localhost_node_ports: [true, false],
            ..NodePlan::clone(&Plan::empty().node)
        };
        let mut state = State::default();
        let mut turn = Turn::default();
        state.turn_node(&node(&["192.0.2.1"]), &mut turn);
        let nodes = ["127.0.0.1", "192.0.2.1"].map(|text| node_element(address(text)));
        assert_eq!(turn.come, nodes);

        let two = relayed(&["1.2.3.4:80", "1.2.3.4:81", "192.0.2.1:80"]);
        let turn = turned(&mut state, &[delta(None, Some(two.clone()))]);
        assert_eq!(turn.entered, [address("1.2.3.4")]);
        let one = relayed(&["1.2.3.4:81", "192.0.2.1:80"]);
        let turn = turned(&mut state, &[delta(Some(two), Some(one.clone()))]);
        assert_eq!((turn.gone.len(), turn.left.len()), (1, 0));

        let mut turn = Turn::default();
        state.turn_node(&node(&["1.2.3.4"]), &mut turn);
        assert_eq!(
            (turn.entered, turn.left),
            (vec![address("192.0.2.1")], vec![address("1.2.3.4")])
        );
        assert_eq!(state.routed(), [address("192.0.2.1")].into());

        let mut turn = Turn::default();
        let kept = one.ports[0].frontends.iter().take(1);
        let wanted = wanted(&one).filter(|(at, _)| kept.clone().any(|frontend| frontend.at == *at));
        let wanted: BTreeMap<_, _> = wanted.collect();
        state.turn_to(wanted, &mut turn);
        assert_eq!((turn.closed, turn.open.len()), (vec![at("192.0.2.1:80")], 1));
    }
}
