//! Which keys changed since the planner last looked.

use crate::model::ServiceKey;

/// What must be planned again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dirty {
    /// Sorted, each once.
    pub services: Vec<ServiceKey>,
    /// The own Node object or the service ranges changed.
    pub node: bool,
}

impl Dirty {
    pub fn is_empty(&self) -> bool {
        self.services.is_empty() && !self.node
    }
}

#[derive(Debug, Clone, Default)]
pub(super) struct Recorder {
    /// In order of arrival, so that noting a key costs nothing; sorted when taken.
    services: Vec<ServiceKey>,
    /// Whose pods may make other endpoints now.
    selecting: Vec<ServiceKey>,
    node: bool,
}

impl Recorder {
    pub(super) fn selecting(&mut self, key: ServiceKey) {
        if self.selecting.last() != Some(&key) {
            self.selecting.push(key);
        }
    }

    /// Sorted, each once.
    pub(super) fn take_selecting(&mut self) -> Vec<ServiceKey> {
        let mut selecting = std::mem::take(&mut self.selecting);
        selecting.sort_unstable();
        selecting.dedup();
        selecting
    }

    pub(super) fn service(&mut self, key: ServiceKey) {
        // Changes of one service mostly come in a row.
        if self.services.last() != Some(&key) {
            self.services.push(key);
        }
    }

    pub(super) fn node(&mut self) {
        self.node = true;
    }

    pub(super) fn take(&mut self) -> Dirty {
        let mut services = std::mem::take(&mut self.services);
        let node = std::mem::take(&mut self.node);
        services.sort_unstable();
        services.dedup();
        Dirty { services, node }
    }
}
