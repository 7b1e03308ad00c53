//! How fast objects become the model: compact JSON, JSON as an API server prints it, YAML.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use serde_json::{Value, json};
use std::fmt::Write;
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use vipd::sources::decode::{Format, Names, decode};

const SERVICES: u32 = 500;

fn service(i: u32) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": format!("svc-{i}"), "namespace": "default", "labels": {"app": format!("svc-{i}")}},
        "spec": {
            "clusterIP": format!("10.254.{}.{}", i / 250, i % 250 + 1),
            "selector": {"app": format!("svc-{i}")},
            "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080}]
        }
    })
}

fn slice(i: u32) -> Value {
    let endpoint = |n: u32| {
        json!({
            "addresses": [format!("10.1.{}.{}", i / 250, i % 250 + n)],
            "conditions": {"ready": true, "serving": true, "terminating": false},
            "nodeName": format!("node-{}", (i + n) % 50)
        })
    };
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {
            "name": format!("svc-{i}-abcde"), "namespace": "default",
            "labels": {"kubernetes.io/service-name": format!("svc-{i}")}
        },
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": [endpoint(1), endpoint(2)]
    })
}

fn objects() -> Vec<Value> {
    (0..SERVICES).flat_map(|i| [service(i), slice(i)]).collect()
}

/// The fields that an API server adds to what was written.
fn as_served(mut object: Value) -> Value {
    let meta = &mut object["metadata"];
    meta["uid"] = json!("0d3ad1ee-5d9a-4f4b-9bd6-3a3b7d3f0a52");
    meta["resourceVersion"] = json!("123456");
    meta["creationTimestamp"] = json!("2026-11-01T10:00:00Z");
    meta["annotations"] =
        json!({"endpoints.kubernetes.io/last-change-trigger-time": "2026-11-01T10:00:00Z"});
    let (service, slice) = (object["kind"] == "Service", object["kind"] == "EndpointSlice");
    if service {
        let spec = &mut object["spec"];
        spec["clusterIPs"] = json!([spec["clusterIP"]]);
        spec["ipFamilies"] = json!(["IPv4"]);
        spec["ipFamilyPolicy"] = json!("SingleStack");
        spec["internalTrafficPolicy"] = json!("Cluster");
        spec["sessionAffinity"] = json!("None");
        spec["type"] = json!("ClusterIP");
        object["status"] = json!({"loadBalancer": {}});
    }
    if slice {
        for endpoint in object["endpoints"].as_array_mut().into_iter().flatten() {
            endpoint["targetRef"] = json!({"kind": "Pod", "name": "svc-5d9a4f4b9-abcde",
                "namespace": "default", "uid": "0d3ad1ee-5d9a-4f4b-9bd6-3a3b7d3f0a52"});
            endpoint["zone"] = json!("zone-a");
        }
    }
    object
}

fn list(items: Vec<Value>) -> Value {
    json!({"apiVersion": "v1", "kind": "List", "items": items})
}

fn yaml(objects: &[Value]) -> String {
    let mut out = String::new();
    for object in objects {
        let text = serde_saphyr::to_string(object).expect("JSON values can be written as YAML");
        writeln!(out, "---\n{text}").expect("writing to a string");
    }
    out
}

fn decoding(c: &mut Criterion) {
    let served: Vec<Value> = objects().into_iter().map(as_served).collect();
    let inputs = [
        ("json-compact", Format::Json, list(objects()).to_string()),
        ("json-served", Format::Json, format!("{:#}", list(served))),
        ("yaml", Format::Yaml, yaml(&objects())),
    ];
    let path: Arc<Path> = Path::new("bench").into();
    let mut group = c.benchmark_group("decode");
    group.throughput(Throughput::Elements(u64::from(SERVICES) * 2));
    for (name, format, text) in inputs {
        let count = decode(text.as_bytes(), format, &path, &mut Names::default()).map(|d| d.len());
        assert_eq!(count, Ok(SERVICES as usize * 2), "{name}");
        group.bench_function(name, |b| {
            b.iter_batched_ref(
                Names::default,
                |names| black_box(decode(text.as_bytes(), format, &path, names)),
                BatchSize::LargeInput,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, decoding);
criterion_main!(benches);
