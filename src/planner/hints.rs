//! What `hints` of endpoints mean on this node (KEP-2433, `trafficDistribution`).

use crate::model::{Endpoint, NodeFacts};

/// Which hints count for a port: all or none, or a half-hinted port would send everyone to the
/// hinted half.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Topology {
    Anywhere,
    ThisNode,
    ThisZone,
}

impl Topology {
    /// Whether a ready endpoint may be used from this node.
    pub(super) fn allows(self, endpoint: &Endpoint, facts: &NodeFacts) -> bool {
        let hints = &endpoint.place.hints;
        match self {
            Topology::Anywhere => true,
            Topology::ThisNode => names(&hints.nodes, Some(&facts.name)),
            Topology::ThisZone => names(&hints.zones, facts.zone.as_deref()),
        }
    }
}

/// How many endpoints are ready, and what their hints say: all that decides the topology, so that it
/// can be followed endpoint by endpoint.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) ready: usize,
    node_hinted: usize,
    zone_hinted: usize,
    hinted_here: usize,
    hinted_to_zone: usize,
}

impl Tally {
    pub(super) fn add(&mut self, ready: &Endpoint, facts: &NodeFacts) {
        self.each(ready, facts, |count, by| *count += by);
    }

    /// Takes back what [`Tally::add`] did with the same arguments.
    pub(super) fn remove(&mut self, ready: &Endpoint, facts: &NodeFacts) {
        self.each(ready, facts, |count, by| *count -= by);
    }

    fn each(&mut self, ready: &Endpoint, facts: &NodeFacts, change: impl Fn(&mut usize, usize)) {
        change(&mut self.ready, 1);
        let hints = &ready.place.hints;
        if !hints.nodes.is_empty() {
            change(&mut self.node_hinted, 1);
            change(&mut self.hinted_here, names(&hints.nodes, Some(&facts.name)).into());
        }
        if !hints.zones.is_empty() {
            change(&mut self.zone_hinted, 1);
            change(&mut self.hinted_to_zone, names(&hints.zones, facts.zone.as_deref()).into());
        }
    }

    pub(super) fn topology(self) -> Topology {
        if self.node_hinted == self.ready && self.hinted_here > 0 {
            Topology::ThisNode
        } else if self.zone_hinted == self.ready && self.hinted_to_zone > 0 {
            Topology::ThisZone
        } else {
            Topology::Anywhere
        }
    }
}

fn names(hints: &[Box<str>], own: Option<&str>) -> bool {
    hints.iter().any(|hint| Some(&**hint) == own)
}
