//! Load balancers' addresses and external IPs: who may ask there, whose they are, and what happens
//! as they come and go.

use super::support::manifests::{Svc, slice, svc, tcp, udp};
use super::support::plan::{Ext, L1, L2, L3, NODE_PORT, Node, NodeB, R1, V4, V6, Who};
use super::support::runner::{Case, case};
use super::support::servers::{Tcp, Udp};
use super::support::sniff::{ACK, RST, SYN};
use super::support::vipd::Carrier;
use super::support::world::World;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

fn balanced(w: &World) -> Svc {
    svc().load_balancer([w.vip()])
}

fn bind(w: &World, who: Who, address: IpAddr) {
    let bits = if address.is_ipv4() { "32 dev lo" } else { "128 dev lo nodad" };
    w.sh(who, &format!("ip addr add {address}/{bits}"));
}

/// The address at the node's gateway, where a packet goes that no service holds.
/// Who has the address, behind the node's gateway.
pub(super) fn beyond(w: &World, address: IpAddr, port: u16) {
    bind(w, NodeB, address);
    w.servers(NodeB).listen([Tcp, Udp].map(|proto| (proto, SocketAddr::new(address, port))));
}

fn everybody(w: &World) -> &'static str {
    if w.family == V4 { "0.0.0.0/0" } else { "::/0" }
}

/// Outsiders within the half of their network that ranges mostly name, and beyond it.
fn near(w: &World) -> IpAddr {
    w.address(Ext)
}

fn far(w: &World) -> IpAddr {
    w.family.outside_second()
}

pub fn cases() -> Vec<Case> {
    vec![
        case("30 source ranges guard the load balancer's address, and only that", |w| {
            let service = balanced(w).node_port(NODE_PORT).external_ips([w.family.external_ip()]);
            w.serve(service.source_ranges([w.family.outside_half()]).on([L1, R1]));
            w.tcp(Ext, w.vip(), 80).from(near(w)).times(200).spread([L1, R1]).masqueraded();
            let uplink = w.sniff(NodeB);
            w.tcp(Ext, w.vip(), 80).from(far(w)).times(3).dropped();
            for who in [L1, L2, Node] {
                w.tcp(who, w.vip(), 80).times(3).dropped();
            }
            uplink.nothing_of(w.vip());
            w.tcp(Ext, w.address(Node), NODE_PORT).from(far(w)).times(20).reached().masqueraded();
            w.tcp(Ext, w.family.external_ip(), 80).from(far(w)).times(20).reached().masqueraded();
            w.tcp(Ext, w.cip(), 80).from(far(w)).times(20).reached();
            w.tcp(L2, w.cip(), 80).times(20).reached().source_kept();
        }),
        case("30 several ranges, of pods too; UDP and TCP; policy Local", |w| {
            let both = [tcp("t", 80), udp("u", 80)];
            let ranges = [w.family.outside_half(), w.family.pod_cidr("node-a")];
            w.write(slice([L1, R1]).ports([tcp("t", 8080), udp("u", 8080)]));
            let service = balanced(w).ports(both).source_ranges(ranges);
            w.serve(service.clone());
            w.udp(Ext, w.vip(), 80).times(20).reached().masqueraded();
            w.udp(Ext, w.vip(), 80).from(far(w)).times(3).dropped();
            w.tcp(L2, w.vip(), 80).times(20).reached().masqueraded();
            w.tcp(Node, w.vip(), 80).times(3).dropped();
            w.serve(service.external_local());
            w.tcp(Ext, w.vip(), 80).times(20).only([L1]).source_kept();
            w.tcp(Ext, w.vip(), 80).from(far(w)).times(3).dropped();
            w.tcp(L2, w.vip(), 80).times(40).only([L1, R1]).source_kept();
        }),
        case("30 who may not ask meets silence even where nobody would answer", |w| {
            w.serve(balanced(w).source_ranges([w.family.outside_half()]));
            w.tcp(Ext, w.vip(), 80).times(3).refused();
            w.tcp(Ext, w.vip(), 80).from(far(w)).times(3).dropped();
        }),
        case(
            "30 a range with the node in it lets the node ask from the load balancer's address",
            |w| {
                let lan = if w.family == V4 { "192.168.0.0/24" } else { "fd00:192:168::/64" };
                bind(w, Node, w.vip());
                w.serve(balanced(w).source_ranges([lan]).on([L1, R1]));
                w.tcp(Node, w.vip(), 80).from(w.vip()).times(40).only([L1, R1]).masqueraded();
                // Masqueraded or not, it is the same address.
                let first = w.tcp(Node, w.vip(), 80).from(w.address(Node)).untraced();
                first.times(20).reached();
                w.tcp(Node, w.vip(), 80).times(3).dropped();
                w.serve(balanced(w).source_ranges([w.family.outside_half()]));
                w.tcp(Node, w.vip(), 80).from(w.vip()).times(3).dropped();
            },
        ),
        case("31 spaces around a range are not meant; a range of all means nothing", |w| {
            w.serve(balanced(w).source_ranges([format!(" {} ", w.family.outside_half())]).on([L1]));
            w.tcp(Ext, w.vip(), 80).times(20).only([L1]);
            w.tcp(Ext, w.vip(), 80).from(far(w)).times(3).dropped();
            w.serve(balanced(w).source_ranges([everybody(w)]));
            w.tcp(Ext, w.vip(), 80).from(far(w)).times(20).only([L1]);
            w.tcp(L2, w.vip(), 80).times(20).only([L1]);
        }),
        case("32 ranges of one family close the other", |w| {
            w.serve(balanced(w).source_ranges([w.family.other().outside_cidr()]).on([L1]));
            for from in [near(w), far(w)] {
                w.tcp(Ext, w.vip(), 80).from(from).times(3).dropped();
            }
            w.tcp(L2, w.vip(), 80).times(3).dropped();
            w.tcp(L2, w.cip(), 80).times(20).only([L1]);
        }),
        case("32 ranges of both families each guard their own", |w| {
            let (four, six) = (w.over(V4), w.over(V6));
            let service = svc().dual_stack().load_balancer([V4.vip(), V6.vip()]);
            w.serve(service.source_ranges([V4.outside_half(), V6.outside_half()]));
            four.write(slice([L1]).named("four"));
            six.serve(slice([R1]).named("six"));
            for (world, pod) in [(&four, L1), (&six, R1)] {
                world.tcp(Ext, world.vip(), 80).times(20).only([pod]).masqueraded();
                world.tcp(Ext, world.vip(), 80).from(far(world)).times(3).dropped();
            }
        })
        .once(),
        case(
            "source ranges change under traffic: new connections are judged, open ones go on",
            |w| {
                w.serve(balanced(w).on([L1]));
                let start = Instant::now();
                let open = w.talking(Ext, Tcp, w.vip(), 80);
                let load = w.load(Ext, w.vip(), 80, 100);
                for _ in 0..5 {
                    w.serve(balanced(w).source_ranges([w.family.outside_half()]));
                    w.tcp(Ext, w.vip(), 80).from(far(w)).times(2).dropped();
                    w.serve(balanced(w).source_ranges([w.family.outside_cidr()]));
                    w.tcp(Ext, w.vip(), 80).from(far(w)).times(10).only([L1]);
                }
                load.stop().reached();
                w.serve(balanced(w).source_ranges([w.family.pod_cidr("node-a")]));
                w.tcp(Ext, w.vip(), 80).times(2).dropped();
                w.sleep(200);
                open.undisturbed(start);
            },
        ),
        case("33 ipMode Proxy: the address is left alone and leaves the node; then VIP", |w| {
            beyond(w, w.vip(), 80);
            w.serve(balanced(w).ip_mode("Proxy").on([L1, R1]));
            for who in [L2, Node, Ext] {
                w.tcp(who, w.vip(), 80).times(10).left_to([NodeB]);
            }
            w.serve(balanced(w).ip_mode("VIP"));
            w.tcp(L2, w.vip(), 80).times(40).only([L1, R1]).masqueraded();
            w.serve(balanced(w).ip_mode("Proxy"));
            w.led_no_more(w.vip());
            w.tcp(L2, w.vip(), 80).times(10).left_to([NodeB]);
        }),
        case(
            "34 an external IP that is not the node's is served, masqueraded, to everybody",
            |w| {
                let at = w.family.external_ip();
                let service = balanced(w).external_ips([at]);
                w.serve(service.source_ranges([w.family.outside_half()]).on([L1, R1]));
                for from in [near(w), far(w)] {
                    w.tcp(Ext, at, 80).from(from).times(200).spread([L1, R1]).masqueraded();
                }
                w.tcp(L2, at, 80).times(200).spread([L1, R1]).masqueraded();
                w.tcp(Node, at, 80).times(200).spread([L1, R1]).masqueraded();
            },
        ),
        case("34 external IPs alone, of a service of type ClusterIP", |w| {
            beyond(w, w.family.external_ip(), 81);
            w.serve(svc().external_ips([w.family.external_ip(), w.vip()]).on([L1]));
            for at in [w.family.external_ip(), w.vip()] {
                w.tcp(Ext, at, 80).times(20).only([L1]).masqueraded();
            }
            // Whoever carries the Service: the address is not this node's.
            w.tcp(Ext, w.family.external_ip(), 81).times(5).left_to([NodeB]);
            w.serve(svc().external_ips([w.vip()]));
            w.tcp(Ext, w.vip(), 80).times(20).only([L1]);
        }),
        case("other ports of the address are left alone, to whom they belong", |w| {
            beyond(w, w.vip(), 81);
            w.serve(balanced(w).on([L1]));
            w.tcp(Ext, w.vip(), 80).times(10).only([L1]);
            for who in [Ext, L2, Node] {
                w.tcp(who, w.vip(), 81).times(5).left_to([NodeB]);
            }
        }),
        case("an address on the node itself is served like any other", |w| {
            w.serve(svc().load_balancer([w.address(Node)]).on([L1, R1]));
            for who in [Ext, L2, Node] {
                w.tcp(who, w.address(Node), 80).times(40).only([L1, R1]).masqueraded();
            }
            w.servers(Node).listen([(Tcp, SocketAddr::new(w.address(Node), 81))]);
            w.tcp(Ext, w.address(Node), 81).times(5).left_to([Node]);
        }),
        case("addresses come and go under traffic by the others: nobody is disturbed", |w| {
            beyond(w, w.family.second_vip(), 80);
            let one = || balanced(w).node_port(NODE_PORT);
            let two = || svc().node_port(NODE_PORT).load_balancer([w.vip(), w.family.second_vip()]);
            w.serve(one().on([L1, R1]));
            let loads = [(w.vip(), 80), (w.address(Node), NODE_PORT), (w.cip(), 80)]
                .map(|(to, port)| w.load(Ext, to, port, 40));
            for _ in 0..8 {
                w.led_no_more(w.family.second_vip());
                w.tcp(Ext, w.family.second_vip(), 80).times(3).left_to([NodeB]);
                w.serve(two());
                w.tcp(Ext, w.family.second_vip(), 80).times(10).reached().masqueraded();
                w.serve(one());
            }
            for load in loads {
                load.stop().reached();
            }
        }),
        case("an address that goes: open TCP stays, UDP is no service's any more", |w| {
            beyond(w, w.vip(), 80);
            let both = || svc().ports([tcp("t", 80), udp("u", 80)]);
            w.write(slice([L1]).ports([tcp("t", 8080), udp("u", 8080)]));
            w.serve(both().load_balancer([w.vip()]));
            let start = Instant::now();
            let (open, flow) = (w.talking(Ext, Tcp, w.vip(), 80), w.talking(Ext, Udp, w.vip(), 80));
            w.answered_by(&flow, L1);
            w.serve(both().load_balancer([]));
            w.tcp(Ext, w.vip(), 80).times(5).left_to([NodeB]);
            w.answered_by(&flow, NodeB);
            open.undisturbed(start);
            w.serve(both().load_balancer([w.vip()]));
            w.answered_by(&flow, L1);
        })
        .kernel_only("an open connection keeps its address here"),
        case("from type LoadBalancer to NodePort to ClusterIP and back", |w| {
            beyond(w, w.vip(), 80);
            let at = SocketAddr::new(w.address(Node), NODE_PORT);
            w.servers(Node).listen([(Tcp, at)]);
            for _ in 0..2 {
                w.serve(balanced(w).node_port(NODE_PORT).external_local().on([L1, R1]));
                w.tcp(Ext, w.vip(), 80).times(10).only([L1]).source_kept();
                w.tcp(Ext, at.ip(), at.port()).times(10).only([L1]).source_kept();
                w.serve(svc().node_port(NODE_PORT).external_local());
                w.led_no_more(w.vip());
                w.tcp(Ext, w.vip(), 80).times(5).left_to([NodeB]);
                w.tcp(Ext, at.ip(), at.port()).times(10).only([L1]).source_kept();
                w.serve(svc());
                w.tcp(Ext, w.vip(), 80).times(5).left_to([NodeB]);
                w.tcp(Ext, at.ip(), at.port()).times(5).left_to([Node]);
                w.tcp(Ext, w.cip(), 80).times(40).only([L1, R1]).masqueraded();
            }
        }),
        case("one address and port in two services: the oldest has it, then the other", |w| {
            let older = || svc().named("zebra", 42).created("2020-01-01T00:00:00Z");
            w.serve(balanced(w).created("2021-01-01T00:00:00Z").on([L1]));
            w.tcp(Ext, w.vip(), 80).times(10).only([L1]);
            for turn in 0..2 {
                let older = if turn == 0 {
                    older().load_balancer([w.vip()])
                } else {
                    older().external_ips([w.vip()])
                };
                w.serve(older.clone().on([R1]));
                w.tcp(Ext, w.vip(), 80).times(10).only([R1]).masqueraded();
                w.tcp(Ext, w.cip(), 80).times(10).only([L1]);
                let told = w.vipd("get rejected -A");
                assert!(told.out.contains("default/zebra"), "{}", told.out);
                w.withdraw(older.on([R1]));
                w.tcp(Ext, w.vip(), 80).times(10).only([L1]).masqueraded();
            }
        }),
        case("two services share an address by different ports", |w| {
            w.write(balanced(w).external_local().on([L1, R1]));
            w.serve(svc().named("other", 42).port(81).load_balancer([w.vip()]).on([L3]));
            w.tcp(Ext, w.vip(), 80).times(20).only([L1]).source_kept();
            w.tcp(Ext, w.vip(), 81).times(20).only([L3]).masqueraded();
            w.withdraw(svc().named("other", 42).on([L3]));
            w.tcp(Ext, w.vip(), 80).times(20).only([L1]).source_kept();
        }),
        case("an address that is another service's cluster IP: the oldest has its port", |w| {
            w.serve(svc().created("2021-01-01T00:00:00Z").on([L1]));
            let thief = || svc().named("thief", 42).external_ips([w.cip()]);
            w.serve(thief().created("2022-01-01T00:00:00Z").on([R1]));
            w.tcp(L2, w.cip(), 80).times(10).only([L1]).source_kept();
            w.serve(thief().created("2020-01-01T00:00:00Z"));
            w.tcp(L2, w.cip(), 80).times(10).only([R1]).masqueraded();
            w.withdraw(thief().on([R1]));
            w.tcp(L2, w.cip(), 80).times(10).only([L1]).source_kept();
        }),
        case("strays to the address are answered by nobody and do not leave the node", |w| {
            w.serve(balanced(w).external_ips([w.family.external_ip()]).on([L1]));
            let start = Instant::now();
            for at in [w.vip(), w.family.external_ip()] {
                let at = SocketAddr::new(at, 80);
                let flow = w.talking(Ext, Tcp, at.ip(), 80);
                let (client, uplink) = (w.sniff(Ext), w.sniff(NodeB));
                let nobody = SocketAddr::new(flow.local.ip(), 19_998);
                super::invalid::strays(w, Ext, (flow.local, at), ACK);
                super::invalid::strays(w, Ext, (nobody, at), SYN | ACK);
                w.sleep(300);
                uplink.nothing_of(at.ip());
                let resets = client.packets(|p| p.src == at.ip() && p.tcp_flags & RST != 0);
                assert!(resets.is_empty(), "answered: {:?}", resets[0]);
                flow.undisturbed(start);
            }
        }),
        case("strays to an address that was a service's until lately go nowhere either", |w| {
            for at in [w.vip(), w.family.external_ip()] {
                w.serve(balanced(w).external_ips([w.family.external_ip()]).on([L1]));
                let at = SocketAddr::new(at, 80);
                let flow = w.talking(Ext, Tcp, at.ip(), 80);
                w.serve(svc().on([L1]));
                let (start, uplink) = (Instant::now(), w.sniff(NodeB));
                super::invalid::strays(w, Ext, (flow.local, at), ACK);
                w.sleep(300);
                uplink.nothing_of(at.ip());
                flow.undisturbed(start);
                // A port that never was the service's is none of vipd's business, where the address
                // does not lead here as long as the connection is open.
                if w.carrier() == Carrier::Relay {
                    continue;
                }
                super::invalid::strays(w, Ext, (flow.local, SocketAddr::new(at.ip(), 81)), ACK);
                w.sleep(300);
                let passed = uplink.packets(|packet| packet.dst == at.ip());
                assert!(!passed.is_empty(), "a stray of no service was dropped");
            }
        }),
        case("with the switch off strays to the address leave the node", |w| {
            w.serve(balanced(w).on([L1]));
            let flow = w.talking(Ext, Tcp, w.vip(), 80);
            let uplink = w.sniff(NodeB);
            super::invalid::strays(w, Ext, (flow.local, SocketAddr::new(w.vip(), 80)), ACK);
            w.sleep(300);
            let leaked = uplink.packets(|packet| packet.dst == w.vip());
            assert!(!leaked.is_empty(), "what the case above does not see is vipd's doing");
        })
        .kernel_only("a relayed address leads here")
        .flag("--drop-invalid", "false"),
    ]
}
