//! Store and planner: everything at once, and one change among many services, which must cost the
//! same whatever their number.

mod objects;

use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use objects::{changed, load, new, objects, slice};
use std::hint::black_box;

fn full(criterion: &mut Criterion) {
    let objects = objects(10_000);
    let mut group = criterion.benchmark_group("full");
    group.sample_size(10);
    group.bench_function("10k x 2", |bencher| {
        let setup = || (new(), objects.clone());
        bencher.iter_batched(
            setup,
            |(mut world, objects)| {
                load(&mut world, objects);
                world
            },
            BatchSize::PerIteration,
        );
    });
}

fn one_change(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("one change");
    for count in [1_000, 100_000] {
        let mut world = new();
        load(&mut world, objects(count));
        // A reader holds the state before each change, as in the daemon.
        let mut published = (world.0.known().clone(), world.1.plan().clone());
        let mut version = 0;
        group.bench_function(BenchmarkId::from_parameter(count), |bencher| {
            bencher.iter_batched(
                || {
                    version += 1;
                    vec![slice(changed(version / 2, count), version)]
                },
                |change| {
                    load(&mut world, change);
                    published = (world.0.known().clone(), world.1.plan().clone());
                },
                BatchSize::SmallInput,
            );
        });
        black_box(published);
    }
}

criterion_group!(benches, full, one_change);
criterion_main!(benches);
