//! Services whose plans are kept, because they have many endpoints.

use super::*;

/// `ns/NAME`, at the cluster IP of that number, with so many ready endpoints of which every third is
/// on this node; the slices name them from the last to the first.
fn large(name: &str, cluster_ip: u8, endpoints: std::ops::Range<u32>) -> Known {
    let service = service(name, &[&format!("10.254.1.{cluster_ip}")], &[":80/TCP"]);
    let text = |n: u32| {
        let node = if n.is_multiple_of(3) { "@a" } else { "@b" };
        format!("10.180.{}.{} {node}", n / 250, n % 250 + 1)
    };
    let texts: Vec<String> = endpoints.rev().map(text).collect();
    let slices = texts.chunks(100).enumerate().map(|(number, texts)| {
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        slice(&format!("{name}-{number:03}"), set(&[":8080/TCP"], &texts))
    });
    Known { service: Some(Arc::new(service)), slices: slices.collect(), endpoints: None }
}

/// What is replanned step by step is what would be planned from nothing, and each delta begins where
/// the one before ended.
#[test]
fn a_kept_plan_is_the_one_that_would_be_made() {
    let mut known = all([large("big", 1, 0..600), large("other", 2, 0..300)]);
    let mut planner = planner(policy(), &known);
    let mut shown: std::collections::BTreeMap<ServiceKey, ServicePlan> =
        planner.plan().services().map(|plan| (plan.key.clone(), plan)).collect();
    // The facts by which the zone's name decides, and then not.
    let elsewhere = NodeFacts { zone: None, name: "b".into(), ..facts() };
    let steps: Vec<(Known, Option<NodeFacts>)> = vec![
        (large("big", 1, 1..601), None),
        (large("big", 1, 1..601), Some(elsewhere)),
        (large("big", 1, 5..605), Some(facts())),
        // Both claim one address; then one gives it up.
        (large("other", 1, 0..300), None),
        (large("big", 3, 5..605), None),
        (large("big", 3, 5..255), None),
        (large("a", 4, 0..257), None),
        (large("b", 5, 0..257), None),
        (large("c", 6, 0..257), None),
        (large("d", 7, 0..257), None),
        (large("other", 1, 2..300), None),
        (large("other", 2, 0..0), None),
        (large("other", 2, 0..300), None),
    ];
    for (step, (changed, facts)) in steps.into_iter().enumerate() {
        let key = changed.service.as_ref().unwrap().key.clone();
        known.insert(key.clone(), Arc::new(changed));
        let mut keys = vec![key];
        if let Some(facts) = facts
            && planner.set_facts(facts, &[]) == FactsChange::Services
        {
            keys.extend(known.keys().cloned());
        }
        let delta = planner.replan(keys, &known);
        for change in delta.services {
            assert_eq!(change.old.as_deref(), shown.get(&change.key), "step {step}: before");
            match change.new {
                Some(new) => shown.insert(change.key, (*new).clone()),
                None => shown.remove(&change.key),
            };
        }
        let made = planner.plan().services().map(|plan| (plan.key.clone(), plan)).collect();
        assert_eq!(shown, made, "step {step}");
    }
    // What nobody asks the difference of is not remembered either.
    let key = || ServiceKey::new("ns", "big");
    let mut turn = |first: u32| {
        known.insert(key(), Arc::new(large("big", 3, first..300)));
        known.clone()
    };
    planner.replan([key()], &turn(6));
    planner.catch_up([key()], &turn(7));
    let before = planner.plan().service(&key());
    let delta = planner.replan([key()], &turn(8));
    assert_eq!(delta.services[0].old.as_deref(), before.as_ref());
}

/// However endpoints are ordered in their slices, and whoever is mentioned twice.
#[test]
fn many_endpoints_are_ordered_as_few_are() {
    let v6 = |n: u32| format!("fd00::{:x}", n * 7919 % 65_521);
    let texts: Vec<String> = (0..40).map(v6).collect();
    let mut texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let twice = format!("{} terminating @a", texts[3]);
    texts.insert(0, &twice);
    let service = service("web", &["fd00:254::1"], &[":80/TCP"]);
    let slices = [slice("web-1", set(&[":8080/TCP"], &texts))].into();
    let known = Known { service: Some(Arc::new(service)), slices, endpoints: None };
    let port = only_port(&known);
    assert_eq!(port.cluster.len(), 40);
    assert!(port.cluster.values().all(|member| !member.terminating));
}
