//! The rules again, written to be read and not to be fast: from the objects straight to the answer
//! for one packet, with nothing of the planner's but its words for verdicts.

use super::world::{Objects, PODS, RANGE};
use ipnet::IpNet;
use std::cmp::Reverse;
use std::net::IpAddr;
use vipd::model::*;
use vipd::planner::{Packet, Verdict};

type Answer = (Verdict, Vec<(IpAddr, u16, bool)>);

pub fn answer(objects: &Objects, facts: &NodeFacts, packet: &Packet<'_>) -> Answer {
    let mut services: Vec<&Service> = objects
        .values()
        .filter_map(
            |object| if let Object::Service(service) = object { Some(&**service) } else { None },
        )
        .collect();
    services.sort_by_key(|s| (s.created.seconds().is_none(), s.created.seconds(), s.key.as_str()));
    // Who holds an address and port, and as what.
    let holder = |address: IpAddr, port: u16, protocol: Protocol| {
        services.iter().find_map(|service| {
            let wanted = service.ports.iter().find(|p| (p.port, p.protocol) == (port, protocol))?;
            Some((*service, wanted, as_what(service, address)?))
        })
    };
    let (destination, protocol) = (packet.destination, packet.protocol);
    let at_node_port = || {
        services.iter().find_map(|service| {
            service.cluster_ips.get(Family::of(destination))?;
            let mut ports: Vec<&ServicePort> = service.ports.iter().collect();
            ports.sort_by_key(|port| port.port);
            let asked = |p: &&ServicePort| {
                p.node_port.is_some_and(|n| n.get() == packet.port) && p.protocol == protocol
            };
            Some((*service, ports.into_iter().find(asked)?, What::NodePort))
        })
    };
    // Where nothing is configured: the Node object's addresses, of which there is one per family.
    let of_node = facts.addresses.contains(&destination);
    let found =
        holder(destination, packet.port, protocol).or_else(|| of_node.then(at_node_port).flatten());
    let Some((service, port, what)) = found else {
        let range: IpNet = RANGE.parse().unwrap();
        let active = services.iter().any(|service| {
            let mut ports = service.ports.iter();
            as_what(service, destination) == Some(What::ClusterIp)
                && ports
                    .any(|p| holder(destination, p.port, p.protocol).unwrap().0.key == service.key)
        });
        let verdict = match (active, range.contains(&destination)) {
            (true, _) => Verdict::Reject,
            (false, true) => Verdict::Drop,
            (false, false) => Verdict::Pass,
        };
        return (verdict, vec![]);
    };
    if what == What::LoadBalancer && !may_ask(service, facts, packet) {
        return (Verdict::Drop, vec![]);
    }
    let client = Client::of(facts, packet);
    let (policy, masqueraded) = match (what, service.external_policy) {
        // The detector knows a CIDR of IPv4 only.
        (What::ClusterIp, _) => {
            (service.internal_policy, packet.source.is_ipv4() && !client.is_local_pod)
        }
        (_, TrafficPolicy::Cluster) => (TrafficPolicy::Cluster, true),
        (_, TrafficPolicy::Local) if client.is_local_pod || client.is_node => {
            (TrafficPolicy::Cluster, client.is_node)
        }
        (_, TrafficPolicy::Local) => (TrafficPolicy::Local, false),
    };
    let endpoints = endpoints(objects, service, port, packet);
    let (verdict, targets) = choose(policy, &endpoints, facts);
    let with_source = targets
        .into_iter()
        .map(|(ip, port)| {
            let stays = facts.addresses.contains(&ip) && !client.is_node;
            (ip, port, (masqueraded || ip == packet.source) && !stays)
        })
        .collect();
    (verdict, with_source)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    ClusterIp,
    LoadBalancer,
    ExternalIp,
    NodePort,
}

/// What an address is to a service. It has external addresses of a family only with a cluster IP.
fn as_what(service: &Service, address: IpAddr) -> Option<What> {
    let cluster_ip = service.cluster_ips.get(Family::of(address))?;
    let external = service.external();
    if cluster_ip == address {
        Some(What::ClusterIp)
    } else if external?.vips.contains(&address) {
        Some(What::LoadBalancer)
    } else {
        external?.ips.contains(&address).then_some(What::ExternalIp)
    }
}

/// By `loadBalancerSourceRanges`.
fn may_ask(service: &Service, facts: &NodeFacts, packet: &Packet<'_>) -> bool {
    let external = service.external().expect("a load balancer");
    let mut ranges =
        external.source_ranges.iter().filter(|net| net.addr().is_ipv4() == packet.source.is_ipv4());
    let for_node = ranges.clone().any(|net| facts.addresses.iter().any(|ip| net.contains(ip)));
    external.source_ranges.is_empty()
        || ranges.any(|net| net.contains(&packet.source))
        || for_node && external.vips.contains(&packet.source)
}

/// Who sends a packet.
struct Client {
    is_node: bool,
    is_local_pod: bool,
}

impl Client {
    fn of(facts: &NodeFacts, packet: &Packet<'_>) -> Self {
        let pods: IpNet = PODS.parse().unwrap();
        Self {
            is_node: facts.addresses.contains(&packet.source),
            is_local_pod: pods.contains(&packet.source),
        }
    }
}

/// A distinct endpoint: the copy that counts.
struct Known {
    target: (IpAddr, u16),
    endpoint: Endpoint,
}

fn endpoints(
    objects: &Objects,
    service: &Service,
    port: &ServicePort,
    packet: &Packet<'_>,
) -> Vec<Known> {
    let slices = |wanted: SliceOrigin| -> Vec<EndpointSet> {
        let mut slices: Vec<&EndpointSlice> = objects
            .values()
            .filter_map(|o| if let Object::EndpointSlice(s) = o { Some(&**s) } else { None })
            .filter(|slice| slice.service == service.key)
            .collect();
        slices.sort_by_key(|slice| slice.key.as_str());
        // Slices that are not mirrored but lead nowhere count as slices nevertheless.
        slices.iter().filter(|s| s.origin == wanted).map(|slice| slice.set.clone()).collect()
    };
    let by_hand = objects.values().find_map(|object| match object {
        Object::Endpoints(e) if e.key == service.key => Some(e.sets.to_vec()),
        _ => None,
    });
    let own = slices(SliceOrigin::Own);
    let mirrored = slices(SliceOrigin::Mirrored);
    let sets = match by_hand {
        _ if !own.is_empty() => own,
        Some(by_hand) => by_hand,
        None if !mirrored.is_empty() => mirrored,
        None => of_pods(objects, service),
    };

    let mut all: Vec<Known> = Vec::new();
    for set in sets.iter().filter(|set| set.family == Family::of(packet.destination)) {
        for named in set.ports.iter().filter(|p| p.name == port.name && p.protocol == port.protocol)
        {
            for endpoint in &set.endpoints {
                let target = (endpoint.address, named.port);
                let worth = |e: &Endpoint| {
                    Reverse((!e.conditions.terminating, e.place.node.as_deref() == Some("n0")))
                };
                match all.iter_mut().find(|known| known.target == target) {
                    Some(known) if worth(endpoint) < worth(&known.endpoint) => {
                        known.endpoint = endpoint.clone();
                    }
                    Some(_) => {}
                    None => all.push(Known { target, endpoint: endpoint.clone() }),
                }
            }
        }
    }
    all.sort_by_key(|known| known.target);
    all
}

pub fn selects(service: &Service, pod: &Pod) -> bool {
    let selector: Vec<&str> = service.shown.selector().split(',').collect();
    service.key.namespace() == pod.key.namespace()
        && selector != [""]
        && selector.iter().all(|pair| pod.labels.split(',').any(|label| label == *pair))
}

/// Each pod and family for itself. Of copies the one counts whose port numbers come first, then the
/// one whose name does.
fn of_pods(objects: &Objects, service: &Service) -> Vec<EndpointSet> {
    let pods =
        objects.values().filter_map(|o| if let Object::Pod(pod) = o { Some(pod) } else { None });
    let mut sets = Vec::new();
    for pod in pods.filter(|pod| selects(service, pod)) {
        let number = |port: &ServicePort| match &port.target_port {
            TargetPort::Unset => Some(port.port),
            TargetPort::Number(number) => Some(*number),
            TargetPort::Name(name) => {
                let mut own = pod.ports.iter().filter(|p| p.protocol == port.protocol);
                own.find(|p| *p.name.0 == **name).map(|p| p.port)
            }
        };
        let numbers: Vec<Option<u16>> = service.ports.iter().map(number).collect();
        let ports: Ports<EndpointPort> = (service.ports.iter().zip(&numbers))
            .filter_map(|(port, number)| {
                let (name, protocol) = (port.name.clone(), port.protocol);
                Some(EndpointPort { name, protocol, port: (*number)? })
            })
            .collect();
        let conditions = Conditions {
            ready: service.publish_not_ready_addresses || (pod.ready && !pod.terminating),
            serving: pod.ready,
            terminating: pod.terminating,
        };
        for address in &pod.addresses {
            let endpoint = Endpoint { address: *address, conditions, place: pod.place.clone() };
            let set = EndpointSet {
                family: Family::of(*address),
                ports: ports.clone(),
                endpoints: [endpoint].into(),
            };
            sets.push((numbers.clone(), pod.key.as_str(), set));
        }
    }
    sets.sort_by(|one, other| (&one.0, one.1).cmp(&(&other.0, other.1)));
    sets.into_iter().map(|(_, _, set)| set).collect()
}

fn choose(
    policy: TrafficPolicy,
    all: &[Known],
    facts: &NodeFacts,
) -> (Verdict, Vec<(IpAddr, u16)>) {
    let ready: Vec<&Known> = all.iter().filter(|k| k.endpoint.conditions.ready).collect();
    let leaving: Vec<&Known> = all
        .iter()
        .filter(|k| !k.endpoint.conditions.ready)
        .filter(|k| k.endpoint.conditions.serving && k.endpoint.conditions.terminating)
        .collect();
    if ready.is_empty() && leaving.is_empty() {
        return (Verdict::Reject, vec![]);
    }
    let here = |known: &&&Known| known.endpoint.place.node.as_deref() == Some(&*facts.name);
    let (ready, leaving): (Vec<&Known>, Vec<&Known>) = match policy {
        TrafficPolicy::Local => (
            ready.iter().filter(here).copied().collect(),
            leaving.iter().filter(here).copied().collect(),
        ),
        TrafficPolicy::Cluster => (near(ready, facts), leaving),
    };
    let chosen = if ready.is_empty() { leaving } else { ready };
    let verdict = if chosen.is_empty() { Verdict::Drop } else { Verdict::Forward };
    (verdict, chosen.iter().map(|known| known.target).collect())
}

/// Of all ready endpoints, those that the hints recommend to this node.
fn near<'a>(ready: Vec<&'a Known>, facts: &NodeFacts) -> Vec<&'a Known> {
    let nodes = |known: &Known| known.endpoint.place.hints.nodes.clone();
    let zones = |known: &Known| known.endpoint.place.hints.zones.clone();
    if ready.iter().all(|known| !nodes(known).is_empty()) {
        let near: Vec<_> =
            ready.iter().filter(|k| nodes(k).iter().any(|n| **n == *facts.name)).copied().collect();
        if !near.is_empty() {
            return near;
        }
    }
    if let Some(zone) = &facts.zone
        && ready.iter().all(|known| !zones(known).is_empty())
    {
        let near: Vec<_> =
            ready.iter().filter(|k| zones(k).iter().any(|z| **z == **zone)).copied().collect();
        if !near.is_empty() {
            return near;
        }
    }
    ready
}
