//! Strings that many objects share are kept once.
//!
//! In: names of nodes and Services, lists of ports. Out: shared ones. Never: a copy of a name that is known.

use crate::model::{EndpointPort, NodeName, Ports, ServiceKey, ServicePort};
use foldhash::fast::FixedState;
use std::collections::HashSet;
use std::hash::Hash;

/// Lists of ports that are remembered: node ports may make every list another one.
const PORT_LISTS: usize = 4096;

/// 100,000 endpoints on 50 nodes hold 50 names, and the slices of a Service share its key.
#[derive(Debug, Clone, Default)]
pub struct Names {
    nodes: HashSet<NodeName, FixedState>,
    services: HashSet<ServiceKey, FixedState>,
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
