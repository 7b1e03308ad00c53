//! A directory of manifests, read and planned as the daemon would, with no daemon and no privilege.

use super::Error;
use crate::config::NodeConfig;
use crate::model::{Node, NodeFacts};
use crate::planner::Planner;
use crate::sources::{Batch, Change, manifests};
use crate::store::Store;
use crate::sync::{Snapshot, SyncStatus};
use imbl::OrdMap;
use std::path::Path;

pub(super) fn load(directory: &Path, config: NodeConfig) -> Result<Snapshot, Error> {
    Ok(snapshot(manifests::load(directory)?, config))
}

/// What the daemon would publish after these batches, on the node of the configuration.
fn snapshot(batches: Vec<Batch>, config: NodeConfig) -> Snapshot {
    let mut store = Store::new(config.node_name.clone());
    let mut problems = OrdMap::new();
    for change in batches.into_iter().flat_map(|batch| batch.changes) {
        match change {
            Change::Upsert(object) => store.upsert(object),
            Change::Delete(object) => store.delete(&object),
            Change::Problems { scope, problems: said } if said.is_empty() => {
                problems.remove(&scope);
            }
            Change::Problems { scope, problems: said } => {
                problems.insert(scope, said.into());
            }
            Change::Synced(_) => {}
        }
    }
    let mut planner = Planner::new(config.policy, config.node_name.clone());
    let mut facts = store.node().map(|node| facts(node)).unwrap_or_default();
    facts.name = config.node_name;
    planner.set_facts(facts, &store.service_cidrs());
    let dirty = store.take_dirty();
    planner.replan(dirty.services, store.known());
    Snapshot {
        known: store.known().clone(),
        plan: planner.plan().clone(),
        problems,
        status: SyncStatus { synced: true, ..SyncStatus::default() },
    }
}

/// The Node object stands for the machine: its addresses are taken for those of the interfaces.
fn facts(node: &Node) -> NodeFacts {
    let mut interface_addresses = node.addresses.to_vec();
    interface_addresses.sort_unstable();
    interface_addresses.dedup();
    NodeFacts {
        name: node.name.as_str().into(),
        zone: node.zone.clone(),
        addresses: node.addresses.to_vec(),
        interface_addresses,
        pod_cidrs: node.pod_cidrs.to_vec(),
        going_away: node.going_away,
    }
}
