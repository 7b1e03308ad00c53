//! Session affinity by client address.

use super::support::manifests::{ep, slice, svc, tcp};
use super::support::plan::{Ext, L1, L2, L3, Node, NodeB, R1, R2, V4, Who};
use super::support::runner::{Case, case};
use super::support::servers::Tcp;
use super::support::world::World;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

const FOUR: [Who; 4] = [L1, L3, R1, R2];

/// Where each of these clients is pinned.
fn pins(w: &World, clients: &[IpAddr]) -> Vec<Who> {
    pins_at(w, 80, clients)
}

fn pins_at(w: &World, port: u16, clients: &[IpAddr]) -> Vec<Who> {
    let pin =
        |client: &IpAddr| w.tcp(Ext, w.cip(), port).from(*client).times(2).untraced().one_server();
    clients.iter().map(pin).collect()
}

/// Starts vipd anew with room for so many pins: a new one takes up twice the room, for a second or so.
pub fn leave_room(w: &World, clients: usize) {
    w.terminate();
    // As vipd makes it otherwise: a listing can be read again.
    let made = w.sh(Node, "nft list table inet vipd");
    let small = made.replace("size 1048576", &format!("size {}", 2 * clients));
    assert_ne!(made, small, "pins have another room");
    w.netns(Node).nft(&format!("delete table inet vipd\n{small}"));
    w.start(&[]);
    let sets = w.sh(Node, "nft -t list table inet vipd");
    assert!(!sets.contains("size 1048576"), "vipd made the sets anew: {sets}");
}

/// Takes up what room is left for pins, with those of a pool that there is not.
pub fn fill(w: &World) {
    // What was deleted has its room until the kernel's next round.
    w.sleep(2500);
    let map = if w.family == V4 { "affinity4" } else { "affinity6" };
    let mut others = 1..100;
    let refused = others.find(|other| {
        let client = if w.family == V4 { format!("192.0.2.{other}") } else { other.to_string() };
        let pin = format!("{client} . ffff:f000 timeout 1h : 0:1");
        let add = format!("nft 'add element inet vipd {map} {{ {pin} }}'");
        w.netns(Node).try_sh(&add).out.contains("Too many open files in system")
    });
    assert!(refused.is_some(), "there was room for a hundred");
}

pub fn cases() -> Vec<Case> {
    vec![
        case("37 ClientIP affinity: one endpoint per client, and a time-out that slides", |w| {
            w.serve(svc().sticky(2).on(FOUR));
            let pinned = w.tcp(L2, w.cip(), 80).times(30).one_server();
            let crowd = w.family.crowd();
            let (active, idle) = crowd.split_at(10);
            let (kept, before) = (pins(w, active), pins(w, idle));
            let all: BTreeSet<&Who> = kept.iter().chain(&before).collect();
            assert!(all.len() > 1, "20 clients all on {all:?}");
            for _ in 0..5 {
                w.sleep(700);
                assert_eq!(
                    w.tcp(L2, w.cip(), 80).untraced().one_server(),
                    pinned,
                    "moved despite activity"
                );
                assert_eq!(pins(w, active), kept, "active pins moved");
            }
            assert_ne!(pins(w, idle), before, "no pin of ten expired");
        }),
        case("37 a changed time-out applies to pins that exist", |w| {
            w.serve(svc().sticky(600).on(FOUR));
            let crowd = w.family.crowd();
            let before = pins(w, &crowd);
            w.serve(svc().sticky(1));
            w.sleep(2500);
            assert_ne!(pins(w, &crowd), before, "no pin of twenty expired");
        }),
        case(
            "38 the pinned endpoint goes, or is not ready: elsewhere at once, and a new pin",
            |w| {
                w.serve(svc().sticky(600).on(FOUR));
                let first = w.tcp(L2, w.cip(), 80).times(15).one_server();
                let rest: Vec<Who> = FOUR.into_iter().filter(|pod| *pod != first).collect();
                w.serve(slice(rest.clone()));
                let second = w.tcp(L2, w.cip(), 80).times(15).one_server();
                assert_ne!(second, first, "still on the removed endpoint");
                w.serve(slice(
                    rest.iter()
                        .map(|pod| if *pod == second { ep(*pod).not_ready() } else { ep(*pod) }),
                ));
                let third = w.tcp(L2, w.cip(), 80).times(15).one_server();
                assert!(third != first && third != second, "on an endpoint that is not ready");
            },
        ),
        case("38 endpoints that come or go leave the pins of the others", |w| {
            w.serve(svc().sticky(600).on([L1, L3, R1]));
            let crowd = w.family.crowd();
            let before = pins(w, &crowd);
            w.serve(slice(FOUR));
            assert_eq!(pins(w, &crowd), before, "a new endpoint moved pins");
            w.serve(slice([L3, R1, R2]));
            let after = pins(w, &crowd);
            for (old, new) in before.iter().zip(&after) {
                assert!(*new != L1 && (*old == L1 || old == new), "{old} became {new}");
            }
        }),
        case("each port of a Service has pins of its own", |w| {
            let ports = |numbers: [u16; 2]| [tcp("a", numbers[0]), tcp("b", numbers[1])];
            w.write(slice(FOUR).ports(ports([8080, 8081])));
            w.serve(svc().sticky(600).ports(ports([80, 81])));
            let crowd = w.family.crowd();
            let [first, second] = [80, 81].map(|port| pins_at(w, port, &crowd));
            assert_ne!(first, second, "twenty clients of four endpoints, and all pins the same");
            assert_eq!([80, 81].map(|port| pins_at(w, port, &crowd)), [first, second]);
        }),
        case("a full set of pins: further clients are served, spread and counted", |w| {
            w.serve(svc().sticky(600).on(FOUR));
            leave_room(w, 10);
            let crowd = w.family.crowd();
            let (inside, outside) = crowd.split_at(10);
            let chain = if w.family == V4 { "record4-600" } else { "record6-600" };
            let unpinned = || {
                let listed = w.sh(Node, &format!("nft list chain inet vipd {chain}"));
                let count = listed
                    .split_once("counter packets ")
                    .and_then(|(_, rest)| rest.split_whitespace().next()?.parse::<u32>().ok());
                count.unwrap_or_else(|| panic!("no counter: {listed}"))
            };
            for client in inside {
                w.tcp(Ext, w.cip(), 80).from(*client).untraced().reached();
            }
            assert_eq!(unpinned(), 0, "there was room for ten");
            fill(w);
            for client in &outside[..2] {
                let client = w.tcp(Ext, w.cip(), 80).from(*client).times(100).untraced();
                client.spread(FOUR);
            }
            assert_eq!(unpinned(), 200, "each connection without a pin counts");
        })
        .kernel_only("the set and its counter are the kernel's; the relay counts by itself"),
        case("affinity holds where INVALID packets are left alone", |w| {
            w.serve(svc().sticky(600).on(FOUR));
            let crowd = w.family.crowd();
            let before = pins(w, &crowd);
            let all: BTreeSet<&Who> = before.iter().collect();
            assert!(all.len() > 1, "20 clients all on {all:?}");
            assert_eq!(pins(w, &crowd), before, "pins moved");
            w.serve(svc());
            w.tcp(L2, w.cip(), 80).times(400).spread(FOUR);
        })
        .flag("--drop-invalid", "false"),
        case("39 affinity switched on, off, on", |w| {
            w.serve(svc().sticky(600).on(FOUR));
            w.tcp(L2, w.cip(), 80).times(15).one_server();
            w.serve(svc());
            w.tcp(L2, w.cip(), 80).times(400).spread(FOUR);
            w.serve(svc().sticky(600));
            w.tcp(L2, w.cip(), 80).times(15).one_server();
            w.serve(svc());
            w.tcp(L2, w.cip(), 80).times(400).spread(FOUR);
        }),
        case("affinity holds for endpoints on the host network, of this node too", |w| {
            for host in [Node, NodeB] {
                w.servers(host).listen([(Tcp, SocketAddr::new(w.address(host), 8080))]);
            }
            w.serve(svc().sticky(600).on([Node, NodeB]));
            let pins: BTreeSet<Who> = w
                .family
                .crowd()
                .into_iter()
                .map(|client| w.tcp(Ext, w.cip(), 80).from(client).times(8).untraced().one_server())
                .collect();
            assert_eq!(pins, [Node, NodeB].into(), "20 clients all on one");
            w.tcp(L2, w.cip(), 80).times(15).one_server();
        }),
        case(
            "affinity works for the node, for outsiders, over UDP and for a pod pinned to itself",
            |w| {
                w.serve(svc().sticky(600).udp().on(FOUR));
                for who in [L1, L2, Node, Ext] {
                    w.udp(who, w.cip(), 80).times(15).one_server();
                }
                w.serve(svc().sticky(600).on([L1]));
                w.tcp(L1, w.cip(), 80).times(5).only([L1]).masqueraded();
                w.tcp(Ext, w.cip(), 80).times(5).only([L1]).masqueraded();
                w.tcp(L2, w.cip(), 80).times(5).only([L1]).source_kept();
            },
        ),
    ]
}
