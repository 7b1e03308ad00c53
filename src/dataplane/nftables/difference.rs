//! What two plans of a service do not have in common, and the addresses that they have. PURE.
//!
//! In: plans, pools, sorted lists. Out: what is only in one of two.
//! Never: what the kernel holds.

use crate::planner::{FrontendAddress, FrontendKind, Pool, PortPlan, Scope, ServicePlan, Target};
use imbl::ordmap::DiffItem;
use std::net::IpAddr;

/// Cluster IPs of the plan, or its other addresses: sorted, each once.
pub fn frontend_addresses(plan: &ServicePlan, cluster_ips: bool) -> Vec<IpAddr> {
    let addresses = plan
        .held()
        .filter(|(_, frontend)| (frontend.kind == FrontendKind::ClusterIp) == cluster_ips)
        .filter_map(|(_, frontend)| match frontend.at.at {
            FrontendAddress::Address(address) => Some(address),
            FrontendAddress::NodePort(_) => None,
        });
    in_order(addresses.collect())
}

/// Addresses of the endpoints, in use or not, sorted, each once.
pub fn endpoint_addresses(plan: &ServicePlan) -> Vec<IpAddr> {
    let pools = plan.ports.iter().flat_map(|port| port.cluster.keys().chain(port.local.keys()));
    let addresses = pools.map(|target| target.address).chain(plan.idle.iter().copied());
    in_order(addresses.collect())
}

fn in_order(mut addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

/// The addresses that two plans do not both have by [`endpoint_addresses`]: only the old one, only
/// the new one. Costs what differs, not what is the same.
pub fn endpoint_difference(
    old: Option<&ServicePlan>,
    new: Option<&ServicePlan>,
) -> (Vec<IpAddr>, Vec<IpAddr>) {
    let (old, new) = match (old, new) {
        (Some(old), Some(new)) => (old, new),
        (one, other) => {
            let all = |plan: Option<&ServicePlan>| plan.map_or_else(Vec::new, endpoint_addresses);
            return (all(one), all(other));
        }
    };
    let (mut gone, mut come) = difference((&old.idle, &new.idle));
    let nothing = Pool::new();
    for port in &old.ports {
        let now = same_port(new, port);
        for scope in [Scope::Cluster, Scope::Local] {
            let now = now.map_or(&nothing, |port| port.pool(scope));
            let (fewer, more) = pool_difference(port.pool(scope), now);
            gone.extend(fewer.into_iter().map(|target| target.address));
            come.extend(more.into_iter().map(|target| target.address));
        }
    }
    let fresh = new.ports.iter().filter(|port| same_port(old, port).is_none());
    let fresh = fresh.flat_map(|port| port.cluster.keys().chain(port.local.keys()));
    come.extend(fresh.map(|target| target.address));
    gone.retain(|address| !has_endpoint(new, *address));
    come.retain(|address| !has_endpoint(old, *address));
    (in_order(gone), in_order(come))
}

/// Elements of one sorted list that the other lacks: (only before, only after). Neither has
/// duplicates.
pub fn difference<T: Copy + Ord>((mut before, mut after): (&[T], &[T])) -> (Vec<T>, Vec<T>) {
    let (mut gone, mut come) = (Vec::new(), Vec::new());
    while let ([old, before_rest @ ..], [new, after_rest @ ..]) = (before, after) {
        // Mostly there is one element among many: equality first, it is cheaper.
        if old == new {
            (before, after) = (before_rest, after_rest);
        } else if old < new {
            gone.push(*old);
            before = before_rest;
        } else {
            come.push(*new);
            after = after_rest;
        }
    }
    gone.extend_from_slice(before);
    come.extend_from_slice(after);
    (gone, come)
}

/// A plan's ports are sorted by what makes two the same.
fn same_port<'a>(plan: &'a ServicePlan, port: &PortPlan) -> Option<&'a PortPlan> {
    let key = |port: &PortPlan| (port.port, port.protocol, port.family);
    let at = plan.ports.binary_search_by(|other| key(other).cmp(&key(port))).ok()?;
    Some(&plan.ports[at])
}

/// Whether a plan has an endpoint at this address, in use or not.
fn has_endpoint(plan: &ServicePlan, address: IpAddr) -> bool {
    plan.idle.binary_search(&address).is_ok()
        || plan.ports.iter().any(|port| port.has_endpoint(address))
}

/// Targets of one pool that the other lacks: (only before, only after), sorted.
pub fn pool_difference(before: &Pool, after: &Pool) -> (Vec<Target>, Vec<Target>) {
    let (mut gone, mut come) = (Vec::new(), Vec::new());
    for item in before.diff(after) {
        match item {
            DiffItem::Remove(target, _) => gone.push(*target),
            DiffItem::Add(target, _) => come.push(*target),
            DiffItem::Update { .. } => {}
        }
    }
    (gone, come)
}
