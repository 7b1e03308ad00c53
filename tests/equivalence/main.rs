//! `vipd trace` and the rules say the same: for any small cluster, after any changes, and any
//! packet, the oracle's answer is what an interpreter of nf_tables makes of the lowered table.
//!
//! No kernel: the rules are run here, from the values that are sent to it.

mod machine;
#[path = "../objects/mod.rs"]
mod objects;
mod packet;
mod planned;
mod relay;
mod sctp;
mod sizes;
mod table;
#[path = "../properties/world.rs"]
#[allow(dead_code, reason = "`properties` uses all of it")]
mod world;

use machine::{End, FORWARD, LOCAL_IN, LOCAL_OUT, Machine, POST_ROUTING, PRE_ROUTING};
use packet::Packet;
use planned::Planned;
use proptest::prelude::*;
use sctp::casts;
use std::collections::BTreeMap;
use std::net::IpAddr;
use table::Table;
use vipd::model::{Family, NodeFacts, PortName, Protocol, ServiceKey};
use vipd::planner::{
    self, DetectLocal, FrontendAddress, FrontendKey, NodePortAddresses, Outsiders, Plan, Policy,
    Target, Verdict, trace,
};
use world::{Change, PODS, RANGE, change, cluster_ip, facts, outside, pod, port_number, protocol};

/// Addresses that interfaces of the node have now and then: among the pods', a load balancer's, one
/// more. Those of its Node object it always has.
const NODE: [&str; 6] =
    ["10.1.0.77", "1.2.3.5", "192.168.7.2", "10.254.0.6", "fd01::77", "fd00::6"];
const NODE_OBJECT: [&str; 2] = ["192.168.0.2", "fd00:192::2"];

fn policies() -> impl Strategy<Value = Policy> {
    let cidrs = |list: &[&str]| list.iter().map(|cidr| cidr.parse().unwrap()).collect();
    let detect = prop_oneof![
        Just(DetectLocal::None),
        Just(DetectLocal::ClusterCidr(cidrs(&[PODS]))),
        Just(DetectLocal::ClusterCidr(cidrs(&[PODS, "fd01::/48"]))),
        Just(DetectLocal::ClusterCidr(cidrs(&["10.0.0.0/11", "fd01:0:0:1::/63"]))),
        Just(DetectLocal::ClusterCidr(cidrs(&["0.0.0.0/0", "::/0"]))),
        Just(DetectLocal::NodeCidr),
        Just(DetectLocal::BridgeInterface("cni0".into())),
        Just(DetectLocal::InterfaceNamePrefix("veth".into())),
    ];
    let within = |cidr: &str| NodePortAddresses::Within(cidr.parse().unwrap());
    let node_ports_at = prop_oneof![
        Just(vec![]),
        Just(vec![NodePortAddresses::All]),
        Just(vec![NodePortAddresses::Localhost]),
        Just(vec![within("192.168.0.0/16")]),
        Just(vec![within("fd00::/16"), NodePortAddresses::Primary]),
    ];
    let outsiders = prop_oneof![3 => Just(Outsiders::Served), 1 => Just(Outsiders::Dropped)];
    (detect, prop::bool::weighted(0.15), any::<bool>(), node_ports_at, outsiders).prop_map(
        |(detect, masquerade_all, drop_invalid, node_ports_at, outsiders)| Policy {
            mode: Default::default(),
            masquerade_all,
            detect,
            service_ranges: vec![RANGE.parse().unwrap(), "fd00::/125".parse().unwrap()],
            drop_invalid,
            node_ports_at,
            localhost_node_ports: drop_invalid,
            outsiders,
            limits: Default::default(),
            external_ips: Default::default(),
        },
    )
}

fn node_facts() -> impl Strategy<Value = NodeFacts> {
    let further = prop::sample::subsequence(&NODE[..], 0..=NODE.len());
    (facts(), any::<bool>(), further).prop_map(|(facts, dual, further)| {
        let cidrs = if dual { &["10.1.0.0/24", "fd01::/64"][..] } else { &["10.1.0.0/24"] };
        let pod_cidrs = cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect();
        let mut addresses: Vec<IpAddr> =
            NODE_OBJECT.iter().chain(&further).map(|ip| ip.parse().unwrap()).collect();
        addresses.sort_unstable();
        NodeFacts { interface_addresses: addresses, pod_cidrs, ..facts }
    })
}

/// A packet that mostly goes to one of the frontends that there are.
#[derive(Debug, Clone)]
struct Shot {
    /// As from outside.
    packet: Packet,
    aim: Option<prop::sample::Index>,
}

impl Shot {
    /// As the node meets it: what it sends itself comes in by no interface.
    fn packet(&self, plan: &Plan, facts: &NodeFacts) -> Packet {
        let mut packet = self.packet.clone();
        packet.in_interface = packet.in_interface.filter(|_| !facts.owns(packet.source));
        let family = Family::of(packet.source);
        let frontends: Vec<&FrontendKey> = plan
            .claims
            .iter()
            .map(|(at, _)| at)
            .filter(|frontend| frontend.at.family() == family)
            .collect();
        if let Some(aim) = self.aim.filter(|_| !frontends.is_empty()) {
            let FrontendKey { at, protocol, port } = *frontends[aim.index(frontends.len())];
            (packet.protocol, packet.port) = (protocol, port);
            let mut own = facts.interface_addresses.iter().filter(|ip| Family::of(**ip) == family);
            packet.destination = match at {
                FrontendAddress::Address(address) => address,
                // Not all of them answer.
                FrontendAddress::NodePort(_) => {
                    *own.nth(aim.index(own.clone().count())).expect("those of the Node object")
                }
            };
        }
        packet
    }
}

fn shots() -> impl Strategy<Value = Shot> {
    (packets(), prop::option::weighted(0.8, any::<prop::sample::Index>()))
        .prop_map(|(packet, aim)| Shot { packet, aim })
}

fn packets() -> impl Strategy<Value = Packet> {
    let address = |text: &str| text.parse::<IpAddr>().unwrap();
    let node = |family| {
        let all = NODE_OBJECT.iter().chain(&NODE).map(|ip| address(ip));
        prop::sample::select(all.filter(|ip| Family::of(*ip) == family).collect::<Vec<_>>())
    };
    let v4 = (
        prop_oneof![3 => pod(Family::V4), 3 => node(Family::V4), 1 => Just(address("203.0.113.9")),
            1 => Just(address("203.0.113.130")), 1 => Just(address("1.2.3.4"))],
        prop_oneof![8 => cluster_ip(), 1 => pod(Family::V4), 1 => Just(address("203.0.113.7")),
            5 => outside(Family::V4), 4 => node(Family::V4), 1 => Just(address("127.0.0.1"))],
    );
    let v6 = (
        prop_oneof![3 => pod(Family::V6), 2 => node(Family::V6), 1 => Just(address("2001:db8::9"))],
        prop_oneof![6 => Just(address("fd00::1")), 1 => Just(address("fd00::7")),
            1 => Just(address("fd00::8")), 1 => pod(Family::V6), 4 => outside(Family::V6),
            3 => node(Family::V6)],
    );
    let interface = prop::sample::select(&["cni0", "cni0.5", "veth12", "vet", "eth0"][..]);
    (prop_oneof![3 => v4.boxed(), 2 => v6.boxed()], protocol(), port_number(), interface).prop_map(
        |((source, destination), protocol, port, interface)| Packet {
            source,
            destination,
            protocol,
            port,
            in_interface: Some(interface.to_owned()),
            original: None,
            priority: 0,
        },
    )
}

/// A node whose facts and objects change.
struct Node {
    planned: Planned,
    table: Table,
}

impl Node {
    fn new(policy: Policy, facts: &NodeFacts) -> Self {
        Self { planned: Planned::new(policy, facts), table: Table::new() }
    }

    fn apply(&mut self, facts: &NodeFacts, changes: &[Change]) {
        let delta = self.planned.replan(facts, changes);
        self.table.apply(&delta);
    }
}

/// What becomes of a packet: its verdict, and the endpoints with their share and masquerade.
type Answer = (Verdict, BTreeMap<Target, (u32, bool)>);

/// What the rules do to a new client, for everything that `numgen random` may say, and whether or
/// not Linux gives what it forwards a priority of its own (`net.ipv4.ip_forward_update_priority`).
fn run(table: &mut Table, packet: &Packet, facts: &NodeFacts) -> Answer {
    let mut verdicts = Vec::new();
    let mut targets: BTreeMap<Target, (u32, bool)> = BTreeMap::new();
    let (mut random, mut modulus) = (0, 1);
    while random < modulus {
        let [passage, other] = [Priority::OfLinux, Priority::Kept].map(|forwarded| {
            table.forget_pins();
            pass(table, packet, &Circumstances { random, forwarded, facts })
        });
        assert_eq!(passage, other, "ip_forward_update_priority decides about {packet:?}");
        modulus = passage.choices;
        random += 1;
        verdicts.push(match passage.end {
            End::Accept => Verdict::Pass,
            End::Drop => Verdict::Drop,
            End::Reject => Verdict::Reject,
            End::Masquerade | End::Stay => unreachable!("not an end"),
            End::Dnat(target) => {
                let entry = targets.entry(target).or_insert((0, passage.masqueraded));
                assert_eq!(entry.1, passage.masqueraded, "chance decides about {target}");
                entry.0 += 1;
                Verdict::Forward
            }
        });
    }
    verdicts.dedup();
    assert_eq!(verdicts.len(), 1, "chance decides about {packet:?}: {verdicts:?}");
    (verdicts[0], targets)
}

/// What a packet met on its whole way through the node.
#[derive(Debug, PartialEq, Eq)]
struct Passage {
    end: End,
    masqueraded: bool,
    /// How many answers of `numgen random` there were.
    choices: u32,
}

struct Circumstances<'a> {
    random: u32,
    forwarded: Priority,
    facts: &'a NodeFacts,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Priority {
    OfLinux,
    Kept,
}

fn pass(table: &mut Table, packet: &Packet, circumstances: &Circumstances<'_>) -> Passage {
    let is_own = |address| circumstances.facts.owns(address);
    let mut machine = Machine::new(table, packet.clone(), &is_own);
    machine.random = circumstances.random;
    let end = machine.hook(if packet.in_interface.is_some() { PRE_ROUTING } else { LOCAL_OUT });
    let choices = machine.modulus;
    let mut passage = Passage { end, masqueraded: false, choices };
    let to_node = match end {
        End::Accept => {
            assert_eq!(machine.packet.priority, 0, "a packet that is not ours is changed");
            is_own(packet.destination)
        }
        End::Dnat(target) => is_own(target.address),
        End::Drop | End::Reject => return passage,
        End::Masquerade | End::Stay => panic!("not before routing, and not of this table"),
    };
    let hooks = match (packet.in_interface.is_some(), to_node) {
        (true, true) => &[LOCAL_IN][..],
        (true, false) => &[FORWARD, POST_ROUTING],
        (false, _) => &[POST_ROUTING],
    };
    if hooks[0] == FORWARD && packet.is_v4() && circumstances.forwarded == Priority::OfLinux {
        machine.packet.priority = 0;
    }
    for hook in hooks {
        match machine.hook(*hook) {
            End::Accept => {}
            End::Masquerade => passage.masqueraded = true,
            end @ (End::Drop | End::Reject) => return Passage { end, ..passage },
            End::Dnat(target) => panic!("a translation to {target} after routing"),
            End::Stay => panic!("a translation after routing"),
        }
    }
    assert!(to_node || machine.packet.priority == 0, "a mark of ours leaves the node");
    passage
}

/// What the oracle says, every endpoint with the same share.
fn expected(plan: &Plan, packet: &Packet) -> Answer {
    let asked = planner::Packet {
        source: packet.source,
        in_interface: packet.in_interface.as_deref(),
        protocol: packet.protocol,
        destination: packet.destination,
        port: packet.port,
    };
    let traced = trace(plan, &asked).expect("all that a detector asks for is said");
    let endpoints = traced.endpoints.iter().map(|e| (e.target, (1, e.masquerade)));
    (traced.verdict, endpoints.collect())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn rules_and_trace_agree(
        policy in policies(),
        facts in prop::collection::vec(node_facts(), 4),
        deltas in prop::collection::vec(prop::collection::vec(change(), 0..16), 1..4),
        shots in prop::collection::vec(shots(), 1..24),
        cast in casts(),
    ) {
        let mut node = Node::new(policy, &facts[0]);
        let shots = cast.shots(&shots);
        for (delta, facts) in deltas.iter().zip(&facts) {
            node.apply(facts, &cast.changes(delta));
            for shot in &shots {
                let packet = shot.packet(node.planned.plan(), facts);
                let answer = run(&mut node.table, &packet, facts);
                prop_assert_eq!(&answer, &expected(node.planned.plan(), &packet), "{:?}", packet);
            }
        }
    }

    /// A client of a sticky service port keeps the endpoint that it got first, whatever chance says
    /// and whichever frontend it comes by; unless that endpoint is none of the frontend's: then it
    /// keeps the next.
    #[test]
    fn pins_hold(
        facts in node_facts(),
        policy in policies(),
        changes in prop::collection::vec(change(), 8..24),
        more in prop::collection::vec(change(), 0..4),
        shots in prop::collection::vec(shots(), 1..24),
        random in any::<[u32; 3]>(),
        cast in casts(),
    ) {
        let mut node = Node::new(policy, &facts);
        let shots = cast.shots(&shots);
        for changes in [changes, more] {
            node.apply(&facts, &cast.changes(&changes));
            let mut pins: BTreeMap<(IpAddr, StickyPort), Target> = BTreeMap::new();
            for shot in &shots {
                let packet = shot.packet(node.planned.plan(), &facts);
                let allowed = expected(node.planned.plan(), &packet).1;
                let sticky = sticky(node.planned.plan(), &packet);
                for random in random {
                    let circumstances =
                        Circumstances { random, forwarded: Priority::OfLinux, facts: &facts };
                    let End::Dnat(target) = pass(&mut node.table, &packet, &circumstances).end else {
                        continue;
                    };
                    prop_assert!(allowed.contains_key(&target), "{:?} to {:?}", packet, target);
                    let Some(port) = sticky.clone() else { continue };
                    let before = pins.insert((packet.source, port), target);
                    if let Some(pinned) = before && allowed.contains_key(&pinned) {
                        prop_assert_eq!(pinned, target, "{:?}", packet);
                    }
                }
            }
        }
    }
}

/// By name, protocol and family: ports of one name are one port to a pin.
type StickyPort = (ServiceKey, PortName, Protocol, Family);

/// The port with affinity that a packet asks for.
fn sticky(plan: &Plan, packet: &Packet) -> Option<StickyPort> {
    let key = |at| FrontendKey { at, protocol: packet.protocol, port: packet.port };
    let address = key(FrontendAddress::Address(packet.destination));
    let node_port = key(FrontendAddress::NodePort(Family::of(packet.destination)));
    let node_port = plan.node.answers_node_ports_at(packet.destination).then_some(node_port);
    let held = |at: FrontendKey| Some((at, plan.service(plan.claims.holder(&at)?)?));
    let (at, service) = [Some(address), node_port].into_iter().flatten().find_map(held)?;
    let (port, _) = service.held().find(|(_, frontend)| frontend.at == at)?;
    port.affinity.map(|_| (service.key.clone(), port.name.clone(), port.protocol, port.family))
}
