//! `vipd trace` and the relay say the same: who is led to it, whom it may pass clients on to, and that all
//! else is left to the kernel's rules, which are run beside it.
//!
//! In: the deltas of a world where Services are relayed. Out: what becomes of a packet.

use super::machine::{End, LOCAL_IN, LOCAL_OUT, Machine, POST_ROUTING, PRE_ROUTING};
use super::packet::Packet;
use super::planned::Planned;
use super::sctp::casts;
use super::table::Table;
use super::world::{Change, change};
use super::{Shot, node_facts, policies, shots};
use proptest::prelude::*;
use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use vipd::dataplane::userspace::Frontends;
use vipd::dataplane::userspace::lower::{State, Turn, all_wanted, changes};
use vipd::dataplane::userspace::sets::Set;
use vipd::dataplane::userspace::table::{Site, chains};
use vipd::model::{Annotations, Family, NodeFacts, Object, ProxyMode};
use vipd::nft::expr::Rule;
use vipd::nft::{Bytes, ChainDefinition, Hook};
use vipd::planner::{
    self, FrontendAddress, FrontendKey, Plan, PlanDelta, Policy, Target, Trace, Verdict, trace,
};

/// What leads to the relay, and what the relay knows.
pub struct Relay {
    state: State,
    sets: HashMap<&'static str, BTreeSet<Bytes>>,
    site: Site,
    chains: Vec<ChainDefinition>,
    frontends: Frontends,
}

impl Relay {
    fn new() -> Self {
        Self {
            state: State::default(),
            sets: Set::ALL.into_iter().map(|set| (set.name(), BTreeSet::new())).collect(),
            site: Site::default(),
            chains: Vec::new(),
            frontends: Frontends::new(Duration::ZERO),
        }
    }

    pub fn hooked(&self, number: u32) -> impl Iterator<Item = (Hook, &[Rule])> {
        self.chains.iter().filter_map(move |chain| {
            let hook = chain.hook.clone().filter(|hook| hook.number == number)?;
            Some((hook, &chain.rules[..]))
        })
    }

    /// Where redirected connections go.
    fn is_port(&self, target: Target) -> bool {
        self.site.own.contains(&Some(target.address)) && target.port == self.site.port
    }

    pub fn chain(&self, name: &str) -> Option<&[Rule]> {
        let found = self.chains.iter().find(|chain| chain.name == name);
        found.map(|chain| &chain.rules[..])
    }

    /// Whether a set has what `read` reads: so many bytes.
    pub fn has(&self, set: &str, read: impl Fn(usize) -> Vec<u8>) -> bool {
        let elements = &self.sets[set];
        let Some(first) = elements.first() else { return false };
        elements.contains(&Bytes::from_vec(read(first.len())))
    }

    /// Half of a delta each, with the kernel's part in between.
    fn turn(&mut self, delta: &PlanDelta, plan: &Plan) -> Turn {
        let mut turn = Turn::default();
        self.state.turn_node(&plan.node, &mut turn);
        self.state.turn(changes(&delta.services), &mut turn);
        for (set, element) in &turn.gone {
            let was = self.sets.get_mut(set.name()).expect("all sets").remove(&element.key);
            assert!(was, "ENOENT: {set:?} {element:?}");
        }
        self.frontends.update(turn.closed.iter().map(|at| (*at, None)).collect());
        turn
    }

    fn extend(&mut self, turn: Turn, plan: &Plan) {
        let of = |family| {
            let own = plan.node.own_addresses.iter().copied();
            own.into_iter().find(|address| Family::of(*address) == family)
        };
        self.site = Site { port: 1234, own: Family::BOTH.map(of), ..Site::default() };
        self.chains = chains(self.site);
        self.frontends.set_node(Arc::clone(&plan.node));
        let open = turn.open.into_iter().map(|(at, relayed)| (at, Some(relayed)));
        self.frontends.update(open.collect());
        for (set, element) in turn.come {
            let is_new = self.sets.get_mut(set.name()).expect("all sets").insert(element.key);
            assert!(is_new, "twice in {set:?}");
        }
    }
}

/// A node whose Services are relayed, but for those that say otherwise.
struct Node {
    planned: Planned,
    table: Table,
    relay: Relay,
}

impl Node {
    fn new(policy: Policy, facts: &NodeFacts) -> Self {
        Self { planned: Planned::new(policy, facts), table: Table::new(), relay: Relay::new() }
    }

    fn apply(&mut self, facts: &NodeFacts, changes: &[Change]) {
        let delta = self.planned.replan(facts, changes);
        let plan = self.planned.plan();
        let turn = self.relay.turn(&delta, plan);
        self.table.route(&turn.entered, &turn.left);
        self.table.apply(&delta);
        self.relay.extend(turn, plan);
    }

    /// What becomes of a new client's packet.
    fn pass(&mut self, packet: &Packet, facts: &NodeFacts) -> Answer {
        let routed = self.table.is_routed(packet.destination);
        let is_own = |address| facts.owns(address);
        let mut here = routed || facts.owns(packet.destination);
        let mut machine = Machine::new(&mut self.table, packet.clone(), &is_own);
        machine.relay = Some(&self.relay);
        machine.by_loopback = here;
        let mut redirected = false;
        let is_sent = packet.in_interface.is_none();
        let hooks = [LOCAL_OUT, POST_ROUTING, PRE_ROUTING, LOCAL_IN];
        for hook in &hooks[if is_sent { 0 } else { 2 }..] {
            let hook = *hook;
            if hook == PRE_ROUTING && is_sent {
                machine.packet.in_interface = Some("lo".to_owned());
                machine.settled = true;
            }
            match machine.hook(hook) {
                End::Accept | End::Stay | End::Masquerade => {}
                End::Drop => return Answer::Kernel(Verdict::Drop, None),
                End::Reject => return Answer::Kernel(Verdict::Reject, None),
                End::Dnat(target) if self.relay.is_port(target) => {
                    (here, redirected, machine.by_loopback) = (true, true, true);
                }
                End::Dnat(target) => return Answer::Kernel(Verdict::Forward, Some(target)),
            }
            assert!(
                hook != PRE_ROUTING || here || !machine.taken,
                "the kernel drops what is to be forwarded with a socket: {packet:?}"
            );
            if !here {
                return Answer::Kernel(Verdict::Pass, None);
            }
        }
        assert!(machine.taken || !redirected, "nobody listens at the port itself: {packet:?}");
        if !machine.taken {
            return Answer::Kernel(Verdict::Pass, None);
        }
        let to = SocketAddr::new(packet.destination, packet.port);
        let endpoints = self.relay.frontends.endpoints(packet.source, packet.protocol, to);
        Answer::Relay(endpoints.unwrap_or_else(|| panic!("a stray: {packet:?}")))
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Answer {
    /// To one of these.
    Relay(Vec<Target>),
    /// Translated to this one, if it is forwarded.
    Kernel(Verdict, Option<Target>),
}

fn expected(plan: &Plan, packet: &Packet) -> Trace {
    let asked = planner::Packet {
        source: packet.source,
        in_interface: packet.in_interface.as_deref(),
        protocol: packet.protocol,
        destination: packet.destination,
        port: packet.port,
    };
    trace(plan, &asked).expect("all that a detector asks for is said")
}

/// A node port's number at an address of the node that is a Service's external one too. The relay's rules
/// know only what is relayed: where the kernel has the one and the relay the other, the node's own
/// packets meet the relay.
fn is_contested(plan: &Plan, packet: &Packet) -> bool {
    let (protocol, port) = (packet.protocol, packet.port);
    let held = |at| plan.claims.holder(&FrontendKey { at, protocol, port }).is_some();
    let family = Family::of(packet.destination);
    held(FrontendAddress::Address(packet.destination)) && held(FrontendAddress::NodePort(family))
}

/// One of three Services says who carries it.
fn carried(changes: &[Change]) -> Vec<Change> {
    let modes = [None, Some(ProxyMode::Nftables), Some(ProxyMode::Userspace)];
    let change = |(number, change): (usize, &Change)| match change {
        Change::Upsert(Object::Service(service)) => {
            let mut service = (**service).clone();
            service.annotations = Annotations::new(modes[number % modes.len()], None, None);
            Change::Upsert(Object::Service(Arc::new(service)))
        }
        other => other.clone(),
    };
    changes.iter().enumerate().map(change).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn the_relay_and_trace_agree(
        policy in policies(),
        facts in prop::collection::vec(node_facts(), 4),
        deltas in prop::collection::vec(prop::collection::vec(change(), 0..16), 1..4),
        shots in prop::collection::vec(shots(), 1..24),
        cast in casts(),
    ) {
        let policy = Policy { mode: ProxyMode::Userspace, ..policy };
        let mut node = Node::new(policy, &facts[0]);
        let shots: Vec<Shot> = cast.shots(&shots);
        for (delta, facts) in deltas.iter().zip(&facts) {
            node.apply(facts, &carried(&cast.changes(delta)));
            for shot in &shots {
                let packet = shot.packet(node.planned.plan(), facts);
                // To a loopback address nothing comes from elsewhere: the kernel drops it as martian.
                let martian = packet.destination.is_loopback() && packet.in_interface.is_some();
                if martian || is_contested(node.planned.plan(), &packet) {
                    continue;
                }
                let trace = expected(node.planned.plan(), &packet);
                let targets: Vec<Target> = trace.endpoints.iter().map(|one| one.target).collect();
                let relayed = trace.steps.iter().any(|step| step.why.starts_with("the relay carries"));
                match node.pass(&packet, facts) {
                    Answer::Relay(endpoints) => {
                        prop_assert!(relayed, "{:?} is relayed; {:?}", packet, trace);
                        prop_assert_eq!(endpoints, targets, "{:?}", packet);
                    }
                    Answer::Kernel(verdict, target) => {
                        prop_assert!(!relayed, "{:?} is not relayed; {:?}", packet, trace);
                        prop_assert_eq!(verdict, trace.verdict, "{:?}", packet);
                        prop_assert!(target.is_none_or(|target| targets.contains(&target)));
                    }
                }
            }
            // What changes led to is what the plan alone leads to.
            let (mut fresh, mut turn) = (State::default(), Turn::default());
            fresh.turn_node(&node.planned.plan().node, &mut turn);
            fresh.turn_to(all_wanted(node.planned.plan()), &mut turn);
            let mut held = node.relay.state.elements();
            let mut wanted = fresh.elements();
            for elements in [&mut held, &mut wanted] {
                elements.sort_by(|(one, a), (other, b)| (one, &a.key).cmp(&(other, &b.key)));
            }
            prop_assert_eq!(held, wanted);
            prop_assert_eq!(node.relay.state.routed(), fresh.routed());
        }
    }
}
