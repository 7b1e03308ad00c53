//! Objects that say something of the node or the cluster: v1 Node, networking.k8s.io/v1 ServiceCIDR.
//!
//! In: objects of k8s-openapi. Out: model values. Never: a fact that the object does not state.

use super::fields::{Fault, cidr, ip};
use super::findings::{Converted, Findings, label_of, name, right};
use crate::model::{Node, Object, ServiceCidr};
use k8s_openapi::api::{core::v1 as core, networking::v1 as networking};
use std::net::IpAddr;
use std::sync::Arc;

const ZONE: &str = "topology.kubernetes.io/zone";
const TAINT_OF_REMOVAL: &str = "ToBeDeletedByClusterAutoscaler";

/// The kubelet and others write a Node piece by piece: for a bad address it must not look as if the node
/// went away.
pub fn node(object: &core::Node, findings: &mut Findings<'_>) -> Result<Converted, Fault> {
    let meta = &object.metadata;
    let name = name(meta)?;
    let spec = object.spec.as_ref();
    let many = spec.and_then(|s| s.pod_cidrs.as_deref()).unwrap_or(&[]);
    let single =
        spec.and_then(|s| s.pod_cidr.as_deref()).filter(|c| many.is_empty() && !c.is_empty());
    let single = single.map(|text| cidr("spec.podCIDR", text));
    let many = many.iter().enumerate().map(|(i, text)| cidr(&format!("spec.podCIDRs[{i}]"), text));
    let pod_cidrs = right(single.into_iter().chain(many), &mut findings.warnings).collect();
    let taints = spec.and_then(|s| s.taints.as_deref()).unwrap_or(&[]);
    let zone = label_of(meta, ZONE).filter(|zone| !zone.is_empty());
    Ok(Converted::Object(Object::Node(Arc::new(Node {
        addresses: addresses(object, &mut findings.warnings),
        zone: zone.map(|zone| findings.names.intern(zone)),
        name: findings.names.intern(name),
        pod_cidrs,
        going_away: meta.deletion_timestamp.is_some()
            || taints.iter().any(|taint| taint.key == TAINT_OF_REMOVAL),
    }))))
}

fn addresses(object: &core::Node, warnings: &mut Vec<Fault>) -> Box<[IpAddr]> {
    let given = object.status.as_ref().and_then(|s| s.addresses.as_deref()).unwrap_or(&[]);
    let of_type = |wanted: &'static str| {
        let all = given.iter().enumerate().filter(move |(_, a)| a.type_ == wanted);
        all.map(|(i, a)| ip(&format!("status.addresses[{i}].address"), &a.address))
    };
    right(of_type("InternalIP").chain(of_type("ExternalIP")), warnings).collect()
}

pub fn service_cidr(object: &networking::ServiceCIDR) -> Result<Converted, Fault> {
    let name = name(&object.metadata)?;
    let given = object.spec.as_ref().and_then(|s| s.cidrs.as_deref()).unwrap_or(&[]);
    if given.is_empty() {
        return Err(Fault::new("spec.cidrs", "no CIDR; a ServiceCIDR needs one or two"));
    }
    let one = |(i, text): (usize, &String)| cidr(&format!("spec.cidrs[{i}]"), text);
    let cidrs = given.iter().enumerate().map(one).collect::<Result<_, _>>()?;
    let name = name.into();
    Ok(Converted::Object(Object::ServiceCidr(Arc::new(ServiceCidr { name, cidrs }))))
}
