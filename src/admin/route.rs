//! Which path is answered with what, as a function of one snapshot.

use super::query::{TraceQuery, parameter};
use super::stream::{self, Body};
use super::views::{
    List, NodeView, ServicePlanView, StatusView, describe, endpoints_view, not_found,
    problem_views, service_view, trace_view,
};
use crate::metrics::Metrics;
use crate::model::ServiceKey;
use crate::planner;
use crate::sync::Snapshot;
use http_body_util::{BodyExt, Full};
use hyper::StatusCode;
use serde::Serialize;
use std::sync::Arc;

/// Not of the versioned API: the path and format are those that every collector knows.
pub(super) const METRICS: &str = "/metrics";

pub(super) enum Answer {
    Body(Body),
    Refusal(StatusCode, String),
}

pub(super) fn answer(
    path: &str,
    query: &str,
    (snapshot, metrics): (Arc<Snapshot>, &Metrics),
) -> Answer {
    let namespace = parameter(query, "namespace");
    match path {
        "/v1/services" => services(snapshot, namespace),
        "/v1/endpoints" => endpoints(snapshot, namespace),
        "/v1/rejected" => {
            let mut items = problem_views(&snapshot);
            items.retain(|item| namespace.is_none() || item.namespace == namespace);
            json(&List { kind: "ProblemList".to_owned(), items })
        }
        "/v1/plan" => plan(snapshot),
        "/v1/status" => json(&StatusView::from(&*snapshot)),
        "/v1/trace" => trace(query, &snapshot),
        _ => match path.strip_prefix("/v1/services/").and_then(ServiceKey::parse) {
            Some(key) => one_service(&key, &snapshot, metrics),
            None => {
                Answer::Refusal(StatusCode::NOT_FOUND, format!("{path} is no path of this API"))
            }
        },
    }
}

fn services(snapshot: Arc<Snapshot>, namespace: Option<String>) -> Answer {
    let head = r#"{"kind":"ServiceList","items":["#.to_owned();
    let known = snapshot.known.clone();
    Answer::Body(stream::list(head, known, move |out, key, known| {
        let Some(service) = known.service.as_ref().filter(|_| in_namespace(key, &namespace)) else {
            return false;
        };
        let plan = snapshot.plan.service(key);
        append(out, &service_view(service, known, plan.as_ref()))
    }))
}

fn endpoints(snapshot: Arc<Snapshot>, namespace: Option<String>) -> Answer {
    let head = r#"{"kind":"EndpointsList","items":["#.to_owned();
    Answer::Body(stream::list(head, snapshot.known.clone(), move |out, key, known| {
        in_namespace(key, &namespace) && append(out, &endpoints_view(key, known))
    }))
}

fn plan(snapshot: Arc<Snapshot>) -> Answer {
    match serde_json::to_string(&NodeView::from(&snapshot.plan)) {
        Ok(node) => {
            let head = format!(r#"{{"node":{node},"services":["#);
            let known = snapshot.plan.known.clone();
            Answer::Body(stream::list(head, known, move |out, _, known| {
                let plan = snapshot.plan.service_of(known);
                plan.is_some_and(|plan| append(out, &ServicePlanView::from(&plan)))
            }))
        }
        Err(error) => unprintable(&error),
    }
}

fn one_service(key: &ServiceKey, snapshot: &Snapshot, metrics: &Metrics) -> Answer {
    match describe(snapshot, key) {
        Some(view) => json(&view.with_counts(&metrics.relayed(key))),
        None => Answer::Refusal(StatusCode::NOT_FOUND, not_found(snapshot, key)),
    }
}

fn trace(query: &str, snapshot: &Snapshot) -> Answer {
    let traced = TraceQuery::parse(query).map_err(|error| error.to_string()).and_then(|query| {
        planner::trace(&snapshot.plan, &query.packet()).map_err(|error| error.to_string())
    });
    match traced {
        Ok(trace) => json(&trace_view(&trace)),
        Err(text) => Answer::Refusal(StatusCode::BAD_REQUEST, text),
    }
}

fn in_namespace(key: &ServiceKey, namespace: &Option<String>) -> bool {
    namespace.as_deref().is_none_or(|namespace| key.namespace() == namespace)
}

fn json<T: Serialize>(value: &T) -> Answer {
    match serde_json::to_vec(value) {
        Ok(text) => Answer::Body(Full::from(text).boxed_unsync()),
        Err(error) => unprintable(&error),
    }
}

fn append<T: Serialize>(out: &mut Vec<u8>, value: &T) -> bool {
    serde_json::to_writer(out, value).is_ok()
}

fn unprintable(error: &serde_json::Error) -> Answer {
    Answer::Refusal(
        StatusCode::INTERNAL_SERVER_ERROR,
        format!("cannot be written as JSON: {error}"),
    )
}
