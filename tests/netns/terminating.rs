//! Terminating endpoints: when they serve, and what happens to connections that are open.

use super::support::manifests::{draining, ep, gone, svc};
use super::support::plan::{L1, L2, L3, Node, R1};
use super::support::runner::{Case, case};
use super::support::servers::Tcp;
use std::time::Instant;

pub fn cases() -> Vec<Case> {
    vec![
        case("24 a terminating endpoint is not used while ready ones exist", |w| {
            w.serve(svc().on([ep(L1), draining(L2), ep(R1)]));
            w.tcp(L3, w.cip(), 80).times(200).spread([L1, R1]);
        }),
        case("25 one ready endpoint elsewhere beats terminating ones here", |w| {
            w.serve(svc().on([draining(L1), draining(L2), gone(L3), ep(R1)]));
            w.tcp(L2, w.cip(), 80).times(100).only([R1]);
        }),
        case("26 terminating endpoints that do not serve are none", |w| {
            w.serve(svc().on([gone(L1), gone(L2), gone(R1)]));
            w.tcp(L3, w.cip(), 80).times(3).refused();
        }),
        case("27 all terminating: the serving ones are used", |w| {
            w.serve(svc().on([draining(L1), draining(L2), gone(L3), draining(R1)]));
            w.tcp(L3, w.cip(), 80).times(300).spread([L1, L2, R1]).source_kept();
        }),
        case("27 internalTrafficPolicy Local falls back to local terminating endpoints", |w| {
            w.serve(svc().local().on([draining(L1), gone(L3), ep(R1)]));
            w.tcp(L2, w.cip(), 80).times(50).only([L1]);
            w.serve(svc().local().on([draining(L1), ep(L3), ep(R1)]));
            w.tcp(L2, w.cip(), 80).times(50).only([L3]);
        }),
        case("45 an open TCP connection outlives terminating and removal of its endpoint", |w| {
            w.serve(svc().on([L1]));
            let start = Instant::now();
            let (pod, node) = (w.talking(L2, Tcp, w.cip(), 80), w.talking(Node, Tcp, w.cip(), 80));
            w.serve(svc().on([draining(L1), ep(R1)]));
            w.sleep(500);
            w.serve(svc().on([R1]));
            w.sleep(1000);
            w.tcp(L2, w.cip(), 80).times(20).only([R1]);
            pod.undisturbed(start);
            node.undisturbed(start);
        }),
    ]
}
