//! What is answered about the process, as kube-proxy 1.37 words it.
//!
//! `/healthz` is for load balancers: 503 takes this node out of them. `/livez` is for who would start
//! the process again: it does not fail where that would not help.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use crate::sync::Snapshot;
use hyper::StatusCode;
use k8s_openapi::jiff::Timestamp;
use serde::Serialize;
use std::time::{Instant, SystemTime};

/// An HTTP answer with JSON.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub status: StatusCode,
    pub body: String,
}

/// Go's zero time: who reads the answer there parses it.
const NEVER: &str = "0001-01-01T00:00:00Z";

/// When it is asked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
    pub instant: Instant,
    pub wall: SystemTime,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    last_updated: String,
    current_time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_eligible: Option<bool>,
    healthy: bool,
    status: Families,
}

/// vipd programs both families at once.
#[derive(Serialize)]
struct Families {
    #[serde(rename = "IPv4")]
    v4: OfFamily,
    #[serde(rename = "IPv6")]
    v6: OfFamily,
}

#[derive(Serialize, Clone)]
#[serde(rename_all = "camelCase")]
struct OfFamily {
    last_updated: String,
    healthy: bool,
}

/// Whether a load balancer may send this node something: it holds what the cluster says, and stays.
pub(super) fn healthz(snapshot: &Snapshot, now: Now) -> Answer {
    let eligible = !snapshot.plan.facts.going_away;
    let serves = snapshot.status.is_healthy(now.instant);
    answer(snapshot, now, (serves, Some(eligible)))
}

/// Whether the process does what it can. An API server that is away is no reason to start it again.
pub(super) fn livez(snapshot: &Snapshot, now: Now) -> Answer {
    answer(snapshot, now, (snapshot.status.is_alive(now.instant), None))
}

fn answer(snapshot: &Snapshot, now: Now, (healthy, node_eligible): (bool, Option<bool>)) -> Answer {
    let good = healthy && node_eligible.unwrap_or(true);
    let current_time = written(now.wall);
    // With nothing to write the last write may be any time ago, and that is no news.
    let last_success = snapshot.status.last_success.map_or_else(|| NEVER.into(), written);
    let last_updated = if healthy { current_time.clone() } else { last_success.clone() };
    let family = OfFamily { last_updated: last_success, healthy };
    let status = Families { v4: family.clone(), v6: family };
    let body = Body { last_updated, current_time, node_eligible, healthy: good, status };
    Answer {
        status: if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE },
        body: serde_json::to_string(&body).expect("texts and truths are JSON"),
    }
}

/// RFC 3339
fn written(at: SystemTime) -> String {
    Timestamp::try_from(at).map_or_else(|_| String::new(), |at| at.to_string())
}
