//! A Pod, as far as it can be an endpoint.

use super::{EndpointPort, Family, Place, PodKey, Ports};
use std::net::IpAddr;
use std::sync::Arc;

/// A v1 Pod that has a label and an address and has not ended; any other is nobody's endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    pub key: PodKey,
    /// `metadata.labels` as `key=value,…`, sorted by key: what [`Shown::selector`] is compared with.
    ///
    /// [`Shown::selector`]: super::Shown::selector
    pub labels: Box<str>,
    /// `status.podIPs`: at most one address per family.
    pub addresses: Box<[IpAddr]>,
    /// Condition Ready is True.
    pub ready: bool,
    /// `metadata.deletionTimestamp` is set.
    pub terminating: bool,
    /// `spec.nodeName`; a pod has no hints.
    pub place: Arc<Place>,
    /// Named ports of the containers, then of the init containers that run on (restartPolicy
    /// Always). Of two with one name and protocol the first counts.
    pub ports: Ports<EndpointPort>,
}

impl Pod {
    pub fn address(&self, family: Family) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|address| Family::of(*address) == family)
    }
}
