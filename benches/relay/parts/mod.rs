//! The questions that the harness answers, one file each.
//!
//! In: sites, [`Effort`](crate::Effort). Out: [`Row`](crate::report::Row)s.
//! Never: a figure from another run.

pub mod connections;
pub mod idle;
pub mod latency;
pub mod leak;
pub mod requests;
pub mod slow;
pub mod throughput;
pub mod udp;

use crate::Outcome;
use crate::sites::{Proxy, Site};
use crate::stats::Rng;

/// Measures every site in each round, in another order each time; by site.
fn rounds<T>(
    sites: &[&Site],
    rounds: usize,
    mut measure: impl FnMut(&Site) -> Outcome<T>,
) -> Outcome<Vec<Vec<T>>> {
    let mut found: Vec<Vec<T>> = sites.iter().map(|_| Vec::new()).collect();
    let mut order: Vec<usize> = (0..sites.len()).collect();
    let mut rng = Rng::new(5);
    // Round 0 fills caches and tables.
    for round in 0..=rounds {
        rng.shuffle(&mut order);
        for &at in &order {
            let measured = measure(sites[at])
                .map_err(|error| format!("{}: {error}", sites[at].proxy.name()))?;
            if round > 0 {
                found[at].push(measured);
            }
        }
    }
    Ok(found)
}

fn without_again(sites: &[Site]) -> Vec<&Site> {
    sites.iter().filter(|site| site.proxy != Proxy::HaproxyAgain).collect()
}

fn vipd(sites: &[Site]) -> Outcome<&Site> {
    Ok(sites.iter().find(|site| site.proxy == Proxy::Vipd).ok_or("vipd is not there")?)
}
