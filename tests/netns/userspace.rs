//! Services that vipd carries itself: who reaches which endpoint, what stays the kernel's, and what is
//! left when vipd is gone.

use super::support::flow::Flow;
use super::support::manifests::{Ep, Manifest, Svc, Together, no_endpoints, port, slice, svc, udp};
use super::support::nft::tables;
use super::support::plan::{Ext, L1, L2, L3, NODE_PORT, Node, R1, R2, V4, V6, Who};
use super::support::runner::{Case, case, soak};
use super::support::servers::{Proto, Tcp, Udp};
use super::support::world::World;
use socket2::{Domain, SockRef, Socket, Type};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const TABLE: &str = "table inet vipd-relay";
/// Where a process of the node listens at all its addresses.
const HOST_PORT: u16 = 2222;

fn is_led_to_the_relay(w: &World) -> bool {
    tables(w.netns(Node)).contains(&TABLE.to_owned())
}

/// vipd's routes, as `ip` prints them.
fn routes(w: &World) -> Vec<String> {
    let family = if w.family == V4 { "-4" } else { "-6" };
    let listed = w.sh(Node, &format!("ip {family} route show table local proto 118"));
    listed.lines().map(|line| line.trim().to_owned()).collect()
}

fn has_route(w: &World, address: IpAddr) -> bool {
    routes(w).iter().any(|line| line.split(' ').any(|word| word == address.to_string()))
}

fn at_home(w: &World, proto: Proto, to: IpAddr) -> super::support::client::Client<'_> {
    let client = match proto {
        Tcp => w.tcp(Node, to, NODE_PORT),
        Udp => w.udp(Node, to, NODE_PORT),
    };
    client.from(to).untraced()
}

/// A process of the node that whoever reaches the node itself would reach.
fn host_listens(w: &World) {
    let all: IpAddr = if w.family == V4 { [0, 0, 0, 0].into() } else { [0; 16].into() };
    w.servers(Node).listen([Tcp, Udp].map(|proto| (proto, SocketAddr::new(all, HOST_PORT))));
    w.tcp(Ext, w.address(Node), HOST_PORT).untraced().times(3).only([Node]);
}

/// A process of the node that takes connections to whatever address, as proxies do.
fn transparent(w: &World, port: u16) -> Socket {
    let all: IpAddr = if w.family == V4 { [0, 0, 0, 0].into() } else { [0; 16].into() };
    let at = SocketAddr::new(all, port);
    let family = w.family;
    w.netns(Node).enter(|| {
        let socket = Socket::new(Domain::for_address(at), Type::STREAM, None).expect("a socket");
        match family {
            V4 => socket.set_ip_transparent_v4(true),
            V6 => socket.set_ip_transparent_v6(true),
        }
        .expect("this is root");
        socket.set_nonblocking(true).expect("a socket");
        socket.bind(&at.into()).expect("nobody else is there");
        socket.listen(16).expect("a bound socket");
        socket
    })
}

/// Nobody reaches it by a service's address.
fn host_is_not_reached(w: &World, addresses: &[IpAddr]) {
    for &address in addresses {
        for who in [L2, Ext, Node] {
            w.tcp(who, address, HOST_PORT).untraced().times(3).refused();
            w.udp(who, address, HOST_PORT).untraced().times(3).refused();
        }
    }
}

/// At an address that leads to the relay by all of its ports.
fn datagrams(w: &World) -> Svc {
    svc().named("datagrams", 49).relayed().udp().load_balancer([w.vip()])
}

fn everywhere(w: &World) -> Svc {
    svc().relayed().node_port(NODE_PORT).load_balancer([w.vip()])
}

fn flow(w: &World, who: Who, proto: Proto) -> Flow {
    w.talking(who, proto, w.cip(), 80)
}

pub fn cases() -> Vec<Case> {
    let cases = vec![
        case("TCP: a relayed cluster IP leads to every endpoint, from wherever one asks", |w| {
            w.serve(svc().relayed().on([L1, R1]));
            for who in [L1, L2, Ext, Node] {
                let client = w.tcp(who, w.cip(), 80).times(60);
                client.only([L1, R1]).masqueraded().on_port(8080);
            }
        }),
        case("UDP does the same", |w| {
            w.serve(svc().relayed().udp().on([L1, R1]));
            for who in [L2, Ext, Node] {
                let client = w.udp(who, w.cip(), 80).times(60);
                client.only([L1, R1]).masqueraded().on_port(8080);
            }
        }),
        case("node ports, of loopback addresses too", |w| {
            for (proto, service) in [(Tcp, svc()), (Udp, svc().udp())] {
                let service = service.relayed();
                w.serve(service.node_port(NODE_PORT).on([L1, R1]));
                for who in [L2, Ext, Node] {
                    let to = w.address(Node);
                    let client = match proto {
                        Tcp => w.tcp(who, to, NODE_PORT),
                        Udp => w.udp(who, to, NODE_PORT),
                    };
                    client.times(60).only([L1, R1]).masqueraded();
                }
                at_home(w, proto, w.family.loopback()).times(60).only([L1, R1]).masqueraded();
            }
        }),
        case("a load balancer's address and an external IP", |w| {
            let external = w.family.external_ip();
            let service = svc().relayed().load_balancer([w.vip()]).external_ips([external]);
            w.serve(service.on([L1, R1]));
            for address in [w.vip(), external] {
                for who in [L2, Ext, Node] {
                    w.tcp(who, address, 80).times(60).only([L1, R1]).masqueraded();
                }
            }
        }),
        case("source ranges are asked first; what the node sends the kernel has", |w| {
            let ranges = [w.family.outside_half()];
            let service = svc().relayed().load_balancer([w.vip()]).source_ranges(ranges);
            w.serve(service.on([L1, R1]));
            w.tcp(Ext, w.vip(), 80).times(60).only([L1, R1]).masqueraded();
            w.tcp(Ext, w.vip(), 80).from(w.family.outside_second()).times(3).dropped();
            for who in [L2, Node] {
                w.tcp(who, w.vip(), 80).times(3).dropped();
                w.tcp(who, w.cip(), 80).times(20).reached();
            }
        }),
        case("policy Local: outsiders get local endpoints, pods and the node all", |w| {
            w.serve(everywhere(w).external_local().on([L1, R1]));
            for (to, port) in [(w.vip(), 80), (w.address(Node), NODE_PORT)] {
                w.tcp(Ext, to, port).times(30).only([L1]).masqueraded();
                w.tcp(L2, to, port).times(60).only([L1, R1]).masqueraded();
                w.tcp(Node, to, port).times(60).only([L1, R1]).masqueraded();
            }
            w.serve(everywhere(w).external_local().on([R1]));
            w.tcp(Ext, w.vip(), 80).times(3).dropped();
            w.tcp(L2, w.vip(), 80).times(20).only([R1]);
        }),
        case("policy Local over UDP: who has no endpoint here any more meets silence", |w| {
            let service = svc().relayed().udp().node_port(NODE_PORT).load_balancer([w.vip()]);
            w.serve(service.external_local().on([L1, R1]));
            let ways = [(w.vip(), 80), (w.address(Node), NODE_PORT)];
            let flows = ways.map(|(to, port)| w.talking(Ext, Udp, to, port));
            flows.iter().for_each(|flow| w.answered_by(flow, L1));
            w.serve(slice([R1]).ports([udp("", 8080)]));
            w.sleep(200);
            let since = Instant::now();
            w.sleep(300);
            for flow in &flows {
                assert!(flow.servers(since).is_empty() && flow.errors(since).is_empty());
            }
            for (to, port) in ways {
                w.udp(Ext, to, port).times(3).dropped();
                w.udp(L2, to, port).times(20).only([R1]);
            }
            w.serve(slice([L1]).ports([udp("", 8080)]));
            flows.iter().for_each(|flow| w.answered_by(flow, L1));
        }),
        case("affinity holds at all frontends of a service", |w| {
            w.serve(everywhere(w).sticky(600).on([L1, L3, R1, R2]));
            let pinned = w.tcp(Ext, w.cip(), 80).times(20).one_server();
            for (to, port) in [(w.vip(), 80), (w.address(Node), NODE_PORT)] {
                assert_eq!(w.tcp(Ext, to, port).times(20).one_server(), pinned);
            }
        }),
        case("an unused port, and a service without endpoints, are refused", |w| {
            w.write(datagrams(w).on([L1]));
            w.serve(everywhere(w).on([L1]));
            for who in [L2, Ext, Node] {
                w.tcp(who, w.cip(), 81).times(5).refused();
                w.tcp(who, w.vip(), 81).times(5).refused();
                w.udp(who, w.cip(), 80).times(5).refused();
            }
            w.serve(no_endpoints());
            for who in [L2, Ext, Node] {
                w.tcp(who, w.cip(), 80).times(5).refused();
                w.tcp(who, w.vip(), 80).times(5).refused();
            }
            w.serve(slice([R1]));
            w.tcp(L2, w.vip(), 80).times(20).only([R1]);
        }),
        case("nobody reaches the node itself by a service's address, vipd or not", |w| {
            host_listens(w);
            w.write(datagrams(w).on([L1]));
            w.serve(everywhere(w).on([L1]));
            assert!(has_route(w, w.cip()) && has_route(w, w.vip()), "{:?}", routes(w));
            host_is_not_reached(w, &[w.cip(), w.vip()]);
            w.kill();
            assert!(has_route(w, w.cip()), "a crash leaves routes: {:?}", routes(w));
            host_is_not_reached(w, &[w.cip(), w.vip()]);
        }),
        case("another's transparent listener is not the relay", |w| {
            let other = transparent(w, 80);
            w.write(datagrams(w).on([L1]));
            w.serve(everywhere(w).on([L1]));
            let asked = |to| {
                for who in [L2, Ext, Node] {
                    w.tcp(who, to, 80).times(10).only([L1]);
                }
            };
            asked(w.cip());
            asked(w.vip());
            w.kill();
            asked(w.cip());
            asked(w.vip());
            let unused = transparent(w, HOST_PORT);
            host_is_not_reached(w, &[w.cip(), w.vip()]);
            for listener in [other, unused] {
                let met = listener.accept();
                assert!(met.is_err(), "{met:?}");
            }
        }),
        case("an endpoint that is a relayed Service's address is passed over", |w| {
            let around = |proto| {
                let to = Ep::from(L1).addresses(vec![w.cip()]);
                let (own, pod) = (slice([to]).named("own"), slice([L1]).named("pod"));
                let ports = [port("", 80, proto)];
                Together(
                    "all".into(),
                    vec![
                        Box::new(match proto {
                            Tcp => svc().relayed(),
                            Udp => svc().relayed().udp(),
                        }),
                        Box::new(own.ports(ports)),
                        Box::new(pod.ports([port("", 8080, proto)])),
                    ],
                )
            };
            for proto in [Tcp, Udp] {
                w.serve(around(proto));
                let client = match proto {
                    Tcp => w.tcp(L2, w.cip(), 80),
                    Udp => w.udp(L2, w.cip(), 80),
                };
                client.times(20).only([L1]);
            }
        }),
        case("killed, it leaves new connections to the kernel at once", |w| {
            w.write(svc().named("udp", 42).relayed().udp().on([L1, R1]));
            w.serve(everywhere(w).on([L1, R1]));
            let udp = w.family.cluster_ip(42);
            w.tcp(L2, w.cip(), 80).times(20).reached().masqueraded();
            assert!(is_led_to_the_relay(w));
            w.kill();
            w.tcp(L2, w.cip(), 80).times(40).only([L1, R1]).source_kept();
            assert!(!is_led_to_the_relay(w), "{:?}", tables(w.netns(Node)));
            w.udp(L2, udp, 80).times(40).only([L1, R1]).source_kept();
            for who in [Ext, Node] {
                w.tcp(who, w.cip(), 80).times(20).reached().masqueraded();
                w.tcp(who, w.vip(), 80).times(20).reached().masqueraded();
                w.udp(who, udp, 80).times(20).reached().masqueraded();
            }
            w.start(&[]);
            w.tcp(L2, w.cip(), 80).times(40).only([L1, R1]).masqueraded();
            w.tcp(Node, w.vip(), 80).times(40).only([L1, R1]).masqueraded();
        }),
        case("what the relay lacks may come later: until then the kernel serves", |w| {
            w.serve(everywhere(w).on([L1, R1]).annotated("dataplane", "nftables"));
            let open = w.sh(Node, &format!("ls /proc/{}/fd", w.pid())).lines().count();
            let files = |most: usize| {
                w.sh(Node, &format!("prlimit --pid {} --nofile={most}:", w.pid()));
            };
            // Enough for a manifest, too few for the listeners.
            files(open + 4);
            w.serve(everywhere(w).on([L1, R1]));
            w.tcp(L2, w.cip(), 80).untraced().times(40).only([L1, R1]).source_kept();
            w.within(Duration::from_secs(2), || w.log().contains("served by the kernel"));
            files(1024);
            let relayed = || {
                let replies = w.tcp(L2, w.cip(), 80).untraced().replies();
                replies.peers() == [w.address(Node)].into()
            };
            w.within(Duration::from_secs(5), relayed);
            for who in [L2, Ext, Node] {
                w.tcp(who, w.vip(), 80).times(40).only([L1, R1]).masqueraded();
            }
        }),
        case("nft prints what leads to the relay, and lets nobody change it", |w| {
            w.serve(everywhere(w).on([L1]));
            let printed = w.sh(Node, "nft list table inet vipd-relay");
            let relayed = format!("{} . tcp . 80", w.cip());
            let to =
                if w.family == V4 { "tproxy ip to 127.0.0.1:" } else { "tproxy ip6 to [::1]:" };
            for part in [relayed.as_str(), to, "dnat ip to ip daddr", "ct status dnat accept"] {
                assert!(printed.contains(part), "{part} is missing: {printed}");
            }
            let refused = w.netns(Node).try_sh("nft flush table inet vipd-relay");
            assert_ne!(refused.code, 0, "{}", refused.out);
        }),
        case("a restart loses no connection that begins meanwhile", |w| {
            w.serve(svc().relayed().on([L1, R1]));
            let load = w.load(L2, w.cip(), 80, 200);
            w.sleep(300);
            for _ in 0..3 {
                w.terminate();
                w.sleep(200);
                w.start(&[]);
                w.sleep(200);
            }
            let replies = load.stop();
            // What is open when the process ends, ends with it: on a busy machine more is open. With
            // nobody to serve them 120 would fail.
            let open = if soak() { 6 } else { 30 };
            replies.check(replies.failures() <= open, "new connections are served by the kernel");
        }),
        case("an endpoint that refuses costs a connection nothing but time", |w| {
            w.servers(L1).close(Tcp, SocketAddr::new(w.address(L1), 8080));
            w.serve(svc().relayed().on([L1, R1]));
            for who in [L2, Ext, Node] {
                w.tcp(who, w.cip(), 80).times(60).only([R1]);
            }
            w.servers(L1).close(Udp, SocketAddr::new(w.address(L1), 8080));
            w.serve(svc().named("udp", 42).relayed().udp().on([L1, R1]));
            w.udp(L2, w.family.cluster_ip(42), 80).times(60).only([R1]);
        }),
        case("an endpoint that takes connections and breaks them off is left out", |w| {
            let at = SocketAddr::new(w.address(L1), 8080);
            w.servers(L1).close(Tcp, at);
            let listener = w.netns(L1).enter(|| TcpListener::bind(at)).expect("nobody listens");
            let broken = Arc::new(AtomicUsize::new(0));
            let count = Arc::clone(&broken);
            std::thread::spawn(move || {
                while let Ok((stream, _)) = listener.accept() {
                    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).ok();
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
            w.serve(svc().relayed().on([L1, R1]));
            w.tcp(L2, w.cip(), 80).times(200).in_turn().only([R1]);
            let broken = broken.load(Ordering::Relaxed);
            assert!((3..20).contains(&broken), "{broken} of 200 went where they are broken off");
        }),
        case("others in the kernel, one by one, while it goes on", |w| {
            w.write(svc().named("other", 42).on([L1, R1]));
            w.serve(svc().on([L1, R1]));
            assert!(!is_led_to_the_relay(w) && routes(w).is_empty());
            let start = Instant::now();
            let kernel = flow(w, L2, Tcp);
            w.serve(svc().relayed().on([L1, R1]));
            w.tcp(L2, w.cip(), 80).times(20).reached().masqueraded();
            w.tcp(L2, w.family.cluster_ip(42), 80).times(20).reached().source_kept();
            let relayed = flow(w, L2, Tcp);
            w.sleep(200);
            w.serve(svc().on([L1, R1]));
            w.tcp(L2, w.cip(), 80).times(20).reached().source_kept();
            w.sleep(200);
            kernel.undisturbed(start);
            relayed.undisturbed(start);
            assert!(has_route(w, w.cip()), "the relayed one needs it");
        }),
        case("a UDP flow goes to the relay and back with the next datagram", |w| {
            w.serve(svc().udp().on([L1]));
            let flows = [L2, Ext, Node].map(|who| flow(w, who, Udp));
            let start = Instant::now();
            let carriers = [svc().relayed().udp(), svc().udp(), svc().relayed().udp()];
            let changes = carriers.len();
            for service in carriers {
                w.serve(service.on([L1]));
                w.sleep(300);
            }
            for flow in &flows {
                // What is on its way through the relay when that ends, may be lost or refused.
                let (lost, errors) = (flow.lost().len(), flow.errors(start).len());
                assert!(lost <= changes && errors <= changes, "{lost} lost, {errors} errors");
                assert_eq!(flow.servers(start), ["L1".into()].into());
            }
        }),
        case("a UDP flow outlives the relay", |w| {
            w.serve(svc().relayed().udp().on([L1]));
            let flows = [L2, Ext, Node].map(|who| flow(w, who, Udp));
            flows.iter().for_each(|flow| w.answered_by(flow, L1));
            w.kill();
            // What the process had read goes with it.
            w.sleep(500);
            let since = Instant::now();
            let before = flows.each_ref().map(|flow| flow.lost().len());
            w.sleep(300);
            w.start(&[]);
            w.sleep(400);
            for (flow, before) in flows.iter().zip(before) {
                let (lost, errors) = (flow.lost().len() - before, flow.errors(since));
                assert!(lost <= 1 && errors.is_empty(), "{lost} lost, {errors:?}");
                assert_eq!(flow.servers(since), ["L1".into()].into());
            }
        }),
        case("UDP follows the endpoints", |w| {
            w.serve(svc().relayed().udp().on([L1]));
            let flow = flow(w, L3, Udp);
            w.answered_by(&flow, L1);
            w.serve(slice([R1]).ports([udp("", 8080)]));
            w.answered_by(&flow, R1);
        }),
        case("routes go with their last frontend, and no other", |w| {
            let shared = || svc().named("shared", 42).relayed().udp().load_balancer([w.vip()]);
            let own = || svc().relayed().udp().load_balancer([w.vip()]);
            w.write(shared().ports([udp("", 81)]).on([L1]));
            w.serve(own().on([L1]));
            assert_eq!(routes(w).len(), 3, "{:?}", routes(w));
            let source = format!("src {} ", w.address(Node));
            let sourced = routes(w).iter().all(|line| format!("{line} ").contains(&source));
            assert!(sourced, "{:?}", routes(w));
            w.withdraw(own().on([L1]));
            w.within(Duration::from_secs(2), || routes(w).len() == 2);
            w.udp(L2, w.vip(), 81).times(10).only([L1]);
            w.withdraw(shared().on([L1]));
            w.within(Duration::from_secs(2), || routes(w).is_empty());
            w.tcp(L2, w.cip(), 80).untraced().times(3).dropped();
        }),
        case("an address of the node's own is relayed without a route", |w| {
            host_listens(w);
            w.serve(svc().relayed().external_ips([w.family.node_second()]).on([L1, R1]));
            for who in [L2, Ext, Node] {
                w.tcp(who, w.family.node_second(), 80).times(40).only([L1, R1]).masqueraded();
                w.tcp(who, w.family.node_second(), HOST_PORT).untraced().times(3).only([Node]);
            }
            assert!(!has_route(w, w.family.node_second()), "{:?}", routes(w));
        }),
        case("an address that becomes the node's is the node's", |w| {
            host_listens(w);
            w.write(datagrams(w).on([L1]));
            w.serve(svc().relayed().load_balancer([w.vip()]).on([L1]));
            host_is_not_reached(w, &[w.vip()]);
            let bits = if w.family == V4 { "32 dev lo" } else { "128 dev lo nodad" };
            w.sh(Node, &format!("ip addr add {}/{bits}", w.vip()));
            let reached = || w.tcp(Ext, w.vip(), HOST_PORT).untraced().replies().failures() == 0;
            w.within(Duration::from_secs(3), reached);
            w.within(Duration::from_secs(3), || !has_route(w, w.vip()));
            for who in [L2, Ext, Node] {
                w.tcp(who, w.vip(), 80).times(10).only([L1]).masqueraded();
            }
            w.udp(Ext, w.vip(), 80).times(10).only([L1]);
            w.sh(Node, &format!("ip addr del {}/{}", w.vip(), bits.replace(" nodad", "")));
            w.within(Duration::from_secs(3), || has_route(w, w.vip()));
            w.tcp(Ext, w.vip(), 80).times(10).only([L1]);
            host_is_not_reached(w, &[w.vip()]);
        }),
        // Every node with the route would, and one of them has the address by another's word.
        case("nobody on the link is told that the node has a relayed address", |w| {
            let w = &w.over(V4);
            let vip = IpAddr::from([203, 0, 113, 77]);
            w.serve(svc().relayed().udp().load_balancer([vip]).on([L1]));
            assert!(has_route(w, vip));
            w.udp(L2, vip, 80).times(10).only([L1]).masqueraded();
            let asked = |address: IpAddr| {
                w.netns(Ext).try_sh(&format!("ping -c 2 -W 1 {address}"));
                w.sh(Ext, &format!("ip neigh show {address}"))
            };
            assert!(!asked(vip).contains("lladdr"), "{}", asked(vip));
            w.kill();
            assert!(!asked(vip).contains("lladdr"), "{}", asked(vip));
            w.start(&[]);
            w.withdraw(svc().relayed().udp().load_balancer([vip]).on([L1]));
            let silent = || tables(w.netns(Node)).contains(&"table arp vipd".to_owned());
            w.within(Duration::from_secs(2), || !silent());
            w.sh(Node, &format!("ip addr add {vip}/32 dev lo"));
            w.within(Duration::from_secs(3), || asked(vip).contains("lladdr"));
        })
        .once(),
        case("cleanup removes the routes and the table", |w| {
            w.serve(everywhere(w).on([L1]));
            w.kill();
            assert!(!routes(w).is_empty());
            let said = w.vipd("cleanup");
            assert_eq!(said.code, 0, "{}", said.out);
            assert_eq!((routes(w), tables(w.netns(Node))), (Vec::new(), Vec::new()));
        }),
        case("what a former run left and nobody wants goes at the start", |w| {
            w.serve(everywhere(w).on([L1]));
            w.kill();
            w.remove(everywhere(w).on([L1]));
            w.start(&[]);
            w.within(Duration::from_secs(2), || routes(w).is_empty());
            w.serve(svc().on([L1]));
            w.tcp(L2, w.cip(), 80).times(10).only([L1]).source_kept();
        }),
        case("a flush of the ruleset is repaired", |w| {
            w.write(datagrams(w).on([L1, R1]));
            w.serve(everywhere(w).on([L1, R1]));
            host_listens(w);
            w.sh(Node, "nft flush ruleset");
            w.settle();
            w.tcp(L2, w.cip(), 80).times(20).only([L1, R1]).masqueraded();
            w.tcp(Node, w.vip(), 80).times(20).only([L1, R1]).masqueraded();
            host_is_not_reached(w, &[w.cip(), w.vip()]);
        }),
        case("more services than one transaction takes", |w| {
            const MANY: u16 = 1500;
            let address = |n: u16| match w.family {
                V4 => IpAddr::from([10, 254, (4 + n / 250) as u8, (n % 250) as u8]),
                V6 => IpAddr::from([0xfd00, 0x10, 0x254, 0, 0, 0, 0, 0x1000 + n]),
            };
            let one = |n| svc().named(format!("m{n}"), 0).at(address(n)).relayed().on([L1]);
            let many = || {
                let all = (0..MANY).map(|n| Box::new(one(n)) as Box<dyn Manifest>);
                Together("many".to_owned(), all.collect())
            };
            let patience = Duration::from_secs(60);
            w.write(many());
            w.settle_within(patience);
            let asked = || {
                assert_eq!(routes(w).len(), usize::from(MANY));
                for n in [0, 777, MANY - 1] {
                    w.tcp(L2, address(n), 80).times(5).only([L1]).masqueraded();
                    w.tcp(Node, address(n), 80).times(5).only([L1]).masqueraded();
                    w.tcp(Ext, address(n), HOST_PORT).untraced().times(2).refused();
                }
            };
            asked();
            w.kill();
            w.tcp(L2, address(777), 80).times(5).only([L1]).source_kept();
            w.launch(&[]);
            w.settle_within(patience);
            asked();
            w.remove(many());
            w.settle_within(patience);
            w.within(patience, || routes(w).is_empty());
            assert!(!tables(w.netns(Node)).contains(&"table arp vipd".to_owned()));
        }),
        case("the kernel and the relay take turns under load, and no connection fails", |w| {
            let by_kernel = || svc().node_port(NODE_PORT).on([L1, R1]);
            w.serve(by_kernel().relayed());
            let at = [(L2, w.cip(), 80), (Ext, w.cip(), 80), (Ext, w.address(Node), NODE_PORT)];
            let loads = at.map(|(who, to, port)| w.load(who, to, port, 150));
            for _ in 0..8 {
                for service in [by_kernel(), by_kernel().relayed()] {
                    w.serve(service);
                    w.sleep(200);
                }
            }
            for load in loads {
                let replies = load.stop();
                replies
                    .check(replies.failures() == 0 && replies.outcomes.len() > 200, "no failure");
            }
            w.serve(by_kernel());
            w.within(Duration::from_secs(15), || routes(w).is_empty());
        }),
        case("the mode is for all that do not say otherwise", |w| {
            w.write(svc().named("kernel", 42).annotated("dataplane", "nftables").on([L1, R1]));
            w.serve(svc().on([L1, R1]));
            w.tcp(L2, w.cip(), 80).times(40).only([L1, R1]).masqueraded();
            w.tcp(L2, w.family.cluster_ip(42), 80).times(40).only([L1, R1]).source_kept();
        })
        .flag("--proxy-mode", "userspace"),
        case("describe tells what is relayed, how, and what is not", |w| {
            w.serve(everywhere(w).annotated("balancer", "maglev").on([L1]));
            let said = w.vipd("describe service svc").out;
            for part in [
                "vipd.io/dataplane: userspace",
                "Relay:      by vipd, maglev; an endpoint sees this node's address",
            ] {
                assert!(said.contains(part), "{part} is missing: {said}");
            }
            w.serve(everywhere(w).annotated("balancer", "fastest").on([L1]));
            let said = w.vipd("describe service svc").out;
            let warning = "metadata.annotations[vipd.io/balancer]: \"fastest\" is none of";
            assert!(said.contains(warning), "{said}");
            assert!(said.contains("by vipd, least-connections"), "{said}");
        }),
        case("told by their interface, pods and others at policy Local are the kernel's", |w| {
            w.serve(everywhere(w).external_local().on([L1, R1]));
            w.tcp(Ext, w.vip(), 80).times(20).only([L1]).source_kept();
            w.tcp(L2, w.vip(), 80).times(40).only([L1, R1]).source_kept();
            w.tcp(L2, w.cip(), 80).times(40).only([L1, R1]).masqueraded();
            let said = w.vipd("describe service svc").out;
            assert!(
                said.contains("Relay:      none, the kernel translates: policy Local"),
                "{said}"
            );
        })
        .flag("--detect-local-mode", "InterfaceNamePrefix")
        .flag("--pod-interface-name-prefix", "pL")
        .flag("--cluster-cidr", super::support::vipd::LEFT_OUT),
        case("one service of both families", |w| {
            w.write(slice([L1, R1]).named("v6").only(V6));
            w.serve(svc().relayed().dual_stack().on([L1, R1]));
            for family in [V4, V6] {
                let w = w.over(family);
                w.tcp(L2, w.cip(), 80).times(40).only([L1, R1]).masqueraded();
            }
        })
        .once(),
    ];
    cases.into_iter().map(Case::names_its_carrier).collect()
}
