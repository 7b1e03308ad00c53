//! How EndpointSlices and Endpoints become endpoints.

use super::support::manifests::{Plain, Slice, Svc, ep, slice, svc, tcp, udp};
use super::support::nft::Watch;
use super::support::plan::{L1, L2, L3, NODE_A, NODE_B, Node, R1, R2};
use super::support::runner::{Case, case};
use super::support::servers::{Tcp, Udp};
use super::support::world::World;
use serde_json::{Value, json};
use std::time::Instant;

const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
const HEADLESS: &str = "service.kubernetes.io/headless";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MIRRORING: &str = "endpointslicemirroring-controller.k8s.io";

/// One TCP and one UDP port of these names.
fn two_ports(tcp_name: &'static str, udp_name: &'static str) -> Svc {
    svc().ports([tcp(tcp_name, 80), udp(udp_name, 53)])
}

fn two_targets(names: [&'static str; 2], number: u16) -> Slice {
    slice([L1]).ports([tcp(names[0], number), udp(names[1], number)])
}

/// A hand-made Endpoints object: L1 and R1 ready, L3 not.
fn hand_made(w: &World) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": {"name": "svc", "namespace": "default"},
        "subsets": [{
            "addresses": [
                {"ip": w.address(L1), "nodeName": NODE_A},
                {"ip": w.address(R1), "nodeName": NODE_B},
            ],
            "notReadyAddresses": [{"ip": w.address(L3), "nodeName": NODE_A}],
            "ports": [{"port": 8080, "protocol": "TCP"}],
        }],
    })
}

pub fn cases() -> Vec<Case> {
    vec![
        case("an annotation or a resourceVersion of a slice writes nothing to the kernel", |w| {
            w.serve(svc().on([L1, R1]));
            let file = w.manifests().join("svc-slice-a.yaml");
            let before = std::fs::read_to_string(&file).expect("written above");
            let watch = Watch::start(w.netns(Node));
            for version in ["1", "2"] {
                let more = format!(
                    "metadata:\n  annotations:\n    note: \"{version}\"\n  resourceVersion: \"{version}\"\n"
                );
                let text = before.replacen("metadata:\n", &more, 1);
                assert_ne!(text, before);
                let staged = w.manifests().join(".staged");
                std::fs::write(&staged, text).expect("an own /run");
                std::fs::rename(&staged, &file).expect("an own /run");
                w.sleep(50);
            }
            w.sleep(300);
            assert_eq!(watch.changes().commits, 0);
            w.serve(slice([L1]));
            assert!(watch.changes().commits > 0, "nothing was heard at all");
            w.tcp(L2, w.cip(), 80).times(10).only([L1]);
        }),
        case("18 each slice's own port number is used, targetPort is not", |w| {
            w.write(svc().ports([tcp("https", 443).target(1234)]));
            w.write(slice([L1]).named("one").ports([tcp("https", 8443)]));
            w.serve(slice([R1]).named("two").ports([tcp("https", 9443)]));
            let replies = w.tcp(L2, w.cip(), 443).times(200).spread([L1, R1]);
            for answer in replies.answers() {
                let expected = if answer.server == "L1" { 8443 } else { 9443 };
                replies.check(answer.local.port() == expected, "each pod on its own port");
            }
        }),
        case("19 the ports of a service are matched by name, not by order", |w| {
            w.write(svc().ports([tcp("a", 80), tcp("b", 81)]));
            w.serve(slice([L1, R1]).ports([tcp("b", 9090), tcp("a", 8080)]));
            w.tcp(L2, w.cip(), 80).times(100).spread([L1, R1]).on_port(8080);
            w.tcp(L2, w.cip(), 81).times(100).spread([L1, R1]).on_port(9090);
        }),
        case(
            "20 a port renamed in the slice only is refused until the service's name matches",
            |w| {
                w.write(two_ports("p", "u"));
                w.serve(two_targets(["p", "u"], 8080));
                w.tcp(L2, w.cip(), 80).times(10).only([L1]);
                let flow = w.talking(L2, Udp, w.cip(), 53);
                w.answered_by(&flow, L1);
                w.serve(two_targets(["p2", "u2"], 8080));
                w.tcp(L2, w.cip(), 80).times(3).refused();
                w.sleep(300);
                let since = Instant::now();
                w.sleep(500);
                assert!(
                    flow.servers(since).is_empty(),
                    "the UDP flow still reaches the former name"
                );
                assert!(flow.refusals(since) > 0, "the UDP flow is not refused");
                w.serve(two_ports("p2", "u2"));
                w.tcp(L2, w.cip(), 80).times(10).only([L1]);
                w.answered_by(&flow, L1);
            },
        ),
        case(
            "21 endpoint port renumbered: new connections and UDP move, established TCP stays",
            |w| {
                w.write(two_ports("p", "u"));
                w.serve(two_targets(["p", "u"], 8080));
                let start = Instant::now();
                let (old, flow) =
                    (w.talking(L2, Tcp, w.cip(), 80), w.talking(L2, Udp, w.cip(), 53));
                w.answered_by(&flow, L1);
                assert_eq!(flow.ports(start), [8080].into());
                w.serve(two_targets(["p", "u"], 9090));
                w.tcp(L2, w.cip(), 80).times(20).only([L1]).on_port(9090);
                w.sleep(300);
                let since = Instant::now();
                w.sleep(500);
                assert_eq!(flow.ports(since), [9090].into());
                old.undisturbed(start);
            },
        ),
        case("22 only the first address of an endpoint is used", |w| {
            let two = ep(L1).addresses(vec![w.address(L1), w.address(R1)]);
            w.serve(svc().on([two]));
            w.tcp(L2, w.cip(), 80).times(200).only([L1]);
        }),
        case("23 slices of type FQDN and of the other family are ignored", |w| {
            let fqdn = json!({
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {
                    "name": "svc-fqdn", "namespace": "default",
                    "labels": {"kubernetes.io/service-name": "svc"},
                },
                "addressType": "FQDN",
                "endpoints": [{"addresses": ["www.example.com"], "conditions": {"ready": true}}],
                "ports": [{"port": 8080, "protocol": "TCP"}],
            });
            w.write(Plain { name: "fqdn", objects: vec![fqdn] });
            w.write(slice([L1]).named("other").only(w.family.other()));
            w.serve(svc());
            w.tcp(L2, w.cip(), 80).times(3).refused();
            w.serve(slice([R1]).named("own"));
            w.tcp(L2, w.cip(), 80).times(20).only([R1]);
        }),
        case(
            "47 service-proxy-name on a live service, headless on a live slice, and removed",
            |w| {
                w.serve(svc().on([L1]));
                w.tcp(L2, w.cip(), 80).times(10).only([L1]);
                w.serve(svc().label(PROXY_NAME, "another"));
                w.tcp(L2, w.cip(), 80).times(2).dropped();
                w.serve(svc());
                w.tcp(L2, w.cip(), 80).times(10).only([L1]);
                w.serve(slice([L1]).label(HEADLESS, ""));
                w.tcp(L2, w.cip(), 80).times(2).refused();
                w.serve(slice([L1]));
                w.tcp(L2, w.cip(), 80).times(10).only([L1]);
                w.write(svc().label(HEADLESS, ""));
                w.serve(slice([L1]).label(PROXY_NAME, "another"));
                w.tcp(L2, w.cip(), 80).times(10).only([L1]);
            },
        ),
        case(
            "52 hand-made Endpoints: each address once, beside mirrored slices; not-ready ones never",
            |w| {
                w.write(svc());
                w.serve(Plain { name: "endpoints", objects: vec![hand_made(w)] });
                w.tcp(L2, w.cip(), 80).times(200).spread([L1, R1]).on_port(8080);
                let mirrored = slice([ep(L1), ep(R1), ep(L3).not_ready()])
                    .named("mirror")
                    .label(MANAGED_BY, MIRRORING);
                w.serve(mirrored.clone());
                w.tcp(L2, w.cip(), 80).times(200).spread([L1, R1]).on_port(8080);
                w.withdraw(Plain { name: "endpoints", objects: vec![] });
                w.tcp(L2, w.cip(), 80).times(200).spread([L1, R1]).on_port(8080);
                w.serve(slice([R2]).named("real"));
                w.tcp(L2, w.cip(), 80).times(20).only([R2]);
                w.withdraw(slice([R2]).named("real"));
                w.withdraw(mirrored);
                w.tcp(L2, w.cip(), 80).times(3).refused();
            },
        ),
        case(
            "what a manifest leaves out has the API server's default: port name, protocol, conditions",
            |w| {
                let bare = json!({
                    "apiVersion": "discovery.k8s.io/v1",
                    "kind": "EndpointSlice",
                    "metadata": {"name": "bare", "labels": {"kubernetes.io/service-name": "svc"}},
                    "addressType": w.family.kubernetes(),
                    "endpoints": [{"addresses": [w.address(L1)]}],
                    "ports": [{"port": 8080}],
                });
                let service = json!({
                    "apiVersion": "v1",
                    "kind": "Service",
                    "metadata": {"name": "svc"},
                    "spec": {"clusterIP": w.cip(), "ports": [{"port": 80}]},
                });
                w.serve(Plain { name: "bare", objects: vec![service, bare] });
                w.tcp(L2, w.cip(), 80).times(10).only([L1]).source_kept();
            },
        ),
        case("endpoints spread over several slices are one set, duplicates counted once", |w| {
            w.write(svc());
            w.write(slice([L1, R1]).named("one"));
            w.serve(slice([L1, R2]).named("two"));
            w.tcp(L2, w.cip(), 80).times(300).spread([L1, R1, R2]);
            w.withdraw(slice([R2]).named("two"));
            w.tcp(L2, w.cip(), 80).times(200).spread([L1, R1]);
        }),
    ]
}
