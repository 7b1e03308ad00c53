//! Strings that many objects share are kept once.
//!
//! In: names of nodes and Services, lists of ports, endpoints' places. Out: shared ones. Never: a copy of a name that is known.

use crate::model::{EndpointPort, Hints, NodeName, Place, Ports, ServiceKey, ServicePort};
use foldhash::fast::FixedState;
use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Arc;

/// Lists of ports that are remembered: node ports may make every list another one.
const PORT_LISTS: usize = 4096;

/// As many nodes as Kubernetes supports, each with a few hints.
const PLACES: usize = 16_384;

/// 100,000 endpoints on 50 nodes hold 50 names, and the slices of a Service share its key.
#[derive(Debug, Clone, Default)]
pub struct Names {
    nodes: HashSet<NodeName, FixedState>,
    services: HashSet<ServiceKey, FixedState>,
    places: HashSet<Arc<Place>, FixedState>,
    service_ports: HashSet<Ports<ServicePort>, FixedState>,
    endpoint_ports: HashSet<Ports<EndpointPort>, FixedState>,
    /// Where keys are put together.
    text: String,
}

impl Names {
    pub fn intern(&mut self, name: &str) -> NodeName {
        if let Some(known) = self.nodes.get(name) {
            return known.clone();
        }
        let name: NodeName = name.into();
        self.nodes.insert(name.clone());
        name
    }

    pub fn service(&mut self, namespace: &str, name: &str) -> ServiceKey {
        self.text.clear();
        self.text.extend([namespace, "/", name]);
        if let Some(known) = self.services.get(self.text.as_str()) {
            return known.clone();
        }
        let key = ServiceKey::new(namespace, name);
        self.services.insert(key.clone());
        key
    }

    pub fn place(&mut self, node: Option<&str>, hints: Hints) -> Arc<Place> {
        let place = Place { node: node.map(|node| self.intern(node)), hints };
        if let Some(known) = self.places.get(&place) {
            return Arc::clone(known);
        }
        if self.places.len() >= PLACES {
            self.places.clear();
        }
        let place = Arc::new(place);
        self.places.insert(Arc::clone(&place));
        place
    }

    pub fn service_ports(&mut self, ports: Vec<ServicePort>) -> Ports<ServicePort> {
        shared(&mut self.service_ports, ports)
    }

    pub fn endpoint_ports(&mut self, ports: Vec<EndpointPort>) -> Ports<EndpointPort> {
        shared(&mut self.endpoint_ports, ports)
    }

    /// Keys of Services are shared within one reading of many objects, not held for ever.
    pub fn forget_services(&mut self) {
        self.services = HashSet::default();
    }
}

fn shared<T: Eq + Hash>(known: &mut HashSet<Ports<T>, FixedState>, ports: Vec<T>) -> Ports<T> {
    if let Some(known) = known.get(&ports[..]) {
        return known.clone();
    }
    if known.len() >= PORT_LISTS {
        known.clear();
    }
    let ports = Ports::from_iter(ports);
    known.insert(ports.clone());
    ports
}
