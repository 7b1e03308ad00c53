//! Packets that connection tracking calls INVALID: they are not translated, so they must not
//! pass where a service's connection is.

use super::support::manifests::svc;
use super::support::plan::{L1, L2, L3, Node, NodeB, Who};
use super::support::runner::{Case, case};
use super::support::servers::Tcp;
use super::support::sniff::{ACK, RST, SYN, Segment, Sniffer, offer_segment, send_segment};
use super::support::world::World;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

/// Far outside of any window: one of the four is, whatever the connection's numbers are.
const SEQUENCES: [u32; 4] = [0, 1 << 30, 1 << 31, 3 << 30];

fn segments(from: SocketAddr, to: SocketAddr, flags: u8) -> [Segment; 4] {
    SEQUENCES.map(|seq| Segment { from, to, flags, seq, ack: seq })
}

/// Strays of a client to anywhere.
pub fn strays(w: &World, who: Who, (from, to): (SocketAddr, SocketAddr), flags: u8) {
    for segment in segments(from, to, flags) {
        send_segment(w.netns(who), segment);
    }
}

/// Strays from the endpoint: into an open connection, and of no connection at all.
fn strays_from_endpoint(w: &World, client: SocketAddr) {
    let endpoint = SocketAddr::new(w.address(L1), 8080);
    let nobody = SocketAddr::new(client.ip(), 19_999);
    for segment in
        segments(endpoint, client, ACK).into_iter().chain(segments(endpoint, nobody, SYN | ACK))
    {
        send_segment(w.netns(L1), segment);
    }
}

/// Strays to the cluster IP.
fn strays_to_service(w: &World, client: SocketAddr) {
    let service = SocketAddr::new(w.cip(), 80);
    let nobody = SocketAddr::new(client.ip(), 19_998);
    for segment in segments(client, service, ACK).into_iter().chain(segments(nobody, service, RST))
    {
        send_segment(w.netns(L2), segment);
    }
}

fn seen_from(sniffer: &Sniffer, address: IpAddr) -> usize {
    sniffer.packets(|packet| packet.src == address).len()
}

pub fn cases() -> Vec<Case> {
    vec![
        case("strays of a service's connection reach neither the client nor the uplink", |w| {
            w.serve(svc().on([L1]));
            let start = Instant::now();
            let flow = w.talking(L2, Tcp, w.cip(), 80);
            let (client, uplink) = (w.sniff(L2), w.sniff(NodeB));
            strays_from_endpoint(w, flow.local);
            strays_to_service(w, flow.local);
            w.sleep(300);
            assert_eq!(
                seen_from(&client, w.address(L1)),
                0,
                "the client saw the endpoint's own address"
            );
            uplink.nothing_of(w.cip());
            flow.undisturbed(start);
        })
        .kernel_only(
            "no packet of a relayed connection is translated, so none is seen untranslated",
        ),
        case("strays of a connection that outlives its service stay on the node", |w| {
            w.serve(svc().on([L1]));
            let start = Instant::now();
            let flow = w.talking(L2, Tcp, w.cip(), 80);
            w.withdraw(svc());
            let uplink = w.sniff(NodeB);
            strays_to_service(w, flow.local);
            w.sleep(300);
            uplink.nothing_of(w.cip());
            flow.undisturbed(start);
        }),
        case("strays of who was an endpoint until lately reach nobody", |w| {
            for last in [svc().on([L3]), svc()] {
                w.serve(svc().on([L1]));
                let flow = w.talking(L2, Tcp, w.cip(), 80);
                w.serve(last);
                let start = Instant::now();
                let client = w.sniff(L2);
                strays_from_endpoint(w, flow.local);
                w.sleep(300);
                assert_eq!(seen_from(&client, w.address(L1)), 0, "it saw the former endpoint");
                flow.undisturbed(start);
            }
        })
        .kernel_only(
            "no packet of a relayed connection is translated, so none is seen untranslated",
        ),
        case("strays of the node itself to a service stay on the node", |w| {
            w.serve(svc().on([L1]));
            let start = Instant::now();
            let flow = w.talking(Node, Tcp, w.cip(), 80);
            let uplink = w.sniff(NodeB);
            let (service, nobody) =
                (SocketAddr::new(w.cip(), 80), SocketAddr::new(flow.local.ip(), 19_998));
            let into = segments(flow.local, service, ACK).into_iter();
            let all = into.chain(segments(nobody, service, RST));
            let dropped = all.filter(|segment| offer_segment(w.netns(Node), *segment).is_err());
            assert!(dropped.count() >= 5, "the node's own strays left it");
            w.sleep(300);
            uplink.nothing_of(w.cip());
            flow.undisturbed(start);
        }),
        case("with the switch off, strays pass: what the case above sees is vipd's doing", |w| {
            w.serve(svc().on([L1]));
            let flow = w.talking(L2, Tcp, w.cip(), 80);
            let (client, uplink) = (w.sniff(L2), w.sniff(NodeB));
            strays_from_endpoint(w, flow.local);
            strays_to_service(w, flow.local);
            assert!(seen_from(&client, w.address(L1)) >= 4, "no stray reached the client");
            let leaked = uplink.packets(|packet| packet.dst == w.cip());
            assert!(!leaked.is_empty(), "no stray reached the uplink");
        })
        .kernel_only(
            "no packet of a relayed connection is translated, so none is seen untranslated",
        )
        .flag("--drop-invalid", "false"),
        case("strays between pods that have no part in a service are left alone", |w| {
            w.serve(svc().on([L1]));
            let client = w.sniff(L2);
            let (from, to) =
                (SocketAddr::new(w.address(L3), 8080), SocketAddr::new(w.address(L2), 19_997));
            for segment in segments(from, to, SYN | ACK) {
                send_segment(w.netns(L3), segment);
            }
            assert_eq!(seen_from(&client, w.address(L3)), 4, "a stray of no service was dropped");
        }),
    ]
}
