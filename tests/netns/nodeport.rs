//! Node ports: at which of the node's addresses, whose they are, and what happens to what else
//! uses their numbers.

use super::support::manifests::{Plain, Svc, no_endpoints, node, slice, svc, tcp, udp};
use super::support::plan::{
    Ext, Family, L1, L2, L3, NODE_A, NODE_PORT, Node, NodeB, R1, V4, V6, Who,
};
use super::support::runner::{Case, case};
use super::support::servers::{Tcp, Udp};
use super::support::sniff::{ACK, RST, SYN};
use super::support::vipd::LEFT_OUT;
use super::support::world::World;
use serde_json::json;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(1);

fn exposed() -> Svc {
    svc().node_port(NODE_PORT)
}

/// All addresses of the node that cases know, and the server of the node that listens there.
fn host_process(w: &World) {
    for family in [V4, V6] {
        let addresses = [family.address(Node), family.node_second(), family.outside_gateway()];
        w.servers(Node).listen(addresses.map(|ip| (Tcp, SocketAddr::new(ip, NODE_PORT))));
    }
}

/// Who answers an outsider at an address of the node.
fn answers(w: &World, at: IpAddr) -> Vec<String> {
    let tries = w.tcp(Ext, at, NODE_PORT).times(3).patience(Duration::from_millis(100));
    tries.untraced().replies().servers().into_keys().collect()
}

/// Node ports answer at exactly these, and the node's own process at the others.
fn only_at(w: &World, served: &[IpAddr]) {
    let all = [w.address(Node), w.family.node_second(), w.family.outside_gateway()];
    for at in all {
        let tries = w.tcp(Ext, at, NODE_PORT).times(5);
        if served.contains(&at) {
            tries.only([L1]).masqueraded();
        } else {
            tries.left_to([Node]);
        }
    }
}

/// Another address of the node.
fn set_address(w: &World, what: &str, address: IpAddr) {
    let more = if address.is_ipv4() || what == "del" { "" } else { "nodad" };
    let bits = if address.is_ipv4() { 32 } else { 128 };
    w.sh(Node, &format!("ip addr {what} {address}/{bits} dev up0 {more}"));
}

fn comes_and_goes(w: &World) {
    let address = w.family.external_ip();
    w.serve(exposed().on([L1]));
    assert_eq!(answers(w, address), [] as [&str; 0], "before it is the node's");
    for _ in 0..3 {
        set_address(w, "add", address);
        w.within(SOON, || answers(w, address) == ["L1"]);
        w.settle();
        w.tcp(Ext, address, NODE_PORT).times(10).only([L1]).masqueraded();
        set_address(w, "del", address);
        w.within(SOON, || answers(w, address).is_empty());
    }
    w.tcp(Ext, w.address(Node), NODE_PORT).times(10).only([L1]);
}

/// A Node object with these addresses.
fn node_at(addresses: [IpAddr; 2]) -> Plain {
    let mut object = node(NODE_A, Some("z1"));
    object.objects[0]["status"]["addresses"] =
        addresses.iter().map(|ip| json!({"type": "InternalIP", "address": ip})).collect();
    object
}

fn older(name: &'static str) -> Svc {
    svc().named(name, 42).created("2020-01-01T00:00:00Z").node_port(NODE_PORT)
}

pub fn cases() -> Vec<Case> {
    vec![
        case("35 a node port wins over a process of the node that listens there", |w| {
            let at = w.address(Node);
            host_process(w);
            w.tcp(Ext, at, NODE_PORT).times(5).left_to([Node]);
            w.serve(exposed().on([L1, R1]));
            for who in [Ext, L2, Node] {
                w.tcp(who, at, NODE_PORT).times(60).spread([L1, R1]).masqueraded();
            }
            w.withdraw(exposed().on([L1]));
            w.tcp(Ext, at, NODE_PORT).times(5).left_to([Node]);
        }),
        case("a node port without endpoints is refused, not left to the node's own process", |w| {
            host_process(w);
            w.serve(exposed().on([L1]));
            w.serve(no_endpoints());
            for who in [Ext, L2, Node] {
                w.tcp(who, w.address(Node), NODE_PORT).times(3).refused();
            }
            w.tcp(Ext, w.family.node_second(), NODE_PORT).times(3).left_to([Node]);
            w.withdraw(exposed().on([L1]));
            w.tcp(Ext, w.address(Node), NODE_PORT).times(3).left_to([Node]);
        }),
        case("by default node ports answer at the Node object's address only", |w| {
            host_process(w);
            w.serve(exposed().on([L1]));
            only_at(w, &[w.address(Node)]);
        }),
        case("--nodeport-addresses=primary is the same", |w| {
            host_process(w);
            w.serve(exposed().on([L1]));
            only_at(w, &[w.address(Node)]);
        })
        .flag("--nodeport-addresses", "primary"),
        case("--nodeport-addresses with a range of one family: the other has all", |w| {
            let (four, six) = (w.over(V4), w.over(V6));
            host_process(w);
            w.serve(exposed().dual_stack());
            four.write(slice([L1]).named("four").only(V4));
            six.serve(slice([L1]).named("six").only(V6));
            only_at(&four, &[V4.node_second()]);
            only_at(&six, &[V6.address(Node), V6.node_second(), V6.outside_gateway()]);
            let told = |text: &str| w.log().matches(text).count();
            let all = "is about an IPv6 address of this node";
            let none = "no address of this node lies in 192.168.1.0/24";
            assert_eq!((told(all), told(none)), (1, 0), "{}", w.log());
            w.sh(Node, "ip addr del 192.168.1.2/24 dev up0");
            w.within(SOON, || told(none) == 1);
            set_address(w, "add", w.family.external_ip());
            w.settle();
            assert_eq!((told(all), told(none)), (1, 1), "{}", w.log());
        })
        .flag("--nodeport-addresses", "192.168.1.0/24")
        .once(),
        case("--nodeport-addresses with ranges of both", |w| {
            host_process(w);
            w.serve(exposed().on([L1]));
            only_at(w, &[w.family.node_second(), w.family.outside_gateway()]);
        })
        .flag(
            "--nodeport-addresses",
            "192.168.1.0/24,203.0.113.0/24,fd00:192:168:1::/64,2001:db8::/32",
        ),
        case("--nodeport-addresses=all: every address of the node, as they come and go", |w| {
            host_process(w);
            w.serve(exposed().on([L1]));
            only_at(w, &[w.address(Node), w.family.node_second(), w.family.outside_gateway()]);
            comes_and_goes(w);
        })
        .flag("--nodeport-addresses", "all"),
        case("a load balancer's address that the node has itself: all ways in meet there", |w| {
            let (vip, other) = (w.vip(), NODE_PORT + 9);
            set_address(w, "add", vip);
            w.servers(Node).listen([NODE_PORT, other].map(|at| (Tcp, SocketAddr::new(vip, at))));
            w.serve(exposed().load_balancer([vip]).on([L1, R1]));
            for port in [80, NODE_PORT] {
                w.tcp(Ext, vip, port).times(40).spread([L1, R1]).source_replaced();
                w.tcp(L2, vip, port).times(40).spread([L1, R1]).source_replaced();
            }
            w.tcp(Ext, vip, other).times(3).left_to([Node]);
            w.serve(exposed().load_balancer([vip]).external_local());
            for port in [80, NODE_PORT] {
                w.tcp(Ext, vip, port).times(10).only([L1]).source_kept();
                w.tcp(L2, vip, port).times(40).spread([L1, R1]).source_kept();
            }
            w.withdraw(exposed().load_balancer([vip]).on([L1, R1]));
            w.tcp(Ext, vip, NODE_PORT).times(3).left_to([Node]);
        })
        .flag("--nodeport-addresses", "all"),
        case("an address of the node that lies in the service range", |w| {
            w.serve(exposed().on([L1]));
            let address = w.family.unallocated();
            w.tcp(Ext, address, NODE_PORT).times(2).dropped();
            set_address(w, "add", address);
            w.within(SOON, || answers(w, address) == ["L1"]);
            w.tcp(Ext, address, NODE_PORT).times(10).only([L1]).source_replaced();
            set_address(w, "del", address);
            w.within(SOON, || answers(w, address).is_empty());
            w.tcp(Ext, w.cip(), 80).times(10).only([L1]);
        })
        .flag("--nodeport-addresses", "all")
        .flag("--cluster-cidr", LEFT_OUT),
        case(
            "an address within a range answers within a second, and no more once it is gone",
            comes_and_goes,
        )
        .flag(
            "--nodeport-addresses",
            "192.168.0.0/24,198.51.100.0/24,fd00:192:168::/64,2001:db8:51::/64",
        ),
        case("the Node object's address changes while vipd runs", |w| {
            host_process(w);
            w.serve(exposed().on([L1]));
            w.serve(node_at([V4, V6].map(Family::node_second)));
            w.tcp(Ext, w.family.node_second(), NODE_PORT).times(5).only([L1]);
            w.tcp(Ext, w.address(Node), NODE_PORT).times(5).left_to([Node]);
            w.serve(node_at([V4, V6].map(|family| family.address(Node))));
            only_at(w, &[w.address(Node)]);
        }),
        case("UDP flows to node ports move with the addresses that these answer at", |w| {
            let addresses = [w.address(Node), w.family.node_second()];
            let host = addresses.map(|ip| (Udp, SocketAddr::new(ip, NODE_PORT)));
            w.servers(Node).listen(host);
            w.serve(svc().udp().node_port(NODE_PORT).on([L1]));
            let [first, second] = addresses.map(|ip| w.talking(Ext, Udp, ip, NODE_PORT));
            w.answered_by(&first, L1);
            w.answered_by(&second, Node);
            w.write(node_at([V4, V6].map(Family::node_second)));
            w.answered_by(&first, Node);
            w.answered_by(&second, L1);
            w.write(node_at([V4, V6].map(|family| family.address(Node))));
            w.answered_by(&first, L1);
            w.answered_by(&second, Node);
            w.sleep(500);
            let told = w.vipd("metrics").out;
            assert!(told.contains("vipd_conntrack_failures_total 0\n"), "{told}");
        })
        .kernel_only(
            "the relay answers from the node port itself, which a process of the host has here",
        ),
        case("UDP flows at an address that node ports lost over a restart are the host's", |w| {
            let [first, second] = [w.address(Node), w.family.node_second()];
            w.servers(Node).listen([(Udp, SocketAddr::new(second, NODE_PORT))]);
            w.write(svc().udp().node_port(NODE_PORT).on([L1]));
            let at = |addresses: &[IpAddr]| {
                let bits = if w.family == V4 { 32 } else { 128 };
                let all: Vec<_> = addresses.iter().map(|ip| format!("{ip}/{bits}")).collect();
                w.start(&[("--nodeport-addresses", all.join(",").leak())]);
            };
            at(&[first, second]);
            let [kept, lost] = [first, second].map(|ip| w.talking(Ext, Udp, ip, NODE_PORT));
            w.answered_by(&kept, L1);
            w.answered_by(&lost, L1);
            w.kill();
            at(&[first]);
            w.answered_by(&lost, Node);
            w.answered_by(&kept, L1);
        })
        .kernel_only(
            "the relay answers from the node port itself, which a process of the host has here",
        )
        .without_vipd(),
        case("an address that comes and goes leaves other connections alone", |w| {
            w.serve(exposed().on([L1]));
            let start = Instant::now();
            let flow = w.talking(Ext, Tcp, w.address(Node), NODE_PORT);
            let load = w.load(Ext, w.address(Node), NODE_PORT, 50);
            for _ in 0..5 {
                set_address(w, "add", w.family.external_ip());
                w.sleep(100);
                set_address(w, "del", w.family.external_ip());
                w.sleep(100);
            }
            load.stop().reached();
            flow.undisturbed(start);
        })
        .flag("--nodeport-addresses", "all"),
        case(
            "a node port at an address with the same port of another service: that one wins",
            |w| {
                w.serve(exposed().on([L1]));
                w.tcp(Ext, w.address(Node), NODE_PORT).times(10).only([L1]);
                let other = || svc().named("other", 42).port(NODE_PORT);
                for turn in 0..2 {
                    let other = if turn == 0 {
                        other().load_balancer([w.address(Node)])
                    } else {
                        other().external_ips([w.address(Node)])
                    };
                    w.serve(other.clone().on([R1]));
                    w.tcp(Ext, w.address(Node), NODE_PORT).times(10).only([R1]);
                    w.withdraw(other.on([R1]));
                    w.tcp(Ext, w.address(Node), NODE_PORT).times(10).only([L1]);
                }
            },
        ),
        case("one node port in two services: the oldest has it, then the other", |w| {
            w.serve(exposed().created("2021-01-01T00:00:00Z").on([L1]));
            w.tcp(Ext, w.address(Node), NODE_PORT).times(10).only([L1]);
            w.serve(older("older").on([R1]));
            w.tcp(Ext, w.address(Node), NODE_PORT).times(10).only([R1]);
            w.tcp(L2, w.cip(), 80).times(10).only([L1]);
            w.tcp(L2, w.family.cluster_ip(42), 80).times(10).only([R1]);
            let told = w.vipd("get rejected -A");
            assert!(told.out.contains("svc") && told.out.contains("older"), "{}", told.out);
            w.restart();
            w.tcp(Ext, w.address(Node), NODE_PORT).times(10).only([R1]);
            w.withdraw(older("older").on([R1]));
            w.tcp(Ext, w.address(Node), NODE_PORT).times(10).only([L1]);
        }),
        case("the number alone is contested: other protocols are other node ports", |w| {
            w.write(exposed().on([L1]));
            w.serve(svc().named("other", 42).udp().node_port(NODE_PORT).on([R1]));
            w.tcp(Ext, w.address(Node), NODE_PORT).times(10).only([L1]);
            w.udp(Ext, w.address(Node), NODE_PORT).times(10).only([R1]);
        }),
        case(
            "a node port renumbered: the new one answers, the former is the host's, flows move",
            |w| {
                host_process(w);
                let ports = || [tcp("t", 80), udp("u", 80)];
                let numbered = |tcp: u16, udp: u16| {
                    let [t, u] = ports();
                    svc().ports([t.node_port(tcp), u.node_port(udp)])
                };
                w.write(slice([L1]).ports([tcp("t", 8080), udp("u", 8080)]));
                w.serve(numbered(NODE_PORT, NODE_PORT));
                let (old, new) = (NODE_PORT, NODE_PORT + 1);
                let start = Instant::now();
                let open = w.talking(Ext, Tcp, w.address(Node), old);
                let flow = w.talking(Ext, Udp, w.address(Node), old);
                w.answered_by(&flow, L1);
                w.serve(numbered(new, new));
                w.tcp(Ext, w.address(Node), new).times(10).only([L1]);
                w.udp(Ext, w.address(Node), new).times(10).only([L1]);
                w.tcp(Ext, w.address(Node), old).times(5).left_to([Node]);
                w.sleep(300);
                let since = Instant::now();
                w.sleep(300);
                assert!(
                    flow.servers(since).is_empty(),
                    "a UDP flow still reaches the former node port"
                );
                open.undisturbed(start);
            },
        ),
        case("flows that share nothing but a node port's number survive its changes", |w| {
            let at = |who: Who| SocketAddr::new(w.address(who), NODE_PORT);
            w.servers(Ext).listen([(Udp, at(Ext))]);
            w.servers(R1).listen([(Udp, at(R1))]);
            w.servers(Node).listen([(Udp, SocketAddr::new(w.family.node_second(), NODE_PORT))]);
            let service = || svc().udp().node_port(NODE_PORT);
            w.serve(service().on([L1]));
            let start = Instant::now();
            let flow = w.talking(L3, Udp, w.address(Node), NODE_PORT);
            let others =
                [(L3, w.address(Ext)), (Ext, w.address(R1)), (Ext, w.family.node_second())];
            let unrelated = others.map(|(who, to)| w.talking(who, Udp, to, NODE_PORT));
            w.answered_by(&flow, L1);
            w.sleep(300);
            let ids = || others.map(|(who, to)| w.conntrack_id(w.address(who), to));
            let before = ids();
            w.serve(slice([R1]).ports([udp("", 8080)]));
            w.answered_by(&flow, R1);
            w.serve(svc().udp().node_port(NODE_PORT + 1));
            w.sleep(500);
            w.serve(service());
            w.withdraw(service().on([L1]));
            w.sleep(500);
            assert_eq!(ids(), before, "entries of other flows went");
            unrelated.iter().for_each(|flow| flow.undisturbed(start));
        }),
        case(
            "an endpoint of the node's own network answers at a node port, to pods and outsiders",
            |w| {
                w.servers(Node).listen([(Tcp, SocketAddr::new(w.address(Node), 8080))]);
                w.serve(exposed().on([Node]));
                w.tcp(Ext, w.address(Node), NODE_PORT).times(10).only([Node]);
                w.serve(exposed().external_local().on([Node, R1]));
                w.tcp(Ext, w.address(Node), NODE_PORT).times(10).only([Node]).source_kept();
            },
        ),
        case(
            "strays to a node port are answered by nobody, and pass where it is no node port's",
            |w| {
                w.serve(exposed().on([L1]));
                let start = Instant::now();
                let flow = w.talking(Ext, Tcp, w.address(Node), NODE_PORT);
                let client = w.sniff(Ext);
                let at = SocketAddr::new(w.address(Node), NODE_PORT);
                super::invalid::strays(w, Ext, (flow.local, at), ACK);
                super::invalid::strays(
                    w,
                    Ext,
                    (SocketAddr::new(flow.local.ip(), 19_998), at),
                    SYN | ACK,
                );
                w.sleep(300);
                let resets = client.packets(|p| p.src == at.ip() && p.tcp_flags & RST != 0);
                assert!(resets.is_empty(), "the node answers for the service: {:?}", resets[0]);
                flow.undisturbed(start);
                let other = SocketAddr::new(at.ip(), NODE_PORT + 7);
                super::invalid::strays(
                    w,
                    Ext,
                    (SocketAddr::new(flow.local.ip(), 19_998), other),
                    SYN | ACK,
                );
                let resets = client.packets(|p| {
                    p.src == other.ip() && p.sport == other.port() && p.tcp_flags & RST != 0
                });
                assert!(!resets.is_empty(), "a stray to a port of the node's own was dropped");
            },
        ),
        case("strays to what was a node port until lately are answered by nobody either", |w| {
            w.serve(exposed().on([L1]));
            let flow = w.talking(Ext, Tcp, w.address(Node), NODE_PORT);
            w.serve(svc().on([L1]));
            let (start, client) = (Instant::now(), w.sniff(Ext));
            let at = SocketAddr::new(w.address(Node), NODE_PORT);
            super::invalid::strays(w, Ext, (flow.local, at), ACK);
            w.sleep(300);
            let resets = client.packets(|p| p.src == at.ip() && p.tcp_flags & RST != 0);
            assert!(resets.is_empty(), "the node answers for the service: {:?}", resets[0]);
            flow.undisturbed(start);
        }),
        case("with the switch off the node answers strays to a node port", |w| {
            w.serve(exposed().on([L1]));
            let flow = w.talking(Ext, Tcp, w.address(Node), NODE_PORT);
            let client = w.sniff(Ext);
            let at = SocketAddr::new(w.address(Node), NODE_PORT);
            super::invalid::strays(w, Ext, (flow.local, at), ACK);
            w.sleep(300);
            let resets = client.packets(|p| p.src == at.ip() && p.tcp_flags & RST != 0);
            assert!(!resets.is_empty(), "what the case above does not see is vipd's doing");
        })
        .kernel_only("a stray meets the relay's own connection, whose it is")
        .flag("--drop-invalid", "false"),
        case("node ports come, change and go under traffic of others: nobody is disturbed", |w| {
            w.serve(exposed().on([L1]));
            let load = w.load(Ext, w.address(Node), NODE_PORT, 100);
            let uplink = w.sniff(NodeB);
            for turn in 0..10 {
                let other = || svc().named("other", 42).node_port(NODE_PORT + 1);
                let other = if turn % 2 == 0 { other() } else { other().external_local() };
                w.serve(other.clone().on([R1]));
                w.withdraw(other.on([R1]));
            }
            load.stop().reached();
            uplink.nothing_of(w.cip());
        }),
    ]
}
