//! Another vipd takes the place of the one that runs: nothing is lost, and the old one ends when its
//! connections have.

use super::metrics::metric;
use super::support::flow::{Flow, FlowPlan, Manner};
use super::support::load::Load;
use super::support::manifests::{Manifest, Together, draining, ep, slice, svc};
use super::support::nft::{Watch, tables};
use super::support::plan::{Ext, L1, L2, L3, NODE_PORT, Node, R1, R2, V4, V6, Who};
use super::support::runner::{Case, case};
use super::support::servers::{Proto, Tcp, Udp};
use super::support::vipd::{PROGRAM, Vipd, arguments};
use super::support::world::World;
use rustix::process::Signal;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(5);

fn udp_cip(w: &World) -> IpAddr {
    w.family.cluster_ip(42)
}

/// The case's service for TCP, another one for UDP.
fn relayed(w: &World) {
    w.write(svc().named("udp", 42).relayed().udp().on([L1, R1]));
    w.serve(svc().relayed().on([L1, R1]));
}

fn loads(w: &World) -> Vec<Load> {
    [L2, Ext, Node].map(|who| w.load(who, w.cip(), 80, 100)).into()
}

fn none_fails(loads: Vec<Load>) {
    for load in loads {
        let replies = load.stop();
        replies.check(replies.failures() == 0 && replies.outcomes.len() > 50, "no failure");
    }
}

fn flow(w: &World, who: Who, proto: Proto) -> Flow {
    let to = match proto {
        Tcp => w.cip(),
        Udp => udp_cip(w),
    };
    w.talking(who, proto, to, 80)
}

/// So many sockets at the family's loopback address, as vipd counts them.
fn open_ports(w: &World, count: u32) -> String {
    let ip = if w.family == V4 { "IPv4" } else { "IPv6" };
    format!("kubeproxy_nftables_localhost_nodeport_listeners{{ip_family=\"{ip}\"}} {count}")
}

fn has_route(w: &World, address: IpAddr) -> bool {
    let family = if w.family == V4 { "-4" } else { "-6" };
    let listed = w.sh(Node, &format!("ip {family} route show table local proto 118"));
    listed.split_whitespace().any(|word| word == address.to_string())
}

/// Ends by itself, and well, with the last of its connections.
fn ends(mut former: Vipd) {
    let status = former.wait(SOON);
    assert!(status.success(), "{status}:\n{}", former.log());
}

fn goes_on(former: &mut Vipd) {
    assert!(former.ended().is_none(), "it has connections:\n{}", former.log());
}

/// A long connection is cut.
fn is_cut(w: &World, flow: &Flow, since: Instant) {
    w.within(SOON, || !flow.errors(since).is_empty());
}

pub fn cases() -> Vec<Case> {
    let cases = vec![
        case("twice under load: no connection fails, long ones stay, the old ones end", |w| {
            relayed(w);
            let began = Instant::now();
            let loads = loads(w);
            let first = [L2, Ext].map(|who| flow(w, who, Tcp));
            let udp = [L2, L3, Ext].map(|who| flow(w, who, Udp));
            w.sleep(300);
            let mut one = w.replace();
            w.sleep(500);
            let second = flow(w, L3, Tcp);
            let mut other = w.replace();
            w.sleep(500);
            goes_on(&mut one);
            goes_on(&mut other);
            first.iter().chain(&udp).for_each(|flow| flow.undisturbed(began));
            drop(first);
            ends(one);
            goes_on(&mut other);
            second.undisturbed(began);
            drop(second);
            ends(other);
            w.settle();
            w.sleep(500);
            none_fails(loads);
            udp.iter().for_each(|flow| flow.undisturbed(began));
            w.tcp(L2, w.cip(), 80).times(40).only([L1, R1]).masqueraded();
            w.udp(L2, udp_cip(w), 80).times(40).only([L1, R1]).masqueraded();
        }),
        case("what is led by its port goes on, and what is judged client by client", |w| {
            let local = svc().named("local", 43).relayed().udp().node_port(NODE_PORT);
            w.write(local.external_local().on([L1]));
            w.serve(svc().relayed().load_balancer([w.vip()]).on([L1, R1]));
            let began = Instant::now();
            let loads = [L2, Ext, Node].map(|who| w.load(who, w.vip(), 80, 100));
            let flow = w.talking(Ext, Tcp, w.vip(), 80);
            let judged = w.talking(Ext, Udp, w.address(Node), NODE_PORT);
            w.sleep(300);
            let mut former = w.replace();
            w.sleep(500);
            goes_on(&mut former);
            flow.undisturbed(began);
            drop(flow);
            ends(former);
            none_fails(loads.into());
            w.answered_by(&judged, L1);
            assert!(!w.log().contains("served by the kernel"), "{}", w.log());
        }),
        case("what the kernel carries notices nothing, and its table is not written", |w| {
            w.write(svc().named("udp", 42).udp().on([L1, R1]));
            w.serve(svc().sticky(600).on([L1, R1]));
            let began = Instant::now();
            let loads = loads(w);
            let flows = [flow(w, L2, Tcp), flow(w, Ext, Udp)];
            w.sleep(300);
            let watch = Watch::start(w.netns(Node));
            ends(w.replace());
            w.sleep(300);
            let changes = watch.changes();
            assert_eq!(changes.objects, 0, "{changes:?}\n{}", w.log());
            ends(w.replace());
            w.sleep(300);
            none_fails(loads);
            flows.iter().for_each(|flow| flow.undisturbed(began));
        }),
        case("the new one answers who asks, while the old one has connections", |w| {
            relayed(w);
            let began = Instant::now();
            let flow = flow(w, L2, Tcp);
            let former_start = metric(w, "process_start_time_seconds");
            w.sleep(1100);
            let mut former = w.replace();
            assert!(metric(w, "process_start_time_seconds") > former_start);
            assert_eq!(w.vipd("get services").code, 0);
            let healthy = || {
                let asked = "curl --silent --fail --max-time 1 http://127.0.0.1:10256/healthz";
                w.netns(Node).try_sh(asked).code == 0
            };
            w.within(SOON, healthy);
            let second = w.vipd("cleanup");
            assert!(second.out.contains(&format!("pid {}", w.pid())), "{}", second.out);
            w.serve(slice([R1]));
            w.tcp(L2, w.cip(), 80).times(20).only([R1]);
            goes_on(&mut former);
            flow.undisturbed(began);
            drop(flow);
            ends(former);
        }),
        case("pins and sessions are handed over", |w| {
            w.write(svc().named("udp", 42).relayed().udp().on([L1, L3, R1, R2]));
            w.serve(svc().relayed().sticky(600).on([L1, L3, R1, R2]));
            let clients = w.family.crowd();
            let pins = |client: &IpAddr| {
                w.tcp(Ext, w.cip(), 80).from(*client).untraced().times(3).one_server()
            };
            let before: Vec<Who> = clients.iter().map(pins).collect();
            let began = Instant::now();
            let flows: Vec<Flow> = [L2, L3, Ext, Node].map(|who| flow(w, who, Udp)).into();
            w.sleep(200);
            for _ in 0..2 {
                ends(w.replace());
                w.sleep(200);
            }
            assert_eq!(clients.iter().map(pins).collect::<Vec<Who>>(), before);
            flows.iter().for_each(|flow| flow.undisturbed(began));
        }),
        case("what lasts longer than --drain-timeout is ended", |w| {
            relayed(w);
            let began = Instant::now();
            let flow = flow(w, L2, Tcp);
            w.sleep(200);
            let former = w.replace();
            ends(former);
            is_cut(w, &flow, began);
            w.tcp(L2, w.cip(), 80).times(40).only([L1, R1]);
        })
        .flag("--drain-timeout", "1s"),
        case("SIGTERM ends an old one at once, and it leaves well", |w| {
            relayed(w);
            let began = Instant::now();
            let flow = flow(w, L2, Tcp);
            let mut former = w.replace();
            w.sleep(300);
            goes_on(&mut former);
            let status = former.terminate();
            assert!(status.success(), "{status}");
            is_cut(w, &flow, began);
            w.tcp(L2, w.cip(), 80).times(40).only([L1, R1]);
        }),
        case("of much that is relayed nothing is lost, nor of many sessions", |w| {
            const MANY: u16 = 1200;
            let address = |n: u16| match w.family {
                V4 => IpAddr::from([10, 254, (4 + n / 250) as u8, (n % 250) as u8]),
                V6 => IpAddr::from([0xfd00, 0x10, 0x254, 0, 0, 0, 0, 0x1000 + n]),
            };
            let one = |n| svc().named(format!("m{n}"), 0).at(address(n)).relayed().on([L1]);
            let all = (0..MANY).map(|n| Box::new(one(n)) as Box<dyn Manifest>);
            w.write(Together("many".to_owned(), all.collect()));
            w.write(svc().named("udp", 42).relayed().udp().on([L1, L3, R1, R2]));
            w.write(svc().relayed().on([L1, R1]));
            w.settle_within(Duration::from_secs(60));
            // More sessions than one message has files, each of which must keep its endpoint.
            let began = Instant::now();
            let (client, to) = (w.address(L2), SocketAddr::new(udp_cip(w), 80));
            let flow = |port| FlowPlan {
                proto: Udp,
                // Chosen here: of sockets that may share an address two might get the same.
                from: SocketAddr::new(client, port),
                to,
                every: Duration::from_millis(200),
                manner: Manner::Talking,
            };
            let flows: Vec<Flow> =
                (20_001..20_151).map(|port| Flow::start(w.netns(L2), flow(port))).collect();
            w.sleep(500);
            let load = w.load(L2, address(777), 80, 100);
            w.sleep(300);
            ends(w.replace());
            w.sleep(500);
            none_fails(vec![load]);
            flows.iter().for_each(|flow| flow.undisturbed(began));
            for n in [0, 600, MANY - 1] {
                w.tcp(L2, address(n), 80).times(5).only([L1]).masqueraded();
            }
        }),
        case("in another mode the next process makes the difference", |w| {
            w.write(svc().named("stays", 44).relayed().on([L1, R1]));
            w.write(svc().named("udp", 42).udp().on([L1, R1]));
            w.serve(svc().on([L1, R1]));
            let began = Instant::now();
            let stays = [L2, Ext].map(|who| w.load(who, w.family.cluster_ip(44), 80, 100));
            let flow = flow(w, L2, Tcp);
            w.tcp(L2, w.cip(), 80).times(20).only([L1, R1]).masqueraded();
            w.sleep(200);
            let former = w.replace_with(&[("--proxy-mode", "nftables")]);
            w.settle();
            w.tcp(L2, w.cip(), 80).times(20).only([L1, R1]).source_kept();
            w.udp(L2, udp_cip(w), 80).times(20).only([L1, R1]).source_kept();
            flow.undisturbed(began);
            let other = w.replace_with(&[("--proxy-mode", "userspace")]);
            w.settle();
            w.tcp(L3, w.cip(), 80).times(20).only([L1, R1]).masqueraded();
            w.udp(L3, udp_cip(w), 80).times(20).only([L1, R1]).masqueraded();
            w.sleep(500);
            none_fails(stays.into());
            flow.undisturbed(began);
            drop(flow);
            ends(former);
            ends(other);
        })
        .flag("--proxy-mode", "userspace"),
        case("without one that runs it is a start like any other", |w| {
            w.launch(&[("--replace", "")]);
            relayed(w);
            assert!(w.log().contains("there is nothing to replace"), "{}", w.log());
            w.tcp(L2, w.cip(), 80).times(40).only([L1, R1]).masqueraded();
        })
        .without_vipd()
        .once(),
        case("one that hangs is ended, and holds nobody up", |w| {
            relayed(w);
            w.signal(Signal::STOP);
            let mut former = w.replace();
            let status = former.wait(Duration::from_secs(1));
            assert!(!status.success(), "{status}");
            w.settle();
            w.tcp(L2, w.cip(), 80).times(40).only([L1, R1]).masqueraded();
            assert!(w.log().contains("does not answer"), "{}", w.log());
        })
        .once(),
        case("SIGHUP starts the successor", |w| {
            relayed(w);
            let began = Instant::now();
            let loads = loads(w);
            let flow = flow(w, L2, Tcp);
            let mut pids = vec![w.pid()];
            w.signal(Signal::HUP);
            // The lock tells whose turn it is.
            let holder = || {
                let said = w.vipd("cleanup").out;
                let pid = said.split("pid ").nth(1).and_then(|rest| rest.split(';').next());
                pid.and_then(|pid| pid.parse::<u32>().ok())
            };
            w.within(SOON, || holder().is_some_and(|pid| !pids.contains(&pid)));
            pids.extend(holder());
            w.settle();
            // A successor has the same right.
            w.sh(Node, &format!("kill -HUP {}", pids[1]));
            w.within(SOON, || holder().is_some_and(|pid| !pids.contains(&pid)));
            pids.extend(holder());
            w.settle();
            w.sleep(300);
            none_fails(loads);
            flow.undisturbed(began);
            // Whoever supervises notices only when the parents have ended too.
            w.sh(Node, &format!("kill -KILL {}", pids[2]));
            is_cut(w, &flow, began);
            let status = w.terminate();
            assert!(!status.success(), "{status}");
            w.tcp(L2, w.cip(), 80).untraced().times(20).only([L1, R1]).source_kept();
        }),
        case("a supervisor is told who the main process is, when it is so", |w| {
            const NOTIFY: &str = "/run/case/notify";
            relayed(w);
            // While it is open, the former process is.
            let _open = flow(w, L2, Tcp);
            let supervisor = UnixDatagram::bind(NOTIFY).expect("an own /run");
            supervisor.set_read_timeout(Some(SOON)).expect("a plain socket");
            let run = arguments(w.manifests(), &[("--replace", "")]).join(" ");
            let started =
                format!("NOTIFY_SOCKET={NOTIFY} {PROGRAM} {run} >/run/case/own.log 2>&1 &");
            let pid = w.sh(Node, &format!("{started} echo $!")).trim().to_owned();
            let mut said = [0; 256];
            let size = supervisor.recv(&mut said).expect("a word to the supervisor");
            let said = String::from_utf8_lossy(&said[..size]).into_owned();
            let words: Vec<&str> = said.lines().collect();
            assert_eq!(words, [format!("MAINPID={pid}").as_str(), "READY=1"]);
            let holder = w.vipd("cleanup").out;
            assert!(holder.contains(&format!("pid {pid};")), "{holder}");
            w.sh(Node, &format!("kill {pid}"));
        })
        .once(),
        case("a route stays while a connection of the old one needs it", |w| {
            w.write(svc().named("stays", 43).relayed().on([L1]));
            relayed(w);
            let began = Instant::now();
            let flow = flow(w, L2, Tcp);
            let mut former = w.replace();
            w.withdraw(svc().relayed().on([L1, R1]));
            w.sleep(300);
            w.serve(svc().named("more", 44).on([L1]));
            assert!(has_route(w, w.cip()));
            goes_on(&mut former);
            flow.undisturbed(began);
            drop(flow);
            ends(former);
            w.within(SOON, || !has_route(w, w.cip()));
            assert!(has_route(w, w.family.cluster_ip(43)));
        }),
        case("node ports of loopback addresses: none fails, and one that is open goes on", |w| {
            w.serve(svc().node_port(NODE_PORT).on([L1]));
            let began = Instant::now();
            let home = w.family.loopback();
            let flow = w.talking(Node, Tcp, home, NODE_PORT);
            let load = w.crowd(&[(Node, home)], (home, NODE_PORT), 200);
            w.sleep(300);
            let mut former = w.replace();
            w.sleep(300);
            goes_on(&mut former);
            let second = w.replace();
            w.sleep(600);
            let attempts = load.stop();
            assert!(attempts.failed().is_empty(), "{attempts}: {:?}", attempts.failed());
            flow.undisturbed(began);
            drop(flow);
            ends(former);
            ends(second);
        }),
        case("node ports of loopback addresses: pins and sessions are handed over", |w| {
            let all = [L1, L3, R1, R2];
            w.write(svc().named("udp", 42).udp().node_port(NODE_PORT + 1).on(all));
            w.serve(svc().sticky(600).node_port(NODE_PORT).on(all));
            let home = w.family.loopback();
            let server = || w.tcp(Node, home, NODE_PORT).from(home).untraced().one_server();
            w.within(SOON, || w.vipd("metrics").out.contains(&open_ports(w, 2)));
            let pinned = server();
            let flow = w.talking(Node, Udp, home, NODE_PORT + 1);
            w.sleep(200);
            let began = Instant::now();
            for _ in 0..2 {
                ends(w.replace());
                w.sleep(200);
                assert_eq!(server(), pinned);
            }
            flow.undisturbed(began);
            assert_eq!(flow.servers(began).len(), 1);
            assert!(w.vipd("metrics").out.contains(&open_ports(w, 2)));
            assert!(!w.log().contains("cannot be answered"), "{}", w.log());
        }),
        case("only root can ask for a handover, and no file of one that ended stays", |w| {
            relayed(w);
            let mode = w.sh(Node, "stat --format=%a.%F /run/vipd/admin.sock.handover");
            assert_eq!(mode.trim(), "600.socket");
            w.terminate();
            let left = w.netns(Node).try_sh("ls /run/vipd/admin.sock.handover");
            assert_ne!(left.code, 0, "{}", left.out);
        })
        .once(),
        case("killed after it took over, it leaves all to the kernel", |w| {
            relayed(w);
            ends(w.replace());
            w.kill();
            w.tcp(L2, w.cip(), 80).times(40).only([L1, R1]).source_kept();
            let led = tables(w.netns(Node)).contains(&"table inet vipd-relay".to_owned());
            assert!(!led, "{:?}", tables(w.netns(Node)));
        }),
        case("connections to an endpoint that serves on stay, others have --drain-timeout", |w| {
            let ports = || slice([ep(R1)]);
            relayed(w);
            w.serve(slice([L1]));
            let began = Instant::now();
            let flow = flow(w, L2, Tcp);
            w.serve(slice([draining(L1), ep(R1)]));
            w.tcp(L2, w.cip(), 80).times(20).only([R1]);
            w.sleep(1500);
            flow.undisturbed(began);
            // Not for long.
            w.serve(slice([ep(L1).not_ready(), ep(R1)]));
            w.sleep(300);
            w.serve(slice([ep(L1), ep(R1)]));
            w.sleep(1500);
            flow.undisturbed(began);
            w.serve(ports());
            is_cut(w, &flow, began);
            w.tcp(L2, w.cip(), 80).times(20).only([R1]);
        })
        .flag("--drain-timeout", "1s"),
    ];
    cases.into_iter().map(Case::names_its_carrier).collect()
}
