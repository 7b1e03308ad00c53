//! Node ports on the loopback addresses of the node.

use super::support::client::Client;
use super::support::flow::{Flow, Manner};
use super::support::manifests::{no_endpoints, slice, svc, udp};
use super::support::nft::tables;
use super::support::plan::{Ext, L1, L2, L3, NODE_PORT, Node, R1, R2, Who};
use super::support::runner::{Case, case};
use super::support::servers::{Proto, Tcp, Udp};
use super::support::vipd::Flag;
use super::support::world::World;
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(5);

const KERNEL: &str = "it is about Services that the kernel carries";

/// From the loopback address to itself, as a program of the node does. `vipd trace` knows packets
/// only, and this is none that the kernel translates.
fn at_home(w: &World, proto: Proto) -> Client<'_> {
    let loopback = w.family.loopback();
    let client = match proto {
        Tcp => w.tcp(Node, loopback, NODE_PORT),
        Udp => w.udp(Node, loopback, NODE_PORT),
    };
    client.from(loopback).untraced()
}

/// Listeners follow the plan a moment after the kernel does.
#[track_caller]
fn soon(w: &World, proto: Proto, wanted: &[Who]) {
    let seen = || {
        let replies = at_home(w, proto).times(10).patience(Duration::from_millis(700)).replies();
        let servers = replies.servers();
        let only = servers.keys().all(|name| wanted.iter().any(|who| who.name() == name));
        only && replies.failures() == if wanted.is_empty() { 10 } else { 0 }
    };
    w.within(Duration::from_secs(10), seen);
}

fn talking(w: &World, proto: Proto) -> Flow {
    let to = SocketAddr::new(w.family.loopback(), NODE_PORT);
    w.flow(Node, proto, to, Duration::from_millis(20), Manner::Talking)
}

/// User and system time that vipd has had so far, in hundredths of a second.
fn processor_time(w: &World) -> u64 {
    let stat = format!("/proc/{}/stat", w.pid());
    let text = std::fs::read_to_string(&stat).unwrap_or_else(|error| panic!("{stat}: {error}"));
    let (_, fields) = text.rsplit_once(") ").expect("the name is in brackets");
    fields.split(' ').skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("a number")).sum()
}

pub fn cases() -> Vec<Case> {
    vec![
        case("36 TCP: a node port on the loopback address leads to every endpoint", |w| {
            w.serve(svc().node_port(NODE_PORT).on([L1, L3, R1]));
            soon(w, Tcp, &[L1, L3, R1]);
            at_home(w, Tcp).times(300).spread([L1, L3, R1]).masqueraded().on_port(8080);
            w.tcp(Ext, w.address(Node), NODE_PORT).times(30).reached();
        }),
        case("36 UDP: a node port on the loopback address leads to every endpoint", |w| {
            w.serve(svc().udp().node_port(NODE_PORT).on([L1, L3, R1]));
            soon(w, Udp, &[L1, L3, R1]);
            at_home(w, Udp).times(300).spread([L1, L3, R1]).masqueraded().on_port(8080);
            let start = Instant::now();
            let flow = talking(w, Udp);
            w.sleep(600);
            flow.undisturbed(start);
            let big = at_home(w, Udp).sized(9000).reached();
            big.check(big.answers()[0].rest.starts_with("9000 "), "9000 bytes");
        }),
        case("36 externalTrafficPolicy Local: the node itself gets the cluster's endpoints", |w| {
            w.serve(svc().node_port(NODE_PORT).external_local().on([R1]));
            soon(w, Tcp, &[R1]);
        }),
        case("36 affinity pins all of the node's loopback connections to one endpoint", |w| {
            w.serve(svc().sticky(600).node_port(NODE_PORT).on([L1, L2, L3, R1, R2]));
            let all = [L1, L2, L3, R1, R2];
            soon(w, Tcp, &all);
            let pinned = at_home(w, Tcp).times(60).one_server();
            let rest: Vec<Who> = all.into_iter().filter(|who| *who != pinned).collect();
            w.serve(slice(rest.clone()));
            soon(w, Tcp, &rest);
            assert_ne!(at_home(w, Tcp).times(60).one_server(), pinned);
        }),
        case("36 affinity ends when nobody has connected for its time", |w| {
            w.serve(svc().sticky(2).node_port(NODE_PORT).on([L1, L2, L3, R1, R2]));
            soon(w, Tcp, &[L1, L2, L3, R1, R2]);
            let first = at_home(w, Tcp).times(5).one_server();
            for _ in 0..3 {
                w.sleep(1000);
                assert_eq!(at_home(w, Tcp).one_server(), first, "a pin slides");
            }
            let moved = || {
                w.sleep(2200);
                at_home(w, Tcp).one_server() != first
            };
            w.within(Duration::from_secs(60), moved);
        }),
        case("36 TCP: who refuses and who is silent costs a connection nothing but time", |w| {
            w.servers(L1).close(Tcp, SocketAddr::new(w.address(L1), 8080));
            w.netns(L2).nft("add table inet mute; add chain inet mute in { type filter hook input priority 0; }; add rule inet mute in tcp dport 8080 drop");
            w.serve(svc().node_port(NODE_PORT).on([L1, L2, R1]));
            soon(w, Tcp, &[R1]);
            let replies = at_home(w, Tcp).times(60).only([R1]);
            let slowest = replies.outcomes.iter().map(|one| one.took).max().unwrap_or_default();
            replies.check(slowest < Duration::from_secs(1), "no more than one slow dial");
            w.serve(svc().sticky(600).node_port(NODE_PORT).on([L1, L2, R1]));
            soon(w, Tcp, &[R1]);
            at_home(w, Tcp).times(20).only([R1]);
        }),
        case("36 UDP: a refused datagram goes to another endpoint", |w| {
            w.servers(L1).close(Udp, SocketAddr::new(w.address(L1), 8080));
            w.serve(svc().udp().node_port(NODE_PORT).on([L1, R1]));
            soon(w, Udp, &[R1]);
            at_home(w, Udp).times(60).only([R1]);
        }),
        case("36 TCP follows the endpoints; open connections stay, the port's end included", |w| {
            let service = || svc().node_port(NODE_PORT);
            w.serve(service());
            w.sleep(100);
            at_home(w, Tcp).times(3).refused();
            w.serve(slice([L1]));
            soon(w, Tcp, &[L1]);
            let start = Instant::now();
            let open = talking(w, Tcp);
            w.serve(slice([R1]));
            soon(w, Tcp, &[R1]);
            w.serve(no_endpoints());
            soon(w, Tcp, &[]);
            at_home(w, Tcp).times(3).refused();
            w.serve(slice([L3]));
            soon(w, Tcp, &[L3]);
            w.withdraw(service());
            soon(w, Tcp, &[]);
            at_home(w, Tcp).times(3).refused();
            open.undisturbed(start);
            assert_eq!(open.servers(start), [L1.name().to_owned()].into());
        }),
        case("36 UDP follows the endpoints, with the sessions that there are", |w| {
            let endpoints = |pods: &[Who]| slice(pods.to_vec()).ports([udp("", 8080)]);
            w.serve(svc().udp().node_port(NODE_PORT).on([L1]));
            soon(w, Udp, &[L1]);
            let flow = talking(w, Udp);
            w.answered_by(&flow, L1);
            w.serve(endpoints(&[R1]));
            w.answered_by(&flow, R1);
            w.sleep(100);
            let since = Instant::now();
            w.sleep(400);
            flow.undisturbed(since);
            assert_eq!(w.servers(L1).arrived(w.address(Node), since), 0);
            w.serve(endpoints(&[]));
            w.within(Duration::from_secs(2), || flow.refusals(since) > 3);
            w.serve(endpoints(&[L3]));
            w.answered_by(&flow, L3);
        }),
        case("36 a restart takes the port over", |w| {
            w.serve(svc().node_port(NODE_PORT).on([L1]));
            soon(w, Tcp, &[L1]);
            w.restart();
            soon(w, Tcp, &[L1]);
            assert!(!w.log().contains("cannot be answered"), "{}", w.log());
        }),
        case(
            "36 switched on and off by restarts, with the rules of the run before in place",
            |w| {
                const OFF: Flag = ("--localhost-nodeports", "false");
                const ON: Flag = ("--nodeport-addresses", "primary,127.0.0.0/8,::1/128");
                const NOT_NAMED: Flag = ("--nodeport-addresses", "primary");
                w.write(svc().node_port(NODE_PORT).on([L1, R1]));
                w.write(svc().named("udp", 42).udp().node_port(NODE_PORT).on([L1, R1]));
                w.serve(svc().named("none", 43).node_port(NODE_PORT + 1));
                for flag in [OFF, ON, NOT_NAMED, ON, OFF] {
                    w.terminate();
                    w.start(&[flag]);
                    match flag {
                        ON => {
                            for proto in [Tcp, Udp] {
                                soon(w, proto, &[L1, R1]);
                                at_home(w, proto).times(40).only([L1, R1]);
                            }
                        }
                        _ => {
                            w.sleep(200);
                            [Tcp, Udp]
                                .into_iter()
                                .for_each(|p| drop(at_home(w, p).times(5).refused()));
                        }
                    }
                    w.tcp(Ext, w.address(Node), NODE_PORT).times(20).reached();
                    w.udp(Ext, w.address(Node), NODE_PORT).times(20).reached();
                    let loopback = w.family.loopback();
                    let none = w.tcp(Node, loopback, NODE_PORT + 1).from(loopback).untraced();
                    none.times(3).refused();
                }
            },
        ),
        case("36 a process of the host keeps its port, is told of once, and gives way", |w| {
            let at = SocketAddr::new(w.family.loopback(), NODE_PORT);
            w.servers(Node).listen([(Tcp, at)]);
            w.serve(svc().node_port(NODE_PORT).on([L1]));
            let told = || w.log().matches("node port cannot be answered").count();
            w.within(Duration::from_secs(1), || told() == 1);
            for word in ["default/svc", &at.to_string(), "another process"] {
                assert!(w.log().contains(word), "{word} is missing in {}", w.log());
            }
            at_home(w, Tcp).times(5).only([Node]);
            w.tcp(Ext, w.address(Node), NODE_PORT).times(20).only([L1]);
            w.sleep(1500);
            assert_eq!(told(), 1, "{}", w.log());
            w.servers(Node).close(Tcp, at);
            soon(w, Tcp, &[L1]);
        })
        .kernel_only("a relayed node port needs no listener, and wins"),
        case("36 without files left it waits, and does not spin", |w| {
            let accepts = || w.log().matches("cannot accept connections").count();
            let files = |limit: &str| {
                w.sh(Node, &format!("prlimit --pid {} --nofile={limit}:", w.pid()));
            };
            w.serve(svc().node_port(NODE_PORT).on([L1]));
            soon(w, Tcp, &[L1]);
            files("3");
            at_home(w, Tcp).times(3).patience(Duration::from_millis(300)).replies();
            w.within(Duration::from_secs(2), || accepts() == 1);
            let before = processor_time(w);
            w.sleep(2000);
            let spent = processor_time(w) - before;
            assert!(spent < 50, "{spent} of 200 ticks spent on waiting");
            assert_eq!(accepts(), 1, "{}", w.log());
            files("1024");
            soon(w, Tcp, &[L1]);
        })
        .kernel_only("a relayed node port needs no listener of its own"),
        case("36 off by flag: refused on the loopback address, served on the others", |w| {
            w.serve(svc().node_port(NODE_PORT).on([L1]));
            w.tcp(Ext, w.address(Node), NODE_PORT).times(20).only([L1]);
            w.sleep(200);
            at_home(w, Tcp).times(5).refused();
            at_home(w, Udp).times(5).refused();
        })
        .flag("--localhost-nodeports", "false"),
        case("36 only localhost: the other addresses do not answer", |w| {
            w.serve(svc().node_port(NODE_PORT).on([L1]));
            soon(w, Tcp, &[L1]);
            w.tcp(Ext, w.address(Node), NODE_PORT).untraced().times(3).refused();
        })
        .flag("--nodeport-addresses", "localhost"),
        case("36 TCP: an endpoint that closes before a word costs a connection nothing", |w| {
            let at = SocketAddr::new(w.address(L1), 8080);
            w.servers(L1).close(Tcp, at);
            let hasty = w.netns(L1).enter(|| TcpListener::bind(at)).expect("a free port");
            let closing = std::thread::spawn(move || while hasty.accept().is_ok() {});
            w.serve(svc().node_port(NODE_PORT).on([L1, R1]));
            soon(w, Tcp, &[R1]);
            at_home(w, Tcp).times(60).only([R1]);
            assert!(!closing.is_finished(), "it accepts still");
        })
        .kernel_only(KERNEL),
        case(
            "36 who refuses is left out, what passes is counted, and nothing is led anywhere",
            |w| {
                w.servers(L1).close(Tcp, SocketAddr::new(w.address(L1), 8080));
                w.serve(svc().node_port(NODE_PORT).on([L1, R1]));
                w.within(SOON, || w.log().contains("started"));
                let counted = || {
                    w.vipd("metrics")
                        .out
                        .lines()
                        .any(|line| line.contains("vipd_relay_opened_total{"))
                };
                assert!(!counted(), "nobody has come by a loopback address yet");
                soon(w, Tcp, &[R1]);
                at_home(w, Tcp).times(60).only([R1]);
                let dead = format!("endpoint=\"{}\"}} 1", SocketAddr::new(w.address(L1), 8080));
                let said = w.vipd("metrics").out;
                let ejected = said
                    .lines()
                    .any(|line| line.starts_with("vipd_relay_ejected{") && line.ends_with(&dead));
                assert!(ejected && counted(), "{said}");
                let tables = tables(w.netns(Node));
                assert!(!tables.iter().any(|table| table.contains("vipd-relay")), "{tables:?}");
                assert_eq!(w.sh(Node, "ip route show table local proto 118").trim(), "");
                let described = w.vipd("describe service svc").out;
                assert!(described.contains("left out for failing"), "{described}");
            },
        )
        .kernel_only(KERNEL),
        case("36 TCP: the kernel and the relay take turns, and what is open goes on", |w| {
            let by_kernel = || svc().node_port(NODE_PORT).on([L1, R1]);
            w.serve(by_kernel());
            soon(w, Tcp, &[L1, R1]);
            let began = Instant::now();
            let mut flows = vec![talking(w, Tcp)];
            for _ in 0..2 {
                for service in [by_kernel().relayed(), by_kernel()] {
                    w.serve(service);
                    w.sleep(300);
                    at_home(w, Tcp).times(20).only([L1, R1]);
                    flows.push(talking(w, Tcp));
                }
            }
            w.sleep(200);
            flows.iter().for_each(|flow| flow.undisturbed(began));
            assert!(!w.log().contains("cannot be answered"), "{}", w.log());
        })
        .kernel_only(KERNEL),
        case("36 UDP: the kernel and the relay take turns", |w| {
            let by_kernel = || svc().udp().node_port(NODE_PORT).on([L1, R1]);
            w.serve(by_kernel());
            soon(w, Udp, &[L1, R1]);
            let flow = talking(w, Udp);
            for _ in 0..2 {
                for service in [by_kernel().relayed(), by_kernel()] {
                    w.serve(service);
                    w.sleep(300);
                    let since = Instant::now();
                    w.within(SOON, || !flow.servers(since).is_empty());
                    soon(w, Udp, &[L1, R1]);
                }
            }
            let since = Instant::now();
            w.sleep(400);
            assert_eq!(flow.servers(since).len(), 1, "one session");
            assert!(!w.log().contains("cannot be answered"), "{}", w.log());
        })
        .kernel_only(KERNEL),
    ]
}
