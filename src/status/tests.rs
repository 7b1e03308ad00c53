//! What is answered, and when.

use super::answer::{Answer, Now, healthz, livez};
use crate::model::NodeFacts;
use crate::planner::Plan;
use crate::sync::{Snapshot, SyncStatus};
use hyper::StatusCode;
use imbl::OrdMap;
use serde_json::Value;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

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
    assert_eq!(body(&first)["lastUpdated"], "0001-01-01T00:00:00Z");
    assert_eq!(livez(&snapshot, at(start, 0)).status, StatusCode::OK, "it waits for its source");
    snapshot.status.synced = true;
    snapshot.status.last_success = Some(SystemTime::UNIX_EPOCH);
    let good = healthz(&snapshot, at(start, 1000));
    assert_eq!(good.status, StatusCode::OK);
    let said = body(&good);
    assert_eq!(said["lastUpdated"], "1970-01-01T00:16:49Z");
    assert_eq!(said["lastUpdated"], said["currentTime"]);
    assert_eq!((&said["nodeEligible"], &said["healthy"]), (&true.into(), &true.into()));
    assert_eq!(said["status"]["IPv6"]["healthy"], true);
    assert_eq!(said["status"]["IPv4"]["lastUpdated"], "1970-01-01T00:00:00Z", "the last write");
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
