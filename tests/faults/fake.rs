//! A dataplane in memory that fails on purpose, and a record of what is asked of flows.
//!
//! In: plans, and which calls fail. Out: what it holds, and the calls in their order.
//! Never: a call that the contract of `Dataplane` forbids; it panics.

use std::cell::{RefCell, RefMut};
use std::collections::{BTreeMap, HashSet};
use std::io::{PipeReader, PipeWriter, Read as _, Write as _, pipe};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use vipd::conntrack::{Audit, Flow, Stale, Suspects, Verdict, judge};
use vipd::dataplane::{Applied, Dataplane, Unheard};
use vipd::model::{Protocol, ServiceKey};
use vipd::planner::{FrontendAddress, NodePlan, Plan, PlanDelta, ServicePlan, Target};
use vipd::sync::StaleFlows;

/// The plans of all services.
pub type Plans = BTreeMap<ServiceKey, Arc<ServicePlan>>;

pub fn plans(plan: &Plan) -> Plans {
    plan.services().map(|service| (service.key.clone(), Arc::new(service))).collect()
}

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

/// What would be in the kernel, and the script of what goes wrong with it.
#[derive(Default)]
pub struct Kernel {
    pub services: Plans,
    pub node: Option<Arc<NodePlan>>,
    pub calls: Vec<Call>,
    /// Happens in the midst of the next apply.
    pub during: Option<Box<dyn FnOnce()>>,
    /// Somebody takes a service away behind the next resync.
    pub edit_behind_resync: bool,
    deferred: bool,
    fails: HashSet<(Op, usize)>,
    seen: Vec<Op>,
    /// A write failed: only a resync may follow.
    unknown: bool,
    edited: bool,
    /// The next repair finds that the relay is lost.
    pub relay_breaks: bool,
    relay_failure: Option<Arc<str>>,
    alarm: Option<(PipeReader, PipeWriter)>,
}

impl Kernel {
    /// These calls fail, counted from 0 since now.
    pub fn fail(&mut self, op: Op, nths: impl IntoIterator<Item = usize>) {
        let done = self.seen.iter().filter(|seen| **seen == op).count();
        self.fails.extend(nths.into_iter().map(|nth| (op, done + nth)));
    }

    /// Nothing fails any more.
    pub fn recover(&mut self) {
        self.fails.clear();
    }

    /// Somebody else takes a service away, if there is one.
    pub fn edit(&mut self) {
        let Some(key) = self.services.keys().next().cloned() else { return };
        self.services.remove(&key);
        self.edited = true;
        if let Some((_, bell)) = &mut self.alarm {
            bell.write_all(b"!").expect("the other end is here");
        }
    }

    pub fn ops(&self) -> Vec<Op> {
        self.calls.iter().map(|call| call.op).collect()
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

/// All clones are one dataplane, so that a test can look at what the writer's own one holds.
#[derive(Clone, Default)]
pub struct Fake(Rc<RefCell<Kernel>>);

impl Fake {
    pub fn failing(op: Op, nths: impl IntoIterator<Item = usize>) -> Self {
        let fake = Self::default();
        fake.kernel().fail(op, nths);
        fake
    }

    pub fn kernel(&self) -> RefMut<'_, Kernel> {
        self.0.borrow_mut()
    }
}

const ONE: Applied = Applied { operations: 1, transactions: 1, messages: 1, bytes: 1 };

impl Dataplane for Fake {
    type Error = Failure;

    fn apply(&mut self, delta: &PlanDelta, plan: &Plan) -> Result<Applied, Failure> {
        let mut kernel = self.kernel();
        if let Some(during) = kernel.during.take() {
            during();
        }
        let outcome = kernel.call(Op::Apply, Some(delta));
        let written = match outcome {
            Ok(()) => delta.services.len(),
            // Part of a delta may be committed when it fails.
            Err(_) => delta.services.len() / 2,
        };
        for change in &delta.services[..written] {
            if !kernel.edited {
                assert_eq!(kernel.services.get(&change.key), change.old.as_ref(), "{}", change.key);
            }
            kernel.deferred |= change.old.is_some();
            match &change.new {
                Some(new) => kernel.services.insert(change.key.clone(), Arc::clone(new)),
                None => kernel.services.remove(&change.key),
            };
        }
        outcome?;
        if let Some(node) = &delta.node {
            kernel.node = Some(Arc::clone(node));
        }
        if !kernel.edited {
            assert_eq!(kernel.services, plans(plan), "the delta does not lead to the plan");
        }
        Ok(ONE)
    }

    fn resync(&mut self, plan: &Plan) -> Result<Applied, Failure> {
        let mut kernel = self.kernel();
        kernel.call(Op::Resync, None)?;
        kernel.services = plans(plan);
        kernel.node = Some(Arc::clone(&plan.node));
        kernel.edited = false;
        kernel.deferred = false;
        kernel.relay_failure = None;
        if std::mem::take(&mut kernel.edit_behind_resync) {
            kernel.edit();
        }
        Ok(ONE)
    }

    fn settle(&mut self) -> Result<Applied, Failure> {
        let mut kernel = self.kernel();
        kernel.call(Op::Settle, None)?;
        kernel.deferred = false;
        Ok(ONE)
    }

    fn has_deferred(&self) -> bool {
        self.kernel().deferred
    }

    fn trim(&mut self) -> Result<Applied, Failure> {
        self.kernel().call(Op::Trim, None)?;
        Ok(Applied::default())
    }

    fn subscribe(&mut self) -> Result<Unheard, Failure> {
        let mut kernel = self.kernel();
        kernel.call(Op::Subscribe, None)?;
        if kernel.alarm.is_none() {
            kernel.alarm = Some(pipe().expect("a pipe"));
        }
        Ok(if kernel.edited { Unheard::Edits } else { Unheard::Nothing })
    }

    fn foreign_edits(&self) -> Option<OwnedFd> {
        let kernel = self.kernel();
        let (alarm, _) = kernel.alarm.as_ref()?;
        Some(alarm.try_clone().expect("a descriptor is free").into())
    }

    fn repair(&mut self, plan: &Plan) -> Result<Option<Applied>, Failure> {
        let mut kernel = self.kernel();
        kernel.call(Op::Repair, None)?;
        if std::mem::take(&mut kernel.relay_breaks) {
            kernel.relay_failure = Some("lost".into());
        }
        if !std::mem::take(&mut kernel.edited) {
            return Ok(None);
        }
        if let Some((alarm, _)) = &mut kernel.alarm {
            // One byte for each edit; none was made without an alarm.
            alarm.read_exact(&mut [0; 1]).expect("the other end is here");
        }
        kernel.services = plans(plan);
        Ok(Some(ONE))
    }

    fn relay_failure(&self) -> Option<Arc<str>> {
        self.kernel().relay_failure.clone()
    }

    fn revive(&mut self) -> bool {
        self.kernel().relay_failure.is_some()
    }

    fn cleanup(&mut self) -> Result<Applied, Failure> {
        unreachable!("the writer never removes everything")
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FlowCall {
    /// With the number of services in the plan that was handed over.
    Clean {
        stale: Stale,
        services: usize,
    },
    Audit {
        services: usize,
    },
}

/// A conntrack table whose cleaner does at once what it is asked to. All clones share it.
#[derive(Debug, Clone, Default)]
pub struct Flows(Rc<RefCell<Conntrack>>);

#[derive(Debug, Default)]
struct Conntrack {
    calls: Vec<FlowCall>,
    before: Vec<(Vec<ServiceKey>, usize)>,
    open: HashSet<Flow>,
}

impl Flows {
    /// The calls since the last `take`.
    pub fn take(&self) -> Vec<FlowCall> {
        std::mem::take(&mut self.0.borrow_mut().calls)
    }

    /// The services about to be planned again since the last `take_before`, and how many the plan
    /// had then.
    pub fn take_before(&self) -> Vec<(Vec<ServiceKey>, usize)> {
        std::mem::take(&mut self.0.borrow_mut().before)
    }

    /// A UDP client at every frontend and endpoint that the kernel holds.
    pub fn connect(&self, kernel: &Kernel) {
        let client = Target { address: "10.180.9.9".parse().unwrap(), port: 40_000 };
        let held = kernel.services.values().flat_map(|service| service.held());
        for (port, frontend) in held.filter(|(port, _)| port.protocol == Protocol::Udp) {
            let FrontendAddress::Address(address) = frontend.at.at else { continue };
            let flow = |answerer| Flow {
                protocol: Protocol::Udp,
                source: client,
                destination: Target { address, port: frontend.at.port },
                answerer,
                asker: client,
            };
            let flows = port.cluster.keys().map(|target| flow(*target));
            self.0.borrow_mut().open.extend(flows);
        }
    }

    pub fn open(&self) -> Vec<Flow> {
        self.0.borrow().open.iter().copied().collect()
    }
}

impl StaleFlows for Flows {
    fn clean(&mut self, stale: Stale, plan: &Plan) {
        let mut table = self.0.borrow_mut();
        let suspects = Suspects { frontends: stale.iter().collect(), audit: Audit::No };
        table.open.retain(|flow| suspects.judge(plan, flow) == Verdict::Keep);
        table.calls.push(FlowCall::Clean { stale, services: plan.services });
    }

    fn audit(&mut self, plan: &Plan) {
        let mut table = self.0.borrow_mut();
        table.open.retain(|flow| judge(plan, flow) == Verdict::Keep);
        table.calls.push(FlowCall::Audit { services: plan.services });
    }

    fn before(&mut self, changing: &[ServiceKey], plan: &Plan) {
        self.0.borrow_mut().before.push((changing.into(), plan.services));
    }
}
