//! Many services, many changes.

use super::support::manifests::{Manifest, Together, slice, svc};
use super::support::nft::Watch;
use super::support::plan::{L1, L2, L3, Node, R1, R2, Who};
use super::support::runner::{Case, case, soak};
use super::support::sandbox::is_root_asked_for;
use super::support::world::World;
use std::time::{Duration, Instant};

/// Writes `count` services of five endpoints each, a hundred to a file.
fn many(w: &World, count: u16) {
    const FILE: u16 = 100;
    for first in (0..count).step_by(FILE.into()) {
        let mut objects: Vec<Box<dyn Manifest>> = Vec::new();
        for n in first..(first + FILE).min(count) {
            let name = format!("bulk-{n}");
            let service = svc().named(&name, 0).at(w.family.bulk_cluster_ip(n));
            objects.push(Box::new(service.on([L1, L2, L3, R1, R2])));
        }
        w.write(Together(format!("bulk-{first}"), objects));
    }
}

pub fn cases() -> Vec<Case> {
    vec![
        case("53 many services, then one more: served at once, by a few kernel operations", |w| {
            let count = if soak() { 10_000 } else { 2_000 };
            many(w, count);
            w.settle_within(Duration::from_secs(120));
            let last = w.family.bulk_cluster_ip(count - 1);
            w.tcp(L3, last, 80).times(100).spread([L1, L2, L3, R1, R2]);
            let watch = Watch::start(w.netns(Node));
            let start = Instant::now();
            w.write(svc().on([L1]));
            w.within(Duration::from_secs(5), || {
                let one = w.tcp(L2, w.cip(), 80).patience(Duration::from_millis(40)).untraced();
                one.replies().failures() == 0
            });
            let took = start.elapsed();
            w.sleep(200);
            let added = watch.changes();
            assert!(took < Duration::from_millis(250), "served after {took:?}");
            assert!((1..=10).contains(&added.objects), "{added:?} for a new service");
            w.write(svc().on([L1]));
            w.sleep(200);
            let same = watch.changes();
            assert_eq!(same.objects, 0, "{same:?} for unchanged objects");
            w.write(super::support::manifests::no_endpoints());
            w.sleep(200);
            let emptied = watch.changes();
            assert!(
                (1..=8).contains(&emptied.objects),
                "{emptied:?} for a service without endpoints"
            );
            w.withdraw(svc());
            let deleted = watch.changes();
            w.settle();
            let sentinel = watch.changes();
            assert!(
                deleted.objects <= sentinel.objects + 8,
                "{deleted:?} for a deleted service and a sentinel, {sentinel:?} for a sentinel"
            );
        }),
        case(
            "sets grow under traffic: no connection fails, and a restart finds nothing to do",
            |w| {
                w.serve(svc().on([L1, R1]));
                let load = w.load(L2, w.cip(), 80, 200);
                // Five endpoints each: more than twice what a small set has room for.
                many(w, 3_000);
                w.settle_within(Duration::from_secs(120));
                w.tcp(L3, w.family.bulk_cluster_ip(2_999), 80).times(50).reached();
                load.stop().reached();
                let grown = w.log().matches("making a set larger").count();
                // Where the socket's buffer is limited, sets have no fixed size.
                let sized = w.sh(Node, "nft -t list table inet vipd").contains("size 6144");
                assert_eq!(grown > 0, sized, "{grown} sets grew");
                assert!(sized || !is_root_asked_for(), "root's sets have no size");
                w.terminate();
                w.launch_over_the_same(Duration::from_secs(20));
            },
        ),
        case(
            "54 changes as fast as files can be written: coalesced, served all the time, right at the end",
            |w| {
                w.serve(svc().on([L1, R1]));
                let watch = Watch::start(w.netns(Node));
                let load = w.load(L2, w.cip(), 80, 100);
                let start = Instant::now();
                let (mut writes, mut commits) = (0, 0);
                while start.elapsed() < Duration::from_secs(if soak() { 10 } else { 3 }) {
                    writes += 1;
                    w.write(slice(if writes % 2 == 0 { [L1, R1] } else { [L1, R2] }));
                    std::thread::sleep(Duration::from_micros(700));
                    commits += watch.changes().commits;
                }
                w.serve(slice([L1, L3]));
                w.tcp(L2, w.cip(), 80).times(200).spread([L1, L3]);
                load.stop().reached();
                assert!(writes > 300, "only {writes} changes in {:?}", start.elapsed());
                assert!(commits > 10, "{commits} commits for {writes} changes");
            },
        ),
        case("54 a minimum sync period is kept, and nothing is lost", |w| {
            w.serve(svc().on([L1, R1]));
            w.sleep(1100);
            let watch = Watch::start(w.netns(Node));
            for turn in 1..=150 {
                // Never twice the same, so that each period has something to write.
                w.write(svc().named("other", 42).port(turn));
                w.sleep(20);
            }
            // Three seconds: a commit at once, then one each second, and a later one each for
            // what packets could still look up.
            let commits = watch.changes().commits;
            assert!((2..=10).contains(&commits), "{commits} commits in 3 s with a period of 1 s");
            w.serve(slice([L1, L3]));
            w.tcp(L2, w.cip(), 80).times(100).spread([L1, L3]);
            w.tcp(L2, w.family.cluster_ip(42), 150).refused();
        })
        .flag("--min-sync-period", "1s"),
        case(
            "100,000 objects: each is served, one change is served at once, over a restart too",
            |w| {
                const SERVICES: u16 = 50_000;
                many(w, SERVICES);
                w.settle_within(Duration::from_secs(300));
                let some = || {
                    for n in (0..SERVICES).step_by(4_999) {
                        w.tcp(L3, w.family.bulk_cluster_ip(n), 80).times(5).reached();
                    }
                };
                some();
                let change = |pod: Who| {
                    let start = Instant::now();
                    w.write(svc().on([pod]));
                    w.within(Duration::from_secs(5), || {
                        let one =
                            w.tcp(L2, w.cip(), 80).patience(Duration::from_millis(40)).untraced();
                        let replies = one.replies();
                        replies.failures() == 0 && replies.servers().contains_key(pod.name())
                    });
                    start.elapsed()
                };
                for pod in [L1, R1, L1] {
                    let took = change(pod);
                    assert!(took < Duration::from_millis(250), "served after {took:?}");
                }
                w.kill();
                w.write(svc().on([R2]));
                let watch = Watch::start(w.netns(Node));
                w.launch(&[]);
                w.settle_within(Duration::from_secs(60));
                let changes = watch.changes();
                assert!(changes.objects < 100, "{changes:?} for one service of {SERVICES}");
                w.tcp(L2, w.cip(), 80).times(20).only([R2]);
                some();
            },
        )
        .once()
        .soak(),
        case("many services that come and go leave nothing behind in memory", |w| {
            const SERVICES: u16 = 10_000;
            w.serve(svc().on([L1]));
            let round = || {
                many(w, SERVICES);
                w.settle_within(Duration::from_secs(300));
                for first in (0..SERVICES).step_by(100) {
                    w.write(Together(format!("bulk-{first}"), Vec::new()));
                }
                w.settle_within(Duration::from_secs(300));
                w.sleep(2000);
                w.resident()
            };
            let first = round();
            let later = (0..3).map(|_| round()).max().expect("three rounds");
            assert!(later < first + first / 4, "{first} bytes after one round, {later} after more");
            w.tcp(L2, w.cip(), 80).times(10).only([L1]);
        })
        .once()
        .soak(),
    ]
}
