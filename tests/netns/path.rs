//! What decides how early the packet path knows that a packet is none of a service's, and what it
//! leaves on packets.

use super::support::manifests::{Plain, svc};
use super::support::plan::{Ext, L1, L2, NODE_PORT, Node, R1};
use super::support::runner::{Case, case};
use super::support::world::World;
use serde_json::json;
use std::net::{IpAddr, SocketAddr};

/// A cluster IP outside the service ranges.
fn outside(w: &World) -> IpAddr {
    if w.cip().is_ipv4() {
        IpAddr::from([10, 253, 7, 7])
    } else {
        IpAddr::from([0xfd00, 0x10, 0x253, 0, 0, 0, 0, 7])
    }
}

fn more_ranges() -> Plain {
    let object = |n: u8| {
        let cidrs = [format!("10.252.{n}.0/24"), format!("fd00:10:252:{n}::/64")];
        json!({
            "apiVersion": "networking.k8s.io/v1",
            "kind": "ServiceCIDR",
            "metadata": {"name": format!("more-{n}")},
            "spec": {"cidrs": cidrs},
        })
    };
    Plain { name: "ranges", objects: [1, 3, 5, 7, 9].map(object).into() }
}

fn plain_traffic_passes(w: &World) {
    w.tcp(L2, w.address(R1), 8080).untraced().times(10).only([R1]).source_kept();
    w.udp(Node, w.address(L1), 8080).untraced().times(10).only([L1]).source_kept();
}

fn serves(w: &World, address: IpAddr) {
    for who in [L2, Node, Ext] {
        w.tcp(who, address, 80).times(10).only([L1]);
        w.tcp(who, address, 81).times(2).refused();
    }
}

fn comes_and_goes(w: &World) {
    let other = || svc().named("outside", 0).at(outside(w));
    for _ in 0..2 {
        w.serve(svc().on([L1]));
        serves(w, w.cip());
        plain_traffic_passes(w);
        w.serve(other().on([L1]));
        serves(w, outside(w));
        serves(w, w.cip());
        plain_traffic_passes(w);
        w.restart();
        serves(w, outside(w));
        w.withdraw(other().on([L1]));
    }
    serves(w, w.cip());
}

/// Counts packets that leave the node with a priority that vipd could have given them.
pub fn witness(w: &World) {
    w.netns(Node).nft(
        "table inet witness {
            chain post { type filter hook postrouting priority 300;
                meta priority & ffff:f000 != none counter
                meta l4proto tcp counter
            }
        }",
    );
}

pub fn nothing_left_with_our_priority(w: &World) {
    let seen = w.netns(Node).sh("nft list chain inet witness post");
    let packets: Vec<&str> = seen
        .lines()
        .filter_map(|line| line.split_once("counter packets "))
        .filter_map(|(_, rest)| rest.split(' ').next())
        .collect();
    assert!(packets.len() == 2 && packets[0] == "0" && packets[1] != "0", "{seen}");
}

fn leaves_no_priority(w: &World, sticky: bool) {
    let service = if sticky { svc().sticky(60) } else { svc() };
    w.serve(service.on([L1, R1]));
    witness(w);
    for who in [L1, L2, Node, Ext] {
        w.tcp(who, w.cip(), 80).times(20).reached();
        w.udp(who, w.address(R1), 8080).untraced().times(2).reached();
    }
    nothing_left_with_our_priority(w);
}

pub fn cases() -> Vec<Case> {
    vec![
        case("a cluster IP outside the service ranges comes and goes", comes_and_goes),
        case("with more service ranges than are compared one by one", |w| {
            w.serve(svc().on([L1]));
            w.serve(more_ranges());
            comes_and_goes(w);
            w.tcp(L2, w.family.unallocated(), 80).times(2).dropped();
            w.withdraw(more_ranges());
            serves(w, w.cip());
            w.tcp(L2, w.family.unallocated(), 80).times(2).dropped();
        }),
        case("with all cluster IPs outside the service ranges", |w| {
            w.serve(svc().on([L1]));
            serves(w, w.cip());
            plain_traffic_passes(w);
            w.restart();
            serves(w, w.cip());
        })
        .flag("--service-cluster-ip-range", "192.0.2.0/24"),
        case("no packet leaves with the priority that vipd used", |w| leaves_no_priority(w, false)),
        case("nor one of a sticky service", |w| leaves_no_priority(w, true)),
        case("nor where Linux does not set the priority of what it forwards", |w| {
            w.netns(Node).sh("echo 0 > /proc/sys/net/ipv4/ip_forward_update_priority");
            leaves_no_priority(w, false);
        }),
        case("connections that somebody else translates are left as they are", |w| {
            let (at, pod) = (w.family.external_ip(), SocketAddr::new(w.address(L1), 8080));
            let ip = if at.is_ipv4() { "ip" } else { "ip6" };
            w.netns(Node).nft(&format!(
                "table inet others {{
                    chain pre {{ type nat hook prerouting priority -110;
                        {ip} daddr {at} tcp dport 9999 dnat {ip} to {pod}
                    }}
                }}"
            ));
            w.serve(svc().sticky(600).node_port(NODE_PORT).external_ips([at]).on([L1]));
            for who in [L2, Ext] {
                w.tcp(who, at, 9999).times(10).left_to([L1]);
                w.tcp(who, at, 80).times(10).only([L1]).masqueraded();
            }
            w.withdraw(svc().on([L1]));
            w.tcp(Ext, at, 9999).times(10).left_to([L1]);
        })
.kernel_only("vipd trace tells of the address, which leads to the relay, not of what others translate"),
    ]
}
