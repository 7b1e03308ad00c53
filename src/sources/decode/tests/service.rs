//! v1 Service: defaults, what is not served, what is refused.

use super::{GOOD, ignored, object, only, rejected, service, service_fault, service_text};
use crate::model::{
    Annotations, AppProtocol, Balancer, Created, External, MaxConnections, Object, OwnLimits,
    PortName, Protocol, ProxyMode, ProxyProtocol, Service, ServiceType, TargetPort, TrafficPolicy,
    Unit,
};
use crate::sources::decode::Decoded;
use rstest::rstest;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

#[test]
fn what_is_not_written_gets_the_api_servers_default() {
    let service = service(GOOD);
    assert_eq!(service.key.as_str(), "default/web");
    assert_eq!(service.created, Created::new(None));
    assert_eq!(service.service_type, ServiceType::ClusterIp);
    assert_eq!(service.cluster_ips.iter().collect::<Vec<_>>(), [ip("10.254.0.1")]);
    let port = &service.ports[0];
    assert_eq!(
        (&port.name, port.protocol, port.port, port.node_port, &port.target_port),
        (&PortName::default(), Protocol::Tcp, 80, None, &TargetPort::Unset)
    );
    assert_eq!(service.internal_policy, TrafficPolicy::Cluster);
    assert_eq!(service.external_policy, TrafficPolicy::Cluster);
    assert_eq!((service.affinity, &service.uncommon), (None, &None));
    assert!(!service.publish_not_ready_addresses);
}

#[test]
fn what_is_written_is_read() {
    let text = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop, labels: {b: '2', a: '1'}, creationTimestamp: '1970-01-01T00:01:00Z'}
spec:
  type: LoadBalancer
  clusterIP: 10.254.0.1
  clusterIPs: [10.254.0.1, 'fd00::1']
  ipFamilies: [IPv4, IPv6]
  selector: {app: web}
  externalIPs: [192.0.2.1, 192.0.2.1]
  loadBalancerSourceRanges: [' 198.51.100.7/24 ', 'fd00::/8']
  healthCheckNodePort: 30001
  internalTrafficPolicy: Local
  externalTrafficPolicy: Local
  sessionAffinity: ClientIP
  sessionAffinityConfig: {clientIP: {timeoutSeconds: 5}}
  publishNotReadyAddresses: true
  ports:
  - {name: http, port: 80, nodePort: 30000, targetPort: 8080}
  - {name: dns, port: 80, protocol: UDP, targetPort: dns}
status:
  loadBalancer:
    ingress: [{ip: 203.0.113.1}, {ip: 203.0.113.2, ipMode: Proxy}, {ip: 203.0.113.3, ipMode: VIP}, {hostname: x.example}]
";
    let Object::Service(service) = object(text) else { panic!("no Service") };
    assert_eq!(service.key.as_str(), "shop/web");
    assert_eq!(service.created, Created::new(Some(60)));
    assert_eq!(service.service_type, ServiceType::LoadBalancer);
    assert_eq!(service.cluster_ips.iter().collect::<Vec<_>>(), [ip("10.254.0.1"), ip("fd00::1")]);
    assert_eq!((service.shown.labels(), service.shown.selector()), ("a=1,b=2", "app=web"));
    let external = External {
        ips: [ip("192.0.2.1")].into(),
        vips: [ip("203.0.113.1"), ip("203.0.113.3")].into(),
        source_ranges: ["198.51.100.0/24", "fd00::/8"].map(|r| r.parse().expect("a CIDR")).into(),
        health_check_node_port: std::num::NonZeroU16::new(30001),
    };
    assert_eq!(service.external(), Some(&external));
    assert_eq!(service.internal_policy, TrafficPolicy::Local);
    assert_eq!(service.external_policy, TrafficPolicy::Local);
    assert_eq!(service.affinity, NonZeroU32::new(5));
    assert!(service.publish_not_ready_addresses);
    assert_eq!(service.ports[0].node_port.map(u16::from), Some(30000));
    assert_eq!(service.ports[0].target_port, TargetPort::Number(8080));
    assert_eq!(service.ports[1].target_port, TargetPort::Name("dns".into()));
}

#[test]
fn what_a_load_balancer_says_costs_only_itself() {
    let text = "
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: LoadBalancer, clusterIP: 10.254.0.1, ports: [{port: 80}]}
status:
  loadBalancer:
    ingress: [{ip: 127.0.0.1}, {ip: 203.0.113.1}, {ip: x}, {ip: 203.0.113.2, ipMode: Other}, {ip: 127.0.0.1, ipMode: Proxy}]
";
    let document = only(text);
    let Decoded::Object(Object::Service(service)) = document.decoded else { panic!("not served") };
    let external = service.external().expect("a load balancer");
    assert_eq!(*external.vips, [ip("203.0.113.1")]);
    let told: Vec<_> = document.warnings.iter().map(|w| (&*w.field, &*w.reason)).collect();
    let [(first, loopback), (second, _), (third, mode)] = told[..] else { panic!("{told:?}") };
    let field = |index, name| format!("status.loadBalancer.ingress[{index}].{name}");
    assert_eq!([first, second, third], [field(0, "ip"), field(2, "ip"), field(3, "ipMode")]);
    assert!(loopback.contains("loopback") && loopback.ends_with("it is left out"), "{loopback}");
    assert!(mode.contains("\"Other\""), "{mode}");
}

#[rstest]
#[case("clusterIP: 10.0.00.001", "10.0.0.1")]
#[case("clusterIPs: [10.254.0.1]", "10.254.0.1")]
#[case("clusterIP: '', clusterIPs: [10.254.0.1]", "10.254.0.1")]
#[case("clusterIP: 010.254.0.1, clusterIPs: [10.254.0.1]", "10.254.0.1")]
#[case("clusterIP: '::ffff:10.254.0.1'", "10.254.0.1")]
#[case("clusterIP: 'FD00:0::1'", "fd00::1")]
fn cluster_ips_are_canonical(#[case] ips: &str, #[case] expected: &str) {
    let service = service(&format!("{ips}, ports: [{{port: 80}}]"));
    assert_eq!(service.cluster_ips.iter().collect::<Vec<_>>(), [ip(expected)]);
}

#[test]
fn affinity_without_a_timeout_lasts_three_hours() {
    let service = service(&format!("{GOOD}, sessionAffinity: ClientIP"));
    assert_eq!(service.affinity, NonZeroU32::new(10_800));
}

#[rstest]
#[case::headless("clusterIP: None", "headless (no cluster IP)")]
#[case::headless_by_list("clusterIPs: [None]", "headless (no cluster IP)")]
#[case::external_name("type: ExternalName, clusterIP: 10.254.0.1", "type ExternalName is DNS only")]
fn not_served_and_no_problem(#[case] spec: &str, #[case] why: &str) {
    assert_eq!(ignored(&service_text(spec)), (Some("Service default/web".into()), why));
}

#[test]
fn another_proxys_service_is_not_served_whatever_its_label_says() {
    let text = format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: web, labels: \
         {{service.kubernetes.io/service-proxy-name: ''}}}}, spec: {{{GOOD}}}}}"
    );
    assert_eq!(ignored(&text).0.as_deref(), Some("Service default/web"));
}

#[test]
fn the_headless_label_means_nothing_on_a_service() {
    let labels = "labels: {service.kubernetes.io/headless: ''}";
    let text = service_text(GOOD).replace("{name: web}", &format!("{{name: web, {labels}}}"));
    assert!(matches!(object(&text), Object::Service(_)));
}

#[rstest]
#[case("ports: [{port: 80}]", "spec.clusterIP")]
#[case("clusterIP: 10.254.0.256, ports: [{port: 80}]", "spec.clusterIP")]
#[case("clusterIP: +10.254.0.1, ports: [{port: 80}]", "spec.clusterIP")]
#[case("clusterIP: 0.0.0.0, ports: [{port: 80}]", "spec.clusterIP")]
#[case("clusterIP: 127.0.0.1, ports: [{port: 80}]", "spec.clusterIP")]
#[case("clusterIP: 224.0.0.1, ports: [{port: 80}]", "spec.clusterIP")]
#[case("clusterIP: '::', ports: [{port: 80}]", "spec.clusterIP")]
#[case("clusterIP: '::1', ports: [{port: 80}]", "spec.clusterIP")]
#[case("clusterIP: 'ff02::1', ports: [{port: 80}]", "spec.clusterIP")]
#[case("clusterIPs: [10.254.0.1, 10.254.0.2], ports: [{port: 80}]", "spec.clusterIPs[1]")]
#[case("clusterIPs: [10.254.0.1, None], ports: [{port: 80}]", "spec.clusterIPs[1]")]
#[case(
    "clusterIP: 10.254.0.2, clusterIPs: [10.254.0.1], ports: [{port: 80}]",
    "spec.clusterIPs[0]"
)]
#[case("clusterIP: 10.254.0.1, ipFamilies: [IPv6], ports: [{port: 80}]", "spec.clusterIP")]
#[case("clusterIP: 10.254.0.1, ipFamilies: [IPv5], ports: [{port: 80}]", "spec.ipFamilies[0]")]
#[case("clusterIP: 10.254.0.1", "spec.ports")]
#[case("clusterIP: 10.254.0.1, ports: [{port: 0}]", "spec.ports[0].port")]
#[case("clusterIP: 10.254.0.1, ports: [{}]", "spec.ports[0].port")]
#[case("clusterIP: 10.254.0.1, ports: [{port: 65536}]", "spec.ports[0].port")]
#[case("clusterIP: 10.254.0.1, ports: [{port: -1}]", "spec.ports[0].port")]
#[case("clusterIP: 10.254.0.1, ports: [{port: 80, nodePort: 65536}]", "spec.ports[0].nodePort")]
#[case("clusterIP: 10.254.0.1, ports: [{port: 80, targetPort: 65536}]", "spec.ports[0].targetPort")]
#[case("clusterIP: 10.254.0.1, ports: [{port: 80, protocol: ICMP}]", "spec.ports[0].protocol")]
#[case("clusterIP: 10.254.0.1, ports: [{port: 80, name: HTTP}]", "spec.ports[0].name")]
#[case("clusterIP: 10.254.0.1, ports: [{port: 80, name: a}, {port: 81}]", "spec.ports[1].name")]
#[case(
    "clusterIP: 10.254.0.1, ports: [{port: 80, name: a}, {port: 81, name: a}]",
    "spec.ports[1].name"
)]
#[case(
    "clusterIP: 10.254.0.1, ports: [{port: 80, name: a}, {port: 80, name: b}]",
    "spec.ports[1].port"
)]
#[case("clusterIP: 10.254.0.1, ports: [{port: 80}], type: Other", "spec.type")]
#[case("clusterIP: 10.254.0.1, ports: [{port: 80}], externalIPs: [x]", "spec.externalIPs[0]")]
#[case(
    "clusterIP: 10.254.0.1, ports: [{port: 80}], loadBalancerSourceRanges: [10.0.0.0]",
    "spec.loadBalancerSourceRanges[0]"
)]
#[case(
    "clusterIP: 10.254.0.1, ports: [{port: 80}], loadBalancerSourceRanges: [10.0.0.0/33]",
    "spec.loadBalancerSourceRanges[0]"
)]
#[case(
    "clusterIP: 10.254.0.1, ports: [{port: 80}], internalTrafficPolicy: Far",
    "spec.internalTrafficPolicy"
)]
#[case("clusterIP: 10.254.0.1, ports: [{port: 80}], sessionAffinity: Yes", "spec.sessionAffinity")]
fn refused(#[case] spec: &str, #[case] field: &str) {
    assert_eq!(service_fault(spec), field);
}

#[rstest]
#[case(0)]
#[case(86_401)]
fn affinity_timeouts_out_of_range_are_refused(#[case] seconds: u32) {
    let config = format!("sessionAffinityConfig: {{clientIP: {{timeoutSeconds: {seconds}}}}}");
    let field = service_fault(&format!("{GOOD}, sessionAffinity: ClientIP, {config}"));
    assert_eq!(field, "spec.sessionAffinityConfig.clientIP.timeoutSeconds");
}

#[rstest]
#[case("{}", "metadata.name")]
#[case("{name: Web}", "metadata.name")]
#[case("{name: web-}", "metadata.name")]
#[case("{name: a/b}", "metadata.name")]
#[case("{name: web, namespace: a.b}", "metadata.namespace")]
fn names_have_the_shape_of_rfc_1123(#[case] metadata: &str, #[case] field: &str) {
    let text = service_text(GOOD).replace("{name: web}", metadata);
    assert_eq!(&*rejected(&text).field, field);
}

/// The same number in two protocols is two ports.
#[test]
fn one_number_can_be_a_port_of_several_protocols() {
    let ports = "[{port: 53, name: a}, {port: 53, name: b, protocol: UDP}]";
    assert_eq!(service(&format!("clusterIP: 10.254.0.1, ports: {ports}")).ports.len(), 2);
}

fn annotated(annotations: &str) -> (Annotations, Vec<(String, String)>) {
    let (service, told) = annotated_service(annotations);
    (service.annotations, told)
}

fn annotated_service(annotations: &str) -> (Arc<Service>, Vec<(String, String)>) {
    let metadata = format!("{{name: web, annotations: {{{annotations}}}}}");
    let document = only(&service_text(GOOD).replace("{name: web}", &metadata));
    let Decoded::Object(Object::Service(service)) = document.decoded else { panic!("not served") };
    let told = document.warnings.iter().map(|w| (w.field.to_string(), w.reason.to_string()));
    (service, told.collect())
}

#[rstest]
#[case("", (None, None, None))]
#[case("other/dataplane: userspace", (None, None, None))]
#[case("vipd.io/dataplane: nftables", (Some(ProxyMode::Nftables), None, None))]
#[case(
    "vipd.io/dataplane: userspace, vipd.io/balancer: round-robin, vipd.io/proxy-protocol: v2",
    (Some(ProxyMode::Userspace), Some(Balancer::RoundRobin), Some(ProxyProtocol::V2))
)]
#[case("vipd.io/balancer: maglev", (None, Some(Balancer::Maglev), None))]
#[case("vipd.io/proxy-protocol: v1", (None, None, Some(ProxyProtocol::V1)))]
fn annotations_say_how_a_service_is_carried(
    #[case] text: &str,
    #[case] (mode, balancer, proxy): (Option<ProxyMode>, Option<Balancer>, Option<ProxyProtocol>),
) {
    assert_eq!(annotated(text), (Annotations::new(mode, balancer, proxy), Vec::new()));
}

#[test]
fn an_annotation_that_says_nothing_known_is_as_if_it_were_not_there() {
    let text = "vipd.io/dataplane: ebpf, vipd.io/balancer: Random, vipd.io/proxy-protocol: v2";
    let (annotations, told) = annotated(text);
    assert_eq!(annotations, Annotations::new(None, None, Some(ProxyProtocol::V2)));
    let [(first, mode), (second, balancer)] = &told[..] else { panic!("{told:?}") };
    assert_eq!(first, "metadata.annotations[vipd.io/dataplane]");
    assert_eq!(mode, "\"ebpf\" is none of nftables, userspace; it is left out");
    assert_eq!(second, "metadata.annotations[vipd.io/balancer]");
    assert!(balancer.contains("random, round-robin, least-connections, maglev"), "{balancer}");
}

#[rstest]
#[case("", Unit::Connections, &[])]
#[case("vipd.io/requests: 'true'", Unit::Requests, &[])]
#[case("vipd.io/requests: 'false'", Unit::Connections, &[])]
#[case("vipd.io/requests: 'yes'", Unit::Connections, &["\"yes\" is none of true, false; it is left out"])]
fn an_annotation_asks_for_requests(
    #[case] text: &str,
    #[case] unit: Unit,
    #[case] reasons: &[&str],
) {
    let (annotations, told) = annotated(text);
    assert_eq!(annotations, Annotations::default().with_unit(unit));
    let told: Vec<&str> = told.iter().map(|(_, reason)| reason.as_str()).collect();
    assert_eq!(told, reasons);
}

#[test]
fn annotations_bound_what_a_service_may_take() {
    let text = "vipd.io/max-connections: '100', vipd.io/idle-timeout: 1h30m, \
                vipd.io/half-closed-timeout: 10s, vipd.io/connect-timeout: 500ms, \
                vipd.io/session-timeout: 5s";
    let (service, told) = annotated_service(text);
    assert_eq!(told, []);
    let time = |millis| Some(Duration::from_millis(millis));
    let limits = OwnLimits {
        connections: Some(MaxConnections::new(100)),
        idle: time(5_400_000),
        half_closed: time(10_000),
        connect: time(500),
        session: time(5_000),
    };
    assert_eq!(service.limits(), limits);
    assert_eq!(annotated_service("vipd.io/balancer: maglev").0.uncommon, None);
}

#[test]
fn a_bound_that_cannot_be_read_costs_only_itself() {
    let text = "vipd.io/max-connections: many, vipd.io/idle-timeout: '0', \
                vipd.io/connect-timeout: '30', vipd.io/session-timeout: 5s";
    let (service, told) = annotated_service(text);
    let session = Some(Duration::from_secs(5));
    assert_eq!(service.limits(), OwnLimits { session, ..OwnLimits::default() });
    let told: Vec<String> =
        told.iter().map(|(field, reason)| format!("{field}: {reason}")).collect();
    let expected = "expected a duration of more than 0 such as 500ms, 30s or 1h; it is left out";
    assert_eq!(
        told,
        [
            format!("metadata.annotations[vipd.io/idle-timeout]: \"0\": {expected}"),
            format!("metadata.annotations[vipd.io/connect-timeout]: \"30\": {expected}"),
            "metadata.annotations[vipd.io/max-connections]: \"many\": expected a number, 0 for as \
             many as there can be; it is left out"
                .to_owned(),
        ]
    );
}

#[test]
fn a_port_says_what_is_spoken_there() {
    let ports = "[{port: 80, name: a, appProtocol: http}, {port: 81, name: b}, \
                 {port: 82, name: c, appProtocol: kubernetes.io/h2c}]";
    let service = service(&format!("clusterIP: 10.254.0.1, ports: {ports}"));
    let spoken: Vec<AppProtocol> = service.ports.iter().map(|port| port.app_protocol).collect();
    assert_eq!(spoken, [AppProtocol::Http, AppProtocol::Unset, AppProtocol::H2c]);
}
