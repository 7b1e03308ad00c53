//! A plan as text: what `vipd plan` prints and what golden files hold. PURE, sorted, stable.

use super::views::{FrontendView, PlanView, PoolView, PortView};
use crate::planner::Plan;
use std::fmt::Write as _;

/// Everything that a node does under `plan`.
pub fn render_plan(plan: &Plan) -> String {
    render_plan_view(&PlanView::from(plan))
}

/// The same, from a daemon's answer.
pub fn render_plan_view(plan: &PlanView) -> String {
    let mut text = String::new();
    let out = &mut text;
    let node = &plan.node;
    line(out, 0, &format!("node {}", node.name));
    field(out, "zone", node.zone.as_deref().unwrap_or("none"));
    field(out, "addresses", &joined(&node.addresses));
    field(out, "interface addresses", &joined(&node.interface_addresses));
    field(out, "pod CIDRs", &joined(&node.pod_cidrs));
    field(out, "service ranges", &joined(&node.service_ranges));
    field(out, "node port addresses", &joined(&node.node_port_addresses));
    field(out, "localhost node ports", &joined(&node.localhost_node_ports));
    field(out, "masquerade all", yes_no(node.masquerade_all));
    field(out, "drop invalid", yes_no(node.drop_invalid));
    field(out, "outsiders at cluster IPs", &node.outsiders);
    field(out, "local IPv4 pods", &node.local_v4);
    field(out, "local IPv6 pods", &node.local_v6);
    for service in &plan.services {
        out.push('\n');
        line(out, 0, &format!("service {}/{}", service.namespace, service.name));
        for port in &service.ports {
            render_port(out, port);
        }
        if let Some(health) = &service.health {
            let (port, v4, v6) =
                (health.port, health.local_endpoints_v4, health.local_endpoints_v6);
            let text = format!("health check node port {port}: ready here {v4} IPv4, {v6} IPv6");
            line(out, 1, &text);
        }
    }
    text
}

fn render_port(out: &mut String, port: &PortView) {
    let name = if port.name.is_empty() { "<unset>" } else { &port.name };
    let affinity = port.affinity_seconds.map(|s| format!(", affinity {s} s")).unwrap_or_default();
    line(out, 1, &format!("port {name} {}/{} {}{affinity}", port.port, port.protocol, port.family));
    for frontend in &port.frontends {
        line(out, 2, &render_frontend(frontend));
    }
    for (pool, endpoints) in [("cluster", &port.cluster), ("local", &port.local)] {
        if !endpoints.is_empty() {
            line(out, 2, &format!("{pool} pool"));
        }
        for endpoint in endpoints {
            line(out, 3, &render_endpoint(endpoint));
        }
    }
    // Every endpoint in a pool serves; only what serves beside them says more.
    let pooled = |at: &&std::net::SocketAddr| {
        port.cluster.iter().chain(&port.local).any(|e| e.address == **at)
    };
    let others: Vec<_> =
        port.serving.iter().filter(|at| !pooled(at)).map(|at| at.to_string()).collect();
    if !others.is_empty() {
        line(out, 2, &format!("flows stay with {}", others.join(", ")));
    }
}

fn render_frontend(frontend: &FrontendView) -> String {
    let mut text = format!("{} {}: ", frontend.at, frontend.kind);
    if let Some(holder) = &frontend.lost_to {
        let _ = write!(text, "lost to {holder}, would ");
    }
    text.push_str(&frontend.action);
    if let Some(scope) = &frontend.scope {
        let _ = write!(text, " to {scope} pool");
    }
    if let Some(masquerade) = &frontend.masquerade {
        let _ = write!(text, ", masquerade {masquerade}");
    }
    if let Some(allow) = &frontend.allow {
        let _ = write!(text, ", only from {}", joined(allow));
    }
    if let Some(relay) = &frontend.relay {
        let _ = write!(text, ", relayed by {}", relay.balancer);
        if let Some(version) = &relay.proxy_protocol {
            let _ = write!(text, " with PROXY protocol {version}");
        }
        if let Some(version) = &relay.requests {
            let _ = write!(text, ", {version} request by request");
        }
    }
    if let Some(why) = &frontend.unrelayed {
        let _ = write!(text, ", not relayed ({why})");
    }
    if let Some(why) = &frontend.unsplit {
        let _ = write!(text, ", not request by request ({why})");
    }
    text
}

fn render_endpoint(endpoint: &PoolView) -> String {
    let terminating = if endpoint.terminating { " terminating" } else { "" };
    format!("{} {}{terminating}", endpoint.address, endpoint.locality)
}

fn line(out: &mut String, depth: usize, text: &str) {
    for _ in 0..depth {
        out.push_str("  ");
    }
    out.push_str(text);
    out.push('\n');
}

fn field(out: &mut String, name: &str, value: &str) {
    line(out, 1, &format!("{name}: {value}"));
}

fn joined(values: &[String]) -> String {
    if values.is_empty() { "none".to_owned() } else { values.join(", ") }
}

fn yes_no(value: bool) -> &'static str {
    if value { "yes" } else { "no" }
}
