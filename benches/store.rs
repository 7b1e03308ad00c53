//! The store alone: one slice among many, beside a published state, and the bare map under it.

mod objects;

use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use objects::{changed, objects, pod, service, slice};
use std::hint::black_box;
use std::sync::Arc;
use vipd::store::Store;

fn filled(count: usize) -> Store {
    let mut store = Store::new("node-0".into());
    objects(count).into_iter().for_each(|object| store.upsert(object));
    store.take_dirty();
    store
}

fn upsert(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("store, one slice");
    for count in [1_000, 100_000] {
        let mut store = filled(count);
        // A reader holds the state before each change, as in the daemon.
        let mut published = store.known().clone();
        let mut version = 0;
        group.bench_function(BenchmarkId::new("upsert", count), |bencher| {
            bencher.iter_batched(
                || {
                    version += 1;
                    slice(changed(version / 2, count), version)
                },
                |object| {
                    store.upsert(object);
                    published = store.known().clone();
                    black_box(store.take_dirty())
                },
                BatchSize::SmallInput,
            );
        });
        // What cannot be saved: an entry of the persistent map replaced, beside a copy of the map.
        let mut map = store.known().clone();
        let keys: Vec<_> = map.keys().cloned().collect();
        let mut turn = 0;
        group.bench_function(BenchmarkId::new("bare map", count), |bencher| {
            bencher.iter(|| {
                turn += 1;
                let key = &keys[changed(turn, count)];
                let entry = map.get(key).map(|known| Arc::new((**known).clone()));
                published = map.clone();
                map.insert(key.clone(), entry.expect("all keys are there"));
            });
        });
        black_box(published);
    }
}

/// Services that have two pods each and no slice; one pod is ready, or no longer.
fn pods(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("store, one pod");
    for count in [1_000, 100_000] {
        let mut store = Store::new("node-0".into());
        for number in 0..count {
            let pods = [pod(number, 0, 0), pod(number, 1, 0)];
            [service(number)].into_iter().chain(pods).for_each(|object| store.upsert(object));
        }
        store.take_dirty();
        let mut published = store.known().clone();
        let mut version = 0;
        group.bench_function(BenchmarkId::new("upsert", count), |bencher| {
            bencher.iter_batched(
                || {
                    version += 1;
                    pod(changed((version - 1) / 2, count), 0, version)
                },
                |object| {
                    store.upsert(object);
                    let dirty = store.take_dirty();
                    published = store.known().clone();
                    black_box(dirty)
                },
                BatchSize::SmallInput,
            );
        });
        black_box(published);
    }
}

fn fill(criterion: &mut Criterion) {
    let objects = objects(10_000);
    let mut group = criterion.benchmark_group("store, everything");
    group.sample_size(10);
    group.bench_function("10k x 2", |bencher| {
        bencher.iter_batched(
            || (Store::new("node-0".into()), objects.clone()),
            |(mut store, objects)| {
                objects.into_iter().for_each(|object| store.upsert(object));
                store
            },
            BatchSize::PerIteration,
        );
    });
}

criterion_group!(benches, fill, upsert, pods);
criterion_main!(benches);
