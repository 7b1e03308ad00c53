//! EndpointSlice, Endpoints, Node and ServiceCIDR.

use super::super::decode_object;
use super::{Decoded, Names, endpoints, ignored, object, only, rejected, slice, slice_text};
use crate::model::{Conditions, Family, Kind, Object, Protocol, Severity, SliceOrigin};
use arcstr::ArcStr;
use rstest::rstest;
use std::time::{SystemTime, UNIX_EPOCH};

#[test]
fn a_slice_is_read_with_the_meaning_of_absent_conditions() {
    let (slice, warnings) = slice(
        "ports: [{name: http, port: 8080}, {name: dns, port: 53, protocol: UDP}], endpoints: [\
         {addresses: [10.1.00.001, 10.1.0.9], nodeName: a, hints: {forZones: [{name: z}], forNodes: [{name: node-a}]}}, \
         {addresses: [10.1.0.2], nodeName: a, conditions: {ready: false, serving: true, terminating: true}}]",
    );
    assert_eq!(warnings, []);
    assert_eq!((slice.key.as_str(), slice.service.as_str()), ("default/web-1", "default/web"));
    assert_eq!((slice.origin, slice.set.family), (SliceOrigin::Own, Family::V4));
    let ports: Vec<_> = slice.set.ports.iter().map(|p| (&*p.name.0, p.protocol, p.port)).collect();
    assert_eq!(ports, [("http", Protocol::Tcp, 8080), ("dns", Protocol::Udp, 53)]);
    let [first, second] = &*slice.set.endpoints else { panic!("{slice:?}") };
    assert_eq!(first.address.to_string(), "10.1.0.1");
    assert_eq!(first.conditions, Conditions::READY);
    let hints = &first.place.hints;
    assert_eq!((&*hints.zones, &*hints.nodes), (&["z".into()][..], &["node-a".into()][..]));
    assert_eq!(second.conditions, Conditions { ready: false, serving: true, terminating: true });
    let names = first.place.node.as_ref().zip(second.place.node.as_ref()).expect("node names");
    assert!(ArcStr::ptr_eq(names.0, names.1), "one string for one node");
}

#[rstest]
#[case::port_nil("[{name: a}]", 0)]
#[case::port_zero("[{name: a, port: 0}]", 0)]
#[case::name_nil("[{port: 80}]", 1)]
#[case::name_null("[{name: null, port: 80}]", 1)]
#[case::name_empty("[{name: '', port: 80}]", 1)]
#[case::no_ports("null", 0)]
fn ports_that_count(#[case] ports: &str, #[case] count: usize) {
    let (slice, _) = slice(&format!("ports: {ports}, endpoints: [{{addresses: [10.1.0.1]}}]"));
    assert_eq!(slice.set.ports.len(), count);
}

#[rstest]
#[case("[]", None)]
#[case("[10.1.0.300]", Some("endpoints[0].addresses[0]"))]
#[case("['fd00::1']", Some("endpoints[0].addresses[0]"))]
#[case("[127.0.0.1]", Some("endpoints[0].addresses[0]"))]
#[case("[0.0.0.0]", Some("endpoints[0].addresses[0]"))]
#[case("[224.0.0.1]", Some("endpoints[0].addresses[0]"))]
fn a_bad_endpoint_costs_only_itself(#[case] addresses: &str, #[case] warning: Option<&str>) {
    let (slice, warnings) = slice(&format!(
        "ports: [{{name: '', port: 80}}], endpoints: [{{addresses: {addresses}}}, {{addresses: [10.1.0.2]}}]"
    ));
    let left: Vec<_> = slice.set.endpoints.iter().map(|e| e.address.to_string()).collect();
    assert_eq!(left, ["10.1.0.2"]);
    let fields: Vec<_> = warnings.iter().map(|w| &*w.field).collect();
    assert_eq!(fields, Vec::from_iter(warning));
    for warning in warnings {
        assert_eq!(warning.severity, Severity::Warning);
        assert_eq!(
            warning.object.map(|o| o.to_string()).as_deref(),
            Some("EndpointSlice default/web-1")
        );
    }
}

/// As one without endpoints it would count, and stand before good ones.
#[rstest]
#[case("[{addresses: [10.1.0.300]}]", false)]
#[case("[{addresses: ['fd00::1']}, {addresses: []}]", false)]
#[case("[{addresses: [127.0.0.1]}, {addresses: [x]}, {addresses: ['']}]", true)]
fn a_slice_whose_addresses_are_all_bad_is_refused(#[case] endpoints: &str, #[case] others: bool) {
    let problem = rejected(&slice_text(&format!("ports: [{{port: 80}}], endpoints: {endpoints}")));
    assert_eq!(&*problem.field, "endpoints[0].addresses[0]");
    assert_eq!(problem.reason.contains("no other address"), others, "{problem}");
}

#[rstest]
#[case("[]")]
#[case("[{addresses: []}]")]
fn a_slice_without_any_address_is_good(#[case] endpoints: &str) {
    let (slice, warnings) = slice(&format!("ports: [{{port: 80}}], endpoints: {endpoints}"));
    assert_eq!((slice.set.endpoints.len(), warnings.len()), (0, 0));
}

#[rstest]
#[case("ports: [{name: a, port: 65536}]", "ports[0].port")]
#[case("ports: [{name: a, port: 80, protocol: X}]", "ports[0].protocol")]
#[case("endpoints: [{addresses: 10.1.0.1}]", "endpoints[0].addresses")]
#[case(
    "endpoints: [{addresses: [10.1.0.1], conditions: {ready: maybe}}]",
    "endpoints[0].conditions.ready"
)]
fn a_slice_is_refused(#[case] rest: &str, #[case] field: &str) {
    assert_eq!(&*rejected(&slice_text(rest)).field, field);
}

#[rstest]
#[case("", Some("default/web"))]
#[case("namespace: shop, ", Some("shop/web"))]
#[case("namespace: Shop!, ", Some("Shop!/web"))]
#[case("annotations: [], ", Some("default/web"))]
fn a_refused_slice_names_its_service(#[case] more: &str, #[case] service: Option<&str>) {
    let text =
        slice_text("ports: [{port: x}]").replace("name: web-1, ", &format!("name: web-1, {more}"));
    let object = rejected(&text).object.expect("it has a name");
    assert_eq!(object.service.as_ref().map(|key| key.as_str()), service);
    let unlabelled = rejected(&text.replace("service-name: web", "service-name: [web]"));
    assert_eq!(unlabelled.object.expect("it has a name").service, None);
}

#[rstest]
#[case::headless(
    "kubernetes.io/service-name: web",
    "kubernetes.io/service-name: web, service.kubernetes.io/headless: ''"
)]
#[case::fqdn("addressType: IPv4", "addressType: FQDN")]
#[case::no_service("kubernetes.io/service-name: web", "app: web")]
#[case::empty_service("kubernetes.io/service-name: web", "kubernetes.io/service-name: ''")]
fn slices_that_are_not_used(#[case] from: &str, #[case] to: &str) {
    let text = slice_text("ports: []").replace(from, to);
    assert_eq!(ignored(&text).0.as_deref(), Some("EndpointSlice default/web-1"));
}

#[test]
fn mirrored_slices_are_known_as_such() {
    let managed = "kubernetes.io/service-name: web, endpointslice.kubernetes.io/managed-by: \
                   endpointslicemirroring-controller.k8s.io";
    let text = slice_text("ports: []").replace("kubernetes.io/service-name: web", managed);
    let Object::EndpointSlice(slice) = object(&text) else { panic!("no slice") };
    assert_eq!(slice.origin, SliceOrigin::Mirrored);
}

#[test]
fn endpoints_have_one_set_per_subset_and_family() {
    let (endpoints, warnings) = endpoints(
        "subsets: [{ports: [{port: 80}], addresses: [{ip: 10.1.0.1, nodeName: a}, {ip: 'fd00::1'}, \
         {ip: x}], notReadyAddresses: [{ip: 10.1.0.2}]}]",
    );
    let seen: Vec<_> = endpoints
        .sets
        .iter()
        .map(|set| {
            let all = set.endpoints.iter().map(|e| (e.address.to_string(), e.conditions.ready));
            (set.family, &*set.ports[0].name.0, set.ports[0].port, all.collect::<Vec<_>>())
        })
        .collect();
    let v4 = vec![("10.1.0.1".to_owned(), true), ("10.1.0.2".to_owned(), false)];
    let v6 = vec![("fd00::1".to_owned(), true)];
    assert_eq!(seen, [(Family::V4, "", 80, v4), (Family::V6, "", 80, v6)]);
    let fields: Vec<_> = warnings.iter().map(|w| &*w.field).collect();
    assert_eq!(fields, ["subsets[0].addresses[2].ip"]);
}

#[test]
fn endpoints_whose_addresses_are_all_bad_are_refused() {
    let text = |subsets: &str| {
        format!("{{apiVersion: v1, kind: Endpoints, metadata: {{name: web}}, subsets: {subsets}}}")
    };
    let bad = "{ports: [{port: 80}], notReadyAddresses: [{ip: x}]}, {addresses: [{ip: '::'}]}";
    let problem = rejected(&text(&format!("[{bad}]")));
    assert_eq!(&*problem.field, "subsets[0].notReadyAddresses[0].ip");
    assert!(problem.reason.contains("no other address"), "{problem}");
    let one_is_good = format!("[{bad}, {{addresses: [{{ip: 10.1.0.1}}]}}]");
    let document = only(&text(&one_is_good));
    assert_eq!(document.warnings.len(), 2);
    assert!(matches!(document.decoded, Decoded::Object(_)), "{document:?}");
}

#[test]
fn a_node_says_its_addresses_zone_and_pod_cidrs() {
    let text = "
apiVersion: v1
kind: Node
metadata: {name: node-1, labels: {topology.kubernetes.io/zone: z1}}
spec: {podCIDR: 10.1.0.0/24, podCIDRs: [10.1.0.0/24, 'fd01::/64']}
status:
  addresses:
  - {type: ExternalIP, address: 203.0.113.1}
  - {type: Hostname, address: node-1}
  - {type: InternalIP, address: 192.0.2.1}
";
    let Object::Node(node) = object(text) else { panic!("no Node") };
    assert_eq!((&*node.name, node.zone.as_deref()), ("node-1", Some("z1")));
    let addresses: Vec<_> = node.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["192.0.2.1", "203.0.113.1"]);
    let cidrs: Vec<_> = node.pod_cidrs.iter().map(ToString::to_string).collect();
    assert_eq!(cidrs, ["10.1.0.0/24", "fd01::/64"]);
}

#[test]
fn a_node_that_is_deleted_or_tainted_for_removal_is_going_away() {
    let going_away = |metadata: &str, spec: &str| {
        let text = format!(
            "{{apiVersion: v1, kind: Node, metadata: {{name: node-1{metadata}}}, spec: {{{spec}}}}}"
        );
        let Object::Node(node) = object(&text) else { panic!("no Node") };
        node.going_away
    };
    assert!(!going_away("", ""));
    assert!(going_away(", deletionTimestamp: '2026-11-24T10:00:00Z'", ""));
    let taint = |key: &str| format!("taints: [{{key: {key}, effect: NoSchedule}}]");
    assert!(going_away("", &taint("ToBeDeletedByClusterAutoscaler")));
    assert!(!going_away("", &taint("node.kubernetes.io/unschedulable")));
}

#[test]
fn a_service_cidr_is_read_and_refused() {
    let text = |cidrs: &str| {
        format!(
            "{{apiVersion: networking.k8s.io/v1, kind: ServiceCIDR, metadata: {{name: k}}, \
             spec: {{cidrs: {cidrs}}}}}"
        )
    };
    let Object::ServiceCidr(cidr) = object(&text("[10.254.0.0/16, 'fd00::/108']")) else {
        panic!("no ServiceCIDR")
    };
    assert_eq!(cidr.cidrs.len(), 2);
    assert_eq!(&*rejected(&text("[10.254.0.0]")).field, "spec.cidrs[0]");
    assert_eq!(&*rejected(&text("[]")).field, "spec.cidrs");
}

/// What no proxy reads must be what the API server would take all the same.
#[rstest]
#[case("hostname: 5", "endpoints[0].hostname")]
#[case("zone: [a]", "endpoints[0].zone")]
#[case("targetRef: {kind: Pod, name: 5}", "endpoints[0].targetRef.name")]
#[case("targetRef: web", "endpoints[0].targetRef")]
#[case("deprecatedTopology: {a: 5}", "endpoints[0].deprecatedTopology.a")]
#[case("nodeName: 5", "endpoints[0].nodeName")]
fn a_field_of_another_type_is_refused(#[case] field: &str, #[case] named: &str) {
    let endpoints = format!("[{{addresses: [10.1.0.1], {field}}}]");
    let problem = rejected(&slice_text(&format!("ports: [{{port: 80}}], endpoints: {endpoints}")));
    assert_eq!(&*problem.field, named);
    assert!(problem.reason.starts_with("invalid type: "), "{problem}");
}

#[test]
fn strings_may_be_written_with_escapes_and_fields_be_null() {
    let text = r#"{"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv\u0034", "ports": [{"port": 80}], "endpoints": [
        {"addresses": ["10.1\u002e0.1"], "nodeName": "node\u002da", "hostname": null, "zone": "\u0061",
         "targetRef": {"uid": null, "name": "web\u002d1"}, "conditions": null, "hints": null}]}"#;
    let documents = super::documents(text, super::Format::Json);
    let [document] = &*documents else { panic!("{documents:?}") };
    let Decoded::Object(Object::EndpointSlice(slice)) = &document.decoded else {
        panic!("{document:?}")
    };
    let [endpoint] = &*slice.set.endpoints else { panic!("{slice:?}") };
    assert_eq!(endpoint.address.to_string(), "10.1.0.1");
    assert_eq!(endpoint.place.node.as_deref(), Some("node-a"));
}

#[rstest]
#[case::seconds("'2026-01-02T03:04:05Z'", Some(1_767_323_045_000))]
#[case::fractions("'2026-01-02T04:04:05.25+01:00'", Some(1_767_323_045_250))]
#[case::no_time("yesterday", None)]
#[case::empty("''", None)]
fn when_a_slice_was_triggered_stands_beside_it(#[case] text: &str, #[case] expected: Option<u64>) {
    let text = text.trim_matches('\'');
    let slice = format!(
        r#"{{"metadata": {{"name": "web-1", "labels": {{"kubernetes.io/service-name": "web"}},
            "annotations": {{"endpoints.kubernetes.io/last-change-trigger-time": "{text}"}}}},
            "addressType": "IPv4", "endpoints": []}}"#
    );
    let read = decode_object(Kind::EndpointSlice, &slice, &mut Names::default());
    let since = |at: SystemTime| at.duration_since(UNIX_EPOCH).unwrap().as_millis();
    assert_eq!(read.triggered.map(since), expected.map(u128::from));
    assert_eq!(read.warnings, []);
    let without = slice.replace("last-change", "another-change");
    let without = decode_object(Kind::EndpointSlice, &without, &mut Names::default());
    assert_eq!((without.triggered, without.decoded), (None, read.decoded), "the same slice");
}
