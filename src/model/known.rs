//! Everything known of one Service.

use super::{EndpointSet, EndpointSlice, Endpoints, Service, SliceOrigin};
use smallvec::SmallVec;
use std::sync::Arc;

/// A Service with all that may say where its traffic goes. Any part can be missing: slices often
/// arrive before their Service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known {
    pub service: Option<Arc<Service>>,
    /// Sorted by slice key.
    pub slices: SmallVec<[Arc<EndpointSlice>; 1]>,
    pub endpoints: Option<Arc<Endpoints>>,
}

impl Known {
    pub fn is_empty(&self) -> bool {
        self.service.is_none() && self.slices.is_empty() && self.endpoints.is_none()
    }

    /// The sets that count: slices that are not mirrored, if there are any; else the Endpoints
    /// object; else the mirrored slices. Never a union, or hand-made endpoints count twice.
    pub fn sets(&self) -> impl Iterator<Item = &EndpointSet> {
        let has_own = self.slices.iter().any(|slice| slice.origin == SliceOrigin::Own);
        let wanted = match (has_own, &self.endpoints) {
            (true, _) => Some(SliceOrigin::Own),
            (false, Some(_)) => None,
            (false, None) => Some(SliceOrigin::Mirrored),
        };
        let from_slices =
            self.slices.iter().filter(move |s| Some(s.origin) == wanted).map(|s| &s.set);
        let from_endpoints =
            self.endpoints.iter().filter(move |_| wanted.is_none()).flat_map(|e| e.sets.iter());
        from_slices.chain(from_endpoints)
    }
}
