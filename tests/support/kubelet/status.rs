//! What a kubelet tells the API server, as objects.
//!
//! In: names, addresses, a Pod. Out: JSON.
//! Never: I/O, but for the clock and the kernel's version.

use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use std::net::Ipv4Addr;

fn now() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

pub fn node(name: &str, pods: Ipv4Net) -> Value {
    let pods = pods.to_string();
    json!({"apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": {
            "kubernetes.io/hostname": name,
            "kubernetes.io/os": "linux",
            "kubernetes.io/arch": arch(),
        }},
        "spec": {"podCIDR": pods, "podCIDRs": [pods]}})
}

/// In Go's words.
fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Type, status, reason and message of what a healthy kubelet says.
const CONDITIONS: [[&str; 4]; 4] = [
    ["MemoryPressure", "False", "KubeletHasSufficientMemory", "the stand-in measures nothing"],
    ["DiskPressure", "False", "KubeletHasNoDiskPressure", "the stand-in measures nothing"],
    ["PIDPressure", "False", "KubeletHasSufficientPID", "the stand-in measures nothing"],
    ["Ready", "True", "KubeletReady", "the kubelet stand-in takes pods"],
];

/// All that does not change.
pub fn node_is_ready(name: &str, address: Ipv4Addr) -> Value {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let resources =
        json!({"cpu": "8", "memory": "16Gi", "ephemeral-storage": "64Gi", "pods": "110"});
    let since = now();
    let conditions = CONDITIONS.map(|[kind, status, reason, message]| {
        json!({"type": kind, "status": status, "reason": reason, "message": message,
            "lastHeartbeatTime": since, "lastTransitionTime": since})
    });
    json!({"status": {
        "addresses": [
            {"type": "InternalIP", "address": address},
            {"type": "Hostname", "address": name},
        ],
        "capacity": resources,
        "allocatable": resources,
        "conditions": conditions,
        "nodeInfo": {
            "machineID": "", "systemUUID": "", "bootID": "",
            "kernelVersion": kernel.trim(),
            "osImage": "a network namespace",
            "containerRuntimeVersion": "stand-in://",
            "kubeletVersion": "stand-in",
            "kubeProxyVersion": "",
            "operatingSystem": "linux",
            "architecture": arch(),
        },
    }})
}

pub fn node_heartbeat() -> Value {
    let seen = now();
    let conditions = CONDITIONS.map(|[kind, status, reason, message]| {
        json!({"type": kind, "status": status, "reason": reason, "message": message,
            "lastHeartbeatTime": seen})
    });
    json!({"status": {"conditions": conditions}})
}

pub fn lease(node: &str) -> Value {
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string();
    json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": node},
        "spec": {"holderIdentity": node, "leaseDurationSeconds": 40, "renewTime": now}})
}

/// TCP ports that its containers listen on, each once.
pub fn tcp_ports(pod: &Pod) -> Vec<u16> {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let ports = containers.flat_map(|container| container.ports.iter().flatten());
    let tcp = ports.filter(|port| port.protocol.as_deref().unwrap_or("TCP") == "TCP");
    let mut ports: Vec<u16> =
        tcp.filter_map(|port| u16::try_from(port.container_port).ok()).collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

/// Of its first container.
pub fn image(pod: &Pod) -> &str {
    let first = pod.spec.as_ref().and_then(|spec| spec.containers.first());
    first.and_then(|container| container.image.as_deref()).unwrap_or_default()
}

/// All its containers run and are ready.
pub fn pod_is_running(pod: &Pod, node: Ipv4Addr, address: Ipv4Addr) -> Value {
    let since = now();
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let types =
        ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"];
    let conditions =
        types.map(|kind| json!({"type": kind, "status": "True", "lastTransitionTime": since}));
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let statuses: Vec<Value> = containers
        .map(|container| {
            json!({"name": container.name,
                "image": container.image,
                "imageID": "",
                "containerID": format!("stand-in://{uid}/{}", container.name),
                "ready": true, "started": true, "restartCount": 0,
                "state": {"running": {"startedAt": since}}})
        })
        .collect();
    json!({"status": {
        "phase": "Running",
        "conditions": conditions,
        "hostIP": node, "hostIPs": [{"ip": node}],
        "podIP": address, "podIPs": [{"ip": address}],
        "startTime": since,
        "containerStatuses": statuses,
    }})
}
