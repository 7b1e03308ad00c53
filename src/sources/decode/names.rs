//! Strings that many objects share are kept once.
//!
//! In: names of nodes and Services. Out: shared strings. Never: a copy of a name that is known.

use crate::model::{NodeName, ServiceKey};
use foldhash::fast::FixedState;
use std::collections::HashSet;
use std::sync::Arc;

/// 100,000 endpoints on 50 nodes hold 50 names, and the slices of a Service share its key.
#[derive(Debug, Clone, Default)]
pub struct Names {
    nodes: HashSet<NodeName, FixedState>,
    services: HashSet<ServiceKey, FixedState>,
    /// Where keys are put together.
    text: String,
}

impl Names {
    pub fn intern(&mut self, name: &str) -> NodeName {
        if let Some(known) = self.nodes.get(name) {
            return Arc::clone(known);
        }
        let name: NodeName = name.into();
        self.nodes.insert(Arc::clone(&name));
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

    /// Keys of Services are shared within one reading of many objects, not held for ever.
    pub fn forget_services(&mut self) {
        self.services = HashSet::default();
    }
}
