//! What must happen to a packet.

use super::*;
use crate::planner::{Packet, TraceError, trace};
use rstest::rstest;

fn world(policy: Policy) -> Plan {
    let mut spread = service("spread", &["10.254.0.1", "fd00::1"], &[":80/TCP"]);
    spread.affinity = seconds(10);
    let mut own = service("own", &["10.254.0.2"], &[":80/TCP", "u:80/UDP"]);
    own.internal_policy = TrafficPolicy::Local;
    let empty = service("empty", &["10.254.0.3"], &[":80/TCP"]);
    let mut late = service("late", &["10.254.0.1"], &[":80/TCP", "more:81/TCP"]);
    late.created = Created::new(None);
    spread.created = Created::new(Some(1));
    let known = |service: Service, ports: &[&str], endpoints: &[&str]| Known {
        slices: [slice(&format!("{}-1", service.key.name()), set(ports, endpoints))].into(),
        service: Some(Arc::new(service)),
        endpoints: None,
    };
    let known = all([
        known(spread, &[":8080/TCP"], &["10.180.0.1 @a", "10.180.1.1 @b"]),
        known(own, &[":8080/TCP"], &["10.180.1.1 @b"]),
        known(empty, &[":8080/TCP"], &["10.180.1.1 unready @b"]),
        known(late, &["more:8080/TCP"], &["10.180.0.5"]),
    ]);
    planner(policy, &known).plan().clone()
}

/// `forward 10.180.0.1:8080 10.180.1.1:8080~` with `~` where masqueraded, or another verdict.
pub(super) fn run(plan: &Plan, from: &str, to: &str) -> String {
    let (address, port) = to.rsplit_once(':').unwrap();
    let (port, protocol) = port.split_once('/').unwrap();
    let packet = Packet {
        source: from.parse().unwrap(),
        in_interface: None,
        protocol: Protocol::ALL.into_iter().find(|p| p.name() == protocol).unwrap(),
        destination: address.parse().unwrap(),
        port: port.parse().unwrap(),
    };
    let trace = trace(plan, &packet).unwrap();
    assert!(trace.steps.iter().all(|step| !step.what.is_empty() && !step.why.is_empty()));
    let masquerades = trace.endpoints.iter().map(|endpoint| endpoint.masquerade);
    let agreed = masquerades.reduce(|a, b| if a == b { a } else { !b });
    if trace.masquerade.is_some() {
        assert_eq!(trace.masquerade, Some(agreed.unwrap_or(false)));
    }
    let mut text = trace.verdict.name().to_owned();
    for endpoint in &trace.endpoints {
        text += &format!(" {}{}", endpoint.target, if endpoint.masquerade { "~" } else { "" });
    }
    text
}

const POD: &str = "10.180.0.9";
const NODE: &str = "192.168.0.2";
const OUTSIDE: &str = "203.0.113.2";

#[rstest]
#[case::pod(POD, "10.254.0.1:80/TCP", "forward 10.180.0.1:8080 10.180.1.1:8080")]
#[case::node(NODE, "10.254.0.1:80/TCP", "forward 10.180.0.1:8080~ 10.180.1.1:8080~")]
#[case::second_node_address(
    "192.168.1.2",
    "10.254.0.1:80/TCP",
    "forward 10.180.0.1:8080~ 10.180.1.1:8080~"
)]
#[case::outside(OUTSIDE, "10.254.0.1:80/TCP", "forward 10.180.0.1:8080~ 10.180.1.1:8080~")]
#[case::hairpin("10.180.0.1", "10.254.0.1:80/TCP", "forward 10.180.0.1:8080~ 10.180.1.1:8080")]
#[case::lost_frontend_is_the_holders(POD, "10.254.0.1:81/TCP", "forward 10.180.0.5:8080")]
#[case::other_protocol(POD, "10.254.0.1:80/UDP", "reject")]
#[case::unused_port(POD, "10.254.0.1:82/TCP", "reject")]
#[case::no_endpoints_v6("fd00:180::1", "fd00::1:80/TCP", "reject")]
#[case::unused_port_v6("fd00:180::1", "fd00::1:81/TCP", "reject")]
#[case::elsewhere_only(POD, "10.254.0.2:80/TCP", "drop")]
#[case::none_at_all(POD, "10.254.0.2:80/UDP", "reject")]
#[case::not_ready(POD, "10.254.0.3:80/TCP", "reject")]
#[case::unallocated(POD, "10.254.9.9:80/TCP", "drop")]
#[case::not_ours(POD, "198.51.100.1:80/TCP", "pass")]
#[case::unallocated_v6_without_range("fd00:180::1", "fd00::9:80/TCP", "pass")]
fn verdicts(#[case] from: &str, #[case] to: &str, #[case] expected: &str) {
    assert_eq!(run(&world(policy()), from, to), expected);
}

#[rstest]
#[case::no_detector(Policy { detect: DetectLocal::None, ..policy() }, OUTSIDE, "")]
#[case::all(Policy { masquerade_all: true, ..policy() }, POD, "~")]
#[case::node_cidr(Policy { detect: DetectLocal::NodeCidr, ..policy() }, POD, "")]
#[case::outside_node_cidr(Policy { detect: DetectLocal::NodeCidr, ..policy() }, "10.180.1.9", "~")]
fn masquerade(#[case] policy: Policy, #[case] from: &str, #[case] mark: &str) {
    let expected = format!("forward 10.180.0.1:8080{mark} 10.180.1.1:8080{mark}");
    assert_eq!(run(&world(policy), from, "10.254.0.1:80/TCP"), expected);
}

fn by_interface(
    detect: DetectLocal,
    source: &str,
    interface: Option<&str>,
) -> Result<Option<bool>, TraceError> {
    let packet = Packet {
        source: source.parse().unwrap(),
        in_interface: interface,
        protocol: Protocol::Tcp,
        destination: "10.254.0.1".parse().unwrap(),
        port: 80,
    };
    trace(&world(Policy { detect, ..policy() }), &packet).map(|trace| trace.masquerade)
}

#[test]
fn interface_detectors_ask_for_the_interface_only_if_it_matters() {
    let bridge = || DetectLocal::BridgeInterface("cni0".into());
    let prefix = || DetectLocal::InterfaceNamePrefix("veth".into());
    assert_eq!(by_interface(bridge(), OUTSIDE, Some("cni0")), Ok(Some(false)));
    assert_eq!(by_interface(bridge(), OUTSIDE, Some("cni01")), Ok(Some(true)));
    assert_eq!(by_interface(prefix(), OUTSIDE, Some("veth12")), Ok(Some(false)));
    assert_eq!(by_interface(prefix(), OUTSIDE, Some("eth0")), Ok(Some(true)));
    assert_eq!(by_interface(prefix(), NODE, None), Ok(Some(true)));
    let detector = LocalDetector::Interface("cni0".into());
    assert_eq!(
        by_interface(bridge(), OUTSIDE, None),
        Err(TraceError::InterfaceNeeded { detector })
    );
    let unused = Packet {
        source: OUTSIDE.parse().unwrap(),
        in_interface: None,
        protocol: Protocol::Tcp,
        destination: "10.254.0.1".parse().unwrap(),
        port: 99,
    };
    let plan = world(Policy { detect: bridge(), ..policy() });
    assert_eq!(trace(&plan, &unused).unwrap().verdict, Verdict::Reject);
}

#[test]
fn it_depends_on_the_endpoint_in_a_hairpin() {
    let cluster = DetectLocal::ClusterCidr(vec!["10.180.0.0/16".parse().unwrap()]);
    assert_eq!(by_interface(cluster, "10.180.0.1", None), Ok(None));
    // Both answers are the same.
    assert_eq!(by_interface(DetectLocal::NodeCidr, "10.180.1.1", None), Ok(Some(true)));
}

#[test]
fn families_do_not_mix() {
    let packet = Packet {
        source: POD.parse().unwrap(),
        in_interface: None,
        protocol: Protocol::Tcp,
        destination: "fd00::1".parse().unwrap(),
        port: 80,
    };
    assert!(matches!(trace(&world(policy()), &packet), Err(TraceError::MixedFamilies { .. })));
}

#[test]
fn steps_name_the_service_its_rivals_and_the_reasons() {
    let packet = Packet {
        source: "10.180.0.1".parse().unwrap(),
        in_interface: None,
        protocol: Protocol::Tcp,
        destination: "10.254.0.1".parse().unwrap(),
        port: 80,
    };
    let steps = trace(&world(policy()), &packet).unwrap().steps;
    let text: Vec<String> = steps.iter().map(|s| format!("{}: {}", s.what, s.why)).collect();
    assert_eq!(
        text,
        [
            "10.254.0.1:80/TCP is Service ns/spread: \
             it is the service's ClusterIP; ns/late claims it too, but comes later by age and name",
            "it is sent to one of 2 endpoints, 10.180.0.1:8080 and 10.180.1.1:8080: \
             each of them: ready, and no hint keeps it from this node",
            "the client keeps the endpoint it had: \
             session affinity, for 10 s after its last new connection",
            "the source is kept: 10.180.0.1 is a local pod: it lies in 10.180.0.0/16",
            "towards 10.180.0.1 itself the source becomes this node's: \
             an endpoint must answer itself through this node",
        ]
    );
}
