//! Topology hints.

use super::support::manifests::{Slice, ep, node, slice, svc};
use super::support::plan::{L1, L2, NODE_A, R1, R2};
use super::support::runner::{Case, case};

/// L1 for node-a, R1 and R2 for node-b; with zone hints: L1 and R1 z1, R2 z2.
fn node_hints(l1_ready: bool, zones: bool) -> Slice {
    let [mut l1, mut r1, mut r2] =
        [(L1, "node-a"), (R1, "node-b"), (R2, "node-b")].map(|(pod, host)| ep(pod).nodes([host]));
    if zones {
        (l1, r1, r2) = (l1.zones(["z1"]), r1.zones(["z1"]), r2.zones(["z2"]));
    }
    slice([if l1_ready { l1 } else { l1.not_ready() }, r1, r2])
}

pub fn cases() -> Vec<Case> {
    vec![
        case(
            "48 zone hints: own zone only; one endpoint without, or none for this zone: all",
            |w| {
                let (z1, z2) = (ep(L1).zones(["z1"]), ep(R1).zones(["z2"]));
                w.serve(svc().on([z1.clone(), z2.clone(), ep(R2).zones(["z1", "z2"])]));
                w.tcp(L2, w.cip(), 80).times(200).spread([L1, R2]);
                w.serve(slice([z1, z2.clone(), ep(R2)]));
                w.tcp(L2, w.cip(), 80).times(300).spread([L1, R1, R2]);
                w.serve(slice([ep(L1).zones(["z2"]), z2]));
                w.tcp(L2, w.cip(), 80).times(200).spread([L1, R1]);
            },
        ),
        case("49 node hints: own node only; its endpoint not ready: zone hints, or all", |w| {
            w.write(svc());
            w.serve(node_hints(true, false));
            w.tcp(L2, w.cip(), 80).times(50).only([L1]);
            w.serve(node_hints(true, true));
            w.tcp(L2, w.cip(), 80).times(50).only([L1]);
            w.serve(node_hints(false, true));
            w.tcp(L2, w.cip(), 80).times(50).only([R1]);
            w.serve(node_hints(false, false));
            w.tcp(L2, w.cip(), 80).times(200).spread([R1, R2]);
        }),
        case("50 the node's zone label changes while running", |w| {
            w.serve(svc().on([ep(L1).zones(["z1"]), ep(R1).zones(["z2"])]));
            w.tcp(L2, w.cip(), 80).times(50).only([L1]);
            w.serve(node(NODE_A, Some("z2")));
            w.tcp(L2, w.cip(), 80).times(50).only([R1]);
            w.serve(node(NODE_A, None));
            w.tcp(L2, w.cip(), 80).times(200).spread([L1, R1]);
            w.serve(node(NODE_A, Some("z1")));
            w.tcp(L2, w.cip(), 80).times(50).only([L1]);
        }),
    ]
}
