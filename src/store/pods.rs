//! Pods, and what they make of the Services that nobody else speaks for.

use super::Store;
use crate::model::{Endpoints, EndpointsOrigin, Known, Pod};
use crate::selectors::Selectors;
use std::sync::Arc;

impl Store {
    pub(super) fn upsert_pod(&mut self, pod: Arc<Pod>) {
        let known = &self.known;
        let services = || known.values().filter_map(|known| known.service.as_ref());
        let selectors = self.selectors.get_or_insert_with(|| Box::new(Selectors::new(services())));
        for key in selectors.upsert_pod(pod) {
            self.dirty.selecting(key);
        }
    }

    pub(super) fn delete_pod(&mut self, key: &str) {
        let Some(selectors) = &mut self.selectors else { return };
        for key in selectors.delete_pod(key) {
            self.dirty.selecting(key);
        }
    }

    /// Brings what pods make up to date. A Service whose endpoints stay as they are stays clean.
    pub(super) fn follow_pods(&mut self) {
        let Some(selectors) = self.selectors.take() else { return };
        for key in self.dirty.take_selecting() {
            let Some(known) = self.known.get(&key) else { continue };
            let made = made(known, &selectors);
            if made.as_ref() == of_pods(known) {
                continue;
            }
            self.part(&key).endpoints = made.map(Arc::new);
            self.dirty.service(key);
        }
        // The last pod may go and the next one come in one batch: the index survives that.
        if selectors.has_pods() {
            self.selectors = Some(selectors);
        }
    }
}

/// What the pods make of a Service that has neither slices nor an Endpoints object.
fn made(known: &Known, selectors: &Selectors) -> Option<Endpoints> {
    let service = known.service.as_ref()?;
    let is_object = |e: &Arc<Endpoints>| e.origin == EndpointsOrigin::Object;
    if !known.slices.is_empty() || known.endpoints.as_ref().is_some_and(is_object) {
        return None;
    }
    selectors.endpoints(service)
}

/// What the pods made of it before.
fn of_pods(known: &Known) -> Option<&Endpoints> {
    known.endpoints.as_deref().filter(|e| e.origin == EndpointsOrigin::Pods)
}
