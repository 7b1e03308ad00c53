//! The state that only one task may change, and the one step that brings it to the kernel.

use super::schedule::{Schedule, Work};
use super::triggers::Triggers;
use super::{NoLocalEndpoints, Snapshot, StickyServices, SyncStatus};
use crate::conntrack::{Cause, Cleaner, Removals, ResetCount, Stale, stale, stale_node_ports};
use crate::dataplane::{Applied, Dataplane, Unheard};
use crate::model::{Kind, Node, NodeFacts, Object, Problem, Protocol, ServiceKey};
use crate::planner::{FactsChange, NodePlan, Note, Plan, PlanDelta, Planner, Policy};
use crate::sources::{Batch, Change, Scope, Trigger};
use crate::store::Store;
use arc_swap::ArcSwap;
use imbl::OrdMap;
use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::watch;

/// Who removes the flows that a change left stale.
pub trait StaleFlows {
    /// Called after every commit, with the frontends whose flows may be stale.
    fn clean(&mut self, stale: Stale, plan: &Plan);
    /// Called when it is not known what changed.
    fn audit(&mut self, plan: &Plan);
    /// Called before services are planned again, with the plan of until then.
    fn before(&mut self, _changing: &[ServiceKey], _plan: &Plan) {}
    /// How many TCP connections were reset.
    fn resets(&self) -> ResetCount {
        ResetCount::default()
    }
    /// How many stale entries were removed.
    fn removals(&self) -> Removals {
        Removals::default()
    }
}

impl StaleFlows for Cleaner {
    fn clean(&mut self, stale: Stale, plan: &Plan) {
        Cleaner::clean(self, stale, plan);
    }

    fn audit(&mut self, plan: &Plan) {
        Cleaner::audit(self, plan);
    }

    fn before(&mut self, changing: &[ServiceKey], plan: &Plan) {
        Cleaner::before(self, changing, plan);
    }

    fn resets(&self) -> ResetCount {
        Cleaner::resets(self)
    }

    fn removals(&self) -> Removals {
        Cleaner::removals(self)
    }
}

/// What every source says before anything is programmed.
const KINDS: [Kind; 6] =
    [Kind::Service, Kind::EndpointSlice, Kind::Endpoints, Kind::Pod, Kind::Node, Kind::ServiceCidr];

pub struct Settings {
    pub node_name: Arc<str>,
    pub own_node: OwnNode,
    pub tuning: Tuning,
}

/// Whether a Node object of this name must be there, so that load balancers may be told of this node
/// (as upstream; KEP-3836).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnNode {
    Expected,
    /// Manifests need not have one.
    Optional,
}

/// What the operator may change while the writer runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tuning {
    pub policy: Policy,
    /// Least time between two commits; zero: at once.
    pub min_sync_period: Duration,
}

pub struct Writer<D, F> {
    store: Store,
    planner: Planner,
    dataplane: D,
    flows: F,
    schedule: Schedule,
    synced: HashSet<Kind>,
    addresses: Option<Vec<IpAddr>>,
    problems: OrdMap<Scope, Arc<[Problem]>>,
    status: SyncStatus,
    /// UDP frontends of changes that no commit has followed yet.
    stale: Stale,
    facts_changed: bool,
    own_node: OwnNode,
    /// The Node of this name, as it was last seen.
    node: Option<Arc<Node>>,
    /// What the log says of the addresses of node ports.
    noted: BTreeSet<Note>,
    seen: Option<Instant>,
    triggers: Triggers,
    published: Arc<ArcSwap<Snapshot>>,
    listening: watch::Sender<()>,
    findings: watch::Sender<()>,
}

/// What a change is about.
struct Changed {
    services: Vec<ServiceKey>,
    /// The node's plan before it.
    node: Arc<NodePlan>,
}

impl<D: Dataplane, F: StaleFlows> Writer<D, F> {
    pub fn new(settings: Settings, dataplane: D, flows: F) -> Self {
        let store = Store::new(settings.node_name.clone());
        let planner = Planner::new(settings.tuning.policy, settings.node_name);
        let status = SyncStatus {
            resets: flows.resets(),
            removals: flows.removals(),
            ..SyncStatus::default()
        };
        let snapshot = Snapshot {
            known: store.known().clone(),
            plan: planner.plan().clone(),
            problems: OrdMap::new(),
            status: status.clone(),
        };
        Self {
            store,
            planner,
            dataplane,
            flows,
            schedule: Schedule::new(settings.tuning.min_sync_period),
            synced: HashSet::new(),
            addresses: None,
            problems: OrdMap::new(),
            status,
            stale: Stale::default(),
            facts_changed: true,
            own_node: settings.own_node,
            node: None,
            noted: BTreeSet::new(),
            seen: None,
            triggers: Triggers::since(SystemTime::now()),
            published: Arc::new(ArcSwap::from_pointee(snapshot)),
            listening: watch::Sender::new(()),
            findings: watch::Sender::new(()),
        }
    }

    /// What readers hold on to.
    pub fn published(&self) -> Arc<ArcSwap<Snapshot>> {
        Arc::clone(&self.published)
    }

    /// Changes when a snapshot differs from the one before in what listeners of this node answer,
    /// or in the node's plan: nobody is woken for all other changes.
    pub fn listening(&self) -> watch::Receiver<()> {
        self.listening.subscribe()
    }

    /// Changes when a snapshot differs from the one before in what sources say is wrong, in who lost a
    /// frontend, or in the repairs of foreign edits.
    pub fn findings(&self) -> watch::Receiver<()> {
        self.findings.subscribe()
    }

    pub fn dataplane(&mut self) -> &mut D {
        &mut self.dataplane
    }

    /// Writes no more.
    pub fn into_dataplane(self) -> D {
        self.dataplane
    }

    pub fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    /// Takes in what a source says; nothing is written yet.
    pub fn take(&mut self, batch: Batch) {
        self.seen.get_or_insert(batch.seen);
        self.status.last_queued = Some(SystemTime::now());
        let mut triggers = batch.triggers.into_iter().peekable();
        for (number, change) in batch.changes.into_iter().enumerate() {
            let trigger = triggers.next_if(|trigger| trigger.change == number);
            match change {
                Change::Upsert(object) => self.upsert(object, trigger),
                Change::Delete(object) => {
                    self.count(object.kind);
                    self.store.delete(&object);
                    if object.kind == Kind::EndpointSlice {
                        self.triggers.removed(&object.key);
                    }
                }
                Change::Problems { scope, problems } if problems.is_empty() => {
                    self.problems.remove(&scope);
                }
                Change::Problems { scope, problems } => {
                    for problem in &problems {
                        tracing::warn!("{problem}");
                    }
                    self.problems.insert(scope, problems.into());
                }
                Change::Synced(kind) => {
                    self.synced.insert(kind);
                    self.first_write_when_ready();
                }
            }
        }
        self.schedule.request(Work::Apply);
    }

    fn upsert(&mut self, object: Object, trigger: Option<Trigger>) {
        self.count(object.kind());
        let triggered = trigger.and_then(|trigger| self.triggers.of(&object, trigger.at));
        let before = self.store.revision();
        self.store.upsert(object);
        if self.store.revision() != before {
            self.triggers.changed(triggered);
        }
    }

    fn count(&mut self, kind: Kind) {
        let status = &mut self.status;
        match kind {
            Kind::Service => {
                status.service_changes += 1;
                status.pending_services += 1;
            }
            Kind::EndpointSlice | Kind::Endpoints => {
                status.endpoint_changes += 1;
                status.pending_endpoints += 1;
            }
            Kind::Pod | Kind::Node | Kind::ServiceCidr => {}
        }
    }

    /// The addresses of the node's interfaces, whenever they change.
    pub fn take_addresses(&mut self, addresses: Vec<IpAddr>) {
        self.addresses = Some(addresses);
        self.facts_changed = true;
        self.schedule.request(Work::Apply);
        self.first_write_when_ready();
    }

    /// What the operator decides now. All services are planned again, as after a change of the node;
    /// what stays the same is not written.
    pub fn take_tuning(&mut self, tuning: Tuning) {
        self.schedule.set_min_period(tuning.min_sync_period);
        self.planner.set_policy(tuning.policy);
        self.facts_changed = true;
        self.schedule.request(Work::Apply);
    }

    fn first_write_when_ready(&mut self) {
        let ready = self.addresses.is_some() && KINDS.iter().all(|kind| self.synced.contains(kind));
        if ready && !self.status.synced {
            self.status.synced = true;
            if self.store.node().is_none() {
                let node = &*self.planner.plan().facts.name;
                tracing::warn!(
                    node,
                    "no Node object of this name: its zone and pod CIDRs are unknown, and endpoints \
                     are this node's only if they name it (--hostname-override)"
                );
            }
            self.schedule.request(Work::Resync);
        }
    }

    /// Does what is due. Blocks for as long as the kernel takes.
    pub fn work(&mut self, now: Instant) {
        if !self.status.synced {
            return;
        }
        let mut work = self.schedule.due(now);
        if work > Work::Nothing {
            self.status.at_work.begin(now);
        }
        if work == Work::Revive && self.dataplane.revive() {
            work = Work::Resync;
        }
        let outcome = match work {
            Work::Nothing => return,
            Work::Revive => Ok(Applied::default()),
            Work::Trim => self.dataplane.trim(),
            Work::Settle => self.dataplane.settle(),
            Work::Apply | Work::Resync => {
                let changed = self.changed();
                if work == Work::Apply { self.apply(changed) } else { self.resync(changed) }
            }
        };
        self.status.at_work.end();
        self.finish((work, now), outcome);
    }

    /// What is to be planned again.
    fn changed(&mut self) -> Changed {
        let node = Arc::clone(&self.planner.plan().node);
        let dirty = self.store.take_dirty();
        let mut changed = dirty.services;
        if dirty.node || std::mem::take(&mut self.facts_changed) {
            let facts = self.facts();
            let change = self.planner.set_facts(facts, &self.store.service_cidrs());
            if change == FactsChange::Services {
                changed.extend(self.store.known().keys().cloned());
            }
            self.tell_notes();
        }
        self.flows.before(&changed, self.planner.plan());
        Changed { services: changed, node }
    }

    /// Plans it, and takes in what follows from the difference.
    fn replan(&mut self, changed: Changed) -> PlanDelta {
        let delta = self.planner.replan(changed.services, self.store.known());
        let node_ports = stale_node_ports(&changed.node, &delta, self.planner.plan());
        self.stale.extend(stale(&delta).iter().chain(node_ports.iter()));
        self.status.no_local.follow(&delta);
        self.status.sticky.follow(&delta);
        delta
    }

    /// Says once what there is to know about the policy on this node.
    fn tell_notes(&mut self) {
        let plan = self.planner.plan();
        let notes = plan.policy.notes(&plan.facts);
        for note in notes.difference(&self.noted) {
            match note {
                Note::AllAddresses(_) => tracing::info!("{note}"),
                Note::NoAddress(_) | Note::OutsidersServed(_) => tracing::warn!("{note}"),
            }
        }
        self.noted = notes;
    }

    /// A Node that is deleted is a node that goes away: as upstream (KEP-3836) it is no more eligible
    /// for load balancers, and what was known of it stays, since its services do. One that was never
    /// seen is none either, where it is expected.
    fn facts(&mut self) -> NodeFacts {
        let known = self.store.node().cloned();
        let gone = known.is_none();
        self.node = known.or(self.node.take());
        let node = self.node.as_deref();
        NodeFacts {
            name: self.planner.plan().facts.name.clone(),
            zone: node.and_then(|node| node.zone.clone()),
            addresses: node.map(|node| node.addresses.to_vec()).unwrap_or_default(),
            interface_addresses: self.addresses.clone().unwrap_or_default(),
            pod_cidrs: node.map(|node| node.pod_cidrs.to_vec()).unwrap_or_default(),
            going_away: match node {
                Some(node) => gone || node.going_away,
                None => self.own_node == OwnNode::Expected,
            },
        }
    }

    fn apply(&mut self, changed: Changed) -> Result<Applied, D::Error> {
        let delta = self.replan(changed);
        let plan = self.planner.plan();
        let applied = if delta.is_empty() {
            Applied::default()
        } else {
            self.dataplane.apply(&delta, plan)?
        };
        self.flows.clean(std::mem::take(&mut self.stale), plan);
        Ok(applied)
    }

    fn resync(&mut self, changed: Changed) -> Result<Applied, D::Error> {
        if self.status.last_success.is_some() {
            self.replan(changed);
        } else {
            // What was there before is found in the kernel: nobody asks for the difference.
            self.planner.catch_up(changed.services, self.store.known());
            self.status.no_local = NoLocalEndpoints::of(self.planner.plan());
            self.status.sticky = StickyServices::of(self.planner.plan());
        }
        let plan = self.planner.plan();
        let mut applied = self.dataplane.resync(plan)?;
        // Once is enough: what comes from here on is heard.
        if self.dataplane.subscribe()? == Unheard::Edits {
            tracing::info!(
                "other programs changed the ruleset while it was first read and written; \
                 reading it once more"
            );
            applied += self.dataplane.resync(plan)?;
        }
        let former = self.dataplane.take_former();
        let former = former.into_iter().filter(|at| at.protocol == Protocol::Udp);
        self.stale.extend(former.map(|at| (at, Cause::Changed)));
        self.flows.audit(plan);
        // An audit judges every frontend that is held, but cannot tell a former one outside the
        // service ranges from somebody else's address.
        let mut former = std::mem::take(&mut self.stale);
        former.retain(|at| plan.claims.holder(at).is_none());
        if !former.is_empty() {
            self.flows.clean(former, plan);
        }
        Ok(applied)
    }

    fn finish(&mut self, (work, began): (Work, Instant), outcome: Result<Applied, D::Error>) {
        let now = Instant::now();
        self.measure(work, now.saturating_duration_since(began));
        match outcome {
            Ok(applied) => {
                let deferred = self.dataplane.has_deferred();
                self.schedule.succeeded(now, work, deferred);
                self.schedule.set_waiting(now, self.dataplane.is_waiting());
                self.schedule.set_lacking(now, self.dataplane.relay_failure().is_some());
                self.status.applied += applied;
                self.status.commits += u64::from(applied.transactions > 0);
                if work >= Work::Apply {
                    self.status.failing_since = None;
                    if self.status.last_error.take().is_some() {
                        tracing::info!("the kernel follows the plan again");
                    }
                    let wall = SystemTime::now();
                    self.status.last_success = Some(wall);
                    (self.status.pending_services, self.status.pending_endpoints) = (0, 0);
                    self.triggers.programmed(wall, &self.status.durations.programming);
                    self.status.served = self.planner.plan().health_checks.clone();
                    let took = self.seen.take().map(|seen| now - seen);
                    tracing::debug!(
                        ?work,
                        operations = applied.operations,
                        took_us = took.map(|took| took.as_micros() as u64),
                        "applied"
                    );
                    if work == Work::Resync {
                        self.status.resyncs += 1;
                        let services = self.planner.plan().services;
                        tracing::info!(services, operations = applied.operations, "programmed");
                    }
                }
            }
            Err(error) => {
                self.status.cleanup_failures += u64::from(work == Work::Trim);
                self.fail(now, error.to_string());
            }
        }
        self.publish();
    }

    fn measure(&self, work: Work, took: Duration) {
        let durations = &self.status.durations;
        let kind = match work {
            Work::Apply => &durations.partial,
            Work::Resync => &durations.full,
            Work::Nothing | Work::Revive | Work::Trim | Work::Settle => return,
        };
        kind.observe(took);
        durations.syncs.observe(took);
    }

    /// The kernel's state is unknown from now on, until a resync.
    fn fail(&mut self, now: Instant, error: String) {
        self.schedule.failed(now);
        self.status.failures += 1;
        self.status.failing_since.get_or_insert(now);
        let error: Arc<str> = error.into();
        if self.status.last_error.as_ref() != Some(&error) {
            tracing::error!("{error}");
        }
        self.status.last_error = Some(error);
    }

    /// Undoes what others did to vipd's part of the kernel, if they did anything. While a resync
    /// is due that is its work: what is touched here would be written by a wrong idea of the rest.
    pub fn repair(&mut self) {
        if self.status.last_error.is_some() {
            return;
        }
        self.status.at_work.begin(Instant::now());
        let repaired = self.dataplane.repair(self.planner.plan());
        self.status.at_work.end();
        match repaired {
            Ok(None) if self.dataplane.relay_failure() == self.status.relay_failure => return,
            // The relay could not be repaired, and is to be started anew.
            Ok(None) => {}
            Ok(Some(applied)) => {
                self.status.repairs += 1;
                self.status.applied += applied;
                // What passed in between did so untranslated, and conntrack would keep it that way.
                self.flows.audit(self.planner.plan());
                tracing::warn!(
                    operations = applied.operations,
                    "another program changed what is vipd's in the kernel; repaired"
                );
            }
            Err(error) => {
                self.fail(Instant::now(), format!("repairing a foreign edit: {error}"));
            }
        }
        let lacking = self.dataplane.relay_failure().is_some();
        self.schedule.set_lacking(Instant::now(), lacking);
        self.publish();
    }

    fn publish(&mut self) {
        self.status.generation += 1;
        self.status.relay_failure = self.dataplane.relay_failure();
        let plan = self.planner.plan();
        let before = self.published.swap(Arc::new(Snapshot {
            known: self.store.known().clone(),
            plan: plan.clone(),
            problems: self.problems.clone(),
            status: self.status.clone(),
        }));
        let same = plan.health_checks.ptr_eq(&before.plan.health_checks)
            && Arc::ptr_eq(&plan.node, &before.plan.node);
        if !same {
            self.listening.send_replace(());
        }
        let same = self.problems.ptr_eq(&before.problems)
            && plan.claims.contests().same(&before.plan.claims.contests())
            && self.status.repairs == before.status.repairs;
        if !same {
            self.findings.send_replace(());
        }
    }
}
