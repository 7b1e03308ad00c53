//! The configuration that is in force, as kube-proxy 1.37 shows it. PURE.
//!
//! In: the checked configuration. Out: JSON with KubeProxyConfiguration's fields, those that mean
//! something here; under `vipd`, what only vipd has.
//! Never: a secret: files are named, not read.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use crate::config::{Config, LogFormat, LogLevel, Source, duration_text as duration};
use crate::conntrack::Sysctls;
use crate::model::Limits;
use crate::planner::{DetectLocal, ExternalIps, NodePortAddresses, Outsiders, Policy};
use ipnet::IpNet;
use serde_json::{Value, json};
use std::fmt::Display;

/// What `/configz` answers.
pub fn configz(config: &Config) -> String {
    let effective = json!({
        "kind": "KubeProxyConfiguration",
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "clientConnection": {"kubeconfig": kubeconfig(&config.source)},
        "logging": {"format": log_format(config.log.format), "verbosity": verbosity(config.log.level)},
        "hostnameOverride": &*config.node_name,
        "healthzBindAddress": joined(&config.healthz_at),
        "metricsBindAddress": joined(&config.metrics_at),
        "featureGates": {
            "AllowServiceExternalIPs": config.policy.external_ips == ExternalIps::Served,
        },
        "mode": config.policy.mode.name(),
        "iptables": {"localhostNodePorts": config.policy.localhost_node_ports},
        "nftables": {
            "masqueradeAll": config.policy.masquerade_all,
            "minSyncPeriod": duration(config.min_sync_period),
        },
        "detectLocalMode": mode(&config.policy.detect),
        "detectLocal": interfaces(&config.policy.detect),
        "clusterCIDR": cluster_cidr(&config.policy.detect),
        "nodePortAddresses": node_port_addresses(&config.policy),
        "oomScoreAdj": config.oom_score_adj,
        "conntrack": conntrack(&config.sysctls),
    });
    let own = json!({
        "manifests": manifests(&config.source),
        "master": master(&config.source),
        "dropInvalid": config.policy.drop_invalid,
        "serviceClusterIPRange": joined(&config.policy.service_ranges),
        "clusterIPOutsiders": match config.policy.outsiders {
            Outsiders::Served => "serve",
            Outsiders::Dropped => "drop",
        },
        "resetGoneAfter": config.reset_gone_after.map(duration),
        "takeover": config.takeover,
        "drainTimeout": duration(config.drain_timeout),
        "limits": limits(&config.policy.limits),
        "adminSocket": config.admin_socket,
    });
    json!({"kubeproxy.config.k8s.io": effective, "vipd": own}).to_string()
}

fn limits(limits: &Limits) -> Value {
    json!({
        "maxConnections": limits.connections.to_string(),
        "idleTimeout": duration(limits.idle),
        "halfClosedTimeout": duration(limits.half_closed),
        "connectTimeout": duration(limits.connect),
        "sessionTimeout": duration(limits.session),
    })
}

fn kubeconfig(source: &Source) -> Value {
    match source {
        Source::ApiServer { kubeconfig: Some(path), .. } => json!(path),
        Source::ApiServer { .. } | Source::Manifests(_) => json!(""),
    }
}

fn manifests(source: &Source) -> Value {
    match source {
        Source::Manifests(directory) => json!(directory),
        Source::ApiServer { .. } => Value::Null,
    }
}

fn master(source: &Source) -> Value {
    match source {
        Source::ApiServer { master, .. } => json!(master),
        Source::Manifests(_) => Value::Null,
    }
}

fn joined<T: Display>(all: &[T]) -> String {
    all.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

fn log_format(format: LogFormat) -> &'static str {
    match format {
        LogFormat::Text => "text",
        LogFormat::Json => "json",
    }
}

/// The least of klog's numbers that comes to the level.
fn verbosity(level: LogLevel) -> u8 {
    match level {
        LogLevel::Error | LogLevel::Warn | LogLevel::Info => 0,
        LogLevel::Debug => 4,
        LogLevel::Trace => 6,
    }
}

fn mode(detect: &DetectLocal) -> &'static str {
    match detect {
        DetectLocal::None | DetectLocal::ClusterCidr(_) => "ClusterCIDR",
        DetectLocal::NodeCidr => "NodeCIDR",
        DetectLocal::BridgeInterface(_) => "BridgeInterface",
        DetectLocal::InterfaceNamePrefix(_) => "InterfaceNamePrefix",
    }
}

fn interfaces(detect: &DetectLocal) -> Value {
    let (mut bridge, mut prefix) = ("", "");
    match detect {
        DetectLocal::BridgeInterface(name) => bridge = name,
        DetectLocal::InterfaceNamePrefix(name) => prefix = name,
        DetectLocal::None | DetectLocal::ClusterCidr(_) | DetectLocal::NodeCidr => {}
    }
    json!({"bridgeInterface": bridge, "interfaceNamePrefix": prefix})
}

fn cluster_cidr(detect: &DetectLocal) -> String {
    match detect {
        DetectLocal::ClusterCidr(cidrs) => joined::<IpNet>(cidrs),
        _ => String::new(),
    }
}

fn node_port_addresses(policy: &Policy) -> Vec<String> {
    let written = |one: &NodePortAddresses| match one {
        NodePortAddresses::Within(net) => net.to_string(),
        NodePortAddresses::Primary => "primary".into(),
        NodePortAddresses::Localhost => "localhost".into(),
        NodePortAddresses::All => "all".into(),
    };
    match &policy.node_ports_at[..] {
        [] => vec!["primary".into(), "localhost".into()],
        given => given.iter().map(written).collect(),
    }
}

fn conntrack(sysctls: &Sysctls) -> Value {
    json!({
        "maxPerCore": sysctls.max_per_core,
        "min": sysctls.min,
        "tcpEstablishedTimeout": sysctls.tcp_established.map(duration),
        "tcpCloseWaitTimeout": sysctls.tcp_close_wait.map(duration),
        "tcpBeLiberal": sysctls.tcp_be_liberal.unwrap_or(false),
        "udpTimeout": sysctls.udp.map(duration),
        "udpStreamTimeout": sysctls.udp_stream.map(duration),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absent_list_of_addresses_is_what_it_stands_for() {
        let policy = Policy::default();
        assert_eq!(node_port_addresses(&policy), ["primary", "localhost"]);
        let node_ports_at = vec![NodePortAddresses::All, NodePortAddresses::Localhost];
        let policy = Policy { node_ports_at, ..policy };
        assert_eq!(node_port_addresses(&policy), ["all", "localhost"]);
    }
}
