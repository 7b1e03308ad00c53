//! A dataplane in memory that fails on purpose, and a record of what is asked of flows.
//!
//! In: plans, and which calls fail. Out: what it holds, and the calls in their order.
//! Never: a call that the contract of `Dataplane` forbids; it panics.

use std::cell::RefCell;
use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use vipd::dataplane::{Applied, Dataplane};
use vipd::model::ServiceKey;
use vipd::planner::{FrontendKey, NodePlan, Plan, PlanDelta, Plans};
use vipd::sync::StaleFlows;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Op {
    Apply,
    Resync,
    Settle,
    Trim,
    Subscribe,
    Repair,
}

#[derive(Debug, Clone)]
pub struct Call {
    pub op: Op,
    /// What an apply was about.
    pub services: Vec<ServiceKey>,
}

#[derive(Debug, thiserror::Error)]
#[error("{op:?} {nth} fails on purpose")]
pub struct Failure {
    op: Op,
    nth: usize,
}

#[derive(Debug, Default)]
pub struct Fake {
    pub services: Plans,
    pub node: Option<Arc<NodePlan>>,
    pub calls: Vec<Call>,
    pub deferred: bool,
    fails: HashSet<(Op, usize)>,
    seen: Vec<Op>,
    /// A write failed: only a resync may follow.
    unknown: bool,
    edited: bool,
}

impl Fake {
    pub fn failing(op: Op, nths: impl IntoIterator<Item = usize>) -> Self {
        let mut fake = Self::default();
        fake.fail(op, nths);
        fake
    }

    /// These calls fail, counted from 0 since now.
    pub fn fail(&mut self, op: Op, nths: impl IntoIterator<Item = usize>) {
        let done = self.seen.iter().filter(|seen| **seen == op).count();
        self.fails.extend(nths.into_iter().map(|nth| (op, done + nth)));
    }

    /// Nothing fails any more.
    pub fn recover(&mut self) {
        self.fails.clear();
    }

    /// Somebody else takes a service away.
    pub fn edit(&mut self) {
        let key = self.services.keys().next().cloned().expect("something to take away");
        self.services.remove(&key);
        self.edited = true;
    }

    fn call(&mut self, op: Op, delta: Option<&PlanDelta>) -> Result<(), Failure> {
        assert!(!self.unknown || op == Op::Resync, "{op:?} after an error: {:?}", self.calls);
        let services = delta.into_iter().flat_map(|delta| &delta.services);
        self.calls.push(Call { op, services: services.map(|delta| delta.key.clone()).collect() });
        let nth = self.seen.iter().filter(|seen| **seen == op).count();
        self.seen.push(op);
        self.unknown = self.fails.contains(&(op, nth));
        if self.unknown { Err(Failure { op, nth }) } else { Ok(()) }
    }
}

const ONE: Applied = Applied { operations: 1, transactions: 1, messages: 1, bytes: 1 };

impl Dataplane for Fake {
    type Error = Failure;

    fn apply(&mut self, delta: &PlanDelta, plan: &Plan) -> Result<Applied, Failure> {
        let outcome = self.call(Op::Apply, Some(delta));
        let written = match outcome {
            Ok(()) => delta.services.len(),
            // Part of a delta may be committed when it fails.
            Err(_) => delta.services.len() / 2,
        };
        for change in &delta.services[..written] {
            assert_eq!(self.services.get(&change.key), change.old.as_ref(), "{}", change.key);
            match &change.new {
                Some(new) => self.services.insert(change.key.clone(), Arc::clone(new)),
                None => self.services.remove(&change.key),
            };
        }
        outcome?;
        if let Some(node) = &delta.node {
            self.node = Some(Arc::clone(node));
        }
        assert_eq!(self.services, plan.services, "the delta does not lead to the plan");
        Ok(ONE)
    }

    fn resync(&mut self, plan: &Plan) -> Result<Applied, Failure> {
        self.call(Op::Resync, None)?;
        self.services = plan.services.clone();
        self.node = Some(Arc::clone(&plan.node));
        self.edited = false;
        Ok(ONE)
    }

    fn settle(&mut self) -> Result<Applied, Failure> {
        self.call(Op::Settle, None)?;
        self.deferred = false;
        Ok(ONE)
    }

    fn has_deferred(&self) -> bool {
        self.deferred
    }

    fn trim(&mut self) -> Result<Applied, Failure> {
        self.call(Op::Trim, None)?;
        Ok(Applied::default())
    }

    fn subscribe(&mut self) -> Result<(), Failure> {
        self.call(Op::Subscribe, None)
    }

    fn foreign_edits(&self) -> Option<OwnedFd> {
        None
    }

    fn repair(&mut self, plan: &Plan) -> Result<Option<Applied>, Failure> {
        self.call(Op::Repair, None)?;
        if !std::mem::take(&mut self.edited) {
            return Ok(None);
        }
        self.services = plan.services.clone();
        Ok(Some(ONE))
    }

    fn cleanup(&mut self) -> Result<Applied, Failure> {
        unreachable!("the writer never removes everything")
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FlowCall {
    /// With the number of services in the plan that was handed over.
    Clean {
        stale: Vec<FrontendKey>,
        services: usize,
    },
    Audit {
        services: usize,
    },
}

/// All clones share one record.
#[derive(Debug, Clone, Default)]
pub struct Flows(Rc<RefCell<Vec<FlowCall>>>);

impl Flows {
    /// The calls since the last `take`.
    pub fn take(&self) -> Vec<FlowCall> {
        self.0.take()
    }
}

impl StaleFlows for Flows {
    fn clean(&mut self, stale: Vec<FrontendKey>, plan: &Plan) {
        self.0.borrow_mut().push(FlowCall::Clean { stale, services: plan.services.len() });
    }

    fn audit(&mut self, plan: &Plan) {
        self.0.borrow_mut().push(FlowCall::Audit { services: plan.services.len() });
    }
}
