//! What is answered, as kube-proxy 1.37 words it.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use crate::model::{Family, ServiceKey};
use crate::sync::Snapshot;
use hyper::StatusCode;
use serde::Serialize;
use std::time::Instant;

/// An HTTP answer but for what is the same in each.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub status: StatusCode,
    /// JSON
    pub body: String,
    /// `X-Load-Balancing-Endpoint-Weight`: local endpoints, for load balancers that send more to
    /// nodes that have more.
    pub weight: u32,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    service: Name<'a>,
    local_endpoints: u32,
    service_proxy_healthy: bool,
}

#[derive(Serialize)]
struct Name<'a> {
    namespace: &'a str,
    name: &'a str,
}

/// To a load balancer that asks in this family, about its endpoints of this family.
///
/// Of a service that does not have this port (any more): 503, with no endpoints. A node that goes
/// away counts as one whose proxy is not healthy, so that the status always follows from the body.
pub(super) fn answer(
    snapshot: &Snapshot,
    (service, port, family): (&ServiceKey, u16, Family),
    now: Instant,
) -> Answer {
    let check = snapshot.status.served.get(service);
    let local_endpoints =
        check.filter(|check| check.port.get() == port).map_or(0, |check| check.of(family));
    let service_proxy_healthy = snapshot.status.is_healthy(now) && !snapshot.plan.facts.going_away;
    let body = Body {
        service: Name { namespace: service.namespace(), name: service.name() },
        local_endpoints,
        service_proxy_healthy,
    };
    let status = match local_endpoints > 0 && service_proxy_healthy {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    let body = serde_json::to_string(&body).expect("names and numbers are JSON");
    Answer { status, body, weight: local_endpoints }
}
