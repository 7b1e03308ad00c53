//! Two services, one frontend.

use super::*;

fn claimant(name: &str, created: Option<i64>, ports: &[&str]) -> Known {
    let mut service = service(name, &["10.254.0.7"], ports);
    service.created = Created::new(created);
    Known { service: Some(Arc::new(service)), ..Known::default() }
}

fn lost(delta: &PlanDelta) -> Vec<(&str, Vec<Option<&str>>)> {
    let lost = |plan: &ServicePlan| {
        let frontends = plan.ports.iter().flat_map(|port| &port.frontends);
        frontends.map(|f| f.lost_to.clone()).collect::<Vec<_>>()
    };
    delta
        .services
        .iter()
        .map(|service| {
            let ports = service.new.as_deref().map(lost).unwrap_or_default();
            let names = ports.into_iter().map(|l| l.map(|k| leak(k.name()))).collect();
            (service.key.name(), names)
        })
        .collect()
}

fn leak(text: &str) -> &'static str {
    Box::leak(text.to_owned().into_boxed_str())
}

const PORT: &[&str] = &[":80/TCP"];

#[test]
fn the_oldest_then_the_first_name_holds_the_frontend() {
    let mut known = all([claimant("young", Some(20), PORT), claimant("ageless", None, PORT)]);
    let mut planner = Planner::new(policy(), "a".into());
    let delta = planner.replan(known.keys().cloned(), &known);
    assert_eq!(lost(&delta), [("ageless", vec![Some("young")]), ("young", vec![None])]);

    // An older one comes: everyone lost to another one now.
    known.extend(all([claimant("old", Some(10), PORT)]));
    let delta = planner.replan([ServiceKey::new("ns", "old")], &known);
    let expected =
        [("ageless", vec![Some("old")]), ("old", vec![None]), ("young", vec![Some("old")])];
    assert_eq!(lost(&delta), expected);

    // As old, but first by name.
    known.extend(all([claimant("first", Some(10), PORT)]));
    let delta = planner.replan([ServiceKey::new("ns", "first")], &known);
    assert_eq!(delta.services.len(), 4);
    assert_eq!(planner.plan().claims.iter().next().unwrap().1.name(), "first");
}

#[test]
fn a_loser_that_goes_concerns_nobody_else() {
    let mut known = all([claimant("a", Some(1), PORT), claimant("b", Some(2), PORT)]);
    let mut planner = planner(policy(), &known);
    let b = ServiceKey::new("ns", "b");
    known.remove(&b);
    let delta = planner.replan([b], &known);
    assert_eq!(lost(&delta), [("b", vec![])]);
}

#[test]
fn the_next_takes_over_when_the_holder_goes() {
    let mut known = all([claimant("a", Some(1), PORT), claimant("b", Some(2), PORT)]);
    let mut planner = planner(policy(), &known);
    let a = ServiceKey::new("ns", "a");
    known.remove(&a);
    let delta = planner.replan([a], &known);
    assert_eq!(lost(&delta), [("a", vec![]), ("b", vec![None])]);
}

#[test]
fn only_the_contested_port_is_lost() {
    let known = all([
        claimant("a", Some(1), PORT),
        claimant("b", Some(2), &[":80/TCP", ":81/TCP", "u:80/UDP"]),
    ]);
    let planner = planner(policy(), &known);
    let b = planner.plan().service(&ServiceKey::new("ns", "b")).unwrap();
    let held: Vec<String> = b.held().map(|(_, frontend)| frontend.at.to_string()).collect();
    assert_eq!(held, ["10.254.0.7:80/UDP", "10.254.0.7:81/TCP"]);
}

#[test]
fn ages_that_change_together_are_compared_as_they_are_now() {
    let names = ["a", "b", "c", "d", "e"];
    let with = |ages: [i64; 5]| {
        all(names.iter().zip(ages).map(|(name, age)| claimant(name, Some(age), PORT)))
    };
    let before = with([1, 2, 3, 4, 5]);
    let after = with([50, 20, 30, 10, 5]);
    let mut planner = planner(policy(), &before);
    planner.replan(["a", "b", "d"].map(|name| ServiceKey::new("ns", name)), &after);
    let claims = &planner.plan().claims;
    let (at, holder) = claims.iter().next().unwrap();
    let losers: Vec<&str> = claims.losers(at).iter().map(ServiceKey::name).collect();
    assert_eq!((holder.name(), losers), ("e", vec!["d", "b", "c", "a"]));
}

#[test]
fn a_port_written_twice_is_one_frontend_of_the_first() {
    let known = all([claimant("a", None, &["x:80/TCP", "y:80/TCP"])]);
    let planner = planner(policy(), &known);
    let plan = planner.plan().service(&ServiceKey::new("ns", "a")).unwrap();
    assert_eq!(plan.held().map(|(port, _)| &*port.name.0).collect::<Vec<_>>(), ["x"]);
}

#[test]
fn problems_name_the_winner_and_stray_addresses() {
    let mut stray = service("stray", &["10.99.0.1", "fd00::1"], PORT);
    stray.created = Created::new(Some(1));
    let stray = Known { service: Some(Arc::new(stray)), ..Known::default() };
    let known = all([claimant("a", Some(1), PORT), claimant("b", Some(2), PORT), stray]);
    let list = |policy| {
        let planner = planner(policy, &known);
        problems(planner.plan(), &known).iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let found = list(policy());
    assert_eq!(found.len(), 2, "no IPv6 range is known, so nothing is said of fd00::1: {found:?}");
    assert!(
        found[0]
            .starts_with("cluster: Service ns/b: spec: 10.254.0.7:80/TCP is held by Service ns/a")
    );
    assert!(
        found[1].starts_with("cluster: Service ns/stray: spec.clusterIPs: 10.99.0.1 lies in no")
    );
    assert_eq!(list(Policy { service_ranges: vec![], ..policy() }).len(), 1);
}
