//! UDP flows and the connection tracking table, fragments, path MTU errors.

use super::support::flow::Flow;
use super::support::manifests::{Slice, draining, ep, no_endpoints, slice, svc, udp};
use super::support::plan::{Ext, L1, L2, L3, NODE_PORT, Node, NodeB, R1, V4, Who};
use super::support::runner::{Case, case, soak};
use super::support::servers::Udp;
use super::support::vipd::Carrier;
use super::support::world::World;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

fn endpoints<const N: usize>(pods: [Who; N]) -> Slice {
    slice(pods).ports([udp("", 8080)])
}

/// A sender that expects no answer, once its datagrams arrive at L1.
fn one_way_to_l1(w: &World) -> Flow {
    let start = Instant::now();
    let flow = w.one_way(L3, w.cip(), 80);
    w.within(Duration::from_secs(2), || w.servers(L1).arrived(w.seen(L3), start) > 3);
    flow
}

pub fn cases() -> Vec<Case> {
    vec![
        case("40 a UDP flow moves to the new endpoint when its own is replaced", |w| {
            w.serve(svc().udp().on([L1]));
            let (pod, outside) =
                (w.talking(L3, Udp, w.cip(), 80), w.talking(Ext, Udp, w.cip(), 80));
            w.answered_by(&pod, L1);
            w.answered_by(&outside, L1);
            w.write(endpoints([L2]));
            w.answered_by(&pod, L2);
            w.answered_by(&outside, L2);
            w.sleep(100);
            let since = Instant::now();
            w.sleep(800);
            assert_eq!(w.servers(L1).arrived(w.seen(L3), since), 0, "datagrams still went to L1");
            assert_eq!(
                (pod.servers(since), outside.servers(since)),
                (["L2".into()].into(), ["L2".into()].into())
            );
        }),
        case("40 flows to other endpoints of the service stay where they are", |w| {
            w.serve(svc().udp().on([L1, R1]));
            let start = Instant::now();
            let flows: Vec<Flow> = (0..12).map(|_| w.talking(L3, Udp, w.cip(), 80)).collect();
            w.sleep(300);
            let before: Vec<_> = flows.iter().map(|flow| flow.servers(start)).collect();
            w.serve(endpoints([R1]));
            w.sleep(300);
            for (flow, before) in flows.iter().zip(before) {
                if before == ["R1".into()].into() {
                    flow.undisturbed(start);
                } else {
                    w.answered_by(flow, R1);
                }
            }
        }),
        case(
            "41 a UDP sender that starts before there is an endpoint reaches it when it comes",
            |w| {
                w.serve(svc().udp());
                let start = Instant::now();
                let (pod, outside) =
                    (w.talking(L3, Udp, w.cip(), 80), w.talking(Ext, Udp, w.cip(), 80));
                w.sleep(400);
                for flow in [&pod, &outside] {
                    assert!(
                        flow.refusals(start) > 0 && flow.servers(start).is_empty(),
                        "not refused"
                    );
                }
                w.write(endpoints([L1]));
                w.answered_by(&pod, L1);
                w.answered_by(&outside, L1);
            },
        ),
        case(
            "42 scaled to zero under a one-way sender: refused, nothing to the old pod, entry gone",
            |w| {
                w.serve(svc().udp().on([L1]));
                let flow = one_way_to_l1(w);
                w.serve(no_endpoints().ports([udp("", 8080)]));
                let long = Duration::from_millis(if soak() { 40_000 } else { 1500 });
                let since = w.silence(long, |since| w.servers(L1).arrived(w.seen(L3), since));
                assert!(flow.refusals(since) > 3, "the sender is not told");
                assert_eq!(w.conntrack(w.address(L3), w.cip()), [] as [String; 0]);
            },
        ),
        case("43 a UDP service deleted: its entry goes, the flow is dropped on the node", |w| {
            w.serve(svc().udp().on([L1]));
            let (uplink, _flow) = (w.sniff(NodeB), one_way_to_l1(w));
            w.withdraw(svc().udp().on([L1]));
            w.silence(Duration::from_secs(1), |since| w.servers(L1).arrived(w.seen(L3), since));
            assert_eq!(w.conntrack(w.address(L3), w.cip()), [] as [String; 0]);
            uplink.nothing_of(w.cip());
        }),
        case("43 other flows of the same pods are left alone", |w| {
            w.serve(svc().udp().on([L1]));
            w.write(svc().named("other", 42).udp().on([L1]));
            w.settle();
            let start = Instant::now();
            let (direct, other) = (
                w.talking(L3, Udp, w.address(L1), 8080),
                w.talking(L3, Udp, w.family.cluster_ip(42), 80),
            );
            let entry = |to| w.conntrack(w.address(L3), to).first().cloned();
            w.sleep(200);
            let tracked = entry(w.family.cluster_ip(42)).is_some();
            assert_eq!(tracked, w.carrier() == Carrier::Kernel, "datagrams to the relay are not");
            assert!(entry(w.address(L1)).is_some());
            w.withdraw(svc().udp().on([L1]));
            w.sleep(300);
            direct.undisturbed(start);
            other.undisturbed(start);
        }),
        case(
            "UDP flows stay while their endpoint drains and policies change, and no longer",
            |w| {
                let service = || svc().udp().node_port(NODE_PORT);
                w.serve(service().on([L1]));
                let start = Instant::now();
                let inside = w.talking(L3, Udp, w.cip(), 80);
                let outside = w.talking(Ext, Udp, w.address(Node), NODE_PORT);
                w.answered_by(&inside, L1);
                w.answered_by(&outside, L1);
                w.serve(slice([draining(L1), ep(R1)]).ports([udp("", 8080)]));
                w.udp(L2, w.cip(), 80).times(20).only([R1]);
                w.serve(service().local().external_local());
                w.udp(L2, w.cip(), 80).times(20).only([L1]);
                w.serve(service());
                w.sleep(300);
                inside.undisturbed(start);
                outside.undisturbed(start);
                assert_eq!(inside.servers(start), ["L1".into()].into());
                assert_eq!(outside.servers(start), ["L1".into()].into());
                w.serve(endpoints([R1]));
                w.answered_by(&inside, R1);
                w.answered_by(&outside, R1);
            },
        ),
        case("44 UDP flows stay on their endpoints, without loss, over a restart", |w| {
            w.serve(svc().udp().on([L1, R1]));
            let start = Instant::now();
            let flows: Vec<Flow> = [L3, L2, Ext, Ext]
                .into_iter()
                .map(|who| w.talking(who, Udp, w.cip(), 80))
                .collect();
            w.sleep(300);
            w.restart();
            w.sleep(500);
            flows.iter().for_each(|flow| flow.undisturbed(start));
        })
        .kernel_only("a session ends with its process, and who goes on chooses anew"),
        case("flows of a service outside all ranges go, though it went while vipd was down", |w| {
            let address = w.family.external_ip();
            let outside = || svc().named("outside", 42).at(address).udp();
            w.serve(outside().on([L1]));
            w.serve(svc().on([L1]));
            let direct = w.talking(L3, Udp, w.address(L1), 8080);
            let flow = w.talking(L2, Udp, address, 80);
            w.answered_by(&flow, L1);
            let start = Instant::now();
            w.kill();
            w.remove(outside().on([L1]));
            w.start(&[]);
            w.silence(Duration::from_millis(300), |since| flow.servers(since).len());
            direct.undisturbed(start);
        }),
        case("42 where the kernel cannot filter conntrack, entries go as exactly", |w| {
            w.serve(svc().udp().on([L1]));
            let start = Instant::now();
            let (direct, flow) =
                (w.talking(L3, Udp, w.address(L1), 8080), w.talking(L2, Udp, w.cip(), 80));
            w.answered_by(&flow, L1);
            w.serve(endpoints([R1]));
            w.answered_by(&flow, R1);
            w.serve(no_endpoints().ports([udp("", 8080)]));
            let quiet = Duration::from_millis(300);
            let since = w.silence(quiet, |since| flow.servers(since).len());
            assert!(flow.refusals(since) > 0, "it is not told");
            direct.undisturbed(start);
        })
        .flag("--without", "conntrack-filter,element-count"),
        case(
            "64 datagrams of 4000 bytes in fragments, and path MTU errors through the cluster IP",
            |w| {
                w.serve(svc().udp().on([R1]));
                for who in [L2, Ext] {
                    let replies = w.udp(who, w.cip(), 80).sized(4000).times(3).only([R1]);
                    let whole =
                        replies.answers().iter().all(|answer| answer.rest.starts_with("4000 "));
                    replies.check(whole, "4000 bytes each");
                }
                w.sh(NodeB, "ip link set pR1 mtu 1300");
                let (too_big, service) =
                    (if w.family == V4 { (3, 4) } else { (2, 0) }, SocketAddr::new(w.cip(), 80));
                for who in [L2, Ext] {
                    let client = w.sniff(who);
                    drop(
                        w.udp(who, w.cip(), 80)
                            .sized(1400)
                            .patience(Duration::from_millis(300))
                            .replies(),
                    );
                    // The relay's own datagrams are what is too big for the path.
                    let errors = client.icmp_errors(too_big, service);
                    assert_eq!(errors.is_empty(), w.carrier() == Carrier::Relay, "{who}");
                    w.udp(who, w.cip(), 80).sized(1400).times(3).only([R1]);
                }
            },
        ),
    ]
}
