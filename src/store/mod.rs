//! What is known: services with everything that says where their traffic goes, and this node.
//! Where nobody says it, the pods that a Service selects do.
//!
//! In: objects that are there or gone. Out: [`Known`] per service, and the keys that changed.
//! Never: I/O, a clock, a decision about traffic; work that grows with the number of services.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod dirty;
mod pods;
#[cfg(test)]
mod tests;

pub use dirty::Dirty;

use crate::model::{
    EndpointSlice, Endpoints, EndpointsOrigin, Kind, Known, Node, Object, ObjectRef, Service,
    ServiceCidr, ServiceKey, SliceKey,
};
use crate::selectors::Selectors;
use imbl::OrdMap;
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A load, after which a walk over all services is no matter.
const BULK: usize = 1024;

/// All objects, indexed by the service they belong to. Saying the same thing twice changes nothing
/// and marks nothing dirty, so that an update which only touched an annotation stops here.
#[derive(Debug, Clone)]
pub struct Store {
    node_name: Arc<str>,
    known: OrdMap<ServiceKey, Arc<Known>>,
    /// Under which service a slice is filed, where its name does not say so ([`namesakes`]).
    strays: BTreeMap<SliceKey, ServiceKey>,
    node: Option<Arc<Node>>,
    /// By object, because the same range may stand in two of them.
    service_cidrs: BTreeMap<Box<str>, Arc<ServiceCidr>>,
    /// From the first pod to the last one.
    selectors: Option<Box<Selectors>>,
    dirty: dirty::Recorder,
    revision: u64,
}

impl Store {
    /// Of all nodes only the one with this name is kept.
    pub fn new(node_name: Arc<str>) -> Self {
        Self {
            node_name,
            known: OrdMap::new(),
            strays: BTreeMap::new(),
            node: None,
            service_cidrs: BTreeMap::new(),
            selectors: None,
            dirty: dirty::Recorder::default(),
            revision: 0,
        }
    }

    /// The object is now this.
    pub fn upsert(&mut self, object: Object) {
        match object {
            Object::Service(service) => self.upsert_service(service),
            Object::EndpointSlice(slice) => self.upsert_slice(slice),
            Object::Endpoints(endpoints) => self.upsert_endpoints(endpoints),
            Object::Pod(pod) => self.upsert_pod(pod),
            Object::Node(node) => self.upsert_node(node),
            Object::ServiceCidr(range) => self.upsert_service_cidr(range),
        }
    }

    /// The object is gone; harmless if it never was.
    pub fn delete(&mut self, object: &ObjectRef) {
        match object.kind {
            Kind::Service => self.delete_service(&object.key),
            Kind::Endpoints => {
                self.delete_part(&object.key, |known| {
                    take_endpoints(known, EndpointsOrigin::Object)
                });
            }
            Kind::EndpointSlice => self.delete_slice(&object.key),
            Kind::Pod => self.delete_pod(&object.key),
            Kind::Node => {
                if *object.key == *self.node_name && self.node.take().is_some() {
                    self.dirty.node();
                }
            }
            Kind::ServiceCidr => {
                if self.service_cidrs.remove(&object.key).is_some() {
                    self.dirty.node();
                }
            }
        }
    }

    /// Another number whenever something that is known of a service became another: tells a change from
    /// the same said again.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// What changed since the last call. Before it [`Store::known`] does not tell what became of
    /// pods: a load of a thousand pods of one Service makes its endpoints once.
    pub fn take_dirty(&mut self) -> Dirty {
        self.follow_pods();
        let dirty = self.dirty.take();
        if dirty.services.len() >= BULK.max(self.known.len() / 2) {
            self.pack();
        }
        dirty
    }

    /// Services that come in the order of their keys leave the map's nodes half empty. Here every
    /// other one goes in first, and the second round fills the nodes.
    fn pack(&mut self) {
        let known = std::mem::take(&mut self.known);
        let share = |(key, known): (&ServiceKey, &Arc<Known>)| (key.clone(), Arc::clone(known));
        for first in 0..2 {
            self.known.extend(known.iter().skip(first).step_by(2).map(share));
        }
    }

    /// A copy is free and does not follow later changes.
    pub fn known(&self) -> &OrdMap<ServiceKey, Arc<Known>> {
        &self.known
    }

    /// This node's own object.
    pub fn node(&self) -> Option<&Arc<Node>> {
        self.node.as_ref()
    }

    /// The ranges of all ServiceCIDR objects, sorted, each once.
    pub fn service_cidrs(&self) -> Vec<IpNet> {
        let mut ranges: Vec<IpNet> =
            self.service_cidrs.values().flat_map(|object| object.cidrs.iter().copied()).collect();
        ranges.sort_unstable();
        ranges.dedup();
        ranges
    }

    fn upsert_service(&mut self, mut service: Arc<Service>) {
        let before = self.known.get_key_value(&service.key);
        if before.is_some_and(|(_, known)| known.service.as_ref() == Some(&service)) {
            return;
        }
        let key = before.map_or(&service.key, |(shared, _)| shared).clone();
        if let Some(service) = Arc::get_mut(&mut service) {
            service.key = key.clone();
        }
        if let Some(selectors) = &mut self.selectors {
            selectors.upsert_service(&service);
        }
        self.part(&key).service = Some(service);
        self.changed(key);
    }

    fn upsert_endpoints(&mut self, endpoints: Arc<Endpoints>) {
        let key = endpoints.key.clone();
        if self.known.get(&key).is_some_and(|known| known.endpoints.as_ref() == Some(&endpoints)) {
            return;
        }
        self.part(&key).endpoints = Some(endpoints);
        self.changed(key);
    }

    fn upsert_slice(&mut self, mut slice: Arc<EndpointSlice>) {
        let service = match self.filed(slice.key.as_str()) {
            Some((filed, known)) if *filed == slice.service => {
                if find(known, slice.key.as_str()) == Some(&slice) {
                    return;
                }
                filed.clone()
            }
            Some(_) => {
                self.delete_slice(slice.key.as_str());
                self.shared_key(&slice.service)
            }
            None => self.shared_key(&slice.service),
        };
        if !namesakes(slice.key.as_str()).any(|namesake| namesake == service.as_str()) {
            self.strays.insert(slice.key.clone(), service.clone());
        }
        if let Some(slice) = Arc::get_mut(&mut slice) {
            slice.service = service.clone();
        }
        let slices = &mut self.part(&service).slices;
        match slices.binary_search_by(|other| other.key.cmp(&slice.key)) {
            Ok(at) => slices[at] = slice,
            Err(at) => slices.insert(at, slice),
        }
        self.changed(service);
    }

    fn upsert_node(&mut self, node: Arc<Node>) {
        if node.name == self.node_name && self.node.as_ref() != Some(&node) {
            self.node = Some(node);
            self.dirty.node();
        }
    }

    fn upsert_service_cidr(&mut self, range: Arc<ServiceCidr>) {
        if self.service_cidrs.get(&range.name) != Some(&range) {
            self.service_cidrs.insert(range.name.clone(), range);
            self.dirty.node();
        }
    }

    fn delete_service(&mut self, key: &str) {
        if let (Some(selectors), Some((key, _))) =
            (&mut self.selectors, self.known.get_key_value(key))
        {
            selectors.delete_service(key);
        }
        self.delete_part(key, |known| {
            take_endpoints(known, EndpointsOrigin::Pods);
            known.service.take().is_some()
        });
    }

    fn delete_slice(&mut self, key: &str) {
        let Some((service, _)) = self.filed(key) else { return };
        let service = service.clone();
        self.strays.remove(key);
        self.delete_part(service.as_str(), |known| {
            let before = known.slices.len();
            known.slices.retain(|slice| slice.key.as_str() != key);
            known.slices.len() != before
        });
    }

    /// Where a slice is, whatever its label says by now.
    fn filed(&self, slice: &str) -> Option<(&ServiceKey, &Arc<Known>)> {
        if let Some(service) = self.strays.get(slice) {
            return self.known.get_key_value(service);
        }
        namesakes(slice)
            .filter_map(|service| self.known.get_key_value(service))
            .find(|(_, known)| find(known, slice).is_some())
    }

    /// The parts known of `key`, to be changed.
    fn part(&mut self, key: &ServiceKey) -> &mut Known {
        Arc::make_mut(self.known.entry(key.clone()).or_default())
    }

    /// Lets `remove` take something out of a service; `remove` says whether anything was there.
    fn delete_part(&mut self, key: &str, remove: impl FnOnce(&mut Known) -> bool) {
        let Some((key, known)) = self.known.get_key_value(key) else { return };
        let key = key.clone();
        let mut known = Arc::clone(known);
        if !remove(Arc::make_mut(&mut known)) {
            return;
        }
        if known.is_empty() {
            self.known.remove(&key);
        } else {
            self.known.insert(key.clone(), known);
        }
        self.changed(key);
    }

    fn changed(&mut self, key: ServiceKey) {
        self.revision += 1;
        if self.selectors.is_some() {
            self.dirty.selecting(key.clone());
        }
        self.dirty.service(key);
    }

    /// `key` as the map already holds it, so that a service and its slices share one text.
    fn shared_key(&self, key: &ServiceKey) -> ServiceKey {
        self.known.get_key_value(key).map_or(key, |(shared, _)| shared).clone()
    }
}

/// Takes away what a Service has of this origin, and says whether it had any.
fn take_endpoints(known: &mut Known, origin: EndpointsOrigin) -> bool {
    known.endpoints.take_if(|endpoints| endpoints.origin == origin).is_some()
}

fn find<'a>(known: &'a Known, slice: &str) -> Option<&'a Arc<EndpointSlice>> {
    let at = known.slices.binary_search_by(|other| other.key.as_str().cmp(slice)).ok()?;
    Some(&known.slices[at])
}

/// The services that a slice's name speaks of: the slice controller appends `-` and a random suffix
/// to the service's name, people tend to repeat it. An index of all slices would cost more memory
/// than what it saves in time.
fn namesakes(slice: &str) -> impl Iterator<Item = &str> {
    let generated = slice.rsplit_once('-').map(|(service, _)| service);
    [generated, Some(slice)].into_iter().flatten()
}
