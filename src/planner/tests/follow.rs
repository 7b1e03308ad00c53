//! Plans that come from the plan before.

use super::super::follow::Footing;
use super::*;

/// One slice a line, `PORTS: ENDPOINT, ENDPOINT, …`; the first has the lowest name.
fn known(service: &Service, slices: &[&str]) -> Known {
    let slices = slices.iter().enumerate().map(|(number, text)| {
        let (ports, endpoints) = text.split_once("| ").unwrap();
        let ports: Vec<&str> = ports.split_whitespace().collect();
        let endpoints: Vec<&str> = endpoints.split(", ").filter(|text| !text.is_empty()).collect();
        slice(&format!("web-{number}"), set(&ports, &endpoints))
    });
    Known { service: Some(Arc::new(service.clone())), slices: slices.collect(), endpoints: None }
}

/// What became of a change.
#[derive(Debug, PartialEq)]
enum Outcome {
    /// The next plan came from the former.
    Followed,
    /// The former plan says nothing that could be followed.
    NoFooting,
    /// It would, but not by this change.
    Anew,
}

fn outcome(service: &Service, before: &[&str], now: &[&str]) -> Outcome {
    let (before, mut now) = (known(service, before), known(service, now));
    now.service.clone_from(&before.service);
    let made = |known: &Known| plan_service(known, &facts(), &policy()).unwrap();
    let plan = made(&before);
    let Some(footing) = Footing::of(&plan, &before, &facts()) else { return Outcome::NoFooting };
    match footing.follow(&plan, (&before, &now), &facts()) {
        None => Outcome::Anew,
        Some((next, stands_on)) => {
            assert_eq!(next, made(&now));
            assert_eq!(Some(stands_on), Footing::of(&next, &now, &facts()), "its own footing");
            Outcome::Followed
        }
    }
}

const A: &str = "10.180.0.1 @a";
const B: &str = "10.180.0.2 @b";
const C: &str = "10.180.0.3 @b";

fn text(endpoints: &[&str]) -> String {
    format!(":8080/TCP| {}", endpoints.join(", "))
}

#[test]
fn endpoints_are_followed_one_by_one() {
    let plain = service("web", &["10.254.0.41"], &[":80/TCP"]);
    let all = text(&[A, B, C]);
    for now in [
        text(&[A, B]),
        text(&[B, C]),
        text(&[A, B, "10.180.0.4 @b"]),
        text(&[A, "10.180.0.4 @b", C]),
        text(&[C, B, A]),
        // Whoever only moves to another node stays in the pool.
        text(&[A, "10.180.0.2 @a", C]),
        text(&[A, "10.180.0.2", C]),
        text(&[A, "10.180.0.2 @b terminating", C]),
        text(&[A, "10.180.0.2 @b unready", "10.180.0.3 @b dead"]),
        text(&[A, B, C, "10.180.0.9 @b unready"]),
        // A hint that not everybody has counts for nobody.
        text(&[A, B, "10.180.0.3 @b z:z2 n:c"]),
    ] {
        assert_eq!(outcome(&plain, &[&all], &[&now]), Outcome::Followed, "to {now}");
        assert_eq!(outcome(&plain, &[&now], &[&all]), Outcome::Followed, "from {now}");
    }
    let (left, right) = (text(&[A, B]), text(&[C]));
    for (before, now) in [
        // A slice comes, is filled, divides, goes.
        (vec![&left], vec![&left, &right]),
        (vec![&left, &right], vec![&right]),
        (vec![&all], vec![&left, &right]),
        (vec![&left, &right], vec![&right, &left]),
        (vec![&left, &right], vec![&left]),
    ] {
        let texts = |slices: &[&String]| slices.iter().map(|text| text.to_string()).collect();
        let (before, now): (Vec<String>, Vec<String>) = (texts(&before), texts(&now));
        let [before, now] =
            [&before, &now].map(|t| t.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(outcome(&plain, &before, &now), Outcome::Followed, "{before:?} to {now:?}");
    }
}

#[test]
fn ports_and_families_are_followed_together() {
    let two = service("web", &["10.254.0.41"], &["http:80/TCP", "tls:443/TCP"]);
    let ports = "http:8080/TCP tls:8443/TCP| ";
    let slice = |endpoints: &[&str]| format!("{ports}{}", endpoints.join(", "));
    let turn = |before: &str, now: &str| outcome(&two, &[before], &[now]);
    assert_eq!(turn(&slice(&[A, B]), &slice(&[A, C])), Outcome::Followed);
    assert_eq!(turn(&slice(&[A, B]), &slice(&[A, "10.180.0.2 terminating"])), Outcome::Followed);
    // A target port may have another number in each slice, and in the next version of one.
    let renumbered = format!("http:8081/TCP tls:8443/TCP| {A}, {B}");
    assert_eq!(turn(&slice(&[A, B]), &renumbered), Outcome::Followed);
    assert_eq!(outcome(&two, &[&slice(&[A]), &renumbered], &[&renumbered]), Outcome::NoFooting);
    // Not all endpoints have the port.
    let lacking = format!("http:8080/TCP| {A}, {B}");
    assert_eq!(turn(&slice(&[A, B]), &lacking), Outcome::Anew);
    assert_eq!(turn(&lacking, &slice(&[A, B])), Outcome::NoFooting);
    let twice = format!("http:8080/TCP http:8081/TCP tls:8443/TCP| {A}");
    assert_eq!(turn(&slice(&[A]), &twice), Outcome::Anew);

    let dual = service("web", &["10.254.0.41", "fd00:254::41"], &[":80/TCP"]);
    let v6 = |endpoints: &str| format!(":8080/TCP| {endpoints}");
    let v4 = text(&[A, B]);
    let (one, other) = (v6("fd00::1 @a, fd00::2 unready"), v6("fd00::1 unready, fd00::2 @b"));
    assert_eq!(outcome(&dual, &[&v4, &one], &[&v4, &other]), Outcome::Followed);
    assert_eq!(outcome(&dual, &[&v4], &[&v4, &one]), Outcome::Anew, "a family's first endpoint");
    let single = service("web", &["10.254.0.41"], &[":80/TCP"]);
    assert_eq!(outcome(&single, &[&v4, &one], &[&v4, &other]), Outcome::NoFooting);
}

#[test]
fn what_concerns_all_endpoints_is_planned_anew() {
    let plain = service("web", &["10.254.0.41"], &[":80/TCP"]);
    let turn = |before: &[&str], now: &[&str]| outcome(&plain, &[&text(before)], &[&text(now)]);
    let draining = "10.180.0.1 @a terminating";
    // The last ready one goes: who serves while terminating is used from then on.
    assert_eq!(turn(&[A], &[draining]), Outcome::Anew);
    assert_eq!(turn(&[draining], &[A]), Outcome::Anew);
    assert_eq!(turn(&[draining], &[draining, "10.180.0.2 unready"]), Outcome::Anew);
    assert_eq!(turn(&[A], &[]), Outcome::Anew);
    assert_eq!(turn(&[], &[A]), Outcome::Anew);
    // Hints begin to count, count, and count no more.
    let (here, there) = ("10.180.0.1 @a z:z1", "10.180.0.2 @b z:z2");
    assert_eq!(turn(&[here, B], &[here, there]), Outcome::Anew);
    assert_eq!(turn(&[here, there], &[here, there, "10.180.0.3 @b z:z1"]), Outcome::Followed);
    assert_eq!(turn(&[here, there, "10.180.0.3 z:z1"], &[here, there]), Outcome::Followed);
    assert_eq!(turn(&[here, there], &[here, there, C]), Outcome::Anew);
    assert_eq!(turn(&[here, there], &[there]), Outcome::Anew);
    let node = "10.180.0.3 @a n:a z:z1";
    assert_eq!(turn(&[node], &[node, "10.180.0.2 @b n:b z:z2"]), Outcome::Followed);
    assert_eq!(turn(&[node, here], &[node]), Outcome::Anew);
}

#[test]
fn whoever_is_mentioned_twice_is_planned_anew() {
    let plain = service("web", &["10.254.0.41"], &[":80/TCP"]);
    let (all, one) = (text(&[A, B]), text(&[A]));
    let other_port = format!(":9090/TCP| {A}");
    let unready = text(&["10.180.0.1 @a unready"]);
    for copy in [&one, &other_port, &unready] {
        assert_eq!(outcome(&plain, &[&all], &[&all, copy]), Outcome::Anew, "{copy}");
    }
    for copy in [&one, &unready] {
        assert_eq!(outcome(&plain, &[&all, copy], &[&all]), Outcome::NoFooting, "{copy}");
    }
    let idle = text(&["10.180.0.1 @a unready", B]);
    assert_eq!(outcome(&plain, &[&idle], &[&idle, &unready]), Outcome::Anew);
    assert_eq!(outcome(&plain, &[&idle], &[&idle, &one]), Outcome::Anew);
}

#[test]
fn only_a_simple_service_is_followed() {
    let plain = || service("web", &["10.254.0.41"], &[":80/TCP"]);
    let (before, now) = (text(&[A, B]), text(&[A, C]));
    let of = |service: &Service| outcome(service, &[&before], &[&now]);
    assert_eq!(of(&Service { affinity: seconds(30), ..plain() }), Outcome::Followed);
    let published = Service { publish_not_ready_addresses: true, ..plain() };
    assert_eq!(of(&published), Outcome::Followed);
    let internal = Service { internal_policy: TrafficPolicy::Local, ..plain() };
    assert_eq!(of(&internal), Outcome::NoFooting);
    let external = Service { external_policy: TrafficPolicy::Local, ..plain() };
    assert_eq!(of(&external), Outcome::NoFooting);
    let udp = service("web", &["10.254.0.41"], &[":53/UDP"]);
    let slice = |endpoint: &str| format!(":53/UDP| {A}, {endpoint}");
    assert_eq!(outcome(&udp, &[&slice(B)], &[&slice(C)]), Outcome::NoFooting);

    // Neither does the Service stay the same, nor who says where its endpoints are.
    let (known, made) = (known(&plain(), &[&before]), |known: &Known| {
        plan_service(known, &facts(), &policy()).unwrap()
    });
    let plan = made(&known);
    let footing = Footing::of(&plan, &known, &facts()).unwrap();
    let renamed = super::follow::known(&Service { affinity: seconds(30), ..plain() }, &[&now]);
    assert_eq!(footing.follow(&plan, (&known, &renamed), &facts()), None);
    let mut mirrored = super::follow::known(&plain(), &[&now]);
    Arc::make_mut(&mut mirrored.slices[0]).origin = SliceOrigin::Mirrored;
    mirrored.service.clone_from(&known.service);
    assert_eq!(footing.follow(&plan, (&known, &mirrored), &facts()), None);
    assert_eq!(Footing::of(&made(&mirrored), &mirrored, &facts()), None);
}
