//! Everything known of one Service.

use super::{EndpointSet, EndpointSlice, Endpoints, EndpointsOrigin, Service, SliceOrigin};
use smallvec::SmallVec;
use std::sync::Arc;

/// A Service with all that may say where its traffic goes. Any part can be missing: slices often
/// arrive before their Service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known {
    pub service: Option<Arc<Service>>,
    /// Sorted by slice key.
    pub slices: SmallVec<[Arc<EndpointSlice>; 1]>,
    /// The Endpoints object of the Service's name. Without one, and without slices, what the pods
    /// of the Service's selector make: one place for both, for there is one of these per Service.
    pub endpoints: Option<Arc<Endpoints>>,
}

/// Who says where a Service's traffic goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EndpointSource {
    Slices,
    Object,
    MirroredSlices,
    Pods,
}

impl EndpointSource {
    /// What to look at, in Kubernetes' words.
    pub fn name(self) -> &'static str {
        match self {
            EndpointSource::Slices => "EndpointSlices",
            EndpointSource::Object => "Endpoints",
            EndpointSource::MirroredSlices => "mirrored EndpointSlices",
            EndpointSource::Pods => "Pods",
        }
    }
}

impl Known {
    pub fn is_empty(&self) -> bool {
        self.service.is_none() && self.slices.is_empty() && self.endpoints.is_none()
    }

    /// Who is listened to: slices that are not mirrored, if there are any; else the Endpoints
    /// object; else the mirrored slices; else the pods. Never a union, or endpoints count twice.
    pub fn source(&self) -> Option<EndpointSource> {
        if self.slices.iter().any(|slice| slice.origin == SliceOrigin::Own) {
            return Some(EndpointSource::Slices);
        }
        let origin = self.endpoints.as_ref().map(|endpoints| endpoints.origin);
        match (origin, self.slices.is_empty()) {
            (Some(EndpointsOrigin::Object), _) => Some(EndpointSource::Object),
            (_, false) => Some(EndpointSource::MirroredSlices),
            (Some(EndpointsOrigin::Pods), true) => Some(EndpointSource::Pods),
            (None, true) => None,
        }
    }

    /// The sets that count: those of [`Known::source`].
    pub fn sets(&self) -> impl Iterator<Item = &EndpointSet> {
        let wanted = match self.source() {
            Some(EndpointSource::Slices) => Some(SliceOrigin::Own),
            Some(EndpointSource::MirroredSlices) => Some(SliceOrigin::Mirrored),
            Some(EndpointSource::Object | EndpointSource::Pods) | None => None,
        };
        let from_slices =
            self.slices.iter().filter(move |s| Some(s.origin) == wanted).map(|s| &s.set);
        let from_endpoints =
            self.endpoints.iter().filter(move |_| wanted.is_none()).flat_map(|e| e.sets.iter());
        from_slices.chain(from_endpoints)
    }
}
