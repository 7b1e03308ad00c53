//! Which frontends are relayed, and what follows from it.

use super::trace::run;
use super::*;
use crate::planner::{Balanced, PodsToldBy, Relay, Served, Unrelayed, Unsplit, Way};
use rstest::rstest;
use std::net::IpAddr;
use std::time::Duration;

const BOTH: &[&str] = &["10.180.0.1 @a", "10.180.1.1 @b"];

fn userspace() -> Annotations {
    Annotations::new(Some(ProxyMode::Userspace), None, None)
}

/// `ns/web` at 10.254.0.41, relayed, with these further frontends.
fn relayed(port: &str, text: &str, endpoints: &[&str]) -> Known {
    let mut service = service("web", &["10.254.0.41"], &[port]);
    service.annotations = userspace();
    expose(&mut service, text);
    let protocol = port.rsplit_once('/').unwrap().1;
    let slice = slice("web-1", set(&[&format!(":8080/{protocol}")], endpoints));
    Known { service: Some(Arc::new(service)), slices: [slice].into(), endpoints: None }
}

/// Where the first port is relayed, and why not elsewhere.
fn carried(known: &Known, policy: &Policy) -> Vec<(FrontendKind, bool, Option<Unrelayed>)> {
    let plan = plan_service(known, &facts(), policy).unwrap();
    let port = &plan.ports[0];
    let frontends = port.frontends.iter();
    frontends.map(|one| (one.kind, port.relay_of(one).is_some(), port.unrelayed(one))).collect()
}

#[rstest]
#[case::neither(None, ProxyMode::Nftables, false)]
#[case::the_annotation(Some(ProxyMode::Userspace), ProxyMode::Nftables, true)]
#[case::the_default(None, ProxyMode::Userspace, true)]
#[case::the_annotation_first(Some(ProxyMode::Nftables), ProxyMode::Userspace, false)]
fn the_annotation_says_it_or_the_mode(
    #[case] annotation: Option<ProxyMode>,
    #[case] mode: ProxyMode,
    #[case] expected: bool,
) {
    let known = web(BOTH, |service| service.annotations = Annotations::new(annotation, None, None));
    let policy = Policy { mode, ..policy() };
    assert_eq!(carried(&known, &policy), [(FrontendKind::ClusterIp, expected, None)]);
}

#[test]
fn what_the_annotations_ask_is_in_the_plan() {
    let (balancer, proxy_protocol) = (Balancer::Random, Some(ProxyProtocol::V1));
    let all = |mode| Annotations::new(Some(mode), Some(balancer), proxy_protocol);
    let carrier = |annotations, port: &str| {
        let mut service = service("web", &["10.254.0.41"], &[port]);
        service.annotations = annotations;
        let known = Known { service: Some(Arc::new(service)), ..Known::default() };
        plan_service(&known, &facts(), &policy()).unwrap().ports[0].carrier
    };
    let limits = Limits::default();
    let relay = Relay { balancer, proxy_protocol, pods_told_by: PodsToldBy::Address, limits };
    let tcp = carrier(all(ProxyMode::Userspace), ":80/TCP");
    assert_eq!(tcp, Carrier::Relay(relay));
    let udp = carrier(all(ProxyMode::Userspace), ":80/UDP");
    assert_eq!(udp, Carrier::Relay(Relay { proxy_protocol: None, ..relay }));
    let sctp = carrier(all(ProxyMode::Userspace), ":80/SCTP");
    assert_eq!(sctp, Carrier::KernelFor(Unrelayed::Sctp));
    assert_eq!(carrier(all(ProxyMode::Nftables), ":80/TCP"), Carrier::Kernel);
    let Carrier::Relay(relay) = carrier(userspace(), ":80/TCP") else { panic!("not relayed") };
    assert_eq!((relay.balancer, relay.proxy_protocol), (Balancer::LeastConnections, None));
}

#[test]
fn a_service_is_bounded_by_what_it_asks_for_or_what_holds_for_all() {
    let limits = Limits { session: Duration::from_secs(7), ..Limits::default() };
    let policy = Policy { limits, ..policy() };
    let mut known = relayed(":80/TCP", "vip 1.2.3.4", BOTH);
    let of = |known: &Known| {
        let plan = plan_service(known, &facts(), &policy).unwrap();
        let port = &plan.ports[0];
        let all = port.frontends.iter().map(|one| port.relay_of(one).unwrap().limits);
        all.collect::<Vec<_>>()
    };
    assert_eq!(of(&known), [limits, limits]);
    let own = OwnLimits { connections: Some(MaxConnections::new(3)), ..OwnLimits::default() };
    let service = Arc::make_mut(known.service.as_mut().unwrap());
    service.uncommon = Uncommon::of(service.external().unwrap().clone(), own);
    let bounded = Limits { connections: MaxConnections::new(3), ..limits };
    assert_eq!(of(&known), [bounded, bounded]);
}

#[rstest]
#[case::http(":80/TCP", AppProtocol::Http, Balanced::Requests(HttpVersion::Http1))]
#[case::h2c(":80/TCP", AppProtocol::H2c, Balanced::Requests(HttpVersion::H2c))]
#[case::grpc(":80/TCP", AppProtocol::Grpc, Balanced::Requests(HttpVersion::H2c))]
#[case::unsaid(":80/TCP", AppProtocol::Unset, Balanced::ConnectionsFor(Unsplit::NoAppProtocol))]
#[case::https(":80/TCP", AppProtocol::Https, Balanced::ConnectionsFor(Unsplit::Encrypted))]
#[case::other(":80/TCP", AppProtocol::Other, Balanced::ConnectionsFor(Unsplit::OtherAppProtocol))]
#[case::http3(":80/UDP", AppProtocol::Http, Balanced::ConnectionsFor(Unsplit::NotTcp))]
#[case::sctp(":80/SCTP", AppProtocol::Http, Balanced::ConnectionsFor(Unsplit::NotRelayed))]
fn requests_are_balanced_where_the_port_says_how_they_are_spoken(
    #[case] port: &str,
    #[case] spoken: AppProtocol,
    #[case] expected: Balanced,
) {
    let plan = |annotations: Annotations| {
        let mut known = relayed(port, "", BOTH);
        let service = Arc::make_mut(known.service.as_mut().unwrap());
        let port = ServicePort { app_protocol: spoken, ..service.ports[0].clone() };
        service.ports = [port].into();
        service.annotations = annotations;
        plan_service(&known, &facts(), &policy()).unwrap().ports[0].clone()
    };
    let asked = plan(userspace().with_unit(Unit::Requests));
    assert_eq!(asked.balanced, expected);
    let version = match expected {
        Balanced::Requests(version) => Some(version),
        _ => None,
    };
    assert_eq!(asked.requests_of(&asked.frontends[0]), version);
    assert_eq!(asked.unsplit(&asked.frontends[0]).is_some(), version.is_none());

    let unasked = plan(userspace());
    assert_eq!(unasked.balanced, Balanced::Connections, "off by default");
    assert_eq!(unasked.unsplit(&unasked.frontends[0]), None);

    let kernel = plan(Annotations::default().with_unit(Unit::Requests));
    assert_eq!(kernel.unsplit(&kernel.frontends[0]), Some(Unsplit::NotRelayed));
    let proxy = Annotations::new(Some(ProxyMode::Userspace), None, Some(ProxyProtocol::V2));
    let told = plan(proxy.with_unit(Unit::Requests));
    assert_eq!(told.requests_of(&told.frontends[0]), None, "one client for a connection");
}

#[test]
fn a_frontend_that_the_kernel_keeps_has_no_requests() {
    let mut known = relayed(":80/TCP", "local, vip 1.2.3.4", BOTH);
    let service = Arc::make_mut(known.service.as_mut().unwrap());
    let port = ServicePort { app_protocol: AppProtocol::Http, ..service.ports[0].clone() };
    service.ports = [port].into();
    service.annotations = userspace().with_unit(Unit::Requests);
    let detect = DetectLocal::BridgeInterface("cni0".into());
    let plan = plan_service(&known, &facts(), &Policy { detect, ..policy() }).unwrap();
    let port = &plan.ports[0];
    let told = |one: &Frontend| (one.kind, port.requests_of(one), port.unsplit(one));
    assert_eq!(
        port.frontends.iter().map(told).collect::<Vec<_>>(),
        [
            (FrontendKind::ClusterIp, Some(HttpVersion::Http1), None),
            (FrontendKind::LoadBalancer, None, Some(Unsplit::NotRelayed)),
        ]
    );
}

#[test]
fn only_what_is_forwarded_is_relayed() {
    let known = relayed(":80/TCP", "vip 1.2.3.4, node-port 30080", &[]);
    assert!(carried(&known, &policy()).iter().all(|(_, relayed, why)| !relayed && why.is_none()));
}

#[rstest]
#[case::by_address(DetectLocal::NodeCidr, true)]
#[case::by_nothing(DetectLocal::None, true)]
#[case::by_bridge(DetectLocal::BridgeInterface("cni0".into()), false)]
#[case::by_name(DetectLocal::InterfaceNamePrefix("veth".into()), false)]
fn policy_local_is_the_kernels_where_pods_are_told_by_interface(
    #[case] detect: DetectLocal,
    #[case] expected: bool,
) {
    let known = relayed(":80/TCP", "local, vip 1.2.3.4, node-port 30080", BOTH);
    let why = (!expected).then_some(Unrelayed::Interface);
    let carried = carried(&known, &Policy { detect: detect.clone(), ..policy() });
    let external = |kind| (kind, expected, why);
    assert_eq!(
        carried,
        [
            (FrontendKind::ClusterIp, true, None),
            external(FrontendKind::LoadBalancer),
            external(FrontendKind::NodePort)
        ]
    );
    // Under policy Cluster nobody asks where a packet came in.
    let known = relayed(":80/TCP", "vip 1.2.3.4, node-port 30080", BOTH);
    let carried = self::carried(&known, &Policy { detect, ..policy() });
    assert!(carried.iter().all(|(_, relayed, _)| *relayed));
}

#[test]
fn datagrams_to_an_external_ip_are_relayed_where_it_is_the_nodes() {
    let known = all([relayed(":80/UDP", "ip 192.168.1.2, ip 192.0.2.7", BOTH)]);
    let mut planner = planner(policy(), &known);
    let mut carried = |own: &[&str]| {
        let mut interface_addresses: Vec<IpAddr> =
            own.iter().map(|text| text.parse().unwrap()).collect();
        interface_addresses.sort_unstable();
        let change = planner.set_facts(NodeFacts { interface_addresses, ..facts() }, &[]);
        let changed = (change == FactsChange::Services).then(|| known.keys().cloned());
        let delta = planner.replan(changed.into_iter().flatten(), &known);
        let plan = delta.services.into_iter().next().and_then(|delta| delta.new)?;
        let port = &plan.ports[0];
        let external = port.frontends.iter().filter(|one| one.kind == FrontendKind::ExternalIp);
        Some(external.map(|one| port.unrelayed(one)).collect::<Vec<_>>())
    };
    let foreign = Some(Unrelayed::Foreign);
    assert_eq!(carried(&["192.168.0.2", "192.168.1.2"]), None, "as at first");
    assert_eq!(carried(&["192.168.0.2"]), Some(vec![foreign, foreign]));
    assert_eq!(carried(&["192.0.2.7", "192.168.0.2"]), Some(vec![foreign, None]));
}

#[test]
fn connections_to_what_others_may_have_are_led_by_their_port() {
    let text = "ip 192.0.2.7, vip 1.2.3.4, node-port 30080";
    let ways = |port: &str| {
        let plan = plan_service(&relayed(port, text, BOTH), &facts(), &policy()).unwrap();
        let port = plan.ports[0].clone();
        let way = |one: &Frontend| (one.kind, port.way_of(one), port.unrelayed(one));
        let mut ways: Vec<_> = port.frontends.iter().map(way).collect();
        ways.sort_by_key(|(kind, ..)| *kind);
        ways
    };
    let [cluster_ip, node_port] =
        [FrontendKind::ClusterIp, FrontendKind::NodePort].map(|kind| (kind, Way::Address, None));
    assert_eq!(
        ways(":80/TCP"),
        [
            cluster_ip,
            (FrontendKind::ExternalIp, Way::Port, None),
            (FrontendKind::LoadBalancer, Way::Port, None),
            node_port,
        ]
    );
    assert_eq!(
        ways(":80/UDP"),
        [
            cluster_ip,
            (FrontendKind::ExternalIp, Way::Address, Some(Unrelayed::Foreign)),
            (FrontendKind::LoadBalancer, Way::Address, None),
            node_port,
        ]
    );
}

#[test]
fn who_may_answer_at_udp_frontends_is_the_relay() {
    let text = "vip 1.2.3.4, range 203.0.113.0/25";
    let planner = planner(policy(), &all([relayed(":53/UDP", text, BOTH)]));
    let served: Vec<&Served> = planner.plan().udp.values().collect();
    let own = |served: &Served| match served {
        Served::Relay { own } => own.as_ref().map(|endpoints| endpoints.len()),
        Served::Endpoints(_) => panic!("the kernel"),
    };
    assert_eq!([own(served[0]), own(served[1])], [Some(2), None], "the guarded one comes first");
}

#[rstest]
#[case::pod("10.180.0.9", "10.254.0.41:80/TCP", "forward 10.180.0.1:8080~ 10.180.1.1:8080~")]
#[case::itself("10.180.0.1", "10.254.0.41:80/TCP", "forward 10.180.0.1:8080~ 10.180.1.1:8080~")]
#[case::outside("203.0.113.2", "1.2.3.4:80/TCP", "forward 10.180.0.1:8080~")]
#[case::node("192.168.0.2", "1.2.3.4:80/TCP", "forward 10.180.0.1:8080~ 10.180.1.1:8080~")]
#[case::unused_port("203.0.113.2", "1.2.3.4:81/TCP", "pass")]
#[case::other_protocol("203.0.113.2", "1.2.3.4:80/UDP", "pass")]
#[case::node_port("203.0.113.2", "192.168.0.2:30080/TCP", "forward 10.180.0.1:8080~")]
#[case::loopback("127.0.0.1", "127.0.0.1:30080/TCP", "forward 10.180.0.1:8080~ 10.180.1.1:8080~")]
#[case::another_port_of_the_node("203.0.113.2", "192.168.0.2:81/TCP", "pass")]
fn traced(#[case] from: &str, #[case] to: &str, #[case] expected: &str) {
    let known = relayed(":80/TCP", "local, vip 1.2.3.4, node-port 30080", BOTH);
    let planner = planner(policy(), &all([known]));
    assert_eq!(run(planner.plan(), from, to), expected);
}

/// Datagrams take all of the address.
#[rstest]
#[case::unused_port("203.0.113.2", "1.2.3.4:54/UDP", "reject")]
#[case::other_protocol("203.0.113.2", "1.2.3.4:53/TCP", "reject")]
fn traced_at_an_address_that_leads_here(
    #[case] from: &str,
    #[case] to: &str,
    #[case] expected: &str,
) {
    let planner = planner(policy(), &all([relayed(":53/UDP", "vip 1.2.3.4", BOTH)]));
    assert_eq!(run(planner.plan(), from, to), expected);
}

/// The rule that knows who may ask is the kernel's, and so is what the node sends there.
#[rstest]
#[case::outside("203.0.113.2", "forward 10.180.0.1:8080~ 10.180.1.1:8080~")]
#[case::not_allowed("203.0.113.200", "drop")]
#[case::node("192.168.0.2", "forward 10.180.0.1:8080~ 10.180.1.1:8080~")]
fn traced_past_a_guard(#[case] from: &str, #[case] expected: &str) {
    let text = "vip 1.2.3.4, range 203.0.113.0/25, range 192.168.0.0/24";
    let planner = planner(policy(), &all([relayed(":80/TCP", text, BOTH)]));
    assert_eq!(run(planner.plan(), from, "1.2.3.4:80/TCP"), expected);
}
