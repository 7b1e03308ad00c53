//! `vipd trace` and the rules say the same: for any small cluster, after any changes, and any
//! packet, the oracle's answer is what an interpreter of nf_tables makes of the lowered table.
//!
//! No kernel: the rules are run here, from the values that are sent to it.

mod machine;
#[path = "../objects/mod.rs"]
mod objects;
mod packet;
mod sizes;
mod table;
#[path = "../properties/world.rs"]
#[allow(dead_code, reason = "`properties` uses all of it")]
mod world;

use machine::{End, Machine};
use packet::Packet;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::net::IpAddr;
use table::Table;
use vipd::model::{Family, NodeFacts};
use vipd::planner::{self, DetectLocal, Plan, Planner, Policy, Target, Verdict, trace};
use vipd::store::Store;
use world::{Change, PODS, RANGE, change, cluster_ip, facts, pod, protocol};

/// The node's addresses; the last ones lie among the pods'.
const NODE: [&str; 4] = ["192.168.0.2", "10.1.0.77", "fd00:192::2", "fd01::77"];

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
    (detect, prop::bool::weighted(0.15), any::<bool>()).prop_map(
        |(detect, masquerade_all, drop_invalid)| Policy {
            masquerade_all,
            detect,
            service_ranges: vec![RANGE.parse().unwrap(), "fd00::/125".parse().unwrap()],
            drop_invalid,
        },
    )
}

fn node_facts() -> impl Strategy<Value = NodeFacts> {
    (facts(), any::<bool>()).prop_map(|(facts, dual)| {
        let cidrs = if dual { &["10.1.0.0/24", "fd01::/64"][..] } else { &["10.1.0.0/24"] };
        let pod_cidrs = cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect();
        let mut addresses: Vec<IpAddr> = NODE.iter().map(|ip| ip.parse().unwrap()).collect();
        addresses.sort_unstable();
        NodeFacts { interface_addresses: addresses, pod_cidrs, ..facts }
    })
}

fn packets() -> impl Strategy<Value = Packet> {
    let address = |text: &str| text.parse::<IpAddr>().unwrap();
    let v4 = (
        prop_oneof![3 => pod(Family::V4), 2 => Just(address(NODE[0])), 1 => Just(address(NODE[1])),
            1 => Just(address("203.0.113.9"))],
        prop_oneof![8 => cluster_ip(), 1 => pod(Family::V4), 1 => Just(address("203.0.113.7"))],
    );
    let v6 = (
        prop_oneof![3 => pod(Family::V6), 1 => Just(address(NODE[2])), 1 => Just(address(NODE[3])),
            1 => Just(address("2001:db8::9"))],
        prop_oneof![6 => Just(address("fd00::1")), 1 => Just(address("fd00::7")),
            1 => Just(address("fd00::8")), 1 => pod(Family::V6)],
    );
    let interface = prop::sample::select(&["cni0", "cni0.5", "veth12", "vet", "eth0"][..]);
    (prop_oneof![3 => v4.boxed(), 2 => v6.boxed()], protocol(), 79u16..83, interface).prop_map(
        |((source, destination), protocol, port, interface)| Packet {
            source,
            destination,
            protocol,
            port,
            in_interface: (!is_own(source)).then(|| interface.to_owned()),
            original: None,
            priority: 0,
        },
    )
}

fn is_own(address: IpAddr) -> bool {
    NODE.iter().any(|own| own.parse::<IpAddr>().unwrap() == address)
}

/// What becomes of a packet: its verdict, and the endpoints with their share and masquerade.
type Answer = (Verdict, BTreeMap<Target, (u32, bool)>);

/// What the rules do to a new client, for everything that `numgen random` may say.
fn run(table: &mut Table, packet: &Packet) -> Answer {
    let mut verdicts = Vec::new();
    let mut targets: BTreeMap<Target, (u32, bool)> = BTreeMap::new();
    let (mut random, mut modulus) = (0, 1);
    while random < modulus {
        table.forget_pins();
        let First { end, choices, priority } = first_hook(table, packet, random);
        modulus = choices;
        random += 1;
        verdicts.push(match end {
            End::Accept => Verdict::Pass,
            End::Drop => Verdict::Drop,
            End::Reject => Verdict::Reject,
            End::Masquerade => panic!("a masquerade before routing"),
            End::Dnat(target) => {
                let masqueraded = second_hook(table, packet, (target, priority));
                let entry = targets.entry(target).or_insert((0, masqueraded));
                assert_eq!(entry.1, masqueraded, "chance decides about {target}'s masquerade");
                entry.0 += 1;
                Verdict::Forward
            }
        });
    }
    verdicts.dedup();
    assert_eq!(verdicts.len(), 1, "chance decides about {packet:?}: {verdicts:?}");
    (verdicts[0], targets)
}

/// What the first hook makes of a packet.
struct First {
    end: End,
    /// How many answers of `numgen random` there were.
    choices: u32,
    /// As the routing that follows leaves it: Linux gives forwarded IPv4 packets another.
    priority: u32,
}

fn first_hook(table: &mut Table, packet: &Packet, random: u32) -> First {
    let mut machine = Machine::new(table, packet.clone(), &is_own);
    machine.random = random;
    if machine.table.chains.contains_key("invalid") {
        assert_eq!(machine.run("invalid"), End::Accept, "it is not invalid");
    }
    let chain = if packet.in_interface.is_some() { "prerouting" } else { "output" };
    let end = machine.run(chain);
    if end == End::Accept {
        assert_eq!(machine.packet.priority, 0, "a packet that is not ours is changed");
        let end = machine.run("postrouting");
        assert_eq!((end, machine.packet.priority), (End::Accept, 0), "what is not ours");
    }
    let forwarded = packet.in_interface.is_some() && packet.is_v4();
    let priority = if forwarded { 0 } else { machine.packet.priority };
    First { end, choices: machine.modulus, priority }
}

/// Whether the translated packet is masqueraded on its way out.
fn second_hook(table: &mut Table, packet: &Packet, (target, priority): (Target, u32)) -> bool {
    let original = Some(Target { address: packet.destination, port: packet.port });
    let Target { address: destination, port } = target;
    let translated = Packet { destination, port, original, priority, ..packet.clone() };
    let mut machine = Machine::new(table, translated, &is_own);
    let end = machine.run("postrouting");
    assert_eq!(machine.packet.priority, 0, "a mark of ours leaves the node");
    match end {
        End::Accept => false,
        End::Masquerade => true,
        other => panic!("{other:?} after the translation to {target}"),
    }
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
        facts in node_facts(),
        deltas in prop::collection::vec(prop::collection::vec(change(), 0..12), 1..4),
        packets in prop::collection::vec(packets(), 1..24),
    ) {
        let mut store = Store::new(facts.name.clone());
        let mut planner = Planner::new(policy, facts.name.clone());
        planner.set_facts(facts, &[]);
        let mut table = Table::new();
        for delta in deltas {
            for change in &delta {
                match change {
                    Change::Upsert(object) => store.upsert(object.clone()),
                    Change::Delete(object) => store.delete(object),
                }
            }
            let dirty = store.take_dirty();
            table.apply(&planner.replan(dirty.services, store.known()));
            for packet in &packets {
                let answer = run(&mut table, packet);
                prop_assert_eq!(&answer, &expected(planner.plan(), packet), "{:?}", packet);
            }
        }
    }

    /// A client of a sticky service keeps what it got first, whatever chance says and whichever
    /// protocol family; unless that endpoint is gone: then it keeps the next.
    #[test]
    fn pins_hold(
        facts in node_facts(),
        policy in policies(),
        changes in prop::collection::vec(change(), 8..24),
        more in prop::collection::vec(change(), 0..4),
        packets in prop::collection::vec(packets(), 1..24),
        random in any::<[u32; 3]>(),
    ) {
        let mut store = Store::new(facts.name.clone());
        let mut planner = Planner::new(policy, facts.name.clone());
        planner.set_facts(facts, &[]);
        let mut table = Table::new();
        let mut before: BTreeMap<usize, Target> = BTreeMap::new();
        for (round, changes) in [changes, more].into_iter().enumerate() {
            for change in &changes {
                match change {
                    Change::Upsert(object) => store.upsert(object.clone()),
                    Change::Delete(object) => store.delete(object),
                }
            }
            let dirty = store.take_dirty();
            table.apply(&planner.replan(dirty.services, store.known()));
            for (at, packet) in packets.iter().enumerate() {
                let sticky = sticky(planner.plan(), packet);
                let allowed = expected(planner.plan(), packet).1;
                for random in random {
                    let First { end, priority, .. } = first_hook(&mut table, packet, random);
                    let End::Dnat(target) = end else { continue };
                    prop_assert!(allowed.contains_key(&target), "{:?} to {:?}", packet, target);
                    second_hook(&mut table, packet, (target, priority));
                    if sticky && round == 0 && let Some(first) = before.get(&at) {
                        prop_assert_eq!(first, &target, "{:?}", packet);
                    }
                    before.insert(at, target);
                }
            }
        }
    }
}

fn sticky(plan: &Plan, packet: &Packet) -> bool {
    let at = planner::FrontendKey {
        at: planner::FrontendAddress::Address(packet.destination),
        protocol: packet.protocol,
        port: packet.port,
    };
    let service = plan.claims.holder(&at).and_then(|holder| plan.service(holder));
    service.is_some_and(|service| {
        service.held().any(|(port, frontend)| frontend.at == at && port.affinity.is_some())
    })
}
