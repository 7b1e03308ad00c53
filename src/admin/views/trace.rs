//! What becomes of a packet.

use super::target;
use crate::planner::Trace;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceView {
    /// `forward`, `reject`, `drop` or `pass`
    pub verdict: String,
    pub endpoints: Vec<TracedView>,
    /// `None`: it depends on the endpoint.
    pub masquerade: Option<bool>,
    pub steps: Vec<StepView>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TracedView {
    pub address: SocketAddr,
    pub masquerade: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepView {
    pub what: String,
    pub why: String,
}

pub fn trace_view(trace: &Trace) -> TraceView {
    let endpoints = trace
        .endpoints
        .iter()
        .map(|e| TracedView { address: target(e.target), masquerade: e.masquerade });
    let steps = trace.steps.iter().map(|s| StepView { what: s.what.clone(), why: s.why.clone() });
    TraceView {
        verdict: trace.verdict.name().to_owned(),
        endpoints: endpoints.collect(),
        masquerade: trace.masquerade,
        steps: steps.collect(),
    }
}
