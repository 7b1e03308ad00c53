//! Cluster IPs: who reaches which endpoint, and with which source address.

use super::support::manifests::{ep, no_endpoints, slice, svc, tcp};
use super::support::plan::{Ext, L1, L2, L3, Node, NodeB, R1, R2, V4, V6};
use super::support::runner::{Case, case};
use super::support::servers::Tcp;
use std::net::SocketAddr;

pub fn cases() -> Vec<Case> {
    vec![
        case("1 a pod hits both endpoints of a cluster IP evenly and keeps its address", |w| {
            w.serve(svc().on([L1, R1]));
            w.tcp(L2, w.cip(), 80).times(400).spread([L1, R1]).source_kept().on_port(8080);
        }),
        case("1 UDP does the same", |w| {
            w.serve(svc().udp().on([L1, R1]));
            w.udp(L2, w.cip(), 80).times(300).spread([L1, R1]).source_kept().on_port(8080);
            w.udp(Node, w.cip(), 80).times(50).spread([L1, R1]).masqueraded();
            w.udp(Ext, w.cip(), 80).times(50).spread([L1, R1]).masqueraded();
        }),
        case("1 one, two, three and five endpoints each get an even share", |w| {
            w.serve(svc().on([L1]));
            w.tcp(L2, w.cip(), 80).times(20).spread([L1]);
            w.serve(svc().on([L1, L3, R2]));
            w.tcp(L2, w.cip(), 80).times(300).spread([L1, L3, R2]);
            w.serve(svc().on([L1, L2, L3, R1, R2]));
            w.tcp(Ext, w.cip(), 80).times(500).spread([L1, L2, L3, R1, R2]).masqueraded();
            w.serve(svc().on([R2, L3]));
            w.tcp(L2, w.cip(), 80).times(200).spread([L3, R2]);
        }),
        case("2 a pod reaches itself through its service, masqueraded (hairpin)", |w| {
            w.serve(svc().on([L1]));
            w.tcp(L1, w.cip(), 80).times(20).only([L1]).masqueraded();
            w.tcp(L2, w.cip(), 80).times(20).only([L1]).source_kept();
        }),
        case("2 only the connections that come back to their own pod are masqueraded", |w| {
            w.serve(svc().on([L1, L2]));
            let replies = w.tcp(L1, w.cip(), 80).times(200).spread([L1, L2]);
            for answer in replies.answers() {
                let expected = if answer.server == "L1" { w.address(Node) } else { w.seen(L1) };
                replies.check(
                    answer.peer.ip() == expected,
                    format_args!("{} seen by {}", expected, answer.server),
                );
            }
        }),
        case("2 an endpoint without nodeName reaches itself, masqueraded (hairpin)", |w| {
            let unplaced = |who| ep(who).without_node();
            w.serve(svc().on([unplaced(L1), unplaced(L2)]));
            for (who, other) in [(L1, L2), (L2, L1)] {
                let replies = w.tcp(who, w.cip(), 80).times(200).spread([who, other]);
                for answer in replies.answers() {
                    let seen_by_itself = answer.server == who.name();
                    let expected = if seen_by_itself { w.address(Node) } else { w.seen(who) };
                    replies.check(answer.peer.ip() == expected, format_args!("{expected} seen"));
                }
            }
            w.udp(L1, w.cip(), 80).times(3).refused();
            w.tcp(L3, w.cip(), 80).times(50).reached().source_kept();
        }),
        case("3 the node reaches a cluster IP, masqueraded", |w| {
            w.serve(svc().on([L1, R1]));
            w.tcp(Node, w.cip(), 80).times(200).spread([L1, R1]).masqueraded();
        }),
        case("4 an outside client that routes to a cluster IP is served, masqueraded", |w| {
            w.serve(svc().on([L1, R1]));
            w.tcp(Ext, w.cip(), 80).times(200).spread([L1, R1]).masqueraded();
        }),
        case("5 masquerade-all: every connection to a cluster IP is masqueraded", |w| {
            w.serve(svc().on([L1, R1]));
            for who in [L2, Node, Ext] {
                w.tcp(who, w.cip(), 80).times(200).spread([L1, R1]).masqueraded();
            }
            w.tcp(L2, w.address(L1), 8080).untraced().times(5).only([L1]).source_kept();
        })
        .flag("--masquerade-all", ""),
        case("11 internalTrafficPolicy Local keeps cluster IP traffic on the node", |w| {
            w.serve(svc().local().on([L1, R1]));
            w.tcp(L2, w.cip(), 80).times(100).only([L1]).source_kept();
            w.tcp(Node, w.cip(), 80).times(100).only([L1]).masqueraded();
            w.tcp(Ext, w.cip(), 80).times(100).only([L1]).masqueraded();
        }),
        case("51 a dual-stack service with endpoints in one family only", |w| {
            let (four, six) = (w.over(V4), w.over(V6));
            w.serve(svc().dual_stack());
            six.serve(slice([L1, R1]).named("six"));
            four.tcp(L2, four.cip(), 80).times(3).refused();
            six.tcp(L2, six.cip(), 80).times(200).spread([L1, R1]).source_kept();
            four.serve(slice([R2]).named("four"));
            four.tcp(L2, four.cip(), 80).times(20).only([R2]).source_kept();
            six.tcp(L2, six.cip(), 80).times(200).spread([L1, R1]).source_kept();
            six.serve(no_endpoints().named("six"));
            six.tcp(L2, six.cip(), 80).times(3).refused();
            four.tcp(L2, four.cip(), 80).times(20).only([R2]).source_kept();
        })
        .once(),
        case("65 endpoints on the host network, of this node and of the other", |w| {
            for host in [Node, NodeB] {
                w.servers(host).listen([(Tcp, SocketAddr::new(w.address(host), 8080))]);
            }
            w.serve(svc().on([Node, NodeB]));
            w.tcp(L2, w.cip(), 80).times(200).spread([Node, NodeB]).source_kept();
            w.tcp(Node, w.cip(), 80).times(200).spread([Node, NodeB]).masqueraded();
            w.serve(svc().local().on([Node, NodeB]));
            w.tcp(L2, w.cip(), 80).times(50).only([Node]).source_kept();
            w.tcp(Node, w.cip(), 80).times(50).only([Node]).masqueraded();
        }),
        case("the nginx service of the example: port 8000, target port 80, three pods", |w| {
            let nginx =
                svc().named("nginx", 0).at(w.family.nginx()).ports([tcp("", 8000).target(80)]);
            w.serve(nginx.on([L1, L2, R1]).to(80));
            let (l3, node) =
                (w.tcp(L3, w.family.nginx(), 8000), w.tcp(Node, w.family.nginx(), 8000));
            l3.times(300).spread([L1, L2, R1]).source_kept().on_port(80);
            node.times(300).spread([L1, L2, R1]).masqueraded().on_port(80);
            w.tcp(Ext, w.family.nginx(), 8000).times(300).spread([L1, L2, R1]).masqueraded();
            w.tcp(L3, w.family.nginx(), 80).times(3).refused();
            let told = w.vipd("describe service default/nginx");
            for word in ["nginx", &w.family.nginx().to_string(), "8000", &w.address(L1).to_string()]
            {
                assert!(
                    told.code == 0 && told.out.contains(word),
                    "{word} is missing in {}",
                    told.out
                );
            }
        }),
        case("two services do not mix, nor two ports, nor TCP and UDP of one number", |w| {
            w.write(svc().on([L1]));
            w.write(svc().named("other", 42).on([R1]));
            let both = [tcp("t", 53), super::support::manifests::udp("u", 53)];
            w.write(svc().named("dns", 43).ports(both));
            w.write(slice([L2]).of("dns").named("t").ports([tcp("t", 8080)]));
            w.serve(
                slice([R2]).of("dns").named("u").ports([super::support::manifests::udp("u", 9090)]),
            );
            w.tcp(L3, w.cip(), 80).times(50).only([L1]);
            w.tcp(L3, w.family.cluster_ip(42), 80).times(50).only([R1]);
            w.tcp(L3, w.family.cluster_ip(43), 53).times(50).only([L2]).on_port(8080);
            w.udp(L3, w.family.cluster_ip(43), 53).times(50).only([R2]).on_port(9090);
        }),
    ]
}
