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
    let last_updated = match snapshot.status.last_success {
        _ if healthy => current_time.clone(),
        Some(at) => written(at),
        None => String::new(),
    };
    let family = OfFamily { last_updated: last_updated.clone(), healthy };
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::NodeFacts;
    use crate::planner::Plan;
    use crate::sync::SyncStatus;
    use imbl::OrdMap;
    use serde_json::Value;
    use std::sync::Arc;
    use std::time::Duration;

    fn young() -> Snapshot {
        let (known, problems, status) = (OrdMap::new(), OrdMap::new(), SyncStatus::default());
        Snapshot { known, plan: Plan::empty(), problems, status }
    }

    fn at(now: Instant, seconds: u64) -> Now {
        let after = Duration::from_secs(seconds);
        Now { instant: now + after, wall: SystemTime::UNIX_EPOCH + Duration::from_secs(9) + after }
    }

    fn body(answer: &Answer) -> Value {
        serde_json::from_str(&answer.body).expect("JSON")
    }

    #[test]
    fn a_node_is_healthy_once_it_serves_and_while_it_stays() {
        let start = Instant::now();
        let mut snapshot = young();
        let first = healthz(&snapshot, at(start, 0));
        assert_eq!(first.status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(
            livez(&snapshot, at(start, 0)).status,
            StatusCode::OK,
            "it waits for its source"
        );
        snapshot.status.synced = true;
        snapshot.status.last_success = Some(SystemTime::UNIX_EPOCH);
        let good = healthz(&snapshot, at(start, 1000));
        assert_eq!(good.status, StatusCode::OK);
        let said = body(&good);
        assert_eq!(said["lastUpdated"], "1970-01-01T00:16:49Z");
        assert_eq!(said["lastUpdated"], said["currentTime"]);
        assert_eq!((&said["nodeEligible"], &said["healthy"]), (&true.into(), &true.into()));
        assert_eq!(said["status"]["IPv6"]["healthy"], true);
        let facts = NodeFacts { going_away: true, ..(*snapshot.plan.facts).clone() };
        snapshot.plan.facts = Arc::new(facts);
        let leaving = healthz(&snapshot, at(start, 1000));
        assert_eq!(leaving.status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(body(&leaving)["nodeEligible"], false);
        assert_eq!(livez(&snapshot, at(start, 1000)).status, StatusCode::OK);
        assert_eq!(body(&livez(&snapshot, at(start, 1000))).get("nodeEligible"), None);
    }

    #[test]
    fn failures_that_last_are_told_by_both() {
        let start = Instant::now();
        let mut snapshot = young();
        snapshot.status.synced = true;
        snapshot.status.last_success = Some(SystemTime::UNIX_EPOCH + Duration::from_secs(5));
        snapshot.status.failing_since = Some(start);
        for (seconds, wanted) in [(59, StatusCode::OK), (60, StatusCode::SERVICE_UNAVAILABLE)] {
            assert_eq!(healthz(&snapshot, at(start, seconds)).status, wanted, "{seconds}");
            assert_eq!(livez(&snapshot, at(start, seconds)).status, wanted, "{seconds}");
        }
        let said = body(&healthz(&snapshot, at(start, 60)));
        assert_eq!(said["lastUpdated"], "1970-01-01T00:00:05Z", "when it last was right");
    }
}
