//! That both ways of writing an object are read as the same.

use super::messages::{Service, *};
use super::*;
use crate::model::Kind;
use crate::sources::decode::{Decoded, Names, decode_object};
use hyper::StatusCode;
use prost::Message;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::ready;
use tower::{Service as _, service_fn};

fn map<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, String> {
    pairs.map(|(key, value)| (key.into(), value.into())).into()
}

fn strings<const N: usize>(all: [&str; N]) -> Vec<String> {
    all.map(String::from).into()
}

fn metadata(name: &str) -> Metadata {
    Metadata {
        name: name.into(),
        namespace: "a".into(),
        resource_version: "7".into(),
        creation_timestamp: Some(Time { seconds: 1_795_700_000 }),
        deletion_timestamp: None,
        labels: map([("kubernetes.io/service-name", "web"), ("app", "x")]),
        annotations: map([
            ("endpoints.kubernetes.io/last-change-trigger-time", "2026-11-26T10:00:00.5Z"),
            ("vipd.io/balancer", "maglev"),
            ("note", "x\"y"),
        ])
        .into_iter()
        .map(|(key, value)| (key, value.into_bytes()))
        .collect(),
    }
}

fn service() -> Service {
    let port = |name: &str, number, target_port| ServicePort {
        name: name.into(),
        protocol: "TCP".into(),
        app_protocol: Some("kubernetes.io/h2c".into()),
        port: number,
        target_port: Some(target_port),
        node_port: 30_000 + number,
    };
    let number = IntOrString { which: 0, number: 8080, text: String::new() };
    let text = IntOrString { which: 1, number: 0, text: "web".into() };
    let client_ip = ClientIp { timeout_seconds: Some(77) };
    let ingress = |ip: &str, mode: Option<&str>| Ingress {
        ip: ip.into(),
        hostname: String::new(),
        ip_mode: mode.map(String::from),
    };
    let ingress = vec![ingress("192.0.2.9", Some("VIP")), ingress("192.0.2.8", Some("Proxy"))];
    Service {
        metadata: Some(metadata("web")),
        spec: Some(ServiceSpec {
            ports: vec![port("a", 80, number), port("b", 81, text)],
            selector: map([("app", "x")]),
            cluster_ip: "10.254.0.9".into(),
            cluster_ips: strings(["10.254.0.9", "fd00::9"]),
            kind: "LoadBalancer".into(),
            external_ips: strings(["198.51.100.1"]),
            session_affinity: "ClientIP".into(),
            load_balancer_source_ranges: strings(["203.0.113.0/24"]),
            external_traffic_policy: "Local".into(),
            health_check_node_port: 32_000,
            publish_not_ready_addresses: true,
            session_affinity_config: Some(SessionAffinityConfig { client_ip: Some(client_ip) }),
            ip_families: strings(["IPv4", "IPv6"]),
            internal_traffic_policy: Some("Local".into()),
        }),
        status: Some(ServiceStatus { load_balancer: Some(LoadBalancerStatus { ingress }) }),
    }
}

fn slice() -> EndpointSlice {
    let conditions = |ready, serving, terminating| Some(Conditions { ready, serving, terminating });
    let hints = Hints {
        for_zones: vec![Named { name: "z1".into() }],
        for_nodes: vec![Named { name: "n1".into() }],
    };
    let endpoint = |address: &str, conditions, hints| Endpoint {
        addresses: strings([address]),
        conditions,
        node_name: Some("n1".into()),
        hints,
    };
    EndpointSlice {
        metadata: Some(metadata("web-x")),
        address_type: "IPv4".into(),
        endpoints: vec![
            endpoint("10.1.0.1", conditions(Some(false), Some(true), Some(true)), Some(hints)),
            endpoint("10.1.0.2", conditions(None, None, None), None),
            endpoint("10.1.0.3", None, None),
        ],
        ports: vec![
            EndpointPort { name: Some("a".into()), protocol: Some("TCP".into()), port: Some(8080) },
            EndpointPort { name: Some(String::new()), protocol: None, port: Some(8081) },
        ],
    }
}

/// As a server writes one event.
fn frame(event: &str, (version, kind): (&str, &str), object: &impl Message) -> Vec<u8> {
    let raw = wrapped((version, kind), object);
    let event = WatchEvent { kind: event.into(), object: Some(RawExtension { raw: raw.into() }) };
    let event = event.encode_to_vec();
    [&u32::try_from(event.len()).unwrap().to_be_bytes()[..], &event].concat()
}

fn wrapped((version, kind): (&str, &str), object: &impl Message) -> Vec<u8> {
    let type_meta = Some(TypeMeta { api_version: version.into(), kind: kind.into() });
    let unknown = Unknown { type_meta, raw: object.encode_to_vec().into() };
    [b"k8s\0", &*unknown.encode_to_vec()].concat()
}

const SLICE: (&str, &str) = ("discovery.k8s.io/v1", "EndpointSlice");

type Answer = Response<UnsyncBoxBody<Bytes, BoxError>>;

/// What the client reads where a server answers with these chunks.
async fn asked(path: &str, (status, kind): (u16, &str), chunks: &[&[u8]]) -> (String, Answer) {
    let chunks: Vec<_> = chunks.iter().map(|chunk| Bytes::copy_from_slice(chunk)).collect();
    let accepted = std::sync::Arc::new(std::sync::Mutex::new(String::new()));
    let seen = std::sync::Arc::clone(&accepted);
    let server = service_fn(move |request: Request<()>| {
        let accepts = request.headers().get(ACCEPT).map_or("", |value| value.to_str().unwrap());
        *seen.lock().unwrap() = accepts.into();
        let frames = chunks.clone().into_iter().map(hyper::body::Frame::data);
        let body = http_body_util::StreamBody::new(futures_util::stream::iter(
            frames.map(Ok::<_, Infallible>),
        ));
        let answer = Response::builder().status(status).header(CONTENT_TYPE, kind);
        ready(Ok::<_, Infallible>(answer.header(CONTENT_LENGTH, "1").body(body).unwrap()))
    });
    let request = Request::get(path).header(ACCEPT, "application/json").body(()).unwrap();
    let answer = Protobuf::new(server).call(request).await.unwrap();
    let accepted = accepted.lock().unwrap().clone();
    (accepted, answer)
}

async fn lines(answer: Answer) -> Result<Vec<Value>, String> {
    let body = answer.into_body().collect().await.map_err(|error| error.to_string())?.to_bytes();
    Ok(body
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect())
}

const WATCH: &str = "/api/v1/services?watch=true&sendInitialEvents=true";
const STREAM: (u16, &str) = (200, "application/vnd.kubernetes.protobuf;stream=watch");

fn read(kind: Kind, text: &str) -> Decoded {
    let read = decode_object(kind, text, &mut Names::default());
    assert_eq!(read.warnings, []);
    assert_eq!(read.triggered.is_some(), kind == Kind::EndpointSlice);
    assert!(matches!(read.decoded, Decoded::Object(_)), "{:?}", read.decoded);
    read.decoded
}

#[tokio::test]
async fn an_object_is_read_as_from_the_json_that_the_server_would_write() {
    let (accepts, answer) = asked(
        WATCH,
        STREAM,
        &[&frame("ADDED", ("v1", "Service"), &service()), &frame("MODIFIED", SLICE, &slice())],
    )
    .await;
    assert_eq!(accepts, "application/vnd.kubernetes.protobuf;stream=watch,application/json");
    assert_eq!(answer.headers()[CONTENT_TYPE], "application/json");
    assert!(!answer.headers().contains_key(CONTENT_LENGTH));
    let told = lines(answer).await.unwrap();
    let metadata = |name: &str| {
        json!({"name": name, "namespace": "a", "resourceVersion": "7",
            "creationTimestamp": "2026-11-26T13:33:20Z",
            "labels": {"kubernetes.io/service-name": "web", "app": "x"},
            "annotations": {"endpoints.kubernetes.io/last-change-trigger-time":
                "2026-11-26T10:00:00.5Z", "vipd.io/balancer": "maglev", "note": "x\"y"},
            "managedFields": [{"manager": "x", "fieldsV1": {"f:spec": {}}}]})
    };
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata("web"),
        "spec": {"ports": [
            {"name": "a", "protocol": "TCP", "appProtocol": "kubernetes.io/h2c", "port": 80,
                "targetPort": 8080, "nodePort": 30080},
            {"name": "b", "protocol": "TCP", "appProtocol": "kubernetes.io/h2c", "port": 81,
                "targetPort": "web", "nodePort": 30081}],
            "selector": {"app": "x"}, "clusterIP": "10.254.0.9",
            "clusterIPs": ["10.254.0.9", "fd00::9"], "type": "LoadBalancer",
            "externalIPs": ["198.51.100.1"], "sessionAffinity": "ClientIP",
            "loadBalancerSourceRanges": ["203.0.113.0/24"], "externalTrafficPolicy": "Local",
            "healthCheckNodePort": 32000, "publishNotReadyAddresses": true,
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 77}},
            "ipFamilies": ["IPv4", "IPv6"], "internalTrafficPolicy": "Local"},
        "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.9", "ipMode": "VIP"},
            {"ip": "192.0.2.8", "ipMode": "Proxy"}]}}});
    let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": metadata("web-x"), "addressType": "IPv4",
        "endpoints": [
            {"addresses": ["10.1.0.1"], "nodeName": "n1",
                "conditions": {"ready": false, "serving": true, "terminating": true},
                "hints": {"forZones": [{"name": "z1"}], "forNodes": [{"name": "n1"}]}},
            {"addresses": ["10.1.0.2"], "nodeName": "n1", "conditions": {}},
            {"addresses": ["10.1.0.3"], "nodeName": "n1"}],
        "ports": [{"name": "a", "protocol": "TCP", "port": 8080}, {"name": "", "port": 8081}]});
    let as_json = [(Kind::Service, "ADDED", service), (Kind::EndpointSlice, "MODIFIED", slice)];
    for (line, (kind, event, mut object)) in told.iter().zip(as_json) {
        assert_eq!(line["type"], event);
        let told = line["object"].to_string();
        assert_eq!(read(kind, &told), read(kind, &object.to_string()));
        object["metadata"].as_object_mut().unwrap().remove("managedFields");
        assert_eq!(line["object"], object);
    }
    assert_eq!(told.len(), 2);
}

#[tokio::test]
async fn what_a_server_leaves_empty_is_left_out() {
    let given = ServicePort { port: 80, protocol: "TCP".into(), ..ServicePort::default() };
    let spec = ServiceSpec {
        ports: vec![given],
        cluster_ip: "10.254.0.9".into(),
        ..ServiceSpec::default()
    };
    let metadata = Metadata { name: "web".into(), ..Metadata::default() };
    let of_go = Metadata { creation_timestamp: Some(Time { seconds: 0 }), ..metadata };
    let service = Service { metadata: Some(of_go), spec: Some(spec), status: None };
    let frame = frame("ADDED", ("v1", "Service"), &service);
    let told = lines(asked(WATCH, STREAM, &[&frame]).await.1).await.unwrap();
    let object = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"ports": [{"port": 80, "protocol": "TCP"}], "clusterIP": "10.254.0.9",
            "publishNotReadyAddresses": false}});
    assert_eq!(told, [json!({"type": "ADDED", "object": object})]);
    decode_is_object(&object);
}

fn decode_is_object(object: &Value) {
    let read = decode_object(Kind::Service, &object.to_string(), &mut Names::default());
    assert!(matches!(read.decoded, Decoded::Object(_)), "{:?}", read.decoded);
}

#[tokio::test]
async fn a_frame_may_come_in_any_pieces() {
    let all = [
        frame("ADDED", ("v1", "Service"), &service()),
        frame("ADDED", SLICE, &slice()),
        frame("DELETED", ("v1", "Service"), &service()),
    ]
    .concat();
    let whole = lines(asked(WATCH, STREAM, &[&all]).await.1).await.unwrap();
    assert_eq!(whole.len(), 3);
    for size in [1, 2, 3, 5, 100, 1000] {
        let pieces: Vec<&[u8]> = all.chunks(size).collect();
        assert_eq!(lines(asked(WATCH, STREAM, &pieces).await.1).await.unwrap(), whole, "{size}");
    }
}

#[tokio::test]
async fn a_refusal_is_told_in_and_before_the_stream() {
    let status = Status {
        status: "Failure".into(),
        message: b"too old resource version".to_vec(),
        reason: "Expired".into(),
        code: 410,
    };
    let json = json!({"apiVersion": "v1", "kind": "Status", "status": "Failure",
        "message": "too old resource version", "reason": "Expired", "code": 410});
    let frame = frame("ERROR", ("v1", "Status"), &status);
    let told = lines(asked(WATCH, STREAM, &[&frame]).await.1).await.unwrap();
    assert_eq!(told, [json!({"type": "ERROR", "object": json})]);
    let whole = wrapped(("v1", "Status"), &status);
    let refused = (410, "application/vnd.kubernetes.protobuf");
    let answer = asked(WATCH, refused, &[&whole[..9], &whole[9..]]).await.1;
    assert_eq!(answer.status(), StatusCode::GONE);
    assert_eq!(lines(answer).await.unwrap(), [json]);
}

/// What the API server stores: it checks the keys of annotations, and what it knows; nothing else.
#[tokio::test]
async fn text_that_is_no_utf8_costs_at_most_its_object() {
    let mut service = service();
    let annotations = &mut service.metadata.as_mut().unwrap().annotations;
    annotations.insert("note".into(), b"a\xffb".to_vec());
    let good = frame("ADDED", ("v1", "Service"), &service);
    let mut bad = good.clone();
    let at = bad.windows(11).position(|some| some == b"198.51.100.").expect("an external IP");
    bad[at] = 0xff;
    let mut bad_slice = frame("ADDED", SLICE, &slice());
    let at = bad_slice.windows(8).position(|some| some == b"10.1.0.2").expect("an endpoint");
    bad_slice[at] = 0xff;
    let all = [bad, bad_slice, good].concat();
    let told = lines(asked(WATCH, STREAM, &[&all]).await.1).await.unwrap();
    assert_eq!(told[2]["object"]["metadata"]["annotations"]["note"], "a\u{fffd}b");
    read(Kind::Service, &told[2]["object"].to_string());
    for (line, kind, key) in
        [(&told[0], Kind::Service, "a/web"), (&told[1], Kind::EndpointSlice, "a/web-x")]
    {
        assert_eq!(line["object"]["metadata"]["resourceVersion"], "7");
        let text = line["object"].to_string();
        let Decoded::Rejected(problem) = decode_object(kind, &text, &mut Names::default()).decoded
        else {
            panic!("{text}");
        };
        assert_eq!(&*problem.object.unwrap().key, key);
        assert!(problem.reason.contains("UTF-8"), "{}", problem.reason);
    }
}

#[tokio::test]
async fn after_an_answer_that_cannot_be_told_json_is_asked_for() {
    let accepted = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = std::sync::Arc::clone(&accepted);
    let server = service_fn(move |request: Request<()>| {
        seen.lock().unwrap().push(request.headers().contains_key(ACCEPT));
        let answer = Response::builder().header(CONTENT_TYPE, STREAM.1);
        let body = Full::new(Bytes::from_static(&[0xff; 8]));
        ready(Ok::<_, Infallible>(answer.body(body).unwrap()))
    });
    let mut client = Protobuf::new(server);
    for _ in 0..2 {
        let answer = client.call(Request::get(WATCH).body(()).unwrap()).await.unwrap();
        lines(answer).await.unwrap_err();
    }
    assert_eq!(*accepted.lock().unwrap(), [true, false]);
}

#[tokio::test]
async fn what_is_no_kubernetes_protobuf_ends_the_stream_with_an_error() {
    let good = frame("ADDED", ("v1", "Service"), &service());
    let no_magic = {
        let mut frame = good.clone();
        let at = frame.windows(4).position(|four| four == b"k8s\0").unwrap();
        frame[at] = b'x';
        frame
    };
    for (bytes, part) in [
        (&[0xff; 8][..], "4294967295 bytes"),
        (&[0, 0, 0, 2, 0xff, 0xff], "not the protobuf"),
        (&no_magic, "k8s"),
        (&frame("ADDED", ("v1", "Pod"), &service()), "Pod"),
    ] {
        let error = lines(asked(WATCH, STREAM, &[bytes]).await.1).await.unwrap_err();
        assert!(error.contains(part), "{error}");
    }
}

#[tokio::test]
async fn json_passes_and_other_requests_are_asked_as_before() {
    let text = br#"{"type":"ADDED","object":{"kind":"Service"}}"#;
    for path in ["/api/v1/services?limit=500", "/api/v1/nodes?watch=true", "/api/v1/services"] {
        let (accepts, answer) = asked(path, (200, "application/json"), &[text]).await;
        assert_eq!(accepts, "application/json", "{path}");
        assert_eq!(answer.headers()[CONTENT_LENGTH], "1");
        let told = lines(answer).await.unwrap();
        assert_eq!(told, [json!({"type": "ADDED", "object": {"kind": "Service"}})]);
    }
    let slices = "/apis/discovery.k8s.io/v1/endpointslices?allowWatchBookmarks=true&watch=true";
    let (accepts, answer) = asked(slices, (200, "application/json;stream=watch"), &[text]).await;
    assert!(accepts.contains("protobuf"), "{accepts}");
    assert_eq!(lines(answer).await.unwrap().len(), 1);
}
