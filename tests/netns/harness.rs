//! The harness itself: it must see what is there, and fail when it is not.

use super::support::flow::Manner;
use super::support::plan::{Ext, L1, L2, Node, NodeB, R1, V4};
use super::support::runner::{Case, case};
use super::support::servers::{Tcp, Udp};
use super::support::sniff::{SYN, Segment, send_segment};
use super::support::world::World;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

/// DNAT by rules written here: half of the connections to L1, the rest to R1.
fn translate(w: &World, more: &str) {
    let (ip, to) = if w.family == V4 { ("ip", w.cip()) } else { ("ip6", w.cip()) };
    let (a, b) = (w.address(L1), w.address(R1));
    w.netns(Node).nft(&format!(
        "table inet by_hand {{
            chain pre {{ type nat hook prerouting priority dstnat;
                {ip} daddr {to} tcp dport 80 dnat {ip} to numgen random mod 2 map {{ 0 : {a}, 1 : {b} }} : 8080
                {ip} daddr {to} udp dport 80 dnat {ip} to {a} : 8080
                {ip} daddr {to} tcp dport 81 reject with tcp reset
                {ip} daddr {to} udp dport 81 reject
                {ip} daddr {to} tcp dport 82 drop
            }}
            chain post {{ type nat hook postrouting priority srcnat; {more}
            }}
        }}"
    ));
}

/// What a failed check says.
fn complaint(check: impl FnOnce()) -> String {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let caught = catch_unwind(AssertUnwindSafe(check));
    std::panic::set_hook(hook);
    let panic = caught.expect_err("the check must fail");
    panic.downcast_ref::<String>().cloned().unwrap_or_default()
}

pub fn cases() -> Vec<Case> {
    let cases = vec![
        case("everybody reaches every pod directly, with its own address", |w| {
            for (who, pod) in [(L2, L1), (L1, R1), (R1, L1), (Ext, L1), (Ext, R1), (Node, L1), (Node, R1)] {
                w.tcp(who, w.address(pod), 8080).times(3).only([pod]).source_kept().on_port(8080);
                w.udp(who, w.address(pod), 9090).times(3).only([pod]).source_kept().on_port(9090);
            }
            let twentieth = w.family.crowd()[19];
            w.tcp(Ext, w.address(L1), 80).from(twentieth).only([L1]).source_kept();
            let one_of_many = SocketAddr::new(w.family.extra_endpoint(7), 8088);
            w.servers(L1).listen([(Tcp, one_of_many)]);
            for who in [L2, R1, Node, Ext] {
                w.tcp(who, one_of_many.ip(), 8088).only([L1]).source_kept();
            }
            w.servers(L1).close(Tcp, one_of_many);
            w.tcp(L2, one_of_many.ip(), 8088).refused();
        })
        .without_vipd(),
        case("the harness sees an even spread and a kept source", |w| {
            translate(w, "");
            w.tcp(L2, w.cip(), 80).times(300).spread([L1, R1]).source_kept();
        })
        .without_vipd(),
        case("the harness sees a masqueraded source", |w| {
            translate(w, "ct status dnat masquerade");
            w.tcp(L2, w.cip(), 80).times(20).reached().masqueraded();
            let said = complaint(|| drop(w.tcp(L2, w.cip(), 80).times(20).reached().source_kept()));
            assert!(said.contains("the client's own address"), "{said}");
        })
        .without_vipd(),
        case("the harness reports an uneven spread, a missing server and a failed connection", |w| {
            translate(w, "");
            let said = complaint(|| drop(w.tcp(L2, w.address(L1), 80).times(50).spread([L1, R1])));
            assert!(said.contains("exactly"), "{said}");
            let load = w.load(L2, w.cip(), 80, 100);
            std::thread::sleep(Duration::from_millis(300));
            w.sh(Node, "nft insert rule inet by_hand pre tcp dport 80 reject with tcp reset");
            std::thread::sleep(Duration::from_millis(300));
            let replies = load.stop();
            assert!(replies.failures() > 5, "{replies}");
            assert!(replies.outcomes.len() > 40 && replies.outcomes.len() < 100, "{replies}");
            let said = complaint(|| drop(replies.reached()));
            assert!(said.contains("Refused"), "{said}");
        })
        .without_vipd(),
        case("the harness tells a refusal at once from silence", |w| {
            translate(w, "");
            w.tcp(L2, w.cip(), 81).times(5).refused();
            w.udp(L2, w.cip(), 81).times(5).refused();
            w.tcp(L2, w.cip(), 82).times(3).dropped();
            let said = complaint(|| drop(w.tcp(L2, w.cip(), 81).dropped()));
            assert!(said.contains("wanted silence"), "{said}");
            let said = complaint(|| drop(w.tcp(L2, w.cip(), 82).refused()));
            assert!(said.contains("Timeout"), "{said}");
        })
        .without_vipd(),
        case("the harness sees what leaves the node and which ICMP errors come back", |w| {
            translate(w, "");
            let (uplink, client) = (w.sniff(NodeB), w.sniff(L2));
            w.udp(L2, w.cip(), 81).times(3).refused();
            assert_eq!(client.port_unreachable(SocketAddr::new(w.cip(), 81)), 3);
            uplink.nothing_of(w.cip());
            let segment = Segment {
                from: SocketAddr::new(w.address(L2), 4321),
                to: SocketAddr::new(w.cip(), 99),
                flags: SYN,
                seq: 1,
                ack: 0,
            };
            send_segment(w.netns(L2), segment);
            let said = complaint(|| uplink.nothing_of(w.cip()));
            assert!(said.contains("dport: 99"), "{said}");
        })
        .without_vipd(),
        case("the harness follows flows: who answers, what is lost, what was refused", |w| {
            translate(w, "");
            let to = SocketAddr::new(w.cip(), 80);
            let start = Instant::now();
            let tcp = w.flow(L2, Tcp, to, Duration::from_millis(10), Manner::Talking);
            let udp = w.flow(L2, Udp, to, Duration::from_millis(10), Manner::Talking);
            let quiet = w.flow(Ext, Udp, to, Duration::from_millis(10), Manner::OneWay);
            std::thread::sleep(Duration::from_millis(500));
            tcp.undisturbed(start);
            udp.undisturbed(start);
            assert_eq!(udp.ports(start), [8080].into());
            assert!(w.servers(L1).arrived(w.address(Ext), start) > 20);
            assert!(quiet.servers(start).is_empty() && quiet.errors(start).is_empty());
            assert_eq!(w.conntrack(w.address(Ext), w.cip()).len(), 1);
            w.netns(Node).nft("add table inet cut; add chain inet cut f { type filter hook forward priority 0; policy drop; }");
            std::thread::sleep(Duration::from_millis(600));
            assert!(!udp.lost().is_empty());
            let said = complaint(|| udp.undisturbed(start));
            assert!(said.contains("disturbed"), "{said}");
        })
        .without_vipd(),
    ];
    cases.into_iter().map(Case::names_its_carrier).collect()
}
