//! What pods are to a Service: the rules of Kubernetes' slice controller.
//!
//! In: a Service and its pods. Out: [`Endpoints`], one set per list of port numbers and family.
//! Never: a look at a selector.

use crate::model::{
    Conditions, Endpoint, EndpointPort, EndpointSet, Endpoints, EndpointsOrigin, Family, Pod,
    Ports, Service, ServicePort, TargetPort,
};
use smallvec::SmallVec;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Where a pod serves each port of a Service, if it does.
type Numbers = SmallVec<[Option<u16>; 2]>;

/// `None` where no pod is an endpoint of any port.
pub(super) fn make<'a>(
    service: &Service,
    pods: impl Iterator<Item = &'a Pod>,
) -> Option<Endpoints> {
    let mut groups: BTreeMap<Numbers, Vec<&Pod>> = BTreeMap::new();
    for pod in pods {
        let numbers: Numbers = service.ports.iter().map(|port| number(port, pod)).collect();
        if numbers.iter().any(Option::is_some) {
            groups.entry(numbers).or_default().push(pod);
        }
    }
    let mut sets = Vec::new();
    for (numbers, pods) in groups {
        let ports = ports(service, &numbers);
        for family in Family::BOTH.into_iter().filter(|f| service.cluster_ips.get(*f).is_some()) {
            let endpoints: Box<[Endpoint]> =
                pods.iter().filter_map(|pod| endpoint(service, pod, family)).collect();
            if !endpoints.is_empty() {
                sets.push(EndpointSet { family, ports: ports.clone(), endpoints });
            }
        }
    }
    let (key, origin) = (service.key.clone(), EndpointsOrigin::Pods);
    (!sets.is_empty()).then(|| Endpoints { key, origin, sets: sets.into() })
}

/// A number is every pod's; a name is looked up in each pod, with the Service port's protocol.
fn number(port: &ServicePort, pod: &Pod) -> Option<u16> {
    match &port.target_port {
        TargetPort::Unset => Some(port.port),
        TargetPort::Number(number) => Some(*number),
        TargetPort::Name(name) => {
            let named = |p: &&EndpointPort| *p.name.0 == **name && p.protocol == port.protocol;
            pod.ports.iter().find(named).map(|p| p.port)
        }
    }
}

fn ports(service: &Service, numbers: &Numbers) -> Ports<EndpointPort> {
    let served = service.ports.iter().zip(numbers);
    served
        .filter_map(|(port, number)| {
            let (name, protocol) = (port.name.clone(), port.protocol);
            number.map(|port| EndpointPort { name, protocol, port })
        })
        .collect()
}

/// Ready is not what is terminating, unless the Service publishes what is not ready.
fn endpoint(service: &Service, pod: &Pod, family: Family) -> Option<Endpoint> {
    Some(Endpoint {
        address: pod.address(family)?,
        conditions: Conditions {
            ready: service.publish_not_ready_addresses || (pod.ready && !pod.terminating),
            serving: pod.ready,
            terminating: pod.terminating,
        },
        place: Arc::clone(&pod.place),
    })
}
