//! Whether this node can answer load balancers about a service at its `healthCheckNodePort`.

use super::{FrontendAddress, FrontendKey, HealthCheck, Plan};
use crate::model::{Family, Protocol, ServiceKey};
use std::collections::BTreeMap;
use std::num::NonZeroU16;

/// The service that each health check port is answered for: of several the oldest, as with
/// frontends. Costs O(services that this node is asked about).
pub fn health_holders(plan: &Plan) -> BTreeMap<NonZeroU16, &ServiceKey> {
    let mut holders: BTreeMap<NonZeroU16, (HealthCheck, &ServiceKey)> = BTreeMap::new();
    for (key, check) in &plan.health_checks {
        let holder = holders.entry(check.port).or_insert((*check, key));
        if (check.since, key) < (holder.0.since, holder.1) {
            *holder = (*check, key);
        }
    }
    holders.into_iter().map(|(port, (_, key))| (port, key)).collect()
}

/// The TCP node port of the same number, with its holder: what comes to it from elsewhere is sent
/// to endpoints before a listener could see it.
pub fn health_shadow(plan: &Plan, check: HealthCheck) -> Option<(FrontendKey, &ServiceKey)> {
    Family::BOTH.into_iter().find_map(|family| {
        let at = FrontendAddress::NodePort(family);
        let at = FrontendKey { at, protocol: Protocol::Tcp, port: check.port.get() };
        Some((at, plan.claims.holder(&at)?))
    })
}
