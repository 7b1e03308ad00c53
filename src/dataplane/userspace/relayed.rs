//! What is relayed for one frontend, as it is told by who programs the interception.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use crate::model::{
    Balancer, Family, HttpVersion, Limits, PortName, Protocol, ProxyProtocol, ServiceKey,
};
use crate::planner::{self, LocalDetector, NodePlan, Reach, Scope, Target};
use ipnet::IpNet;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;

/// One port of a Service in one address family: pins, counts and ejections hang on it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortId {
    pub name: PortName,
    pub protocol: Protocol,
    pub family: Family,
}

/// What is relayed for one frontend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relayed {
    pub service: ServiceKey,
    /// Frontends of one port share pins, counts and ejections.
    pub port: PortId,
    pub reach: Reach,
    /// Sorted.
    pub cluster: Box<[Target]>,
    /// Sorted.
    pub local: Box<[Target]>,
    /// Who keeps connections and sessions that are open, whatever the policy; sorted. New ones may go
    /// elsewhere by then: an endpoint that terminates serves until it has ended.
    pub serving: Box<[Target]>,
    /// Seconds that a client keeps its endpoint after its last new connection.
    pub affinity: Option<NonZeroU32>,
    pub balancer: Balancer,
    /// TCP only.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// Requests are balanced, spoken so; `None`: connections are. TCP only, without PROXY protocol.
    pub requests: Option<HttpVersion>,
    /// Of the whole Service; all its frontends have the same.
    pub limits: Limits,
    /// Who may ask at all, as [`planner::Frontend::allow`] has it. The kernel's rules have judged
    /// what comes here, but while somebody else has deleted them.
    pub allow: Option<Arc<[IpNet]>>,
}

impl Relayed {
    pub fn targets(&self, scope: Scope) -> &[Target] {
        match scope {
            Scope::Cluster => &self.cluster,
            Scope::Local => &self.local,
        }
    }

    /// Whether a client may ask at all.
    pub fn allows(&self, client: IpAddr) -> bool {
        planner::allows(self.allow.as_deref(), client)
    }

    /// Which endpoints a client is sent to. Policy Local from outside is decided by the address
    /// alone, so frontends of it are relayed only where pods are told by their network.
    pub fn scope(&self, client: IpAddr, node: &NodePlan) -> Scope {
        match self.reach {
            Reach::Cluster => Scope::Cluster,
            Reach::Local => Scope::Local,
            Reach::LocalFromOutside if is_inside(client, node) => Scope::Cluster,
            Reach::LocalFromOutside => Scope::Local,
        }
    }
}

/// Whether a client is this node or one of its pods.
fn is_inside(client: IpAddr, node: &NodePlan) -> bool {
    client.is_loopback()
        || node.own_addresses.binary_search(&client).is_ok()
        || matches!(
            node.local_detector(Family::of(client)),
            LocalDetector::Cidr(cidr) if cidr.contains(&client)
        )
}

/// Of a Service port without endpoints.
#[cfg(test)]
pub(super) fn relayed(protocol: Protocol, reach: Reach) -> Relayed {
    Relayed {
        service: ServiceKey::new("ns", "web"),
        port: PortId { name: "".into(), protocol, family: Family::V4 },
        reach,
        cluster: Box::default(),
        local: Box::default(),
        serving: Box::default(),
        affinity: None,
        balancer: Balancer::default(),
        proxy_protocol: None,
        requests: None,
        limits: Limits::default(),
        allow: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::planner::Plan;

    #[test]
    fn policy_local_holds_for_who_comes_from_outside() {
        let node = NodePlan {
            own_addresses: vec![IpAddr::from([192, 0, 2, 1])],
            local_v4: LocalDetector::Cidr("10.180.0.0/24".parse().unwrap()),
            ..NodePlan::clone(&Plan::empty().node)
        };
        let table = [
            ([192, 0, 2, 1], Scope::Cluster),
            ([127, 0, 0, 1], Scope::Cluster),
            ([10, 180, 0, 9], Scope::Cluster),
            ([10, 180, 1, 9], Scope::Local),
            ([192, 0, 2, 2], Scope::Local),
        ];
        for (client, scope) in table {
            let client = IpAddr::from(client);
            assert_eq!(
                relayed(Protocol::Tcp, Reach::LocalFromOutside).scope(client, &node),
                scope,
                "{client}"
            );
            assert_eq!(relayed(Protocol::Tcp, Reach::Cluster).scope(client, &node), Scope::Cluster);
            assert_eq!(relayed(Protocol::Tcp, Reach::Local).scope(client, &node), Scope::Local);
        }
        let unknown = NodePlan { local_v4: LocalDetector::None, ..node };
        let pod = IpAddr::from([10, 180, 0, 9]);
        assert_eq!(
            relayed(Protocol::Tcp, Reach::LocalFromOutside).scope(pod, &unknown),
            Scope::Local
        );
    }
}
