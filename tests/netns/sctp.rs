//! SCTP, by the first packet of an association: its sockets need a module that most kernels lack,
//! translating its packets does not.

use super::support::manifests::{File, Manifest, Svc, draining, ep, svc};
use super::support::nft::TABLE;
use super::support::plan::{Ext, Family, L1, L2, NODE_PORT, Node, NodeB, R1, V4, Who};
use super::support::runner::{Case, case, skip};
use super::support::sniff::{SCTP, send_sctp_init};
use super::support::trace::{Trace, Verdict};
use super::support::world::World;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicU16, Ordering};

/// The same Service and slice with SCTP for TCP.
struct OverSctp(Svc);

impl Manifest for OverSctp {
    fn files(&self, family: Family) -> Vec<File> {
        let over_sctp = |mut object: Value| {
            for place in ["/spec/ports", "/ports"] {
                let ports = object.pointer_mut(place).and_then(Value::as_array_mut);
                ports.into_iter().flatten().for_each(|port| port["protocol"] = json!("SCTP"));
            }
            object
        };
        let files = self.0.files(family).into_iter();
        let over_sctp = |file: File| File {
            objects: file.objects.into_iter().map(over_sctp).collect(),
            ..file
        };
        files.map(over_sctp).collect()
    }
}

/// With every way in.
fn exposed(w: &World) -> Svc {
    svc().node_port(NODE_PORT).load_balancer([w.vip()]).external_ips([w.family.external_ip()])
}

fn ways(w: &World) -> [SocketAddr; 3] {
    let external = [w.vip(), w.family.external_ip()].map(|ip| SocketAddr::new(ip, 80));
    [SocketAddr::new(w.address(Node), NODE_PORT), external[0], external[1]]
}

fn cluster_ip(w: &World) -> SocketAddr {
    SocketAddr::new(w.cip(), 80)
}

fn needs_tracking(w: &World) {
    let setting = "/proc/sys/net/netfilter/nf_conntrack_sctp_timeout_established";
    if !w.netns(Node).enter(|| Path::new(setting).exists()) {
        skip("this kernel does not track SCTP (CONFIG_NF_CT_PROTO_SCTP)");
    }
}

/// No two associations have the same source port: conntrack would take them for one.
static NEXT_PORT: AtomicU16 = AtomicU16::new(20_000);

/// What became of the first packets of some associations.
#[derive(Debug)]
struct Begun {
    from: IpAddr,
    masqueraded: IpAddr,
    times: usize,
    /// Where they arrived, with the source that they had there.
    arrived: Vec<(Who, IpAddr)>,
    /// ICMP port unreachable, back at the client.
    refusals: usize,
}

/// So many associations with each of these addresses.
fn begin(w: &World, (who, from): (Who, IpAddr), to: &[SocketAddr], times: usize) -> Begun {
    let pods = [L1, R1].map(|pod| (pod, w.sniff(pod)));
    let client = w.sniff(who);
    for to in to.repeat(times) {
        let port = NEXT_PORT.fetch_add(1, Ordering::Relaxed);
        send_sctp_init(w.netns(who), SocketAddr::new(from, port), to);
    }
    let mut arrived = Vec::new();
    for (pod, seen) in &pods {
        let at = (SCTP, w.address(*pod), 8080);
        let packets = seen.packets(|packet| (packet.proto, packet.dst, packet.dport) == at);
        arrived.extend(packets.into_iter().map(|packet| (*pod, packet.src)));
    }
    let refusal = if w.family == V4 { (3, 3) } else { (1, 4) };
    let refusals = client.packets(|packet| {
        let about = packet.about.as_ref().map(|about| SocketAddr::new(about.dst, about.dport));
        packet.icmp == Some(refusal) && about.is_some_and(|about| to.contains(&about))
    });
    Begun {
        from,
        masqueraded: w.address(Node),
        times: times * to.len(),
        arrived,
        refusals: refusals.len(),
    }
}

fn begin_as(w: &World, who: Who, to: SocketAddr, times: usize) -> Begun {
    begin(w, (who, w.family.client_address(who)), &[to], times)
}

impl Begun {
    /// Each arrived once, and at each of these pods one did.
    #[track_caller]
    fn came_to<const N: usize>(self, pods: [Who; N]) -> Self {
        let seen: BTreeSet<Who> = self.arrived.iter().map(|(pod, _)| *pod).collect();
        let all = self.arrived.len() == self.times && self.refusals == 0;
        assert!(all && seen == pods.into(), "{self:?}; wanted {pods:?}");
        self
    }

    #[track_caller]
    fn seen_as(self, source: IpAddr) -> Self {
        let all = self.arrived.iter().all(|(_, seen)| *seen == source);
        assert!(all, "{self:?}; wanted {source}");
        self
    }

    #[track_caller]
    fn source_kept(self) -> Self {
        let own = self.from;
        self.seen_as(own)
    }

    #[track_caller]
    fn masqueraded(self) -> Self {
        let node = self.masqueraded;
        self.seen_as(node)
    }

    #[track_caller]
    fn refused(self) {
        let all = self.arrived.is_empty() && self.refusals == self.times;
        assert!(all, "{self:?}; wanted refusals");
    }

    #[track_caller]
    fn dropped(self) {
        let all = self.arrived.is_empty() && self.refusals == 0;
        assert!(all, "{self:?}; wanted silence");
    }

    #[track_caller]
    fn one_pod(self) -> Who {
        let seen: BTreeSet<Who> = self.arrived.iter().map(|(pod, _)| *pod).collect();
        assert!(self.arrived.len() == self.times && seen.len() == 1, "{self:?}; wanted one pod");
        self.arrived[0].0
    }
}

pub fn cases() -> Vec<Case> {
    vec![
        case("6 SCTP: everybody reaches all endpoints by every way in", |w| {
            needs_tracking(w);
            w.serve(OverSctp(exposed(w).on([L1, R1])));
            begin_as(w, L2, cluster_ip(w), 40).came_to([L1, R1]).source_kept();
            begin_as(w, Node, cluster_ip(w), 40).came_to([L1, R1]).masqueraded();
            begin_as(w, Ext, cluster_ip(w), 40).came_to([L1, R1]).masqueraded();
            for to in ways(w) {
                for who in [L2, Node, Ext] {
                    begin_as(w, who, to, 40).came_to([L1, R1]).masqueraded();
                }
            }
            w.serve(OverSctp(svc().on([L1])));
            begin_as(w, L1, cluster_ip(w), 5).came_to([L1]).masqueraded();
        }),
        case(
            "7 8 9 SCTP, policy Local: outsiders stay here, local pods and the node do not",
            |w| {
                needs_tracking(w);
                w.serve(OverSctp(exposed(w).external_local().on([L1, R1])));
                for to in ways(w) {
                    begin_as(w, Ext, to, 20).came_to([L1]).source_kept();
                    begin_as(w, L2, to, 40).came_to([L1, R1]).source_kept();
                    begin_as(w, Node, to, 40).came_to([L1, R1]).masqueraded();
                }
                w.serve(OverSctp(exposed(w).local().on([R1])));
                begin_as(w, L2, cluster_ip(w), 3).dropped();
            },
        ),
        case("14 SCTP without endpoints is refused by every way in", |w| {
            needs_tracking(w);
            let uplink = w.sniff(NodeB);
            w.serve(OverSctp(exposed(w)));
            for to in [cluster_ip(w)].into_iter().chain(ways(w)) {
                begin_as(w, L2, to, 3).refused();
                begin_as(w, Ext, to, 3).refused();
            }
            uplink.nothing_of(w.vip());
        }),
        case("24 SCTP: a terminating endpoint is not used while ready ones exist", |w| {
            needs_tracking(w);
            w.serve(OverSctp(svc().on([draining(L1), ep(R1)])));
            begin_as(w, L2, cluster_ip(w), 20).came_to([R1]);
        }),
        case("SCTP affinity is shared by cluster IP, node port, VIP and external IP", |w| {
            needs_tracking(w);
            w.serve(OverSctp(exposed(w).sticky(600).on([L1, R1])));
            let [node_port, vip, external_ip] = ways(w);
            let ways = [node_port, vip, external_ip, cluster_ip(w)];
            let pin = |client| begin(w, (Ext, client), &ways, 3).one_pod();
            let pods: BTreeSet<Who> = w.family.crowd().into_iter().map(pin).collect();
            assert!(pods.len() > 1, "20 clients all on {pods:?}");
        }),
        case("a node port of SCTP: by rule and look-up", |w| {
            w.serve(OverSctp(svc().node_port(NODE_PORT).on([L1])));
            let to = SocketAddr::new(w.address(Node), NODE_PORT);
            let told =
                w.vipd(&format!("trace {} {to}/SCTP --in-interface ext0 -o json", w.address(Ext)));
            let trace = Trace::parse(&told.out).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(trace.verdict, Verdict::Forward, "{}", told.out);
            assert_eq!(trace.endpoints[0].address, SocketAddr::new(w.address(L1), 8080));
            let map = if w.family == V4 { "nodeports4" } else { "nodeports6" };
            w.sh(Node, &format!("nft get element {TABLE} {map} '{{ sctp . {NODE_PORT} }}'"));
            let rules = w.sh(Node, &format!("nft list table {TABLE}"));
            let spread = if w.family == V4 { "spread4-sctp-1" } else { "spread6-sctp-1" };
            assert!(rules.contains(&format!("chain {spread} ")), "{rules}");
        }),
    ]
}
