//! What the relay needs is taken away, by others or by the machine: it comes back, or the kernel serves,
//! and vipd says which.

use super::health::ask_at;
use super::support::clients::{Ending, Outcome};
use super::support::manifests::{ep, port, slice, svc, udp};
use super::support::nft::tables;
use super::support::plan::{CASE_SERVICE, Ext, L1, L2, NODE_PORT, Node, NodeB, R1, V4, V6};
use super::support::runner::{Case, case};
use super::support::servers::{Tcp, Udp};
use super::support::world::World;
use rustix::process::{Resource, Rlimit, setrlimit};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(1);
const RELAY: &str = "table inet vipd-relay";

/// `ip`, of the case's family.
fn ip(w: &World) -> &'static str {
    if w.family == V4 { "ip -4" } else { "ip -6" }
}

fn routes(w: &World) -> Vec<String> {
    let listed = w.sh(Node, &format!("{} route show table local proto 118", ip(w)));
    listed.lines().map(|line| line.trim().to_owned()).collect()
}

fn repairs(w: &World) -> String {
    let counted = w.vipd("metrics").out;
    let line = counted.lines().find(|line| line.starts_with("vipd_foreign_edits_repaired_total "));
    line.expect("it is counted").to_owned()
}

fn is_healthy(w: &World) -> bool {
    let at: SocketAddr = "127.0.0.1:10256".parse().expect("an address");
    let answer = ask_at(w, Node, (at, "GET /healthz HTTP/1.1\r\nHost: node\r\n\r\n"));
    answer.is_some_and(|answer| answer.status == 200)
}

/// Whether endpoints see the node.
fn is_relayed(w: &World, to: IpAddr) -> bool {
    let replies = w.tcp(L2, to, 80).untraced().replies();
    replies.peers() == [w.address(Node)].into()
}

pub fn cases() -> Vec<Case> {
    let cases = vec![
        case("routes that others remove are there again at once", |w| {
            w.write(svc().named("udp", 42).relayed().udp().load_balancer([w.vip()]).on([L1, R1]));
            w.serve(svc().relayed().on([L1, R1]));
            let before = routes(w);
            assert_eq!(before.len(), 3, "{before:?}");
            let since = Instant::now();
            let flows = [L2, Ext, Node].map(|who| w.talking(who, Tcp, w.cip(), 80));
            for _ in 0..3 {
                w.sh(Node, &format!("{} route flush table local proto 118", ip(w)));
                w.within(SOON, || routes(w) == before);
            }
            w.sh(Node, &format!("{} route del local {} table local", ip(w), w.vip()));
            w.within(SOON, || routes(w) == before);
            for who in [L2, Ext, Node] {
                w.tcp(who, w.cip(), 80).times(20).only([L1, R1]).masqueraded();
                w.udp(who, w.vip(), 80).times(20).only([L1, R1]).masqueraded();
            }
            assert!(w.log().contains("removed local routes"), "{}", w.log());
            let open: Vec<_> = flows.iter().map(|flow| flow.errors(since)).collect();
            assert!(open.iter().all(Vec::is_empty), "{open:?}");
        }),
        case("other routes are nobody's business, and vipd's own removals neither", |w| {
            w.serve(svc().relayed().on([L1]));
            w.write(svc().named("other", 42).relayed().on([L1]));
            w.settle();
            let before = repairs(w);
            let network = if w.family == V4 { "198.18.0.0/24" } else { "2001:db8:99::/64" };
            for change in ["add", "del"] {
                w.sh(Node, &format!("{} route {change} {network} dev up0", ip(w)));
                let own = format!("route {change} local {} dev lo table local", w.vip());
                w.sh(Node, &format!("{} {own}", ip(w)));
            }
            w.withdraw(svc().named("other", 42).on([L1]));
            w.within(Duration::from_secs(15), || routes(w).len() == 1);
            w.sleep(200);
            assert_eq!(repairs(w), before);
            w.sh(Node, &format!("{} route flush table local proto 118", ip(w)));
            w.within(SOON, || repairs(w) != before);
        }),
        case("a route goes with the last frontend and the last connection, not before", |w| {
            let other = || svc().named("other", CASE_SERVICE).relayed().ports([udp("", 81)]);
            w.write(other().on([L1]));
            w.serve(svc().relayed().on([L1]));
            let since = Instant::now();
            let flow = w.talking(L2, Tcp, w.cip(), 80);
            w.sleep(200);
            w.withdraw(svc().relayed().on([L1]));
            w.withdraw(other().on([L1]));
            // Longer than it takes to look whether a route can go.
            w.sleep(2500);
            assert_eq!(routes(w).len(), 1, "{:?}", routes(w));
            flow.undisturbed(since);
            w.tcp(L2, w.cip(), 81).times(2).dropped();
            drop(flow);
            w.within(Duration::from_secs(15), || routes(w).is_empty());
        }),
        case("a node without IPv6 has its IPv4 relayed", |w| {
            let v6 = w.over(V6);
            w.sh(Node, "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6");
            w.launch(&[]);
            w.write(slice([L1, R1]).named("v6").only(V6));
            w.write(svc().relayed().dual_stack().on([L1, R1]));
            // Nothing settles in both families here.
            w.within(Duration::from_secs(5), || is_relayed(w, w.cip()));
            for who in [L2, Ext, Node] {
                w.tcp(who, w.cip(), 80).times(20).only([L1, R1]).masqueraded();
            }
            assert!(is_healthy(w) && routes(&v6).is_empty());
            let said = w.vipd("describe service svc").out;
            assert!(!said.contains("for now"), "{said}");
        })
        .without_vipd()
        .once(),
        case("IPv6 that is disabled takes its own along, and what comes back is relayed", |w| {
            let v6 = w.over(V6);
            w.write(slice([L1, R1]).named("v6").only(V6));
            w.serve(svc().relayed().dual_stack().on([L1, R1]));
            v6.tcp(L2, v6.cip(), 80).times(20).only([L1, R1]).masqueraded();
            let (own, since) = (format!("{}/64", V6.address(Node)), Instant::now());
            let flow = w.talking(L2, Tcp, w.cip(), 80);
            w.sh(Node, "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6");
            w.within(SOON, || routes(&v6).is_empty());
            w.sleep(200);
            w.tcp(L2, w.cip(), 80).times(20).only([L1, R1]).masqueraded();
            assert!(is_healthy(w));
            w.sh(Node, "echo 0 > /proc/sys/net/ipv6/conf/all/disable_ipv6");
            w.sh(Node, &format!("ip -6 addr add {own} dev up0 nodad"));
            let back = format!("src {}", V6.address(Node));
            w.within(Duration::from_secs(3), || {
                routes(&v6).iter().any(|line| line.contains(&back))
            });
            assert!(flow.errors(since).is_empty(), "{:?}", flow.errors(since));
        })
        .once(),
        case("while another owns the relay's table the kernel serves; then the relay does", |w| {
            // nft owns it until its input ends.
            w.sh(
                Node,
                "{ (echo 'add table inet vipd-relay { flags owner; }'; \
                 sh -c 'echo $$ > /run/case/owner; exec sleep 60') | nft -i; } > /dev/null 2>&1 &",
            );
            w.within(SOON, || tables(w.netns(Node)).contains(&RELAY.to_owned()));
            w.serve(svc().relayed().node_port(NODE_PORT).on([L1, R1]));
            w.tcp(L2, w.cip(), 80).untraced().times(20).only([L1, R1]).source_kept();
            w.tcp(Ext, w.address(Node), NODE_PORT).untraced().times(20).only([L1, R1]);
            assert!(is_healthy(w));
            w.tcp(Node, w.family.loopback(), NODE_PORT)
                .from(w.family.loopback())
                .untraced()
                .times(20)
                .only([L1, R1]);
            let said = w.vipd("describe service svc").out;
            assert!(said.contains("for now") && said.contains("vipd-relay"), "{said}");
            w.sh(Node, "kill $(cat /run/case/owner)");
            w.within(Duration::from_secs(20), || is_relayed(w, w.cip()));
            let said = w.vipd("describe service svc").out;
            assert!(!said.contains("for now"), "{said}");
        }),
        case("nobody takes the relay's table away", |w| {
            w.serve(svc().relayed().on([L1, R1]));
            let removed = w.netns(Node).try_sh(&format!("nft delete {RELAY}"));
            assert_ne!(removed.code, 0, "{}", removed.out);
            w.sh(Node, "nft flush ruleset");
            assert!(tables(w.netns(Node)).contains(&RELAY.to_owned()));
            w.settle();
            w.tcp(L2, w.cip(), 80).times(20).only([L1, R1]).masqueraded();
        }),
        // No node knows of the other's part in it: it ends where the files do.
        case("a loop over another node ends, and takes nobody along", |w| {
            const FILES: u64 = 1200;
            // Of this case's process, and so of vipd, which keeps some of them from the relay.
            let few = Rlimit { current: Some(FILES), maximum: Some(FILES) };
            setrlimit(Resource::Nofile, few).expect("fewer are always granted");
            w.start(&[]);
            let (own, back) = (w.address(Node), w.address(NodeB));
            let ip = if w.family == V4 { "ip" } else { "ip6" };
            w.netns(NodeB).nft(&format!(
                "add table inet loop
                 add chain inet loop pre {{ type nat hook prerouting priority -100; }}
                 add chain inet loop post {{ type nat hook postrouting priority 100; }}
                 add rule inet loop pre tcp dport {NODE_PORT} dnat {ip} to {}
                 add rule inet loop post ct status dnat masquerade",
                SocketAddr::new(own, NODE_PORT)
            ));
            w.write(svc().named("other", 42).relayed().on([L1]));
            let around = ep(R1).addresses(vec![back]);
            let around = slice([around]).ports([port("", NODE_PORT, Tcp)]);
            w.write(around);
            w.serve(svc().relayed().node_port(NODE_PORT));
            let other = || w.tcp(L2, w.family.cluster_ip(42), 80).times(20);
            for _ in 0..3 {
                let open = |most: usize| {
                    let files = w.sh(Node, &format!("ls /proc/{}/fd", w.pid()));
                    files.lines().count() < most
                };
                let patience = Duration::from_secs(20);
                let lost = w.tcp(L2, own, NODE_PORT).patience(patience).untraced().replies();
                lost.check(lost.failures() == 1, "nobody is at the end of it");
                w.within(Duration::from_secs(5), || open(200));
                other().only([L1]).masqueraded();
            }
            assert!(is_healthy(w));
        })
        .without_vipd(),
        case("loopback node ports outlive a loopback interface that goes down and comes up", |w| {
            let other = svc().named("udp", 42).relayed().udp().node_port(NODE_PORT + 1);
            w.write(other.on([L1, R1]));
            // What IPv6 has of a loopback interface goes with it, and the relay fails of both families.
            let other = if w.family == V4 { V6 } else { V4 };
            w.write(slice([L1, R1]).named("other").only(other));
            w.serve(svc().relayed().dual_stack().node_port(NODE_PORT).on([L1, R1]));
            let loopback = w.family.loopback();
            let at_home = || {
                let tcp = w.tcp(Node, loopback, NODE_PORT).from(loopback);
                let udp = w.udp(Node, loopback, NODE_PORT + 1).from(loopback);
                // One after the other, so that what changes meanwhile is met.
                [tcp, udp].map(|client| client.untraced().in_turn().times(20))
            };
            let serves = || {
                let replies = at_home().map(|client| client.patience(SOON / 2).replies());
                replies.iter().all(|replies| replies.failures() == 0)
            };
            // An answer that is under way when the port changes hands may be lost, and nobody is refused.
            let changes_hands = || {
                let [tcp, udp] = at_home();
                tcp.reached();
                let udp = udp.patience(SOON / 2).replies();
                let is_timeout = |one: &Outcome| one.ending == Ending::Timeout;
                let lost = udp.outcomes.iter().filter(|one| is_timeout(one)).count();
                udp.check(lost <= 1 && udp.failures() == lost, "an answer to all but one");
            };
            w.within(SOON, serves);
            for down in [300, 1200] {
                w.sh(Node, "ip link set lo down");
                w.sleep(down);
                assert!(!tables(w.netns(Node)).contains(&RELAY.to_owned()), "{}", w.log());
                w.sh(Node, "ip link set lo up");
                changes_hands();
                let up = Instant::now();
                while !is_relayed(w, w.cip()) {
                    changes_hands();
                    assert!(up.elapsed() < Duration::from_secs(5), "{}", w.log());
                }
                changes_hands();
                w.within(SOON, serves);
            }
            let at = |error: &str| w.log().matches(error).count();
            assert_eq!(at("cannot be answered"), 0, "{}", w.log());
        }),
        case("UDP has the same route back", |w| {
            w.serve(svc().relayed().udp().on([L1]));
            let flow = w.talking(L2, Udp, w.cip(), 80);
            w.answered_by(&flow, L1);
            w.sh(Node, &format!("{} route flush table local proto 118", ip(w)));
            w.within(SOON, || routes(w).len() == 1);
            w.answered_by(&flow, L1);
        }),
    ];
    cases.into_iter().map(Case::names_its_carrier).collect()
}
