//! A writer whose dataplane, conntrack and clock are the test's.
//!
//! In: changes, and when to work. Out: what was written and published.
//! Never: a wait; retries happen at the moment that the schedule names.

use crate::fake::{Fake, Flows, Kernel, Op, plans};
use crate::objects::{Example, policy};
use std::cell::RefMut;
use std::time::{Duration, Instant};
use vipd::model::Kind;
use vipd::sources::{Batch, Change};
use vipd::sync::{OwnNode, Settings, Snapshot, SyncStatus, Tuning, Writer};

pub const KINDS: [Kind; 6] =
    [Kind::Service, Kind::EndpointSlice, Kind::Endpoints, Kind::Pod, Kind::Node, Kind::ServiceCidr];
/// More tries than any script here lets fail.
pub const PATIENCE: usize = 64;

pub struct Bench {
    pub writer: Writer<Fake, Flows>,
    pub flows: Flows,
    fake: Fake,
}

pub fn settings(min_sync_period: Duration) -> Settings {
    let tuning = Tuning { policy: policy(), min_sync_period };
    Settings { node_name: "node-a".into(), own_node: OwnNode::Optional, tuning }
}

pub fn batch(changes: Vec<Change>) -> Batch {
    Batch::new(changes, Instant::now())
}

impl Bench {
    pub fn new(fake: Fake) -> Self {
        Self::with_period(fake, Duration::ZERO)
    }

    pub fn with_period(fake: Fake, min_sync_period: Duration) -> Self {
        let flows = Flows::default();
        let writer = Writer::new(settings(min_sync_period), fake.clone(), flows.clone());
        Self { writer, flows, fake }
    }

    /// With these services programmed by the first resync, and an empty log.
    pub fn started(fake: Fake, services: &[Example]) -> Self {
        Self::new(fake).start(services)
    }

    pub fn start(mut self, services: &[Example]) -> Self {
        for service in services {
            self.take(service.upserts());
        }
        self.ready();
        self.work();
        self.converge();
        self.kernel().calls.clear();
        self.flows.take();
        self
    }

    pub fn take(&mut self, changes: Vec<Change>) {
        self.writer.take(batch(changes));
    }

    pub fn ready(&mut self) {
        self.take(KINDS.map(Change::Synced).into());
        self.writer.take_addresses(vec!["192.168.0.2".parse().unwrap()]);
    }

    pub fn work(&mut self) {
        self.writer.work(Instant::now());
    }

    /// Works at the moment that the schedule names, without waiting for it.
    pub fn work_when_due(&mut self) {
        let due = self.writer.schedule().wake_at().expect("something is to be done");
        self.writer.work(due.max(Instant::now()));
    }

    /// Works until nothing is wrong any more.
    pub fn converge(&mut self) {
        let mut tries = 0;
        while self.status().last_error.is_some() {
            tries += 1;
            assert!(tries < PATIENCE, "no success: {:?}", self.status());
            self.work_when_due();
        }
        self.assert_converged();
    }

    /// The fake holds what is planned, and what is planned is what is known.
    pub fn assert_converged(&self) {
        let snapshot = self.snapshot();
        assert_eq!(snapshot.status.last_error, None);
        let plans = plans(&snapshot.plan);
        assert_eq!(self.kernel().services, plans);
        assert_eq!(self.kernel().node.as_ref(), Some(&snapshot.plan.node));
        assert_eq!(snapshot.plan.services, plans.len());
        let planned: Vec<_> = plans.keys().collect();
        let known = snapshot.known.iter().filter(|(_, known)| known.service.is_some());
        assert_eq!(planned, known.map(|(key, _)| key).collect::<Vec<_>>());
    }

    pub fn kernel(&self) -> RefMut<'_, Kernel> {
        self.fake.kernel()
    }

    pub fn ops(&self) -> Vec<Op> {
        self.kernel().ops()
    }

    pub fn snapshot(&self) -> Snapshot {
        Snapshot::clone(&self.writer.published().load())
    }

    pub fn status(&self) -> SyncStatus {
        self.snapshot().status
    }
}
