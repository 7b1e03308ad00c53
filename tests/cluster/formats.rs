//! That what is watched as protobuf is what the server says in JSON.

use crate::{Authorization, World};
use serde_json::{Value, json};
use std::fs;

/// Names and fields of all that is read: of a Service, of slices, with what Go writes for what nobody
/// set.
fn objects() -> [(&'static str, Value); 4] {
    let meta = |name: &str| {
        json!({"name": name, "labels": {"kubernetes.io/service-name": "all", "app": "x"},
            "annotations": {"vipd.io/balancer": "maglev",
                "endpoints.kubernetes.io/last-change-trigger-time": "2026-11-26T10:00:00.5Z"}})
    };
    let port = |name: &str, number: u16, target: Value| {
        json!({"name": name, "port": number, "targetPort": target, "nodePort": 30000 + number,
            "appProtocol": "kubernetes.io/h2c"})
    };
    let all = json!({"metadata": meta("all"), "spec": {"type": "LoadBalancer",
        "ports": [port("a", 80, json!(8080)), port("b", 81, json!("web"))],
        "selector": {"app": "x"}, "externalIPs": ["198.51.100.1"], "sessionAffinity": "ClientIP",
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 77}},
        "loadBalancerSourceRanges": ["203.0.113.0/24"], "externalTrafficPolicy": "Local",
        "healthCheckNodePort": 32000, "internalTrafficPolicy": "Local",
        "publishNotReadyAddresses": true}});
    let little = json!({"metadata": {"name": "little"},
        "spec": {"ports": [{"port": 80, "protocol": "UDP"}]}});
    let slice = json!({"metadata": meta("all-1"), "addressType": "IPv4",
        "endpoints": [
            {"addresses": ["10.1.0.1"], "nodeName": "node-a",
                "conditions": {"ready": false, "serving": true, "terminating": true},
                "hints": {"forZones": [{"name": "z1"}], "forNodes": [{"name": "node-a"}]}},
            {"addresses": ["10.1.0.2"], "nodeName": "node-a", "conditions": {"ready": true},
                "targetRef": {"kind": "Pod", "name": "p", "namespace": "default"}},
            {"addresses": ["10.1.0.3"], "hostname": "h", "zone": "z2"}],
        "ports": [{"name": "a", "port": 8080, "appProtocol": "http"}, {"name": "b", "port": 8081}]});
    let few = json!({"metadata": {"name": "little-1",
            "labels": {"kubernetes.io/service-name": "little"}}, "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.1.0.9"], "conditions": {}}],
        "ports": [{"port": 53, "protocol": "UDP"}]});
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    let services = "/api/v1/namespaces/default/services";
    [(services, all), (services, little), (slices, slice), (slices, few)]
}

/// A Service as protobuf, with a value that is no UTF-8: the API server checks only the keys of
/// annotations.
fn odd() -> Vec<u8> {
    fn field(tag: u8, content: &[u8]) -> Vec<u8> {
        const LENGTH_DELIMITED: u8 = 2;
        let mut out = vec![tag << 3 | LENGTH_DELIMITED];
        prost::encode_length_delimiter(content.len(), &mut out).expect("a Vec grows");
        out.extend(content);
        out
    }
    let all = |fields: &[Vec<u8>]| fields.concat();
    let note = all(&[field(1, b"note"), field(2, b"a\xff")]);
    let balancer = all(&[field(1, b"vipd.io/balancer"), field(2, b"maglev")]);
    let metadata = all(&[field(1, b"odd"), field(12, &note), field(12, &balancer)]);
    let number = [3 << 3, 80];
    let port = all(&[field(2, b"TCP"), number.into()]);
    let service = all(&[field(1, &metadata), field(2, &field(1, &port))]);
    let kind = all(&[field(1, b"v1"), field(2, b"Service")]);
    all(&[b"k8s\0".to_vec(), field(1, &kind), field(2, &service)])
}

pub fn say_the_same() {
    const FLAGS: &str = "--hostname-override=node-a --cluster-cidr=10.1.0.0/16";
    let mut w = World::start(Authorization::AlwaysAllow);
    for (path, object) in objects() {
        w.plane.post(path, &object);
    }
    let services = "/api/v1/namespaces/default/services";
    w.plane.send("POST", services, ("application/vnd.kubernetes.protobuf", odd()));
    let ingress = json!([{"ip": "192.0.2.9", "ipMode": "VIP"}, {"hostname": "lb.example"},
        {"ip": "192.0.2.8", "ipMode": "Proxy"}]);
    let status = json!({"status": {"loadBalancer": {"ingress": ingress}}});
    w.plane.patch("/api/v1/namespaces/default/services/all/status", &status);
    // Without it, a node that is watched has gone away.
    w.plane.post("/api/v1/nodes", &json!({"metadata": {"name": "node-a"}}));
    w.run(&[]);
    w.soon("programmed", || w.log().contains("programmed"));
    let directory = tempfile::tempdir().expect("a directory");
    for path in ["/api/v1/services", "/apis/discovery.k8s.io/v1/endpointslices"] {
        let list = w.plane.get(path);
        assert!(list.to_string().contains("managedFields"), "{list}");
        let name = path.rsplit('/').next().expect("a name");
        fs::write(directory.path().join(format!("{name}.json")), list.to_string())
            .expect("it can be written");
    }
    let vipd = env!("CARGO_BIN_EXE_vipd");
    for words in [
        "describe service all",
        "describe service little",
        "describe service odd",
        "get services -o json",
        "get endpoints",
    ] {
        let as_json = w
            .node
            .sh(&format!("{vipd} {words} --manifests {} {FLAGS}", directory.path().display()));
        assert_eq!(w.said(words), as_json, "{words}");
    }
}
