//! vipd's rooms without its edges: decode, store, planner and dataplane in one thread.
//!
//! In: clusters as manifests' text. Out: what each step took.
//! Never: a file, a channel, a task: the difference to `vipd run` is what those cost.

use crate::Outcome;
use crate::generate::{Cluster, NODES, POD_RANGE, SERVICE_RANGE, ServiceSpec};
use crate::manifests;
use crate::world::Namespace;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
use vipd::dataplane::nftables::{Nftables, Without};
use vipd::dataplane::{Applied, Dataplane};
use vipd::model::NodeFacts;
use vipd::planner::{DetectLocal, Planner, Policy};
use vipd::sources::decode::{Decoded, Format, Names, decode};
use vipd::store::Store;

/// A namespace, and what vipd's writer would hold for it.
pub struct Rooms {
    pub namespace: Namespace,
    names: Names,
    store: Store,
    planner: Planner,
    dataplane: Nftables,
}

/// One change, step by step.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    /// From manifest text to an object in the store.
    pub decode_us: f64,
    /// From there to plan delta.
    pub think_us: f64,
    /// From plan delta to committed.
    pub commit_us: f64,
    pub applied: Applied,
}

impl Rooms {
    /// Everything is known and planned, nothing programmed.
    pub fn new(cluster: &Cluster) -> Outcome<Self> {
        let namespace = Namespace::new()?;
        let policy = Policy {
            masquerade_all: false,
            detect: DetectLocal::ClusterCidr(vec![POD_RANGE.parse()?]),
            service_ranges: vec![SERVICE_RANGE.parse()?],
            drop_invalid: true,
            ..Policy::default()
        };
        let node: Arc<str> = NODES[0].into();
        let mut planner = Planner::new(policy, Arc::clone(&node));
        planner.set_facts(NodeFacts { name: Arc::clone(&node), ..NodeFacts::default() }, &[]);
        let dataplane = namespace.run(|| Ok(Nftables::open(Without::default())?))?;
        let store = Store::new(node);
        let mut rooms = Self { namespace, names: Names::default(), store, planner, dataplane };
        for services in cluster.services.chunks(500) {
            rooms.learn(&manifests::text(services, manifests::Format::Json))?;
        }
        let changed = rooms.store.take_dirty().services;
        rooms.planner.replan(changed, rooms.store.known());
        Ok(rooms)
    }

    /// Goes on with an empty kernel.
    pub fn leave(&mut self) -> Outcome<()> {
        let namespace = Namespace::new()?;
        self.dataplane = namespace.run(|| Ok(Nftables::open(Without::default())?))?;
        self.namespace = namespace;
        Ok(())
    }

    /// Programs everything into the empty kernel: seconds, and what it took.
    pub fn load(&mut self) -> Outcome<(f64, Applied)> {
        let start = Instant::now();
        let applied = self.dataplane.resync(self.planner.plan())?;
        Ok((start.elapsed().as_secs_f64(), applied))
    }

    /// Carries a change of one service through.
    pub fn change(&mut self, text: &str) -> Outcome<Step> {
        let start = Instant::now();
        self.learn(text)?;
        let decode = start.elapsed();
        let changed = self.store.take_dirty().services;
        let delta = self.planner.replan(changed, self.store.known());
        let think = start.elapsed() - decode;
        let applied = self.dataplane.apply(&delta, self.planner.plan())?;
        let commit = start.elapsed() - think - decode;
        if applied.operations == 0 {
            return Err("a change that changed nothing was to be measured".into());
        }
        Ok(Step {
            decode_us: decode.as_secs_f64() * 1e6,
            think_us: think.as_secs_f64() * 1e6,
            commit_us: commit.as_secs_f64() * 1e6,
            applied,
        })
    }

    /// Removes what a change left for a quiet moment.
    pub fn settle(&mut self) -> Outcome<()> {
        self.dataplane.settle()?;
        Ok(())
    }

    fn learn(&mut self, text: &str) -> Outcome<()> {
        let path: Arc<Path> = Path::new("scale.json").into();
        for document in decode(text.as_bytes(), Format::Json, &path, &mut self.names)? {
            match document.decoded {
                Decoded::Object(object) => self.store.upsert(object),
                other => {
                    return Err(format!("the generator's object was refused: {other:?}").into());
                }
            }
        }
        Ok(())
    }
}

/// The manifest of one service.
pub fn text_of(service: &ServiceSpec) -> String {
    manifests::text(std::slice::from_ref(service), manifests::Format::Json)
}
