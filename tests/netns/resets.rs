//! TCP connections to endpoints that are gone: reset where that is asked for, and only those.

use super::support::flow::{Event, Flow};
use super::support::manifests::{draining, ep, gone, no_endpoints, slice, svc};
use super::support::plan::{Ext, L1, L2, L3, NODE_PORT, Node, R1, Who};
use super::support::runner::{Case, case};
use super::support::servers::Tcp;
use super::support::sniff::RST;
use super::support::world::World;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

const FLAG: &str = "--reset-gone-after";
/// A client's next segment may wait as long as the silence has lasted: the kernel doubles its
/// retransmission timer. A second of grace and one of doubt.
const PATIENCE: Duration = Duration::from_secs(5);

/// The pod is gone: nothing goes in or out any more, not even a refusal.
fn vanish(w: &World, pod: Who) {
    w.netns(pod).nft(
        "add table inet vanished
         add chain inet vanished in { type filter hook input priority -300; policy drop; }
         add chain inet vanished out { type filter hook output priority -300; policy drop; }",
    );
}

/// The first thing that the client learned.
fn is_reset(flow: &Flow, since: Instant) -> bool {
    let first = flow.errors(since).into_iter().next();
    matches!(first, Some(Event::Failed(text)) if text.contains("reset by peer"))
}

/// What the running daemon says of its resets.
fn resets_told(w: &World) -> usize {
    w.log().lines().filter(|line| line.contains("are reset")).count()
}

/// The same from its status.
fn resets_counted(w: &World) -> Option<u64> {
    w.assert_running();
    let mut daemon = UnixStream::connect("/run/vipd/admin.sock").expect("it listens");
    daemon
        .write_all(b"GET /v1/status HTTP/1.1\r\nHost: vipd\r\nConnection: close\r\n\r\n")
        .expect("it reads");
    let mut answer = String::new();
    daemon.read_to_string(&mut answer).expect("it answers");
    let body = &answer[answer.find('{')?..];
    serde_json::from_str::<serde_json::Value>(body).ok()?["resets"].as_u64()
}

/// Connected to L1 through the service, from a pod, from outside and from the node itself.
fn connected(w: &World) -> Vec<(Who, Flow)> {
    let flows = [L3, Ext, Node].map(|who| (who, w.talking(who, Tcp, w.cip(), 80)));
    w.sleep(100);
    flows.into()
}

/// All clients keep writing to a pod that is gone; they learn of it after the grace period.
fn all_are_reset(w: &World, leave: impl Fn()) {
    w.serve(svc().on([L1]));
    let (flows, client) = (connected(w), w.sniff(L3));
    vanish(w, L1);
    let start = Instant::now();
    leave();
    w.sleep(700);
    for (who, flow) in &flows {
        assert_eq!(flow.errors(start), [], "{who}: within the grace period");
    }
    for (_, flow) in &flows {
        w.within(PATIENCE, || is_reset(flow, start));
    }
    let resets = client.packets(|packet| packet.src == w.cip() && packet.tcp_flags & RST != 0);
    assert!(!resets.is_empty(), "it came from somewhere else than the cluster IP");
    let untranslated = client.packets(|packet| {
        [L1, L2, R1].iter().any(|pod| packet.src == w.address(*pod)) && packet.dport != 0
    });
    assert_eq!(untranslated, [], "packets with a pod's own address reached the client");
    assert_eq!(resets_told(w), 1, "{}", w.log());
    assert_eq!(resets_counted(w), Some(3));
}

pub fn cases() -> Vec<Case> {
    vec![
        case(
            "46 clients of a removed endpoint whose pod is gone are reset, others are left",
            |w| {
                all_are_reset(w, || w.serve(slice([L2, R1])));
                w.tcp(L3, w.cip(), 80).times(100).spread([L2, R1]);
            },
        )
.kernel_only("both sides of a relayed connection are vipd's own: no entry of conntrack's decides about it")
        .flag(FLAG, "1s"),
        case("46 clients of a removed endpoint whose pod is gone are reset, none is left", |w| {
            all_are_reset(w, || w.serve(no_endpoints()));
            w.tcp(L3, w.cip(), 80).times(3).refused();
        })
.kernel_only("both sides of a relayed connection are vipd's own: no entry of conntrack's decides about it")
        .flag(FLAG, "1s"),
        case("46 off by default: the connection of a removed endpoint goes on", |w| {
            w.serve(svc().on([L1]));
            let start = Instant::now();
            let flows = connected(w);
            w.serve(slice([R1]));
            w.sleep(2500);
            flows.iter().for_each(|(_, flow)| flow.undisturbed(start));
        }),
        case("who terminates keeps its connections, until no service lists it", |w| {
            w.serve(svc().on([L1]));
            let start = Instant::now();
            let flows = connected(w);
            for endpoints in [[draining(L1), ep(R1)], [gone(L1), ep(R1)]] {
                w.serve(slice(endpoints));
                w.sleep(1500);
                flows.iter().for_each(|(_, flow)| flow.undisturbed(start));
            }
            let end = Instant::now();
            w.serve(slice([R1]));
            for (_, flow) in &flows {
                w.within(PATIENCE, || is_reset(flow, end));
            }
        })
.kernel_only("both sides of a relayed connection are vipd's own: no entry of conntrack's decides about it")
        .flag(FLAG, "300ms"),
        case("who comes back within the grace period keeps its connections", |w| {
            w.serve(svc().on([L1]));
            let start = Instant::now();
            let flows = connected(w);
            w.serve(slice([R1]));
            w.sleep(300);
            w.serve(slice([L1, R1]));
            w.sleep(2500);
            flows.iter().for_each(|(_, flow)| flow.undisturbed(start));
        })
        .flag(FLAG, "1500ms"),
        case("flows to the same pod through another service or to itself survive", |w| {
            let other = || svc().named("other", 42);
            w.serve(svc().on([L1]));
            w.serve(other().on([L1]));
            let start = Instant::now();
            let through = w.talking(L3, Tcp, w.cip(), 80);
            let through_other = w.talking(L3, Tcp, w.family.cluster_ip(42), 80);
            let direct = w.talking(L3, Tcp, w.address(L1), 8080);
            w.sleep(100);
            w.serve(slice([R1]));
            w.sleep(1500);
            // The other service still lists the pod: it lives.
            [&through, &through_other, &direct].iter().for_each(|flow| flow.undisturbed(start));
            let end = Instant::now();
            w.serve(slice([R1]).of("other"));
            w.within(PATIENCE, || is_reset(&through, end) && is_reset(&through_other, end));
            direct.undisturbed(start);
        })
.kernel_only("both sides of a relayed connection are vipd's own: no entry of conntrack's decides about it")
        .flag(FLAG, "300ms"),
        case("only flows to the endpoint that is gone are reset", |w| {
            w.serve(svc().on([L1, R1]));
            let start = Instant::now();
            let flows: Vec<Flow> = (0..12).map(|_| w.talking(L3, Tcp, w.cip(), 80)).collect();
            w.sleep(300);
            let on_l1: Vec<bool> =
                flows.iter().map(|flow| flow.servers(start).contains(L1.name())).collect();
            w.serve(slice([R1]));
            for (flow, on_l1) in flows.iter().zip(on_l1) {
                if on_l1 {
                    w.within(PATIENCE, || is_reset(flow, start));
                } else {
                    flow.undisturbed(start);
                }
            }
        })
.kernel_only("both sides of a relayed connection are vipd's own: no entry of conntrack's decides about it")
        .flag(FLAG, "300ms"),
        case("where the kernel picks up no connections nothing is reset, and that is told", |w| {
            w.sh(Node, "echo 0 > /proc/sys/net/netfilter/nf_conntrack_tcp_loose");
            w.serve(svc().on([L1]));
            let start = Instant::now();
            let flows = connected(w);
            w.serve(slice([L2, R1]));
            w.sleep(1000);
            w.serve(slice([R1]));
            w.sleep(1000);
            flows.iter().for_each(|(_, flow)| flow.undisturbed(start));
            let told = |w: &World| w.log().matches("nf_conntrack_tcp_loose").count();
            assert_eq!(told(w), 1, "{}", w.log());
            assert_eq!((resets_told(w), resets_counted(w)), (0, Some(0)));
            // The reason: without its entry a flow is cut off, and its client is not told.
            w.sh(Node, "conntrack -D -p tcp --dport 80");
            w.sleep(50);
            let cut = Instant::now();
            w.sleep(1000);
            for (who, flow) in &flows {
                assert_eq!(flow.errors(cut), [], "{who}");
                assert!(flow.servers(cut).is_empty(), "{who}: still answered");
            }
        })
        .flag(FLAG, "300ms"),
        case("a restart forgets who was gone: their connections stay", |w| {
            w.serve(svc().on([L1]));
            let start = Instant::now();
            let flow = w.talking(L3, Tcp, w.cip(), 80);
            w.serve(slice([R1]));
            w.restart();
            w.sleep(2500);
            flow.undisturbed(start);
        })
.kernel_only("both sides of a relayed connection are vipd's own: no entry of conntrack's decides about it")
        .once()
        .flag(FLAG, "1500ms"),
        case("46 clients of a service that is deleted, with its slices, are reset", |w| {
            all_are_reset(w, || w.withdraw(svc().on([L1])));
            w.tcp(L3, w.cip(), 80).times(2).dropped();
        })
.kernel_only("both sides of a relayed connection are vipd's own: no entry of conntrack's decides about it")
        .flag(FLAG, "1s"),
        case("a service is deleted: its connections live as long as its slices say so", |w| {
            w.serve(svc().on([L1]));
            let start = Instant::now();
            let flows = connected(w);
            w.withdraw(svc());
            w.sleep(1500);
            flows.iter().for_each(|(_, flow)| flow.undisturbed(start));
            let end = Instant::now();
            w.withdraw(slice([L1]));
            for (_, flow) in &flows {
                w.within(PATIENCE, || is_reset(flow, end));
            }
        })
.kernel_only("both sides of a relayed connection are vipd's own: no entry of conntrack's decides about it")
        .flag(FLAG, "300ms"),
        case(
            "a service is deleted: clients by its node port are reset, by its external IP not",
            |w| {
                let external = w.family.external_ip();
                let exposed = || svc().node_port(NODE_PORT).external_ips([external]).on([L1]);
                w.serve(exposed());
                let start = Instant::now();
                let by_node_port = w.talking(Ext, Tcp, w.address(Node), NODE_PORT);
                let by_external_ip = w.talking(Ext, Tcp, external, 80);
                w.sleep(100);
                w.withdraw(exposed());
                w.within(PATIENCE, || is_reset(&by_node_port, start));
                w.sleep(1000);
                by_external_ip.undisturbed(start);
            },
        )
.kernel_only("both sides of a relayed connection are vipd's own: no entry of conntrack's decides about it")
        .flag(FLAG, "300ms"),
    ]
}
