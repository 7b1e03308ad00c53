//! Pods, and the fields that selectors made count.

use super::{GOOD, ignored, object, rejected, service_fault, service_text};
use crate::model::{Family, Object, Pod, Protocol};
use rstest::rstest;
use std::sync::Arc;

const STATUS: &str = "status: {podIP: 10.180.0.1}";

fn text(rest: &str) -> String {
    format!("{{apiVersion: v1, kind: Pod, metadata: {{name: p, labels: {{app: web}}}}, {rest}}}")
}

fn pod(rest: &str) -> Arc<Pod> {
    match object(&text(rest)) {
        Object::Pod(pod) => pod,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_pod_is_read() {
    let text = "
apiVersion: v1
kind: Pod
metadata: {name: web-1, namespace: shop, labels: {tier: front, app: web, x.io/Empty: ''}}
spec:
  nodeName: node-a
  initContainers:
  - {name: setup, ports: [{name: setup, containerPort: 1}]}
  - {name: proxy, restartPolicy: Always, ports: [{name: proxy, containerPort: 15001}]}
  containers:
  - name: web
    ports: [{name: http, containerPort: 8080}, {containerPort: 9}, {name: dns, containerPort: 53, protocol: UDP}]
status:
  phase: Running
  podIP: 10.180.0.1
  podIPs: [{ip: 10.180.00.001}, {ip: 'fd00:180::1'}]
  conditions: [{type: ContainersReady, status: 'False'}, {type: Ready, status: 'True'}]
";
    let Object::Pod(pod) = object(text) else { panic!("no Pod") };
    assert_eq!(pod.key.as_str(), "shop/web-1");
    assert_eq!(&*pod.labels, "app=web,tier=front,x.io/Empty=");
    assert_eq!(pod.address(Family::V4), Some([10, 180, 0, 1].into()));
    assert_eq!(pod.address(Family::V6).unwrap().to_string(), "fd00:180::1");
    assert_eq!((pod.ready, pod.terminating), (true, false));
    assert_eq!(pod.place.node.as_deref(), Some("node-a"));
    let ports: Vec<_> = pod.ports.iter().map(|p| (&*p.name.0, p.protocol, p.port)).collect();
    let expected = [("http", Protocol::Tcp, 8080), ("dns", Protocol::Udp, 53)];
    assert_eq!(ports, [&expected[..], &[("proxy", Protocol::Tcp, 15_001)]].concat());
}

#[test]
fn what_a_pod_leaves_out_is_not_so() {
    let pod = pod(STATUS);
    assert_eq!((pod.ready, pod.terminating, pod.ports.len()), (false, false, 0));
    assert_eq!(pod.place.node, None);
}

#[rstest]
#[case("[{type: Ready, status: 'True'}]", true)]
#[case("[{type: Ready, status: 'False'}]", false)]
#[case("[{type: Ready, status: Unknown}]", false)]
#[case("[{type: ContainersReady, status: 'True'}]", false)]
fn ready_is_a_condition(#[case] conditions: &str, #[case] ready: bool) {
    let status = format!("status: {{podIP: 10.180.0.1, conditions: {conditions}}}");
    assert_eq!(pod(&status).ready, ready);
}

#[test]
fn a_deletion_timestamp_means_terminating() {
    let labels = "labels: {app: web}, deletionTimestamp: '2026-11-24T10:00:00Z'";
    let Object::Pod(pod) = object(&text(STATUS).replace("labels: {app: web}", labels)) else {
        panic!("no Pod")
    };
    assert!(pod.terminating);
}

#[rstest]
#[case::no_status("spec: {nodeName: a}")]
#[case::no_address("status: {phase: Pending, podIP: ''}")]
#[case::succeeded("status: {phase: Succeeded, podIP: 10.180.0.1}")]
#[case::failed("status: {phase: Failed, podIP: 10.180.0.1}")]
fn pods_that_are_nobodys_endpoint(#[case] rest: &str) {
    assert_eq!(ignored(&text(rest)).0.as_deref(), Some("Pod default/p"));
}

#[test]
fn a_pod_without_labels_is_nobodys_endpoint() {
    let text = text(STATUS).replace(", labels: {app: web}", "");
    assert_eq!(ignored(&text).0.as_deref(), Some("Pod default/p"));
}

#[rstest]
#[case("status: {podIP: 10.180.0.300}", "status.podIP")]
#[case("status: {podIP: 127.0.0.1}", "status.podIP")]
#[case("status: {podIP: 10.180.0.1, podIPs: [{ip: 10.180.0.2}]}", "status.podIPs[0].ip")]
#[case("status: {podIPs: [{ip: 10.180.0.1}, {ip: 10.180.0.2}]}", "status.podIPs[1].ip")]
#[case("status: {podIPs: [{ip: 10.180.0.1}, {ip: ''}]}", "status.podIPs[1].ip")]
#[case("status: {podIPs: [{ip: 10.180.0.1}, {ip: fe80::1}]}", "status.podIPs[1].ip")]
#[case("status: {podIP: 7}", "status.podIP")]
#[case(
    "spec: {containers: [{name: a, ports: [{containerPort: 0}]}]}",
    "spec.containers[0].ports[0].containerPort"
)]
#[case(
    "spec: {containers: [{name: a}, {name: b, ports: [{containerPort: 1}, {containerPort: 65536}]}]}",
    "spec.containers[1].ports[1].containerPort"
)]
#[case(
    "spec: {containers: [{name: a, ports: [{name: 'a b', containerPort: 1}]}]}",
    "spec.containers[0].ports[0].name"
)]
#[case(
    "spec: {initContainers: [{name: a, ports: [{containerPort: 1, protocol: X}]}]}",
    "spec.initContainers[0].ports[0].protocol"
)]
fn a_pod_is_refused(#[case] rest: &str, #[case] field: &str) {
    let problem = rejected(&text(rest));
    assert_eq!(&*problem.field, field);
    assert_eq!(problem.object.unwrap().to_string(), "Pod default/p");
}

#[rstest]
#[case("{app: 'a,b=c'}", "[app]")]
#[case("{app: 'a=b'}", "[app]")]
#[case("{app: \"a\\nb\"}", "[app]")]
#[case("{app: -a}", "[app]")]
#[case("{'a,b': c}", "")]
#[case("{'a=b': c}", "")]
#[case("{a/b/c: d}", "")]
#[case("{A.io/b: c}", "")]
#[case("{/b: c}", "")]
#[case("{x.io/: c}", "")]
fn labels_and_selectors_have_the_apis_shape(#[case] pairs: &str, #[case] at: &str) {
    let labels = text(STATUS).replace("{app: web}", pairs);
    assert_eq!(&*rejected(&labels).field, format!("metadata.labels{at}"));
    let metadata =
        service_text(GOOD).replace("{name: web}", &format!("{{name: web, labels: {pairs}}}"));
    assert_eq!(&*rejected(&metadata).field, format!("metadata.labels{at}"));
    assert_eq!(service_fault(&format!("{GOOD}, selector: {pairs}")), format!("spec.selector{at}"));
}

#[rstest]
#[case("'8080'")]
#[case("Http")]
#[case("a--b")]
#[case("-a")]
#[case("sixteen-letters-")]
#[case("sixteen-letters1")]
fn a_target_ports_name_has_the_apis_shape(#[case] name: &str) {
    let spec = format!("clusterIP: 10.254.0.1, ports: [{{port: 80, targetPort: {name}}}]");
    assert_eq!(service_fault(&spec), "spec.ports[0].targetPort");
}

#[test]
fn good_names_of_ports_pass() {
    for name in ["http", "8080-http", "a", "fifteen-letters"] {
        let port = format!("[{{name: {name}, containerPort: 80}}]");
        let rest = format!("spec: {{containers: [{{name: c, ports: {port}}}]}}, {STATUS}");
        assert_eq!(&*pod(&rest).ports[0].name.0, name);
    }
}
