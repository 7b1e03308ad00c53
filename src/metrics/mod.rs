//! The numbers that a monitoring system collects, as text.
//!
//! In: a published snapshot, counters of other rooms and of the kernel. Out: the Prometheus text
//! exposition format (0.0.4).
//! Never: a number per service, of which there may be 100,000, but for those that are relayed; a walk
//! over all services.
//!
//! Names are kube-proxy's where it has one for the same thing, so that dashboards and alerts go on
//! working; all others begin with `vipd_`. kube-proxy programs the two families one after the other
//! and labels with `ip_family`; vipd's table has both, and what is of the table is the same under both
//! values of the label. The format is written here: OpenMetrics, which the crate `prometheus-client`
//! writes, has no room for kube-proxy's gauge whose name ends in `_total`.

mod families;
mod of_process;
mod process;
mod readings;
mod relayed;
mod scrape;
#[cfg(test)]
mod tests;
mod text;
mod unpinned;
#[cfg(test)]
mod unpinned_tests;
mod watch;

pub use crate::dataplane::userspace::{EndpointCounts, PortCounts};
pub use families::render;
pub use readings::Readings;
pub use scrape::{Answers, Asked, Metrics};
pub use watch::watch;

/// Of the answer to a scrape.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
