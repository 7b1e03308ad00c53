//! What node ports, load balancers' addresses and external IPs have in common.

use super::support::flow::{Flow, FlowPlan, Manner};
use super::support::manifests::{
    Slice, Svc, draining, ep, gone, no_endpoints, slice, svc, tcp, udp,
};
use super::support::nft::{Watch, tables};
use super::support::plan::{Ext, L1, L2, L3, NODE_PORT, Node, NodeB, R1, R2, SENTINEL, V4, Who};
use super::support::runner::{Case, case};
use super::support::servers::Udp;
use super::support::sniff::RST;
use super::support::vipd::Carrier;
use super::support::world::World;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// `svc` with everything that it can have.
fn exposed(w: &World) -> Svc {
    exposed_as(w, svc())
}

fn exposed_as(w: &World, service: Svc) -> Svc {
    service.node_port(NODE_PORT).load_balancer([w.vip()]).external_ips([w.family.external_ip()])
}

/// The ways into it from outside.
fn ways(w: &World) -> [(IpAddr, u16); 3] {
    [(w.address(Node), NODE_PORT), (w.vip(), 80), (w.family.external_ip(), 80)]
}

/// Those of them that share pins: an external IP that is not this node's is the kernel's, whoever carries
/// the rest.
fn ways_that_pin(w: &World) -> Vec<(IpAddr, u16)> {
    let kernels = |to| w.carrier() == Carrier::Relay && to == w.family.external_ip();
    ways(w).into_iter().filter(|(to, _)| !kernels(*to)).collect()
}

fn udp_endpoints<const N: usize>(pods: [Who; N]) -> Slice {
    slice(pods).ports([udp("", 8080)])
}

/// A flow of one client by each of the ways in.
fn flows(w: &World, who: Who) -> Vec<Flow> {
    ways(w).into_iter().map(|(to, port)| w.talking(who, Udp, to, port)).collect()
}

fn no_entry_is_left(w: &World, who: Who) {
    for (to, _) in ways(w) {
        assert_eq!(w.conntrack(w.address(who), to), [] as [String; 0], "entries to {to}");
    }
}

pub fn cases() -> Vec<Case> {
    vec![
        case("6 policy Cluster: everybody reaches all endpoints, masqueraded", |w| {
            w.serve(exposed(w).on([L1, R1]));
            for (to, port) in ways(w) {
                for who in [L2, Node, Ext] {
                    let replies = w.tcp(who, to, port).times(200).spread([L1, R1]);
                    replies.masqueraded().on_port(8080);
                }
            }
        }),
        case("6 the same over UDP", |w| {
            w.serve(exposed_as(w, svc().udp()).on([L1, R1]));
            for (to, port) in ways(w) {
                for who in [L2, Node, Ext] {
                    let replies = w.udp(who, to, port).times(60).spread([L1, R1]);
                    replies.masqueraded().on_port(8080);
                }
            }
        }),
        case("7 8 9 policy Local: outsiders stay here, local pods and the node do not", |w| {
            w.serve(exposed(w).external_local().on([L1, R1]));
            for (to, port) in ways(w) {
                w.tcp(Ext, to, port).times(50).only([L1]).source_kept();
                w.tcp(L2, to, port).times(200).spread([L1, R1]).source_kept();
                w.tcp(Node, to, port).times(200).spread([L1, R1]).masqueraded();
            }
        }),
        case("7 8 9 the same over UDP", |w| {
            w.serve(exposed_as(w, svc().udp()).external_local().on([L1, R1]));
            for (to, port) in ways(w) {
                w.udp(Ext, to, port).times(50).only([L1]).source_kept();
                w.udp(L2, to, port).times(60).spread([L1, R1]).source_kept();
                w.udp(Node, to, port).times(60).spread([L1, R1]).masqueraded();
            }
        }),
        case("10 externalTrafficPolicy Local has no effect on the cluster IP", |w| {
            w.serve(exposed(w).external_local().on([L1, R1]));
            w.tcp(L2, w.cip(), 80).times(200).spread([L1, R1]).source_kept();
            w.tcp(Node, w.cip(), 80).times(200).spread([L1, R1]).masqueraded();
            w.tcp(Ext, w.cip(), 80).times(200).spread([L1, R1]).masqueraded();
        }),
        case("10 nor internalTrafficPolicy Local on anything else", |w| {
            w.serve(exposed(w).local().on([L1, R1]));
            for (to, port) in ways(w) {
                w.tcp(Ext, to, port).times(100).spread([L1, R1]).masqueraded();
            }
            w.tcp(L2, w.cip(), 80).times(50).only([L1]).source_kept();
        }),
        case("2 a pod reaches itself by every way in, masqueraded (hairpin)", |w| {
            for service in [exposed(w), exposed(w).external_local()] {
                w.serve(service.on([L1]));
                for (to, port) in ways(w) {
                    w.tcp(L1, to, port).times(20).only([L1]).masqueraded();
                }
            }
        }),
        case("2 an endpoint without nodeName reaches itself by every way in, masqueraded", |w| {
            for service in [exposed(w), exposed(w).external_local()] {
                w.serve(service.on([ep(L1).without_node()]));
                for (to, port) in ways(w) {
                    w.tcp(L1, to, port).times(20).only([L1]).masqueraded();
                }
            }
        }),
        case("7 policy Local with endpoints elsewhere only: silence outside, served inside", |w| {
            let uplink = w.sniff(NodeB);
            w.serve(exposed(w).external_local().on([R1]));
            for (to, port) in ways(w) {
                w.tcp(Ext, to, port).times(3).dropped();
                w.tcp(L2, to, port).times(20).only([R1]).source_kept();
                w.tcp(Node, to, port).times(20).only([R1]).masqueraded();
            }
            uplink.nothing_of(w.vip());
            w.serve(slice([L1, R1]));
            for (to, port) in ways(w) {
                w.tcp(Ext, to, port).times(20).only([L1]).source_kept();
            }
            w.serve(slice([R1]));
            for (to, port) in ways(w) {
                w.tcp(Ext, to, port).times(3).dropped();
            }
        }),
        case("policy Local is switched on and off", |w| {
            w.serve(exposed(w).on([L1, R1]));
            for turn in 0..4 {
                let local = turn % 2 == 1;
                w.serve(if local { exposed(w).external_local() } else { exposed(w) });
                for (to, port) in ways(w) {
                    let replies = w.tcp(Ext, to, port).times(40);
                    if local {
                        replies.only([L1]).source_kept();
                    } else {
                        replies.only([L1, R1]).masqueraded();
                    }
                }
            }
        }),
        case("14 no endpoints at all: refused at once by every way in, TCP and UDP", |w| {
            let both =
                || exposed_as(w, svc().ports([tcp("t", 80), udp("u", 80).node_port(NODE_PORT)]));
            for service in [both(), both().external_local()] {
                let uplink = w.sniff(NodeB);
                w.serve(service);
                for ((to, port), who) in
                    ways(w).into_iter().flat_map(|way| [L2, Node, Ext].map(|who| (way, who)))
                {
                    let client = w.sniff(who);
                    w.tcp(who, to, port).times(3).in_turn().refused();
                    let resets =
                        client.packets(|packet| packet.src == to && packet.tcp_flags & RST != 0);
                    assert!(resets.len() >= 3, "{who}: {} resets of {to}", resets.len());
                    w.udp(who, to, port).times(3).in_turn().refused();
                    if who != Node {
                        let errors = client.port_unreachable(SocketAddr::new(to, port));
                        assert!(errors >= 3, "{who}: {errors} port unreachable errors of {to}");
                    }
                }
                uplink.nothing_of(w.vip());
                uplink.nothing_of(w.family.external_ip());
            }
        }),
        case("24 terminating endpoints are not used while ready ones exist here", |w| {
            w.serve(exposed(w).external_local().on([ep(L1), draining(L2), ep(R1)]));
            w.tcp(L3, w.cip(), 80).times(200).spread([L1, R1]);
            for (to, port) in ways(w) {
                w.tcp(Ext, to, port).times(50).only([L1]).source_kept();
            }
        }),
        case(
            "25 terminating ones here serve outsiders while ready ones exist elsewhere only",
            |w| {
                w.serve(exposed(w).external_local().on([
                    draining(L1),
                    draining(L2),
                    gone(L3),
                    ep(R1),
                ]));
                w.tcp(L2, w.cip(), 80).times(50).only([R1]);
                for (to, port) in ways(w) {
                    w.tcp(Ext, to, port).times(200).spread([L1, L2]).source_kept();
                    w.tcp(L3, to, port).times(20).only([R1]).source_kept();
                }
            },
        ),
        case("26 terminating endpoints that do not serve are none: refused", |w| {
            w.serve(exposed(w).external_local().on([gone(L1), gone(L2), gone(R1)]));
            for (to, port) in ways(w) {
                w.tcp(Ext, to, port).times(3).refused();
            }
        }),
        case("27 all terminating, policy Cluster: the serving ones are used, masqueraded", |w| {
            w.serve(exposed(w).on([draining(L1), draining(L2), gone(L3), draining(R1)]));
            for (to, port) in ways(w) {
                w.tcp(Ext, to, port).times(300).spread([L1, L2, R1]).masqueraded();
            }
        }),
        case("affinity is shared by cluster IP, node port, VIP and external IP", |w| {
            w.serve(exposed(w).sticky(600).on([L1, L3, R1, R2]));
            let mut pins = std::collections::BTreeSet::new();
            for client in w.family.crowd() {
                let pin =
                    |(to, port)| w.tcp(Ext, to, port).from(client).times(2).untraced().one_server();
                let all: Vec<Who> =
                    ways_that_pin(w).into_iter().chain([(w.cip(), 80)]).map(pin).collect();
                assert!(all.iter().all(|pod| *pod == all[0]), "{client} is on {all:?}");
                pins.insert(all[0]);
            }
            assert!(pins.len() > 1, "20 clients all on {pins:?}");
        }),
        case(
            "affinity with externalTrafficPolicy Local: a pin elsewhere does not count here",
            |w| {
                w.serve(exposed(w).sticky(600).external_local().on([L1, L3, R1, R2]));
                for client in w.family.crowd() {
                    let pin = |(to, port)| {
                        w.tcp(Ext, to, port).from(client).times(2).untraced().one_server()
                    };
                    let first = pin((w.cip(), 80));
                    let here: Vec<Who> = ways_that_pin(w).into_iter().map(pin).collect();
                    assert!([L1, L3].contains(&here[0]), "{client} from outside on {}", here[0]);
                    assert!(here.iter().all(|pod| *pod == here[0]), "{client} is on {here:?}");
                    if [L1, L3].contains(&first) {
                        assert_eq!(here[0], first, "{client} left a pin that counts here");
                    }
                    assert_eq!(pin((w.cip(), 80)), here[0], "{client}: the last pin is the pin");
                }
                for who in [L2, Node] {
                    let pin = |(to, port)| w.tcp(who, to, port).times(5).one_server();
                    let all: Vec<Who> =
                        ways_that_pin(w).into_iter().chain([(w.cip(), 80)]).map(pin).collect();
                    assert!(all.iter().all(|pod| *pod == all[0]), "{who} is on {all:?}");
                }
            },
        ),
        case("20 a port renamed in the slice only is refused by every way in", |w| {
            w.serve(exposed_as(w, svc().ports([udp("u", 80)])));
            w.serve(slice([L1]).ports([udp("u", 8080)]));
            let flows = flows(w, Ext);
            flows.iter().for_each(|flow| w.answered_by(flow, L1));
            let start = Instant::now();
            w.serve(slice([L1]).ports([udp("u2", 8080)]));
            let refused = |flow: &Flow| flow.refusals(start) > 0;
            w.within(Duration::from_secs(2), || flows.iter().all(refused));
            w.sleep(100);
            let since = Instant::now();
            w.sleep(300);
            for flow in &flows {
                let (servers, refusals) = (flow.servers(since), flow.refusals(since));
                assert!(servers.is_empty() && refusals > 0, "{servers:?}, {refusals} refusals");
            }
            w.serve(exposed_as(w, svc().ports([udp("u2", 80)])));
            flows.iter().for_each(|flow| w.answered_by(flow, L1));
        }),
        case("21 UDP flows follow the endpoint's new port", |w| {
            w.serve(exposed_as(w, svc().udp()).on([L1]));
            let flows = flows(w, Ext);
            flows.iter().for_each(|flow| w.answered_by(flow, L1));
            w.serve(slice([L1]).ports([udp("", 9090)]));
            for flow in &flows {
                let start = Instant::now();
                w.within(Duration::from_secs(2), || flow.ports(start).contains(&9090));
            }
            w.sleep(100);
            let since = Instant::now();
            w.sleep(300);
            flows.iter().for_each(|flow| assert_eq!(flow.ports(since), [9090].into()));
        }),
        case("40 UDP flows by every way in move to the new endpoint", |w| {
            w.serve(exposed_as(w, svc().udp()).on([L1]));
            let flows: Vec<Flow> = [Ext, L3].into_iter().flat_map(|who| flows(w, who)).collect();
            flows.iter().for_each(|flow| w.answered_by(flow, L1));
            w.serve(udp_endpoints([L2]));
            flows.iter().for_each(|flow| w.answered_by(flow, L2));
            w.sleep(100);
            let since = Instant::now();
            w.sleep(500);
            flows.iter().for_each(|flow| assert_eq!(flow.servers(since), ["L2".into()].into()));
        }),
        case(
            "41 a UDP sender that starts before there is an endpoint reaches it when it comes",
            |w| {
                w.serve(exposed_as(w, svc().udp()));
                let start = Instant::now();
                let flows = flows(w, Ext);
                w.sleep(400);
                for flow in &flows {
                    assert!(
                        flow.refusals(start) > 0 && flow.servers(start).is_empty(),
                        "not refused"
                    );
                }
                w.serve(udp_endpoints([L1]));
                flows.iter().for_each(|flow| w.answered_by(flow, L1));
            },
        ),
        case("42 scaled to zero under one-way senders: refused, nothing to the old pod", |w| {
            w.serve(exposed_as(w, svc().udp()).on([L1]));
            let start = Instant::now();
            let flows: Vec<Flow> =
                ways(w).into_iter().map(|(to, port)| w.one_way(Ext, to, port)).collect();
            // Masqueraded.
            w.within(Duration::from_secs(2), || w.servers(L1).arrived(w.address(Node), start) > 9);
            w.serve(no_endpoints().ports([udp("", 8080)]));
            let arrived = |since| w.servers(L1).arrived(w.address(Node), since);
            let since = w.silence(Duration::from_millis(1500), arrived);
            for flow in &flows {
                assert!(flow.refusals(since) > 3, "a sender is not told");
            }
            no_entry_is_left(w, Ext);
        }),
        case("43 a UDP service deleted: its entries go, by every way in", |w| {
            w.serve(exposed_as(w, svc().udp()).on([L1]));
            let start = Instant::now();
            let flows: Vec<Flow> =
                ways(w).into_iter().map(|(to, port)| w.one_way(Ext, to, port)).collect();
            w.within(Duration::from_secs(2), || w.servers(L1).arrived(w.address(Node), start) > 9);
            w.withdraw(svc().udp().on([L1]));
            let arrived = |since| w.servers(L1).arrived(w.address(Node), since);
            w.silence(Duration::from_millis(500), arrived);
            drop(flows);
        }),
        case(
            "43 a flow that is no service's becomes one's, and stays no longer where it was",
            |w| {
                let at = SocketAddr::new(w.address(Node), NODE_PORT);
                w.servers(Node).listen([(Udp, at)]);
                let flow = w.talking(Ext, Udp, at.ip(), at.port());
                w.answered_by(&flow, Node);
                w.serve(exposed_as(w, svc().udp()).on([L1]));
                w.answered_by(&flow, L1);
                w.withdraw(svc().udp().on([L1]));
                w.answered_by(&flow, Node);
            },
        )
.kernel_only("the relay answers from the node port itself, which a process of the host has here"),
        case("43 the same, where conntrack saw an answer of the flow first", |w| {
            let at = SocketAddr::new(w.address(Node), NODE_PORT);
            let client = SocketAddr::new(w.family.client_address(Ext), 41_000);
            w.servers(Node).listen([(Udp, at)]);
            w.sh(
                Node,
                &format!(
                    "conntrack -I -p udp --timeout 60 -s {0} --sport {1} -d {2} --dport {3} \
                     --reply-src {2} --reply-port-src {3} --reply-dst {0} --reply-port-dst {1}",
                    at.ip(),
                    at.port(),
                    client.ip(),
                    client.port()
                ),
            );
            let every = Duration::from_millis(20);
            let (proto, manner) = (Udp, Manner::Talking);
            let plan = FlowPlan { proto, from: client, to: at, every, manner };
            let flow = Flow::start(w.netns(Ext), plan);
            w.answered_by(&flow, Node);
            assert_eq!(w.conntrack(client.ip(), at.ip()), [] as [&str; 0], "not the first packet");
            w.serve(exposed_as(w, svc().udp()).on([L1]));
            w.answered_by(&flow, L1);
            w.sleep(100);
            let since = Instant::now();
            w.sleep(200);
            assert_eq!(flow.servers(since), ["L1".into()].into());
        })
.kernel_only("the relay answers from the node port itself, which a process of the host has here"),
        case("44 UDP flows stay on their endpoints, without loss, over a restart", |w| {
            w.serve(exposed_as(w, svc().udp()).on([L1, R1]));
            let start = Instant::now();
            let flows: Vec<Flow> =
                [Ext, L3, Node].into_iter().flat_map(|who| flows(w, who)).collect();
            w.sleep(300);
            w.restart();
            w.sleep(500);
            flows.iter().for_each(|flow| flow.undisturbed(start));
        })
.kernel_only("a session ends with its process, and who goes on chooses anew"),
        case("45 open TCP connections outlive their endpoint's removal and the service's", |w| {
            w.serve(exposed(w).on([L1]));
            let start = Instant::now();
            let flows: Vec<Flow> = ways(w)
                .into_iter()
                .map(|(to, port)| w.talking(Ext, super::support::servers::Tcp, to, port))
                .collect();
            w.serve(slice([R1]));
            w.sleep(300);
            w.withdraw(svc().on([R1]));
            w.sleep(300);
            flows.iter().for_each(|flow| flow.undisturbed(start));
        }),
        case("64 datagrams in fragments, and path MTU errors, by every way in", |w| {
            w.serve(exposed_as(w, svc().udp()).on([R1]));
            for ((to, port), who) in
                ways(w).into_iter().flat_map(|way| [L2, Ext].map(|who| (way, who)))
            {
                let replies = w.udp(who, to, port).sized(4000).times(3).only([R1]);
                let whole = replies.answers().iter().all(|answer| answer.rest.starts_with("4000 "));
                replies.check(whole, "4000 bytes each");
            }
            w.sh(NodeB, "ip link set pR1 mtu 1300");
            let too_big = if w.family == V4 { (3, 4) } else { (2, 0) };
            for (to, port) in ways(w) {
                let client = w.sniff(Ext);
                let short = Duration::from_millis(300);
                drop(w.udp(Ext, to, port).sized(1400).patience(short).replies());
                // The relay's own datagrams are what is too big for the path.
                let errors = client.icmp_errors(too_big, SocketAddr::new(to, port));
                let relayed = w.carrier() == Carrier::Relay && to != w.family.external_ip();
                assert_eq!(errors.is_empty(), relayed, "about {to}");
                w.udp(Ext, to, port).sized(1400).times(3).only([R1]);
            }
        }),
        case("62 a restart without changes writes nothing", |w| {
            w.write(
                exposed(w)
                    .sticky(600)
                    .external_local()
                    .source_ranges([w.family.outside_half()])
                    .health_port(30555)
                    .on([L1, R1]),
            );
            w.serve(svc().named("udp", 42).udp().node_port(NODE_PORT).on([L1]));
            w.tcp(Ext, w.vip(), 80).times(5).one_server();
            for kill in [false, true] {
                if kill {
                    w.kill();
                } else {
                    w.terminate();
                }
                w.launch_over_the_same(Duration::from_secs(5));
                w.settle();
                w.tcp(Ext, w.vip(), 80).times(5).one_server();
            }
        }),
        case("a start writes only what changed while vipd was dead", |w| {
            for number in 0..20 {
                let name = format!("kept-{number}");
                let service = svc().named(name, 60 + number).node_port(31000 + u16::from(number));
                w.write(
                    service
                        .external_ips([w.family.second_vip()])
                        .port(1000 + u16::from(number))
                        .on([L1, R1]),
                );
            }
            w.serve(exposed(w).on([L1, R1]));
            let endpoints = || slice([L1, R2]);
            let watch = Watch::start(w.netns(Node));
            w.write(endpoints());
            w.sleep(1500);
            let alive = watch.changes().objects;
            w.serve(slice([L1, R1]));
            w.sleep(1500);
            w.kill();
            watch.changes();
            w.write(endpoints());
            w.launch(&[]);
            w.within(Duration::from_secs(5), || w.vipd("get services").code == 0);
            w.sleep(1500);
            let dead = watch.changes().objects;
            assert!(dead > 0 && dead <= alive, "{dead} operations after a start, {alive} without");
            w.settle();
            w.tcp(Ext, w.vip(), 80).times(60).only([L1, R2]);
        }),
        case("killed and started again over and over: always served by every way in", |w| {
            w.serve(exposed(w).external_local().on([L1, R1]));
            let loads: Vec<_> =
                ways(w).into_iter().map(|(to, port)| w.load(Ext, to, port, 50)).collect();
            for _ in 0..3 {
                w.kill();
                w.start(&[]);
            }
            for load in loads {
                load.stop().reached();
            }
        })
.kernel_only("what vipd carries ends with it; see `userspace: killed, it leaves new connections to the kernel`"),
        case("63 cleanup leaves nothing, whatever services have", |w| {
            w.write(
                exposed(w)
                    .sticky(100)
                    .external_local()
                    .source_ranges([w.family.outside_half()])
                    .on([L1, R1]),
            );
            let other = svc().named("udp", 42).udp().node_port(NODE_PORT);
            w.serve(other.load_balancer([w.family.second_vip()]).on([L1]));
            let flow = w.talking(Ext, Udp, w.family.second_vip(), 80);
            let node_port = w.talking(Ext, Udp, w.address(Node), NODE_PORT);
            w.answered_by(&flow, L1);
            w.answered_by(&node_port, L1);
            drop((flow, node_port));
            w.terminate();
            let said = w.vipd("cleanup");
            assert_eq!(said.code, 0, "{}", said.out);
            assert_eq!(tables(w.netns(Node)), [] as [&str; 0]);
            for to in [w.family.second_vip(), w.address(Node)] {
                assert_eq!(w.conntrack(w.address(Ext), to), [] as [String; 0], "entries to {to}");
            }
            w.start(&[]);
            w.tcp(Ext, w.vip(), 80).times(10).reached();
        }),
        case("no packet leaves with the priority that vipd used, by every way in", |w| {
            for sticky in [false, true] {
                for service in [exposed(w), exposed(w).external_local()] {
                    w.serve(if sticky { service.sticky(60) } else { service }.on([L1, R1]));
                    super::path::witness(w);
                    for (to, port) in ways(w) {
                        for who in [L1, L2, Node, Ext] {
                            w.tcp(who, to, port).times(10).reached();
                        }
                    }
                    super::path::nothing_left_with_our_priority(w);
                    w.netns(Node).nft("delete table inet witness");
                }
            }
        }),
        case("services of every kind leave one another alone", |w| {
            w.write(svc().named("plain", 42).on([L1]));
            w.write(exposed(w).external_local().on([L2, R1]));
            let third = svc().named("third", 43).port(81).node_port(NODE_PORT + 1);
            w.serve(third.load_balancer([w.vip()]).on([L3]));
            w.tcp(Ext, w.family.cluster_ip(42), 80).times(10).only([L1]).masqueraded();
            w.tcp(Ext, w.vip(), 80).times(10).only([L2]).source_kept();
            w.tcp(Ext, w.vip(), 81).times(10).only([L3]).masqueraded();
            w.tcp(Ext, w.address(Node), NODE_PORT + 1).times(10).only([L3]).masqueraded();
            w.tcp(Ext, w.family.cluster_ip(SENTINEL), 80).times(2).refused();
            w.withdraw(svc().on([L2, R1]));
            w.tcp(Ext, w.vip(), 81).times(10).only([L3]).masqueraded();
            w.tcp(Ext, w.family.cluster_ip(42), 80).times(10).only([L1]).masqueraded();
        }),
    ]
}
