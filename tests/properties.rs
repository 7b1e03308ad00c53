//! What must hold of store and planner for any objects in any order. The domains are tiny, so that
//! services meet on one address, slices on one endpoint, and changes on one object.

mod properties {
    pub mod oracle;
    pub mod world;
}

use imbl::OrdMap;
use properties::{oracle, world::*};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use vipd::model::{Kind, NodeFacts, Object, ServiceKey};
use vipd::planner::{Packet, Plan, PlanDelta, Planner, ServicePlan, plan_service, trace};
use vipd::store::Store;

/// Store and planner, driven as the daemon drives them.
struct Node {
    store: Store,
    planner: Planner,
}

impl Node {
    fn new(facts: &NodeFacts) -> Self {
        let mut planner = Planner::new(policy(), facts.name.clone()).following_from(1);
        planner.set_facts(facts.clone(), &[]);
        Self { store: Store::new(facts.name.clone()), planner }
    }

    fn take(&mut self, change: &Change) {
        match change {
            Change::Upsert(object) => self.store.upsert(object.clone()),
            Change::Delete(object) => self.store.delete(object),
        }
    }

    fn replan(&mut self) -> PlanDelta {
        let dirty = self.store.take_dirty();
        self.planner.replan(dirty.services, self.store.known())
    }

    /// Everything at once.
    fn of(facts: &NodeFacts, changes: &[Change]) -> Self {
        let mut node = Self::new(facts);
        changes.iter().for_each(|change| node.take(change));
        node.replan();
        node
    }
}

type Parts = (BTreeMap<ServiceKey, ServicePlan>, BTreeMap<String, Vec<ServiceKey>>);

/// A plan as values that compare.
fn parts(plan: &Plan) -> Parts {
    let services = plan.services().map(|plan| (plan.key.clone(), plan));
    let claims = plan.claims.iter().map(|(at, holder)| {
        let all = [holder].into_iter().chain(plan.claims.losers(at));
        (format!("{at:?}"), all.cloned().collect())
    });
    (services.collect(), claims.collect())
}

fn apply(plans: &mut OrdMap<ServiceKey, Arc<ServicePlan>>, delta: &PlanDelta) {
    for service in &delta.services {
        assert_ne!(service.old, service.new, "an unchanged plan in a delta");
        let old = match &service.new {
            Some(new) => plans.insert(service.key.clone(), new.clone()),
            None => plans.remove(&service.key),
        };
        assert_eq!(old, service.old, "the delta does not start where the last one ended");
    }
    assert!(delta.services.is_sorted_by(|one, next| one.key < next.key));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// The last word on each object decides, not the order in which objects, duplicates, deletes
    /// and their opposites came, nor how often was replanned in between.
    #[test]
    fn the_order_of_arrival_does_not_matter(
        facts in facts(),
        objects in objects(),
        noise in prop::collection::vec(change(), 0..20),
        order in any::<prop::sample::Index>(),
        every in 1usize..5,
    ) {
        let last: Vec<Change> = objects.values().cloned().map(Change::Upsert).collect();
        let expected = Node::of(&facts, &last);

        let mut node = Node::new(&facts);
        for (at, change) in noise.iter().enumerate() {
            node.take(change);
            if at % every == 0 {
                node.replan();
            }
        }
        for change in &noise {
            if !objects.contains_key(&change.object()) {
                node.take(&Change::Delete(change.object()));
            }
        }
        let mut last = last;
        if !last.is_empty() {
            let middle = order.index(last.len());
            last.rotate_left(middle);
            last.reverse();
            last.extend(last[..middle].to_vec());
        }
        for change in &last {
            node.take(change);
            node.replan();
        }
        node.replan();
        prop_assert_eq!(parts(node.planner.plan()), parts(expected.planner.plan()));
        prop_assert_eq!(node.store.known(), expected.store.known());
    }

    #[test]
    fn replanning_the_unchanged_changes_nothing(
        facts in facts(),
        changes in prop::collection::vec(change(), 0..20),
    ) {
        let mut node = Node::of(&facts, &changes);
        let all: Vec<ServiceKey> = node.store.known().keys().cloned().collect();
        prop_assert!(node.planner.replan(all, node.store.known()).is_empty());
        prop_assert!(node.replan().is_empty());
    }

    /// The deltas of single changes add up to the plan, and the plan to what planning from nothing
    /// gives.
    #[test]
    fn deltas_compose(facts in facts(), changes in prop::collection::vec(change(), 0..30)) {
        let mut node = Node::new(&facts);
        let mut plans = OrdMap::new();
        for change in &changes {
            node.take(change);
            let delta = node.replan();
            apply(&mut plans, &delta);
            let all = node.planner.plan().services().map(|plan| (plan.key.clone(), Arc::new(plan)));
            prop_assert_eq!(&plans, &all.collect());
            prop_assert_eq!(plans.len(), node.planner.plan().services);
        }
        let whole = Node::of(&facts, &changes);
        prop_assert_eq!(parts(node.planner.plan()), parts(whole.planner.plan()));
    }

    /// A change touches its service, and else only services that want an address and port which
    /// that service wanted before or wants now.
    #[test]
    fn a_change_stays_local(
        facts in facts(),
        changes in prop::collection::vec(change(), 0..20),
        last in change(),
    ) {
        let mut node = Node::of(&facts, &changes);
        let wants = |node: &Node, key: &ServiceKey| -> BTreeSet<String> {
            let known = node.store.known().get(key);
            let plan = known.and_then(|known| plan_service(known, &facts, &policy()));
            let ports = plan.iter().flat_map(|plan| &plan.ports);
            ports.flat_map(|port| &port.frontends).map(|f| f.at.to_string()).collect()
        };
        node.store.take_dirty();
        let before = Node { store: node.store.clone(), planner: Planner::new(policy(), "".into()) };
        node.take(&last);
        let dirty = node.store.take_dirty();
        if last.object().kind == Kind::Pod {
            let pods = [last_words(&changes), last_words(std::slice::from_ref(&last))];
            for key in &dirty.services {
                let service = node.store.known()[key].service.as_ref().expect("it selects");
                let concerned = pods.iter().any(|objects| match objects.get(&last.object()) {
                    Some(Object::Pod(pod)) => oracle::selects(service, pod),
                    _ => false,
                });
                prop_assert!(concerned, "{key}");
            }
        } else {
            prop_assert!(dirty.services.len() <= 2, "a slice that moves concerns two services");
        }
        let own: BTreeSet<String> =
            dirty.services.iter().flat_map(|key| [wants(&before, key), wants(&node, key)]).flatten().collect();
        let delta = node.planner.replan(dirty.services.clone(), node.store.known());
        for service in &delta.services {
            let rival = !wants(&node, &service.key).is_disjoint(&own);
            prop_assert!(dirty.services.contains(&service.key) || rival, "{}", service.key);
        }
    }

    /// The plan does what the rules say, as read by somebody who never saw the planner.
    #[test]
    fn the_trace_agrees_with_the_oracle(
        facts in facts(),
        changes in prop::collection::vec(change(), 0..30),
        packets in prop::collection::vec(packet(), 1..24),
    ) {
        let node = Node::of(&facts, &changes);
        let objects = last_words(&changes);
        for (source, protocol, destination, port) in packets {
            let packet = Packet { source, in_interface: None, protocol, destination, port };
            let traced = trace(node.planner.plan(), &packet).unwrap();
            let expected = oracle::answer(&objects, &facts, &packet);
            let endpoints =
                traced.endpoints.iter().map(|e| (e.target.address, e.target.port, e.masquerade));
            prop_assert_eq!((traced.verdict, endpoints.collect()), expected, "{:?}", packet);
        }
    }
}
