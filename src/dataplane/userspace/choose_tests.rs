//! Choices by value.

use super::choose::{Ask, Chosen, Picker};
use super::dials::{Dials, Failure};
use super::maglev::Maglev;
use crate::model::Balancer;
use crate::planner::Target;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

fn target(last: u8) -> Target {
    Target { address: IpAddr::from([10, 180, 0, last]), port: 8080 }
}

fn targets(lasts: &[u8]) -> Vec<Target> {
    lasts.iter().map(|last| target(*last)).collect()
}

/// One port, a clock, and numbers in place of random ones.
struct Port {
    picker: Picker,
    balancer: Balancer,
    affinity: u32,
    now: Instant,
    random: u64,
}

impl Port {
    fn new(balancer: Balancer) -> Self {
        Self {
            picker: Picker::default(),
            balancer,
            affinity: 0,
            now: Instant::now(),
            random: 0x9e37_79b9_7f4a_7c15,
        }
    }

    fn ask<'a>(&mut self, client: u8, targets: &'a [Target], tried: &'a Dials) -> Ask<'a> {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        Ask {
            targets,
            maglev: None,
            balancer: self.balancer,
            affinity: NonZeroU32::new(self.affinity),
            tried,
            client: IpAddr::from([10, 0, 0, client]),
            now: self.now,
            random: self.random ^ self.random >> 29,
        }
    }

    fn chosen(&mut self, client: u8, targets: &[Target], tried: &Dials) -> Option<Chosen> {
        let ask = self.ask(client, targets, tried);
        self.picker.choose(&ask)
    }

    /// Where a connection goes that ends at once.
    fn choose(&mut self, client: u8, targets: &[Target]) -> Option<u8> {
        let chosen = self.chosen(client, targets, &Dials::default())?;
        Some(last(chosen.endpoint.target))
    }

    fn fail(&mut self, client: u8, targets: &[Target], failing: u8) {
        let tried = Dials::default();
        let ask = self.ask(client, targets, &tried);
        self.picker.failed(&ask, target(failing), Failure::Refused);
    }
}

fn last(target: Target) -> u8 {
    match target.address {
        IpAddr::V4(v4) => v4.octets()[3],
        IpAddr::V6(_) => unreachable!("there is none"),
    }
}

const ALL: [Balancer; 4] =
    [Balancer::Random, Balancer::RoundRobin, Balancer::LeastConnections, Balancer::Maglev];

#[test]
fn every_balancer_chooses_from_the_pool_only() {
    for balancer in ALL {
        let mut port = Port::new(balancer);
        assert_eq!(port.choose(1, &[]), None, "{balancer:?}");
        assert_eq!(port.choose(1, &targets(&[7])), Some(7), "{balancer:?}");
        for client in 0..200 {
            let chosen = port.choose(client, &targets(&[1, 2, 3])).unwrap();
            assert!((1..=3).contains(&chosen), "{balancer:?}");
        }
    }
}

#[test]
fn random_is_even() {
    let (mut port, all) = (Port::new(Balancer::Random), targets(&[1, 2, 3, 4]));
    let mut times = BTreeMap::new();
    for _ in 0..4000 {
        *times.entry(port.choose(1, &all).unwrap()).or_insert(0) += 1;
    }
    assert!(times.values().all(|times| (850..1150).contains(times)), "{times:?}");
}

#[test]
fn round_robin_goes_on_when_endpoints_come_and_go() {
    let mut port = Port::new(Balancer::RoundRobin);
    let mut chosen = |lasts: &[u8]| port.choose(1, &targets(lasts)).unwrap();
    assert_eq!([chosen(&[1, 2, 3]), chosen(&[1, 2, 3])], [1, 2]);
    assert_eq!([chosen(&[1, 3, 4]), chosen(&[1, 3, 4]), chosen(&[1, 3, 4])], [3, 4, 1]);
    assert_eq!([chosen(&[2, 5]), chosen(&[2, 5])], [2, 5]);
}

#[test]
fn least_connections_fills_up_evenly() {
    let (mut port, all) = (Port::new(Balancer::LeastConnections), targets(&[1, 2, 3, 4]));
    let mut open: Vec<Chosen> = Vec::new();
    for _ in 0..400 {
        open.push(port.chosen(1, &all, &Dials::default()).unwrap());
    }
    for endpoint in port.picker.counts(port.now) {
        assert!((90..=110).contains(&endpoint.active), "{endpoint:?}");
    }
    // All but one have connections: that one gets what comes, whenever it is one of the two.
    open.retain(|chosen| chosen.endpoint.target != target(4));
    let fourth = (0..100).filter(|_| port.choose(1, &all) == Some(4)).count();
    assert!((35..=65).contains(&fourth), "{fourth}");
}

/// One after the other, and the second endpoint is told of an end only after the next choice.
#[test]
fn least_connections_is_even_where_nothing_is_busy() {
    let (mut port, all) = (Port::new(Balancer::LeastConnections), targets(&[1, 2]));
    let mut slow: Option<Chosen> = None;
    let mut times = [0; 2];
    for _ in 0..300 {
        let chosen = port.chosen(1, &all, &Dials::default()).unwrap();
        let place = usize::from(last(chosen.endpoint.target) - 1);
        times[place] += 1;
        drop(std::mem::replace(&mut slow, (place == 1).then_some(chosen)));
    }
    assert_eq!(times, [150, 150]);
}

#[test]
fn maglev_keeps_clients_and_moves_those_of_who_failed() {
    let mut port = Port::new(Balancer::Maglev);
    let all = targets(&[1, 2, 3]);
    let maglev = Maglev::new(&all);
    let mut choose = |client, tried: &Dials| {
        let ask = Ask { maglev: Some(&maglev), ..port.ask(client, &all, tried) };
        port.picker.choose(&ask).map(|chosen| chosen.endpoint.target)
    };
    for client in 0..50 {
        let first = choose(client, &Dials::default()).unwrap();
        assert_eq!(choose(client, &Dials::default()), Some(first));
        let mut tried = Dials::default();
        tried.failed(first, Failure::Refused);
        let second = choose(client, &tried).unwrap();
        assert_ne!(second, first);
        assert_eq!(choose(client, &tried), Some(second));
    }
}

#[test]
fn a_client_keeps_its_endpoint_while_it_comes_back() {
    for balancer in ALL {
        let (mut port, all) = (Port::new(balancer), targets(&[1, 2, 3, 4, 5]));
        port.affinity = 10;
        let first = port.choose(1, &all);
        for _ in 0..20 {
            port.now += Duration::from_secs(9);
            port.choose(2, &all);
            assert_eq!(port.choose(1, &all), first, "{balancer:?}");
        }
    }
}

#[test]
fn a_pinned_endpoint_that_goes_or_fails_is_replaced() {
    let (mut port, all) = (Port::new(Balancer::RoundRobin), targets(&[1, 2, 3]));
    port.affinity = 10;
    assert_eq!(port.choose(1, &all), Some(1));
    assert_eq!(port.choose(1, &targets(&[2, 3])), Some(2));
    assert_eq!(port.choose(1, &all), Some(2));
    port.fail(9, &all, 2);
    assert_eq!(port.choose(1, &all), Some(2), "it failed another client");
    port.fail(1, &all, 2);
    assert_eq!(port.choose(1, &all), Some(3));
    assert_eq!(port.choose(1, &all), Some(3));
}

#[test]
fn who_fails_again_and_again_gets_nobody_until_one_connection_has_tried() {
    for balancer in ALL {
        let (mut port, all) = (Port::new(balancer), targets(&[1, 2, 3, 4]));
        for client in 0..3 {
            port.fail(client, &all, 2);
        }
        assert!((0..200).all(|client| port.choose(client, &all) != Some(2)), "{balancer:?}");
        let counts = port.picker.counts(port.now);
        let second = counts.iter().find(|endpoint| endpoint.target == target(2)).unwrap();
        assert_eq!((second.failed, second.ejections, second.ejected), (3, 1, true));
        port.now += Duration::from_secs(1);
        let tries = (0..200).filter(|client| port.choose(*client, &all) == Some(2)).count();
        assert_eq!(tries, 1, "{balancer:?}");
        port.picker.connected(target(2));
        assert!((0..200).any(|client| port.choose(client, &all) == Some(2)), "{balancer:?}");
    }
}

#[test]
fn an_ejected_endpoint_loses_its_pinned_clients() {
    let (mut port, all) = (Port::new(Balancer::RoundRobin), targets(&[1, 2]));
    port.affinity = 600;
    assert_eq!(port.choose(7, &all), Some(1));
    for client in 0..3 {
        port.fail(client, &all, 1);
    }
    assert_eq!(port.choose(7, &all), Some(2));
    port.now += Duration::from_secs(1);
    assert_eq!(port.choose(7, &all), Some(2));
}

#[test]
fn what_has_an_open_connection_is_counted_until_it_ends() {
    let (mut port, all) = (Port::new(Balancer::RoundRobin), targets(&[1, 2]));
    let open = port.chosen(1, &all, &Dials::default()).unwrap();
    assert_eq!(port.choose(1, &all), Some(2));
    let known = |port: &Port| {
        let counts = port.picker.counts(port.now);
        counts.iter().map(|endpoint| (last(endpoint.target), endpoint.active)).collect::<Vec<_>>()
    };
    port.picker.retain(|_| false);
    assert_eq!(known(&port), [(1, 1)]);
    drop(open);
    port.picker.retain(|_| false);
    assert_eq!(known(&port), []);
}
