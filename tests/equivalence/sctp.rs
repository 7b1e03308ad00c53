//! SCTP with everything that TCP has.
//!
//! In: drawn changes and packets. Out: the same, with SCTP in TCP's part.
//! Never: a change but that of the protocol.

use super::packet::Packet;
use super::world::{Change, change};
use super::{Node, Shot, node_facts, policies, shots};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use std::collections::BTreeSet;
use std::sync::Arc;
use vipd::model::{
    EndpointPort, EndpointSet, EndpointSlice, Endpoints, Family, Object, Pod, Ports, Protocol,
    Service, ServicePort,
};
use vipd::planner::{Action, FrontendAddress, FrontendKey, Plan};

/// A world draws SCTP so seldom that a Service of it has hardly ever an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cast {
    AsDrawn,
    /// TCP and SCTP have changed places.
    Exchanged,
}

pub fn casts() -> impl Strategy<Value = Cast> {
    prop_oneof![2 => Just(Cast::AsDrawn), 1 => Just(Cast::Exchanged)]
}

impl Cast {
    pub fn of(self, protocol: Protocol) -> Protocol {
        match (self, protocol) {
            (Cast::Exchanged, Protocol::Tcp) => Protocol::Sctp,
            (Cast::Exchanged, Protocol::Sctp) => Protocol::Tcp,
            (_, other) => other,
        }
    }

    pub fn changes(self, changes: &[Change]) -> Vec<Change> {
        let change = |change: &Change| match change {
            Change::Upsert(object) => Change::Upsert(self.object(object)),
            Change::Delete(object) => Change::Delete(object.clone()),
        };
        changes.iter().map(change).collect()
    }

    pub fn shots(self, shots: &[Shot]) -> Vec<Shot> {
        let packet =
            |packet: &Packet| Packet { protocol: self.of(packet.protocol), ..packet.clone() };
        shots.iter().map(|shot| Shot { packet: packet(&shot.packet), ..shot.clone() }).collect()
    }

    fn object(self, object: &Object) -> Object {
        match object.clone() {
            Object::Service(service) => {
                let port = |port: &ServicePort| ServicePort {
                    protocol: self.of(port.protocol),
                    ..port.clone()
                };
                let ports = service.ports.iter().map(port).collect();
                Object::Service(Arc::new(Service { ports, ..Arc::unwrap_or_clone(service) }))
            }
            Object::EndpointSlice(slice) => {
                let set = self.set(&slice.set);
                Object::EndpointSlice(Arc::new(EndpointSlice {
                    set,
                    ..Arc::unwrap_or_clone(slice)
                }))
            }
            Object::Endpoints(endpoints) => {
                let sets = endpoints.sets.iter().map(|set| self.set(set)).collect();
                Object::Endpoints(Arc::new(Endpoints { sets, ..Arc::unwrap_or_clone(endpoints) }))
            }
            Object::Pod(pod) => {
                let ports = self.ports(&pod.ports);
                Object::Pod(Arc::new(Pod { ports, ..Arc::unwrap_or_clone(pod) }))
            }
            other => other,
        }
    }

    fn set(self, set: &EndpointSet) -> EndpointSet {
        EndpointSet { ports: self.ports(&set.ports), ..set.clone() }
    }

    fn ports(self, ports: &Ports<EndpointPort>) -> Ports<EndpointPort> {
        ports
            .iter()
            .map(|port| EndpointPort { protocol: self.of(port.protocol), ..port.clone() })
            .collect()
    }
}

/// The frontend that a packet meets, and what it does, in words.
fn met(plan: &Plan, packet: &Packet) -> Option<String> {
    let key = |at| FrontendKey { at, protocol: packet.protocol, port: packet.port };
    let family = Family::of(packet.destination);
    let places = [FrontendAddress::Address(packet.destination), FrontendAddress::NodePort(family)];
    places.into_iter().map(key).find_map(|at| {
        let service = plan.service(plan.claims.holder(&at)?)?;
        let (port, frontend) = service.held().find(|(_, frontend)| frontend.at == at)?;
        let what = match frontend.action {
            Action::Forward(forward) => format!("{:?}", forward.reach),
            other => format!("{other:?}"),
        };
        let sticky = if port.affinity.is_some() { " sticky" } else { "" };
        let guarded = if frontend.allow.is_some() { " guarded" } else { "" };
        Some(format!("{} {what}{sticky}{guarded}", frontend.kind.name()))
    })
}

/// Whatever becomes of TCP in these worlds becomes of SCTP too, and packets find it.
#[test]
fn packets_meet_sctp_of_every_kind() {
    let mut runner = TestRunner::deterministic();
    let worlds = (
        policies(),
        node_facts(),
        prop::collection::vec(change(), 8..32),
        prop::collection::vec(shots(), 24),
    );
    let mut seen = BTreeSet::new();
    for _ in 0..256 {
        let drawn = worlds.new_tree(&mut runner).expect("nothing is filtered").current();
        let (policy, facts, changes, shots) = drawn;
        let mut node = Node::new(policy, &facts);
        node.apply(&facts, &Cast::Exchanged.changes(&changes));
        let plan = node.planned.plan();
        for shot in Cast::Exchanged.shots(&shots) {
            let packet = shot.packet(plan, &facts);
            seen.extend((packet.protocol == Protocol::Sctp).then(|| met(plan, &packet)).flatten());
        }
    }
    let outside = ["NodePort", "LoadBalancer", "ExternalIP"];
    let outside = outside.map(|kind| ["Cluster", "LocalFromOutside", "Reject"].map(|a| (kind, a)));
    let inside = ["Cluster", "Local", "Drop", "Reject"].map(|action| ("ClusterIP", action));
    for (kind, action) in outside.into_iter().flatten().chain(inside) {
        for sticky in ["", " sticky"] {
            let wanted = format!("{kind} {action}{sticky}");
            assert!(seen.contains(&wanted), "no packet met {wanted}: {seen:#?}");
        }
    }
    assert!(seen.contains("LoadBalancer Cluster sticky guarded"), "{seen:#?}");
}
