//! From a plan's difference to the bytes of a netlink transaction, without a kernel.

mod objects;

use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use objects::{changed, load, new, objects, slice};
use std::hint::black_box;
use vipd::dataplane::nftables::changes::Changes;
use vipd::dataplane::nftables::state::State;
use vipd::dataplane::nftables::transaction::{Batch, Encoder};
use vipd::planner::{Plan, PlanDelta};

/// No transaction is cut.
const CAPACITY: usize = 64 << 20;

fn encode(changes: &Changes) -> Vec<Batch> {
    let mut encoder = Encoder::new(CAPACITY, 0);
    encoder.changes(changes);
    encoder.finish().0
}

fn everything(plan: &Plan) -> (State, Changes) {
    let (mut state, mut changes) = (State::default(), Changes::default());
    state.lower_node(&plan.node, &mut changes);
    for service in plan.services() {
        state.lower(&service.key, None, Some(&service), &mut changes);
    }
    (state, changes)
}

fn difference(state: &mut State, delta: &PlanDelta) -> Vec<Batch> {
    let mut changes = Changes::default();
    state.take_overdue(&mut changes);
    for service in &delta.services {
        let (old, new) = (service.old.as_deref(), service.new.as_deref());
        state.lower(&service.key, old, new, &mut changes);
    }
    encode(&changes)
}

fn full(criterion: &mut Criterion) {
    let mut world = new();
    load(&mut world, objects(10_000));
    let plan = world.1.plan();
    let bytes: Vec<Batch> = encode(&everything(plan).1);
    let mut group = criterion.benchmark_group("lowering, everything");
    group.sample_size(10);
    group.bench_function("10k x 2", |bencher| {
        bencher.iter_with_large_drop(|| encode(&everything(plan).1));
    });
    // The least that any encoder does: the same bytes written once.
    group.bench_function("copy of the bytes", |bencher| {
        bencher.iter_with_large_drop(|| {
            bytes.iter().map(|batch| batch.buffer.bytes().to_vec()).collect::<Vec<_>>()
        });
    });
}

fn one_change(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("lowering, one change");
    for count in [1_000, 100_000] {
        let mut world = new();
        load(&mut world, objects(count));
        let mut state = everything(world.1.plan()).0;
        let mut version = 0;
        group.bench_function(BenchmarkId::from_parameter(count), |bencher| {
            bencher.iter_batched(
                || {
                    version += 1;
                    load(&mut world, vec![slice(changed(version / 2, count), version)])
                },
                |delta| black_box(difference(&mut state, &delta)),
                // The state must follow the plan change by change.
                BatchSize::PerIteration,
            );
        });
    }
}

criterion_group!(benches, full, one_change);
criterion_main!(benches);
