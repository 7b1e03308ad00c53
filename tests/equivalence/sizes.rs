//! Pools of sizes at which they change their map: what new packets get, and what those get that
//! looked up the frontend before the change and look up the endpoint after it.

use super::machine::{End, Machine};
use super::objects::{Example, policy, service};
use super::packet::Packet;
use super::table::Table;
use super::{expected, run};
use proptest::prelude::*;
use std::collections::BTreeSet;
use vipd::dataplane::nftables::difference::pool_difference;
use vipd::dataplane::nftables::expr::Verdict;
use vipd::dataplane::nftables::set::{Bytes, Data, Set, Value};
use vipd::model::{Family, NodeFacts, Protocol};
use vipd::planner::{Locality, Member, Planner, Pool, Target};
use vipd::store::Store;

/// So many endpoints, from this number on; TCP port 80 of both families.
fn example(first: u8, count: u8) -> Example {
    let hosts: Vec<u8> = (first..first + count).collect();
    service("s", 1).dual_stack().endpoints(&hosts)
}

/// A packet between its two look-ups.
struct InFlight {
    packet: Packet,
    chain: String,
    choices: u32,
}

/// Where a packet stands once it has found its class.
fn dispatched(table: &mut Table, packet: &Packet) -> InFlight {
    let mut machine = Machine::new(table, packet.clone(), &|_| false);
    assert!(matches!(machine.run("prerouting"), End::Dnat(_)), "{packet:?}");
    let (choices, priority) = (machine.modulus, machine.packet.priority);
    let class = Bytes::from_slice(&Value(priority).class().to_ne_bytes());
    match &table.sets[&Set::Classes][&(class, false)] {
        Data::Verdict(Verdict::Goto(chain)) => InFlight {
            packet: Packet { priority, ..packet.clone() },
            chain: chain.to_string(),
            choices,
        },
        other => panic!("a class leads to {other:?}"),
    }
}

/// What the rest of its way gives it, for everything that `numgen random` may say.
fn arrivals(table: &mut Table, in_flight: &InFlight) -> Vec<Target> {
    let arrival = |random| {
        let mut machine = Machine::new(table, in_flight.packet.clone(), &|_| false);
        machine.random = random;
        match machine.run(&in_flight.chain) {
            End::Dnat(target) => target,
            other => panic!("{other:?} in {} for {random}", in_flight.chain),
        }
    };
    (0..in_flight.choices).map(arrival).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// One pool comes from the other, and they share what stayed: on that rests what is written.
    #[test]
    fn the_difference_of_pools_is_that_of_their_targets(
        first in prop::collection::btree_set(0u16..2000, 0..600),
        gone in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
        come in prop::collection::btree_set(0u16..2000, 0..20),
        moved in any::<prop::sample::Index>(),
    ) {
        let target = |n: &u16| Target { address: [10, 1, (n >> 8) as u8, *n as u8].into(), port: 80 };
        let member = |locality| Member { locality, terminating: false };
        let here = |n: &u16| (target(n), member(Locality::Here));
        let before: Pool = first.iter().map(here).collect();
        let (mut after, mut last) = (before.clone(), first.clone());
        for index in gone.iter().filter(|_| !first.is_empty()) {
            let n = *index.get(&first.iter().copied().collect::<Vec<_>>());
            after.remove(&target(&n));
            last.remove(&n);
        }
        after.extend(come.iter().map(here));
        last.extend(&come);
        if !last.is_empty() {
            let n = *moved.get(&last.iter().copied().collect::<Vec<_>>());
            after.insert(target(&n), member(Locality::Elsewhere));
        }
        let targets = |set: BTreeSet<u16>| set.iter().map(target).collect::<Vec<_>>();
        let expected = (targets(&first - &last), targets(&last - &first));
        prop_assert_eq!(pool_difference(&before, &after), expected);
        prop_assert_eq!(after.keys().copied().collect::<Vec<_>>(), targets(last));
    }

    #[test]
    fn pools_change_their_map(
        steps in prop::collection::vec(
            (1u8..6, prop_oneof![2 => 31u8..35, 2 => 47u8..51, 1 => 1u8..4]),
            2..6,
        ),
    ) {
        let mut store = Store::new("n0".into());
        let mut planner = Planner::new(policy(), "n0".into()).following_from(1);
        let facts = NodeFacts { name: "n0".into(), ..NodeFacts::default() };
        planner.set_facts(facts.clone(), &[]);
        let mut table = Table::new();
        let clients = [(Family::V4, "10.180.0.9"), (Family::V6, "fd00:180::9")];
        let packets = clients.map(|(family, from)| Packet {
            source: from.parse().expect("an address"),
            destination: service("s", 1).cluster_ip(family),
            protocol: Protocol::Tcp,
            port: 80,
            in_interface: Some("eth0".to_owned()),
            original: None,
            priority: 0,
        });
        let mut in_flight: Vec<InFlight> = Vec::new();
        for (first, count) in steps {
            example(first, count).objects().into_iter().for_each(|object| store.upsert(object));
            let dirty = store.take_dirty();
            table.apply(&planner.replan(dirty.services, store.known()));
            let answers = packets.each_ref().map(|packet| expected(planner.plan(), packet));
            for (in_flight, (_, targets)) in in_flight.iter().zip(&answers) {
                for target in arrivals(&mut table, in_flight) {
                    prop_assert!(targets.contains_key(&target), "{target} in flight");
                }
            }
            for (packet, answer) in packets.iter().zip(&answers) {
                prop_assert_eq!(answer.1.len(), usize::from(count));
                prop_assert_eq!(&run(&mut table, packet, &facts), answer, "{:?}", packet);
            }
            in_flight = packets.iter().map(|packet| dispatched(&mut table, packet)).collect();
        }
    }
}
