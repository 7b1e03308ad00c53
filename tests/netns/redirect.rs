//! Relayed connections to addresses that others may have: led by their port, from wherever they come, and
//! nothing else of the address.

use super::loadbalancer::beyond;
use super::support::manifests::{node_at, slice, svc};
use super::support::plan::{Ext, L1, L2, NODE_A, Node, NodeB, R1, V4, V6, Who};
use super::support::runner::{Case, case};
use super::support::servers::Tcp;
use super::support::world::World;
use socket2::{Domain, Socket, Type};
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

const RELAY: &str = "table inet vipd-relay";

/// Only the relay passes over an endpoint that refuses.
fn half_dead(w: &World) {
    w.servers(L1).close(Tcp, SocketAddr::new(w.address(L1), 8080));
}

/// vipd's routes to an address.
fn routes(w: &World, address: IpAddr) -> String {
    let family = if w.family == V4 { "-4" } else { "-6" };
    w.sh(Node, &format!("ip {family} route show table local proto 118 {address}"))
}

/// Where the relay listens, as nft prints it.
fn relay_port(w: &World) -> u16 {
    let printed = w.sh(Node, &format!("nft list {RELAY}"));
    let at = if w.family == V4 { "127.0.0.1:" } else { "[::1]:" };
    let port = printed.split(at).nth(1).and_then(|rest| rest.split_whitespace().next());
    port.and_then(|port| port.parse().ok()).unwrap_or_else(|| panic!("no port: {printed}"))
}

/// From one port of the client's.
fn connect(w: &World, (who, port): (Who, u16), to: IpAddr) -> TcpStream {
    let (from, to) = (SocketAddr::new(w.address(who), port), SocketAddr::new(to, 80));
    let socket = w.netns(who).enter(|| {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).expect("a socket");
        socket.set_reuse_address(true).expect("a socket");
        socket.bind(&from.into()).expect("the port is free");
        socket.connect_timeout(&to.into(), Duration::from_secs(3)).expect("it is relayed");
        socket
    });
    socket.into()
}

/// Which endpoint has the connection.
fn server(stream: &TcpStream) -> String {
    stream.set_read_timeout(Some(Duration::from_secs(3))).expect("not zero");
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).expect("an endpoint says who it is");
    line.split_whitespace().next().unwrap_or_default().to_owned()
}

pub fn cases() -> Vec<Case> {
    let cases = vec![
        case("an external IP is relayed by its port, and who has it keeps all else", |w| {
            half_dead(w);
            w.servers(Ext).listen([(Tcp, SocketAddr::new(w.address(Ext), 8080))]);
            let (theirs, ours) = (w.address(Ext), w.family.node_second());
            let external = [theirs, ours];
            w.write(svc().named("udp", 42).relayed().udp().external_ips(external).on([R1]));
            w.serve(svc().relayed().external_ips(external).port(1080).on([L1, R1]));
            for to in [theirs, ours] {
                assert_eq!(routes(w, to), "");
                for who in [L2, Node] {
                    w.tcp(who, to, 1080).times(40).only([R1]).masqueraded();
                    w.udp(who, to, 80).times(10).only([R1]).masqueraded();
                }
            }
            for who in [L2, Node] {
                w.tcp(who, theirs, 8080).times(5).left_to([Ext]);
                w.sh(who, &format!("ping -c 2 -i 0.2 -W 2 {theirs}"));
            }
            let of = |name| w.vipd(&format!("describe service {name}")).out;
            assert!(!of("svc").contains("the kernel translates"), "{}", of("svc"));
            assert!(of("udp").contains("the external IP is not this node's"), "{}", of("udp"));
        }),
        case("a load balancer's address is relayed by its port, and left alone else", |w| {
            half_dead(w);
            beyond(w, w.vip(), 2222);
            w.servers(Node).listen([(Tcp, SocketAddr::new(w.address(Node), 2222))]);
            w.serve(svc().relayed().load_balancer([w.vip()]).on([L1, R1]));
            let served = || {
                assert_eq!(routes(w, w.vip()), "");
                for who in [L2, Ext, Node] {
                    w.tcp(who, w.vip(), 80).times(40).only([R1]).masqueraded();
                    w.tcp(who, w.vip(), 2222).times(5).left_to([NodeB]);
                }
            };
            served();
            w.kill();
            w.tcp(L2, w.vip(), 2222).untraced().times(5).left_to([NodeB]);
            w.start(&[]);
            served();
        }),
        case("where datagrams take all of an address, its connections are served as well", |w| {
            half_dead(w);
            w.write(svc().named("udp", 42).relayed().udp().load_balancer([w.vip()]).on([R1]));
            w.serve(svc().relayed().load_balancer([w.vip()]).on([L1, R1]));
            assert_ne!(routes(w, w.vip()), "");
            for who in [L2, Ext, Node] {
                w.tcp(who, w.vip(), 80).times(40).only([R1]).masqueraded();
                w.udp(who, w.vip(), 80).times(10).only([R1]).masqueraded();
                w.tcp(who, w.vip(), 81).times(3).refused();
            }
        }),
        case("no interface that a client comes in by needs an address", |w| {
            half_dead(w);
            w.serve(svc().relayed().load_balancer([w.vip()]).on([L1, R1]));
            w.sh(
                Node,
                &format!("ip -4 addr flush dev p{L2}; ip route add {} dev p{L2}", V4.address(L2)),
            );
            w.tcp(L2, w.vip(), 80).times(40).only([R1]).masqueraded();
        }),
        case("who asks for the port itself finds what the node has there", |w| {
            w.serve(svc().relayed().load_balancer([w.vip()]).on([R1]));
            w.tcp(L2, w.vip(), 80).times(10).only([R1]);
            let (node, port) = (w.address(Node), relay_port(w));
            for who in [L2, Ext, Node] {
                w.tcp(who, node, port).untraced().times(5).refused();
            }
            // Accepted, and it is no frontend's.
            let own = w.family.loopback();
            let reset = w.tcp(Node, own, port).from(own).untraced().times(5).replies();
            reset.check(reset.failures() == 5, "a reset");
            w.servers(Node).listen([(Tcp, SocketAddr::new(node, port))]);
            for who in [L2, Ext] {
                w.tcp(who, node, port).untraced().times(5).only([Node]);
                w.tcp(who, w.vip(), 80).times(10).only([R1]).masqueraded();
            }
        }),
        case("SYN cookies are answered like any other", |w| {
            half_dead(w);
            w.sh(Node, "echo 2 > /proc/sys/net/ipv4/tcp_syncookies");
            w.serve(svc().relayed().load_balancer([w.vip()]).on([L1, R1]));
            for who in [L2, Ext, Node] {
                w.tcp(who, w.vip(), 80).times(40).only([R1]).masqueraded();
            }
            let sent = w.sh(Node, "nstat -asz TcpExtSyncookiesRecv");
            let received =
                sent.split_whitespace().nth(2).and_then(|count| count.parse::<u32>().ok());
            assert!(received.is_some_and(|count| count > 0), "{sent}");
        }),
        case("one port of a client's leads to two addresses at a time", |w| {
            let [first, second] = [w.vip(), w.family.second_vip()];
            let third = w.family.external_ip();
            w.write(svc().named("other", 42).relayed().load_balancer([second]).on([R1]));
            w.serve(svc().relayed().load_balancer([first]).external_ips([third]).on([L1]));
            for who in [L2, Ext, Node] {
                let asked = |to| connect(w, (who, 23456), to);
                let (one, other) = (asked(first), asked(second));
                assert_eq!([server(&one), server(&other)], ["L1", "R1"]);
                // What is left of them is in nobody's way.
                drop((one, other));
                assert_eq!(server(&asked(third)), "L1");
            }
        }),
        case("endpoints and carriers change, and open connections go on", |w| {
            w.serve(svc().relayed().load_balancer([w.vip()]).on([L1]));
            let flows = [L2, Ext, Node].map(|who| w.talking(who, Tcp, w.vip(), 80));
            let since = std::time::Instant::now();
            w.sleep(200);
            w.serve(slice([R1]));
            for who in [L2, Ext, Node] {
                w.tcp(who, w.vip(), 80).times(10).only([R1]).masqueraded();
            }
            w.serve(svc().load_balancer([w.vip()]).on([R1]));
            w.tcp(Ext, w.vip(), 80).times(10).only([R1]).masqueraded();
            w.serve(svc().relayed().load_balancer([w.vip()]).on([R1]));
            w.sleep(200);
            flows.iter().for_each(|flow| flow.undisturbed(since));
            w.withdraw(svc().relayed().load_balancer([w.vip()]).on([R1]));
            w.sleep(200);
            flows.iter().for_each(|flow| flow.undisturbed(since));
            let lost = w.tcp(Ext, w.vip(), 80).times(3).untraced().replies();
            lost.check(lost.failures() == 3, "nobody");
        }),
        case("another address of the node's takes the place of the one that goes", |w| {
            half_dead(w);
            w.serve(svc().relayed().load_balancer([w.vip()]).on([L1, R1]));
            w.tcp(Ext, w.vip(), 80).times(10).only([R1]);
            let printed = || w.sh(Node, &format!("nft list {RELAY}"));
            let (node, port) = (w.address(Node), relay_port(w));
            let to = |address: IpAddr| match address {
                IpAddr::V4(v4) => format!("dnat ip to {v4}:{port}"),
                IpAddr::V6(v6) => format!("dnat ip6 to [{v6}]:{port}"),
            };
            assert!(printed().contains(&to(node)), "{}", printed());
            let seconds = [V4, V6].map(|family| family.node_second());
            w.serve(node_at(NODE_A, Some("z1"), seconds));
            w.within(Duration::from_secs(3), || printed().contains(&to(w.family.node_second())));
            for who in [L2, Ext, Node] {
                w.tcp(who, w.vip(), 80).times(40).only([R1]).masqueraded();
            }
        }),
        case("nft prints what leads there", |w| {
            w.serve(svc().relayed().load_balancer([w.vip()]).on([L1]));
            let printed = w.sh(Node, &format!("nft list {RELAY}"));
            let ip = if w.family == V4 { "ip" } else { "ip6" };
            for part in [
                format!("dnat {ip} to "),
                format!("snat {ip} to {ip} saddr"),
                "ct original proto-dst".to_owned(),
                "ct status confirmed".to_owned(),
                format!("{} . tcp . 80", w.vip()),
            ] {
                assert!(printed.contains(&part), "{part} is missing: {printed}");
            }
        }),
    ];
    cases.into_iter().map(Case::names_its_carrier).collect()
}
