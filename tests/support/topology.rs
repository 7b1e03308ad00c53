//! The namespaces of one case, joined by virtual links.
//!
//! In: the IP plan. Out: `Topology`, ready for packets.
//! Never: a link, route or rule outside of namespaces of this process.

use super::netns::Netns;
use super::plan::{Ext, Family, L1, NODE_A, NODE_B, Node, NodeB, V4, V6, Who};
use std::collections::HashMap;
use std::fs;

/// The kernel limits ICMP errors to one per second and peer after a burst of six, and all that a
/// namespace sends to some fifty in 20 ms; cases look at more than that. The masks name what is
/// limited (a bit of a number, a list of types): what is not in them is beyond both limits. Redirects
/// would tell clients of other ways.
const SYSCTLS: [(&str, &str); 13] = [
    ("ipv4/ip_forward", "1"),
    ("ipv6/conf/all/forwarding", "1"),
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
    ("ipv4/conf/all/send_redirects", "0"),
    ("ipv4/conf/default/send_redirects", "0"),
    ("ipv6/conf/all/accept_dad", "0"),
    ("ipv6/conf/default/accept_dad", "0"),
    ("ipv6/conf/all/accept_ra", "0"),
    ("ipv6/conf/default/accept_ra", "0"),
    ("ipv4/icmp_ratemask", "0"),
    ("ipv6/icmp/ratemask", "2"),
    ("ipv4/ip_local_port_range", "20000 60999"),
];

pub struct Topology {
    namespaces: HashMap<Who, Netns>,
}

impl Topology {
    pub fn build() -> Topology {
        let namespaces = Who::ALL.into_iter().map(|who| (who, namespace(who.name()))).collect();
        let topology = Topology { namespaces };
        topology.lan();
        topology.outside();
        for pod in Who::LOCAL_PODS {
            topology.pod(Node, pod);
        }
        for pod in Who::REMOTE_PODS {
            topology.pod(NodeB, pod);
        }
        topology.extra_endpoints();
        topology
    }

    pub fn of(&self, who: Who) -> &Netns {
        &self.namespaces[&who]
    }

    fn veth(&self, (a, a_link): (Who, &str), (b, b_link): (Who, &str)) {
        let line = format!("link add {a_link} type veth peer name {b_link} netns {b}");
        self.of(a).ip(&[line]);
    }

    /// node and node-b on one link; node-b is also the node's gateway, so it sees all that leaves.
    fn lan(&self) {
        self.veth((Node, "up0"), (NodeB, "up0"));
        let mut node = vec!["link set up0 up".to_owned()];
        let mut node_b = node.clone();
        for family in [V4, V6] {
            let bits = network_bits(family);
            let (first, second) = (family.address(Node), family.node_second());
            let (own, gateway) = (family.address(NodeB), family.lan_gateway());
            node.push(address(first, bits, "up0", Preferred::Yes));
            node.push(address(second, bits, "up0", Preferred::No));
            node_b.push(address(own, bits, "up0", Preferred::Yes));
            node_b.push(address(gateway, bits, "up0", Preferred::No));
            node.push(format!("route add default via {gateway}"));
            node.push(format!("route add {} via {own}", family.pod_cidr(NODE_B)));
            for network in [family.pod_cidr(NODE_A), family.extra_range(), family.outside_cidr()] {
                node_b.push(format!("route add {network} via {first}"));
            }
            node_b.push(format!("route add {second}/{} via {first}", host_bits(family)));
        }
        self.of(Node).ip(&node);
        self.of(NodeB).ip(&node_b);
    }

    fn outside(&self) {
        self.veth((Node, "ext0"), (Ext, "eth0"));
        let mut node = vec!["link set ext0 up".to_owned()];
        let mut ext = vec!["link set eth0 up".to_owned()];
        for family in [V4, V6] {
            let bits = network_bits(family);
            node.push(address(family.outside_gateway(), bits, "ext0", Preferred::Yes));
            ext.push(address(family.address(Ext), bits, "eth0", Preferred::Yes));
            ext.push(address(family.outside_second(), bits, "eth0", Preferred::No));
            ext.extend(family.crowd().into_iter().map(|a| address(a, bits, "eth0", Preferred::No)));
            ext.push(format!("route add default via {}", family.outside_gateway()));
        }
        self.of(Node).ip(&node);
        self.of(Ext).ip(&ext);
    }

    /// A pod on a point-to-point link. The router's side carries the router's own first address,
    /// so that a masqueraded packet towards a pod has exactly that source.
    fn pod(&self, router: Who, pod: Who) {
        let link = format!("p{pod}");
        self.veth((router, &link), (pod, "eth0"));
        let (gateway4, pod4, pod6) = (V4.address(router), V4.address(pod), V6.address(pod));
        self.of(router).ip(&[
            format!("addr add {gateway4}/32 dev {link}"),
            format!("addr add fe80::1/64 dev {link} nodad"),
            format!("link set {link} up"),
            format!("route add {pod4}/32 dev {link}"),
            format!("route add {pod6}/128 dev {link}"),
        ]);
        self.of(pod).ip(&[
            format!("addr add {pod4}/32 dev eth0"),
            format!("addr add {pod6}/128 dev eth0 nodad"),
            "link set eth0 up".to_owned(),
            format!("route add {gateway4}/32 dev eth0"),
            format!("route add default via {gateway4} dev eth0"),
            "route add ::/0 via fe80::1 dev eth0".to_owned(),
        ]);
    }

    /// A whole range is local to L1, so that one pod can play many.
    fn extra_endpoints(&self) {
        let mut node = Vec::new();
        let mut pod = Vec::new();
        for family in [V4, V6] {
            let range = family.extra_range();
            let via = if family == V4 { "" } else { "via fd00:10:180::1" };
            node.push(format!("route add {range} {via} dev p{L1}"));
            pod.push(format!("route add local {range} dev lo"));
        }
        self.of(Node).ip(&node);
        self.of(L1).ip(&pod);
        // IPv6 takes packets for a local route without this, but lets no socket bind to it.
        set(self.of(L1), "ipv6/ip_nonlocal_bind", "1");
    }
}

fn namespace(name: &str) -> Netns {
    let made = Netns::add(name);
    for (key, value) in SYSCTLS {
        set(&made, key, value);
    }
    made.ip(&["link set lo up".to_owned()]);
    made
}

fn set(netns: &Netns, key: &str, value: &str) {
    let path = format!("/proc/sys/net/{key}");
    let done = netns.enter(|| fs::write(&path, value));
    done.unwrap_or_else(|error| panic!("{path}: {error}"));
}

#[derive(PartialEq)]
enum Preferred {
    Yes,
    No,
}

fn address(address: std::net::IpAddr, bits: u8, link: &str, preferred: Preferred) -> String {
    let more = match (address.is_ipv6(), preferred) {
        (false, _) => "",
        (true, Preferred::Yes) => "nodad",
        (true, Preferred::No) => "nodad preferred_lft 0",
    };
    format!("addr add {address}/{bits} dev {link} {more}")
}

fn network_bits(family: Family) -> u8 {
    match family {
        V4 => 24,
        V6 => 64,
    }
}

fn host_bits(family: Family) -> u8 {
    match family {
        V4 => 32,
        V6 => 128,
    }
}
