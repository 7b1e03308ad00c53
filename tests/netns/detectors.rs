//! Whose traffic is masqueraded: the ways to tell a local pod from others.

use super::support::manifests::{no_endpoints, node, svc};
use super::support::plan::{Ext, L1, L2, L3, NODE_A, NODE_PORT, Node, NodeB, R1, R2, V4, V6, Who};
use super::support::runner::{Case, case, skip};
use super::support::world::World;
use std::path::Path;
use std::time::Duration;

/// Lets pods of node-b reach cluster IPs through the node.
fn route_from_node_b(w: &World) {
    w.sh(NodeB, &format!("ip route add {} via {}", w.family.service_range(), w.address(Node)));
}

/// Puts pods behind a bridge of the node.
fn bridge<const N: usize>(w: &World, pods: [Who; N]) {
    let mut lines = vec!["link add cni0 type bridge".to_owned(), "link set cni0 up".to_owned()];
    lines.push(format!("addr add {}/32 dev cni0", V4.address(Node)));
    lines.push("addr add fe80::1/64 dev cni0 nodad".to_owned());
    for pod in pods {
        lines.push(format!("addr flush dev p{pod}"));
        lines.push(format!("link set p{pod} master cni0"));
        for (family, bits) in [(V4, 32), (V6, 128)] {
            lines.push(format!("route replace {}/{bits} dev cni0", family.address(pod)));
        }
        w.behind_link(pod, "cni0");
    }
    w.netns(Node).ip(&lines);
    for pod in pods {
        w.sh(pod, "ip neigh flush all");
        w.tcp(pod, w.address(L1), 8080).untraced().only([L1]).source_kept();
    }
}

/// Under externalTrafficPolicy Local these pods and the node reach all endpoints, and everybody else
/// those of this node.
fn short_circuits(w: &World, pods: &[Who]) {
    w.serve(svc().node_port(NODE_PORT).load_balancer([w.vip()]).external_local().on([L1, R1]));
    for (to, port) in [(w.vip(), 80), (w.address(Node), NODE_PORT)] {
        for pod in pods {
            w.tcp(*pod, to, port).times(40).spread([L1, R1]).source_kept();
        }
        w.tcp(Node, to, port).times(40).spread([L1, R1]).masqueraded();
        w.tcp(Ext, to, port).times(20).only([L1]).source_kept();
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Passing {
    Yes,
    No,
}

/// The module br_netfilter, which Kubernetes nodes usually have: without it frames between two
/// ports of a bridge are none of nf_tables' business.
fn bridged_packets_pass_nftables(w: &World, passing: Passing) {
    let there = w.netns(Node).enter(|| Path::new("/proc/sys/net/bridge").exists());
    match (there, passing) {
        (false, Passing::Yes) => skip("the kernel module br_netfilter is not loaded"),
        (false, Passing::No) => {}
        (true, _) => {
            let value = u8::from(passing == Passing::Yes);
            for key in ["bridge-nf-call-iptables", "bridge-nf-call-ip6tables"] {
                w.sh(Node, &format!("echo {value} > /proc/sys/net/bridge/{key}"));
            }
        }
    }
}

pub fn cases() -> Vec<Case> {
    vec![
        case("ClusterCIDR: pods of all nodes are local", |w| {
            route_from_node_b(w);
            w.serve(svc().on([L1, R2]));
            w.tcp(L2, w.cip(), 80).times(50).spread([L1, R2]).source_kept();
            w.tcp(Ext, w.cip(), 80).times(50).spread([L1, R2]).masqueraded();
            w.tcp(Node, w.cip(), 80).times(50).spread([L1, R2]).masqueraded();
            // R2 would answer R1 past the node: an unmasqueraded connection only works to L1.
            w.serve(svc().on([L1]));
            w.tcp(R1, w.cip(), 80).times(20).only([L1]).source_kept();
        }),
        case("outsiders are dropped at cluster IPs, and served by all other ways in", |w| {
            w.serve(svc().node_port(NODE_PORT).load_balancer([w.vip()]).on([L1, R1]));
            w.tcp(L2, w.cip(), 80).times(40).spread([L1, R1]).source_kept();
            w.tcp(Node, w.cip(), 80).times(40).spread([L1, R1]).masqueraded();
            w.tcp(Ext, w.cip(), 80).dropped();
            w.udp(Ext, w.cip(), 80).dropped();
            w.tcp(Ext, w.cip(), 81).dropped();
            w.tcp(L2, w.cip(), 81).times(3).refused();
            w.tcp(Ext, w.vip(), 80).times(40).spread([L1, R1]).masqueraded();
            w.tcp(Ext, w.address(Node), NODE_PORT).times(40).spread([L1, R1]).masqueraded();
            w.serve(no_endpoints());
            w.tcp(Ext, w.cip(), 80).dropped();
            w.tcp(L2, w.cip(), 80).times(3).refused();
            w.tcp(Ext, w.vip(), 80).times(3).refused();
        })
        .flag("--cluster-ip-outsiders", "drop"),
        case("a bridge tells outsiders at cluster IPs too", |w| {
            bridge(w, [L2, L3]);
            bridged_packets_pass_nftables(w, Passing::No);
            w.start(&[
                ("--cluster-ip-outsiders", "drop"),
                ("--detect-local-mode", "BridgeInterface"),
                ("--pod-bridge-interface", "cni0"),
            ]);
            w.serve(svc().on([R1]));
            w.tcp(L2, w.cip(), 80).times(20).only([R1]).source_kept();
            w.tcp(Node, w.cip(), 80).times(20).only([R1]).masqueraded();
            w.tcp(Ext, w.cip(), 80).dropped();
        })
        .without_vipd(),
        case("NodeCIDR: only this node's pods are local", |w| {
            route_from_node_b(w);
            w.serve(svc().on([L1, R2]));
            w.tcp(L2, w.cip(), 80).times(50).spread([L1, R2]).source_kept();
            w.tcp(R1, w.cip(), 80).times(50).spread([L1, R2]).masqueraded();
            w.tcp(Ext, w.cip(), 80).times(50).spread([L1, R2]).masqueraded();
            w.tcp(Node, w.cip(), 80).times(50).spread([L1, R2]).masqueraded();
            w.tcp(L1, w.cip(), 80).times(50).spread([L1, R2]);
        })
        .flag("--detect-local-mode", "NodeCIDR"),
        case("NodeCIDR: pods of other nodes are outsiders under policy Local", |w| {
            short_circuits(w, &[L2]);
            w.tcp(R1, w.address(Node), NODE_PORT).times(20).only([L1]).source_kept();
        })
        .flag("--detect-local-mode", "NodeCIDR"),
        case("InterfaceNamePrefix: who is short-circuited under policy Local", |w| {
            short_circuits(w, &[L2, L3]);
            w.tcp(R1, w.address(Node), NODE_PORT).times(20).only([L1]).source_kept();
        })
        .flag("--detect-local-mode", "InterfaceNamePrefix")
        .flag("--pod-interface-name-prefix", "pL"),
        case("BridgeInterface: who is short-circuited under policy Local", |w| {
            bridge(w, [L2, L3]);
            bridged_packets_pass_nftables(w, Passing::No);
            w.start(&[
                ("--detect-local-mode", "BridgeInterface"),
                ("--pod-bridge-interface", "cni0"),
            ]);
            short_circuits(w, &[L2, L3]);
        })
        .without_vipd(),
        case("NodeCIDR: changed pod CIDRs apply while running", |w| {
            w.serve(svc().on([L1]));
            w.tcp(L2, w.cip(), 80).times(10).only([L1]).source_kept();
            let mut moved = node(NODE_A, Some("z1"));
            moved.objects[0]["spec"]["podCIDR"] = "10.99.0.0/24".into();
            moved.objects[0]["spec"]["podCIDRs"] =
                serde_json::json!(["10.99.0.0/24", "fd00:99::/64"]);
            w.serve(moved);
            w.tcp(L2, w.cip(), 80).times(10).only([L1]).masqueraded();
            // Without any other change beside it.
            w.write(node(NODE_A, Some("z1")));
            let kept =
                || w.tcp(L2, w.cip(), 80).untraced().reached().peers() == [w.address(L2)].into();
            w.within(Duration::from_secs(1), kept);
        })
        .kernel_only("what changes is whose source is kept")
        .flag("--detect-local-mode", "NodeCIDR"),
        case("InterfaceNamePrefix: what comes in by such a link is local", |w| {
            route_from_node_b(w);
            w.serve(svc().on([L1, R2]));
            w.tcp(L2, w.cip(), 80).times(50).spread([L1, R2]).source_kept();
            w.tcp(R1, w.cip(), 80).times(50).spread([L1, R2]).masqueraded();
            w.tcp(Ext, w.cip(), 80).times(50).spread([L1, R2]).masqueraded();
            w.tcp(Node, w.cip(), 80).times(50).spread([L1, R2]).masqueraded();
            w.serve(svc().on([L1]));
            w.tcp(L1, w.cip(), 80).times(20).only([L1]).masqueraded();
        })
        .flag("--detect-local-mode", "InterfaceNamePrefix")
        .flag("--pod-interface-name-prefix", "pL"),
        case("BridgeInterface: what comes in by the bridge is local", |w| {
            bridge(w, [L2, L3]);
            bridged_packets_pass_nftables(w, Passing::No);
            w.serve(svc().on([L1, L3, R2]));
            w.tcp(L2, w.cip(), 80).times(90).spread([L1, L3, R2]).source_kept();
            w.tcp(L1, w.cip(), 80).times(90).spread([L1, L3, R2]).masqueraded();
            w.tcp(Ext, w.cip(), 80).times(90).spread([L1, L3, R2]).masqueraded();
            w.tcp(Node, w.cip(), 80).times(90).spread([L1, L3, R2]).masqueraded();
            w.serve(svc().on([L3]));
            w.tcp(L3, w.cip(), 80).times(20).only([L3]).masqueraded();
        })
        .flag("--detect-local-mode", "BridgeInterface")
        .flag("--pod-bridge-interface", "cni0"),
        case(
            "BridgeInterface with br_netfilter: between ports of the bridge the source is kept too",
            |w| {
                bridge(w, [L2, L3]);
                bridged_packets_pass_nftables(w, Passing::Yes);
                // As a kubelet or CNI plugin does it: else a bridge never sends a frame back out
                // of the port that it came in by.
                w.sh(Node, "for port in pL2 pL3; do bridge link set dev $port hairpin on; done");
                w.serve(svc().on([L3]));
                w.tcp(L2, w.cip(), 80).times(20).only([L3]).source_kept();
                w.tcp(L3, w.cip(), 80).times(20).only([L3]).masqueraded();
                w.tcp(Ext, w.cip(), 80).times(20).only([L3]).masqueraded();
            },
        )
        .flag("--detect-local-mode", "BridgeInterface")
        .flag("--pod-bridge-interface", "cni0")
        .kernel_only("what comes by such a bridge cannot be led to the relay; see the next case"),
        case(
            "with br_netfilter the kernel carries what comes by a bridge, the relay the rest",
            |w| {
                bridge(w, [L2, L3]);
                bridged_packets_pass_nftables(w, Passing::No);
                w.write(svc().named("udp", 42).relayed().udp().on([L1, R1]));
                w.serve(svc().relayed().on([L1, R1]));
                let udp = w.family.cluster_ip(42);
                let peers = |who, expected: Who| {
                    let tcp = w.tcp(who, w.cip(), 80).untraced().times(20).only([L1, R1]);
                    let udp = w.udp(who, udp, 80).untraced().times(20).only([L1, R1]);
                    for replies in [tcp, udp] {
                        let seen = replies.peers();
                        replies.check(seen == [w.address(expected)].into(), "the peer's address");
                    }
                };
                peers(L2, Node);
                bridged_packets_pass_nftables(w, Passing::Yes);
                // It is noticed with the next change.
                w.serve(svc().named("other", 43).relayed().on([L1]));
                peers(L2, L2);
                peers(Ext, Node);
                peers(Node, Node);
            },
        )
        .names_its_carrier(),
    ]
}
