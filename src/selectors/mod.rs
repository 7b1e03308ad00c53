//! Which pods a Service's selector names, and the endpoints that they are, for a node that no slice
//! controller tells.
//!
//! In: pods, and Services that have a selector. Out: the Services that a pod concerns, and the
//! [`Endpoints`] that a Service's pods make.
//! Never: I/O, a clock; a walk over the pods or Services of other selectors.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod endpoints;
mod index;
#[cfg(test)]
mod tests;

use crate::model::{Endpoints, Pod, PodKey, Service, ServiceKey};
use index::Index;
use std::collections::BTreeMap;
use std::sync::Arc;

/// All pods, and all Services that have a selector. Held only while there are pods: on most nodes
/// there are none, and it costs more than the Services themselves.
#[derive(Debug, Clone, Default)]
pub struct Selectors {
    /// A selector names pods of its own namespace only.
    namespaces: BTreeMap<Box<str>, Namespace>,
    pods: usize,
}

#[derive(Debug, Clone, Default)]
struct Namespace {
    pods: BTreeMap<PodKey, Arc<Pod>>,
    /// A pod under each of its labels.
    by_label: Index<PodKey>,
    services: BTreeMap<ServiceKey, Arc<Service>>,
    /// A Service under one pair of its selector.
    by_selector: Index<ServiceKey>,
}

impl Selectors {
    /// Knows these Services and no pod yet.
    pub fn new<'a>(services: impl IntoIterator<Item = &'a Arc<Service>>) -> Self {
        let mut selectors = Self::default();
        services.into_iter().for_each(|service| selectors.upsert_service(service));
        selectors
    }

    pub fn has_pods(&self) -> bool {
        self.pods > 0
    }

    /// The Service is now this.
    pub fn upsert_service(&mut self, service: &Arc<Service>) {
        self.delete_service(&service.key);
        if service.shown.selector().is_empty() {
            return;
        }
        let namespace = self.namespaces.entry(service.key.namespace().into()).or_default();
        namespace.services.insert(service.key.clone(), Arc::clone(service));
        // A pair that many Services share says little of which one a pod belongs to.
        let rarest =
            pairs(service.shown.selector()).min_by_key(|pair| namespace.by_selector.count(pair));
        if let Some(pair) = rarest {
            namespace.by_selector.insert(pair, &service.key);
        }
    }

    /// The Service is gone; harmless if it never was.
    pub fn delete_service(&mut self, key: &ServiceKey) {
        let Some(namespace) = self.namespaces.get_mut(key.namespace()) else { return };
        let Some(service) = namespace.services.remove(key) else { return };
        for pair in pairs(service.shown.selector()) {
            namespace.by_selector.remove(pair, key);
        }
        self.forget_if_empty(key.namespace());
    }

    /// The pod is now this. Returns the Services whose endpoints that may change; some of them
    /// twice.
    pub fn upsert_pod(&mut self, pod: Arc<Pod>) -> Vec<ServiceKey> {
        let namespace = self.namespaces.entry(pod.key.namespace().into()).or_default();
        let mut concerned = match namespace.pods.get(&pod.key) {
            Some(before) if *before == pod => return Vec::new(),
            Some(_) => namespace.take_pod(pod.key.as_str()),
            None => {
                self.pods += 1;
                Vec::new()
            }
        };
        concerned.extend(namespace.selecting(&pod));
        for label in pairs(&pod.labels) {
            namespace.by_label.insert(label, &pod.key);
        }
        namespace.pods.insert(pod.key.clone(), pod);
        concerned
    }

    /// The pod `namespace/name` is gone; harmless if it never was. Returns the Services whose
    /// endpoints that may change.
    pub fn delete_pod(&mut self, key: &str) -> Vec<ServiceKey> {
        let name = key.split_once('/').map_or(key, |(namespace, _)| namespace);
        let Some(namespace) = self.namespaces.get_mut(name) else { return Vec::new() };
        self.pods -= usize::from(namespace.pods.contains_key(key));
        let concerned = namespace.take_pod(key);
        self.forget_if_empty(name);
        concerned
    }

    /// What the pods of a Service's selector are to it; `None` if they are nothing.
    pub fn endpoints(&self, service: &Service) -> Option<Endpoints> {
        let namespace = self.namespaces.get(service.key.namespace())?;
        endpoints::make(service, namespace.selected(service.shown.selector()))
    }

    fn forget_if_empty(&mut self, name: &str) {
        let empty =
            |namespace: &Namespace| namespace.pods.is_empty() && namespace.services.is_empty();
        if self.namespaces.get(name).is_some_and(empty) {
            self.namespaces.remove(name);
        }
    }
}

impl Namespace {
    /// The Services that select a pod: O(those that share a pair with its labels).
    fn selecting(&self, pod: &Pod) -> Vec<ServiceKey> {
        pairs(&pod.labels)
            .flat_map(|label| self.by_selector.get(label))
            .filter(|key| {
                let service = self.services.get(*key);
                service.is_some_and(|service| selects(service.shown.selector(), &pod.labels))
            })
            .cloned()
            .collect()
    }

    /// The pods that a selector names, by name: O(those that have the rarest of its labels).
    fn selected(&self, selector: &str) -> impl Iterator<Item = &Pod> {
        let rarest = pairs(selector).min_by_key(|pair| self.by_label.count(pair));
        let names = rarest.into_iter().flat_map(move |pair| self.by_label.get(pair));
        let pods = names.filter_map(move |name| self.pods.get(name));
        pods.map(|pod| &**pod).filter(move |pod| selects(selector, &pod.labels))
    }

    fn take_pod(&mut self, key: &str) -> Vec<ServiceKey> {
        let Some(pod) = self.pods.remove(key) else { return Vec::new() };
        for label in pairs(&pod.labels) {
            self.by_label.remove(label, &pod.key);
        }
        self.selecting(&pod)
    }
}

/// Whether the labels have all pairs of the selector. An empty selector selects nothing: a Service
/// without one has its endpoints from somebody else.
fn selects(selector: &str, labels: &str) -> bool {
    !selector.is_empty() && pairs(selector).all(|pair| pairs(labels).any(|label| label == pair))
}

/// `key=value,…` taken apart.
fn pairs(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').filter(|pair| !pair.is_empty())
}
