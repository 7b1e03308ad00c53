//! What is shown, as values that travel as JSON: the daemon's answers and the offline commands
//! print the same. PURE.

mod describe;
mod endpoints;
mod plan;
mod problem;
mod service;
mod status;
mod trace;

pub use describe::{
    DescribeView, DescribedEndpoint, DescribedHealth, DescribedPort, HealthAnswer, RelayedView,
    describe, not_found,
};
pub use endpoints::{EndpointView, EndpointsView, endpoints_view};
pub use plan::{
    FrontendView, LimitsView, NodeView, PlanView, PoolView, PortView, RelayView, ServicePlanView,
    TimeoutsView,
};
pub use problem::{ProblemView, problem_views, problems_of};
pub use service::{Count, ServicePortView, ServiceView, service_view};
pub use status::StatusView;
pub use trace::{StepView, TraceView, TracedView, trace_view};

use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// Many of a kind, in a fixed order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct List<T> {
    pub kind: String,
    pub items: Vec<T>,
}

/// `address:port`, IPv6 in brackets.
pub(crate) fn target(target: crate::planner::Target) -> SocketAddr {
    SocketAddr::new(target.address, target.port)
}
