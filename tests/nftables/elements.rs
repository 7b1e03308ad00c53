//! The kernel's elements are what the plan means, after a load and after any number of changes.

use crate::held::Held;
use crate::netns::Netns;
use crate::plans::{Cluster, policy};
use crate::runner::{Case, namespace, random};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use vipd::dataplane::Dataplane;
use vipd::dataplane::nftables::{Nftables, Without};

pub const CASES: &[Case] = &[("a loaded plan", loaded), ("after any changes", changed)];

/// A dataplane in a namespace.
pub fn open(node: &Netns) -> Nftables {
    node.enter(|| Nftables::open(Without::default())).expect("root in its namespace")
}

fn loaded() {
    let services = [
        "web 10.96.0.10,fd00:96::10 80/tcp,443/tcp -> 10.1.0.1,10.1.0.2,10.1.0.3,fd01::1,fd01::2",
        "dns 10.96.0.11,fd00:96::11 53/udp,53/tcp -> 10.1.0.4,fd01::4",
        "cart 10.96.0.12,fd00:96::12 80/tcp -> 10.1.0.1,10.1.0.2,fd01::1,fd01::2 sticky=10800",
        "call 10.96.0.13 5060/sctp -> 10.1.0.9@elsewhere,10.1.0.8",
        "here 10.96.0.14 80/tcp -> 10.1.0.9@elsewhere,10.1.0.8 local",
        "none 10.96.0.15,fd00:96::15 80/tcp ->",
        "away 10.96.0.16 80/tcp -> 10.1.0.9@elsewhere local",
        "rival 10.96.0.16 80/tcp,81/tcp -> 10.1.0.9",
        "wide 10.96.255.255 1/tcp,65535/udp -> 10.1.0.1,10.1.0.2 sticky=1",
    ];
    let node = namespace();
    let plan = Cluster::of(policy(), &services).plan();
    open(&node).resync(&plan).expect("an empty namespace takes the plan");
    let held = Held::read(&node);
    assert_eq!(held, Held::of(&plan));
    assert_eq!(held.frontends.len(), 18, "the services above, rival's port 80 left out");
}

/// One service as `Cluster::put` takes it, of a small world in which addresses and endpoints meet.
pub fn service() -> impl Strategy<Value = String> {
    let endpoints = |text: &'static [&'static str]| {
        prop::sample::subsequence(text, 0..=text.len()).prop_map(|some| some.join(","))
    };
    let v4 = endpoints(&["10.1.0.1", "10.1.0.2", "10.1.0.3", "10.1.0.4@elsewhere", "10.1.0.5"]);
    // With the ones above, pools of sizes that lie in two maps.
    let many = prop_oneof![6 => Just(""), 1 => Just("10.1.1.1-30"), 1 => Just("10.1.1.1-46")];
    let v6 = endpoints(&["fd01::1", "fd01::2", "fd01::3@elsewhere"]);
    let ports = prop::sample::select(&["80/tcp", "80/udp", "80/tcp,81/tcp", "9/sctp,80/tcp"][..]);
    let sticky = prop::sample::select(&["", "sticky=10", "sticky=60"][..]);
    let local = prop::sample::select(&["", "", "local", "relayed", "local relayed"][..]);
    let endpoints = (v4, many, v6);
    (0..6u8, 1..6u8, any::<bool>(), ports, endpoints, sticky, local).prop_map(
        |(name, ip, dual, ports, (v4, many, v6), sticky, local)| {
            let ips = match dual {
                true => format!("10.96.0.{ip},fd00:96::{ip}"),
                false => format!("10.96.0.{ip}"),
            };
            let endpoints = [v4, many.to_owned(), v6].into_iter().filter(|some| !some.is_empty());
            let endpoints = endpoints.collect::<Vec<_>>().join(",");
            format!("s{name} {ips} {ports} -> {endpoints} {sticky} {local}")
        },
    )
}

/// Each element of the outer list is one delta; `None` empties the cluster.
fn changed() {
    let deltas = prop::collection::vec(prop::collection::vec(service(), 0..4), 1..8);
    let node = namespace();
    let outcome = TestRunner::new(random(48)).run(&deltas, |deltas| {
        let mut nftables = open(&node);
        nftables.cleanup().expect("the table goes");
        let mut cluster = Cluster::new(policy());
        cluster.replan();
        nftables.resync(&cluster.plan()).expect("nothing is in the way");
        for delta in deltas {
            match &delta[..] {
                [] => cluster.clear(),
                services => services.iter().for_each(|text| cluster.put(text)),
            }
            let delta = cluster.replan();
            nftables.apply(&delta, &cluster.plan()).expect("the kernel takes it");
            // Slots that packets in flight may still pick go with the next commit.
            if !nftables.has_deferred() {
                prop_assert_eq!(Held::read(&node), Held::of(&cluster.plan()));
            }
        }
        nftables.settle().expect("the kernel takes it");
        prop_assert!(!nftables.has_deferred());
        prop_assert_eq!(Held::read(&node), Held::of(&cluster.plan()));
        Ok(())
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
}
