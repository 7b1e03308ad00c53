//! Any changes, any failures, in any order: once nothing fails, all is as if nothing had failed.

use crate::bench::Bench;
use crate::fake::{Fake, Op, Plans, plans};
use crate::objects::{Example, policy, service};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::time::Duration;
use vipd::model::Protocol;
use vipd::planner::{Planner, Target};
use vipd::store::Store;

#[derive(Debug, Clone)]
enum Step {
    /// The n-th service is there, with these endpoints at this port.
    Put(u8, Vec<u8>, u16),
    Remove(u8),
    /// Somebody else takes a service away, and the writer is told.
    Edit,
    /// The writer works when it wanted to be woken: retries, settles, trims.
    Wake,
    /// A client connects to every UDP frontend and endpoint that the kernel holds.
    Connect,
}

fn example(number: u8) -> Example {
    let example = service(&format!("s{number}"), number);
    match number {
        0 => example,
        1 => example.udp(),
        2 => example.udp().outside(),
        // At the address of another one, which came first by name.
        _ => service("other", 1).udp(),
    }
}

fn step() -> impl Strategy<Value = Step> {
    let endpoints = prop::collection::btree_set(1u8..4, 0..3);
    let ports = prop_oneof![4 => Just(8080u16), 1 => Just(8081)];
    prop_oneof![
        6 => (0u8..4, endpoints, ports)
            .prop_map(|(n, endpoints, port)| Step::Put(n, endpoints.into_iter().collect(), port)),
        2 => (0u8..4).prop_map(Step::Remove),
        2 => Just(Step::Edit),
        3 => Just(Step::Wake),
        3 => Just(Step::Connect),
    ]
}

fn failure() -> impl Strategy<Value = (Op, usize)> {
    let op = prop_oneof![
        3 => Just(Op::Apply),
        3 => Just(Op::Resync),
        1 => Just(Op::Subscribe),
        1 => Just(Op::Repair),
        1 => Just(Op::Settle),
        1 => Just(Op::Trim),
    ];
    (op, 0usize..8)
}

/// What is planned for these, with no past.
fn planned(services: &BTreeMap<u8, Example>) -> Plans {
    let mut store = Store::new("node-a".into());
    let mut planner = Planner::new(policy(), "node-a".into());
    for object in services.values().flat_map(Example::objects) {
        store.upsert(object);
    }
    planner.replan(store.take_dirty().services, store.known());
    plans(planner.plan())
}

/// UDP endpoints in use: where clients' flows may lead.
fn serving(plans: &Plans) -> Vec<(Target, Target)> {
    let mut pairs = Vec::new();
    for (port, frontend) in plans.values().flat_map(|plan| plan.held()) {
        if let vipd::planner::FrontendAddress::Address(address) = frontend.at.at
            && port.protocol == Protocol::Udp
        {
            let at = Target { address, port: frontend.at.port };
            pairs.extend(port.serving.iter().map(|target| (at, *target)));
        }
    }
    pairs
}

fn perform(bench: &mut Bench, step: &Step, services: &mut BTreeMap<u8, Example>) {
    match step {
        Step::Put(number, endpoints, port) => {
            let wanted = example(*number).endpoints(endpoints).target_port(*port);
            bench.take(wanted.upserts());
            services.insert(*number, wanted);
        }
        Step::Remove(number) => {
            bench.take(example(*number).deletes());
            services.remove(number);
        }
        Step::Edit => {
            bench.kernel().edit();
            bench.writer.repair();
        }
        Step::Wake if bench.writer.schedule().wake_at().is_some() => bench.work_when_due(),
        Step::Wake => {}
        Step::Connect => bench.flows.connect(&bench.kernel()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1024, ..ProptestConfig::default() })]

    #[test]
    fn every_schedule_of_failures_converges(
        steps in prop::collection::vec(step(), 1..24),
        failures in prop::collection::vec(failure(), 0..12),
        first in 0usize..3,
        period in prop_oneof![3 => Just(0u64), 1 => Just(3600)],
    ) {
        let fake = Fake::failing(Op::Resync, 0..first);
        let mut bench = Bench::with_period(fake, Duration::from_secs(period)).start(&[]);
        for (op, nth) in failures {
            bench.kernel().fail(op, [nth]);
        }
        let mut services = BTreeMap::new();
        for step in &steps {
            perform(&mut bench, step, &mut services);
            bench.work();
        }

        bench.kernel().recover();
        // What waits for the least period, and an edit that was made while nobody could look.
        while bench.writer.schedule().wake_at().is_some() {
            bench.work_when_due();
        }
        bench.writer.repair();
        bench.assert_converged();

        let wanted = planned(&services);
        prop_assert_eq!(&bench.kernel().services, &wanted);
        let serving = serving(&wanted);
        for flow in bench.flows.open() {
            let pair = (flow.destination, flow.answerer);
            prop_assert!(serving.contains(&pair), "{:?} stays", flow);
        }
        // And nothing that has endpoints was cut for good.
        bench.flows.connect(&bench.kernel());
        prop_assert_eq!(bench.flows.open().len(), serving.len());
    }
}
