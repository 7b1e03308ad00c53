//! What this node must do for each service, and why.
//!
//! In: what is known ([`crate::model::Known`]), facts of the node, [`Policy`].
//! Out: [`Plan`]s and the [`PlanDelta`] between two of them.
//! Never: I/O, a clock, randomness; work for services that a change does not concern.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod claims;
mod endpoints;
mod explain;
mod follow;
mod frontends;
mod health;
mod hints;
mod plan;
mod policy;
mod problems;
mod relay;
mod replan;
#[cfg(test)]
mod tests;
mod trace;

pub use claims::{Claims, Contests};
pub use explain::{EndpointUse, explain};
pub use frontends::plan_service;
pub use health::{health_holders, health_shadow};
pub use plan::*;
pub use policy::{DetectLocal, ExternalIps, NodePortAddresses, Note, Outsiders, Policy};
pub use problems::problems;
pub use relay::{Balanced, Carrier, PodsToldBy, Relay, Unrelayed, Unsplit, Way};
pub use replan::{FactsChange, Planner};
pub use trace::{Packet, Step, Trace, TraceError, TracedEndpoint, Verdict, trace};
