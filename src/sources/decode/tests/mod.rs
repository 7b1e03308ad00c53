//! One table per rule: text in, the object or the field and reason out.

mod endpoints;
mod files;
mod pod;
mod service;

use super::{Decoded, Document, Format, Names, decode};
use crate::model::{EndpointSlice, Endpoints, Object, Problem, Service};
use std::path::Path;
use std::sync::Arc;

fn documents(text: &str, format: Format) -> Vec<Document> {
    let path: Arc<Path> = Path::new("a.yaml").into();
    decode(text.as_bytes(), format, &path, &mut Names::default()).expect("parses")
}

fn only(text: &str) -> Document {
    let mut documents = documents(text, Format::Yaml);
    assert_eq!(documents.len(), 1, "{documents:?}");
    documents.remove(0)
}

fn object(text: &str) -> Object {
    match only(text).decoded {
        Decoded::Object(object) => object,
        other => panic!("not served: {other:?}"),
    }
}

fn rejected(text: &str) -> Problem {
    match only(text).decoded {
        Decoded::Rejected(problem) => problem,
        other => panic!("not rejected: {other:?}"),
    }
}

fn ignored(text: &str) -> (Option<String>, &'static str) {
    match only(text).decoded {
        Decoded::Ignored { object, why } => (object.map(|o| o.to_string()), why),
        other => panic!("not ignored: {other:?}"),
    }
}

/// A good Service; `spec` adds fields to its spec in flow style.
fn service_text(spec: &str) -> String {
    format!("{{apiVersion: v1, kind: Service, metadata: {{name: web}}, spec: {{{spec}}}}}")
}

const GOOD: &str = "clusterIP: 10.254.0.1, ports: [{port: 80}]";

fn service(spec: &str) -> Arc<Service> {
    match object(&service_text(spec)) {
        Object::Service(service) => service,
        other => panic!("{other:?}"),
    }
}

fn service_fault(spec: &str) -> String {
    rejected(&service_text(spec)).field.into()
}

fn slice_text(rest: &str) -> String {
    format!(
        "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: web-1, labels: \
         {{kubernetes.io/service-name: web}}}}, addressType: IPv4, {rest}}}"
    )
}

fn slice(rest: &str) -> (Arc<EndpointSlice>, Vec<Problem>) {
    let document = only(&slice_text(rest));
    match document.decoded {
        Decoded::Object(Object::EndpointSlice(slice)) => (slice, document.warnings),
        other => panic!("{other:?}"),
    }
}

fn endpoints(rest: &str) -> (Arc<Endpoints>, Vec<Problem>) {
    let text = format!("{{apiVersion: v1, kind: Endpoints, metadata: {{name: web}}, {rest}}}");
    let document = only(&text);
    match document.decoded {
        Decoded::Object(Object::Endpoints(endpoints)) => (endpoints, document.warnings),
        other => panic!("{other:?}"),
    }
}
