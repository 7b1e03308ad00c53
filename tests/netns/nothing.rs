//! No endpoint, no local endpoint, no such port, no such service: refused or dropped.

use super::invalid::strays;
use super::support::manifests::{ep, gone, no_endpoints, slice, svc, tcp, udp};
use super::support::plan::{Ext, L1, L2, Node, NodeB, R1, R2};
use super::support::runner::{Case, case};
use super::support::sniff::{ACK, ICMP, ICMPV6, RST, SYN};
use super::support::world::World;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

/// TCP by a reset and UDP by ICMP port unreachable, at once and every time.
fn refuses(w: &World, to: IpAddr, port: u16) {
    for who in [L2, Node, Ext] {
        let client = w.sniff(who);
        w.tcp(who, to, port).times(3).in_turn().refused();
        let resets = client.packets(|packet| packet.src == to && packet.tcp_flags & RST != 0);
        assert!(resets.len() >= 3, "{who}: {} resets for 3 connections", resets.len());
        w.udp(who, to, port).times(3).in_turn().refused();
        let start = Instant::now();
        let flow = w.one_way(who, to, port);
        w.sleep(250);
        assert!(
            flow.refusals(start) >= 3,
            "{who}: one socket saw {} refusals",
            flow.refusals(start)
        );
        if who != Node {
            let errors = client.port_unreachable(SocketAddr::new(to, port));
            assert!(errors >= 6, "{who}: {errors} port unreachable errors");
        }
    }
}

pub fn cases() -> Vec<Case> {
    vec![
        case("12 Local with endpoints elsewhere only: silence; 13 refused when they go too", |w| {
            let uplink = w.sniff(NodeB);
            w.serve(svc().local().on([R1, R2]));
            w.tcp(L2, w.cip(), 80).times(3).dropped();
            w.tcp(Ext, w.cip(), 80).times(3).dropped();
            w.tcp(Node, w.cip(), 80).times(3).dropped();
            w.withdraw(no_endpoints());
            w.tcp(L2, w.cip(), 80).times(3).refused();
            w.tcp(Ext, w.cip(), 80).times(3).refused();
            uplink.nothing_of(w.cip());
        }),
        case("14 no endpoints at all: refused at once, TCP and UDP, each time", |w| {
            w.serve(svc().ports([tcp("t", 80), udp("u", 80)]));
            refuses(w, w.cip(), 80);
        }),
        case("15 an endpoint that is not ready counts as none", |w| {
            w.serve(svc().on([ep(L1).not_ready(), gone(R1)]));
            w.tcp(L2, w.cip(), 80).times(3).refused();
            w.serve(svc().on([ep(L1), gone(R1)]));
            w.tcp(L2, w.cip(), 80).times(30).only([L1]);
        }),
        case("16 an unused port of a cluster IP is refused and never leaves the node", |w| {
            let uplink = w.sniff(NodeB);
            w.serve(svc().on([L1]));
            w.tcp(L2, w.cip(), 80).times(5).only([L1]);
            refuses(w, w.cip(), 81);
            uplink.nothing_of(w.cip());
        }),
        case("17 an unallocated address of the service range is dropped on the node", |w| {
            let (uplink, unallocated) = (w.sniff(NodeB), w.family.unallocated());
            w.serve(svc().on([L1]));
            for who in [L2, Ext, Node] {
                w.tcp(who, unallocated, 80).times(2).dropped();
                w.udp(who, unallocated, 80).times(2).dropped();
            }
            uplink.nothing_of(unallocated);
        }),
        case(
            "a segment that opens nothing, to an unallocated address: reset; one that does: silence",
            |w| {
                w.serve(svc().on([L1]));
                let to = SocketAddr::new(w.family.unallocated(), 80);
                for who in [L2, Ext] {
                    let (client, uplink) = (w.sniff(who), w.sniff(NodeB));
                    let from = |port| SocketAddr::new(w.family.client_address(who), port);
                    for (port, flags) in [(20_001, ACK), (20_002, SYN)] {
                        strays(w, who, (from(port), to), flags);
                    }
                    w.sleep(200);
                    let resets = client.packets(|p| p.src == to.ip() && p.tcp_flags & RST != 0);
                    assert_eq!(resets.len(), 4, "{who}: {resets:?}");
                    assert!(resets.iter().all(|p| p.dport == 20_001), "{who}: {resets:?}");
                    uplink.nothing_of(to.ip());
                }
            },
        ),
        case(
            "a ping of an active cluster IP: port unreachable; of an unallocated one: silence",
            |w| {
                let unallocated = w.family.unallocated();
                w.serve(svc().on([L1]));
                for who in [L2, Ext] {
                    let (client, uplink) = (w.sniff(who), w.sniff(NodeB));
                    let ping =
                        |to: IpAddr| w.netns(who).try_sh(&format!("ping -n -c 2 -i 0.2 -W 1 {to}"));
                    let (active, silent) = (ping(w.cip()), ping(unallocated));
                    assert!(
                        active.code != 0 && silent.code != 0,
                        "answered: {} {}",
                        active.out,
                        silent.out
                    );
                    assert_eq!(
                        client.port_unreachable(SocketAddr::new(w.cip(), 0)),
                        2,
                        "{}",
                        active.out
                    );
                    let about = |packet: &super::support::sniff::Packet| {
                        packet.about.as_ref().is_some_and(|inner| inner.dst == unallocated)
                    };
                    let icmp = if w.cip().is_ipv4() { ICMP } else { ICMPV6 };
                    assert_eq!(client.packets(|packet| packet.proto == icmp && about(packet)), []);
                    uplink.nothing_of(w.cip());
                    uplink.nothing_of(unallocated);
                }
            },
        ),
        case("traffic to addresses of no service passes untouched", |w| {
            w.serve(svc().on([L1]));
            w.tcp(L2, w.address(R1), 8080).untraced().times(20).only([R1]).source_kept();
            w.tcp(Ext, w.address(L1), 8080).untraced().times(20).only([L1]).source_kept();
            w.udp(Node, w.address(L1), 8080).untraced().times(20).only([L1]).source_kept();
            let direct = format!(
                "trace {} {}/tcp -o json",
                w.address(L2),
                SocketAddr::new(w.address(R1), 8080)
            );
            assert!(w.vipd(&direct).out.contains("\"pass\""), "{}", w.vipd(&direct).out);
        }),
        case("scaled to zero and back, again and again: refused and served at once", |w| {
            w.serve(svc().on([L1, R1]));
            for _ in 0..10 {
                w.serve(no_endpoints());
                w.tcp(L2, w.cip(), 80).times(3).refused();
                w.serve(slice([L1, R1]));
                w.tcp(L2, w.cip(), 80).times(10).reached();
            }
        }),
    ]
}
