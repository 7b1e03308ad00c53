//! `vipd describe service`: the object as kubectl shows it, then what this node does with it.

use super::Error;
use super::answers::From;
use super::output::{self, TextFormat, escape};
use super::table::{abbreviated, joined};
use crate::admin::views::{
    DescribeView, DescribedEndpoint, DescribedHealth, DescribedPort, FrontendView, LimitsView,
    RelayView, TimeoutsView,
};
use crate::model::ServiceKey;
use clap::{Args, ValueEnum};
use std::fmt::Write as _;
use std::net::SocketAddr;

/// Where kubectl's values begin.
const VALUE_COLUMN: usize = 26;

#[derive(Debug, Args)]
pub(super) struct Flags {
    /// What to describe
    #[arg(value_name = "KIND")]
    kind: Kind,

    /// NAME, or NAMESPACE/NAME
    #[arg(value_name = "NAME")]
    name: String,

    /// Namespace of NAME [default: default]
    #[arg(short, long, value_name = "NS")]
    namespace: Option<String>,

    #[command(flatten)]
    from: From,

    /// How to print it
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    output: TextFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    #[value(alias = "services", alias = "svc")]
    Service,
}

pub(super) fn run(flags: Flags) -> Result<(), Error> {
    let Kind::Service = flags.kind;
    let key = key(&flags.name, flags.namespace.as_deref())?;
    let described = flags.from.open()?.service(&key)?;
    match flags.output {
        TextFormat::Text => output::print(&render(&described)),
        TextFormat::Json => output::print_json(&described),
        TextFormat::Yaml => output::print_yaml(&described),
    }
}

fn key(name: &str, namespace: Option<&str>) -> Result<ServiceKey, Error> {
    let usage = |text: String| Error::Usage(text);
    if !name.contains('/') {
        let key = ServiceKey::new(namespace.unwrap_or("default"), name);
        return ServiceKey::parse(key.as_str())
            .ok_or_else(|| usage("expected the name of a service: NAME or NAMESPACE/NAME".into()));
    }
    let key = ServiceKey::parse(name)
        .ok_or_else(|| usage(format!("\"{name}\": expected NAME or NAMESPACE/NAME")))?;
    match namespace {
        Some(other) if other != key.namespace() => Err(usage(format!(
            "\"{name}\" is not in the namespace of -n {other}: give one of them"
        ))),
        _ => Ok(key),
    }
}

fn render(described: &DescribeView) -> String {
    let mut text = String::new();
    object(&mut text, described);
    let _ = write!(text, "\nOn node {}:\n", escape(&described.node.name));
    if described.ports.is_empty() {
        text.push_str("  nothing: the service has no address or no port that is served\n");
    }
    for port in &described.ports {
        for frontend in &port.frontends {
            render_frontend(&mut text, port, frontend);
        }
        for endpoint in &port.endpoints {
            let _ = writeln!(text, "    {}", render_endpoint(endpoint));
        }
    }
    if let Some(health) = &described.health {
        render_health(&mut text, health);
    }
    text.push_str("\nProblems:");
    if described.problems.is_empty() {
        text.push_str("                 <none>");
    }
    text.push('\n');
    let own = format!("Service {}/{}", described.service.namespace, described.service.name);
    let part = |part: &str| if part.is_empty() { String::new() } else { format!("{part}: ") };
    for problem in &described.problems {
        let other = part(problem.object.as_deref().filter(|object| *object != own).unwrap_or(""));
        let line = format!(
            "{}: {other}{}: {}{}",
            problem.severity,
            problem.source,
            part(&problem.field),
            problem.reason
        );
        let _ = writeln!(text, "  {}", escape(&line));
    }
    text
}

/// The lines of `kubectl describe service`.
fn object(out: &mut String, described: &DescribeView) {
    let service = &described.service;
    field(out, "Name", &service.name);
    field(out, "Namespace", &service.namespace);
    list(out, "Labels", &service.labels);
    if !service.annotations.is_empty() {
        list(out, "Annotations", &service.annotations);
    }
    field(out, "Selector", &joined(&service.selector));
    field(out, "Type", &service.service_type);
    field(out, "IP", &joined(&service.cluster_ips));
    if !service.external_ips.is_empty() {
        field(out, "External IPs", &joined(&service.external_ips));
    }
    if !service.load_balancer_ips.is_empty() {
        field(out, "LoadBalancer Ingress", &joined(&service.load_balancer_ips));
    }
    for port in &service.ports {
        let name = if port.name.is_empty() { "<unset>" } else { &port.name };
        let protocol = &port.protocol;
        field(out, "Port", &format!("{name}  {}/{protocol}", port.port));
        let target = port.target_port.clone().unwrap_or_else(|| port.port.to_string());
        field(out, "TargetPort", &format!("{target}/{protocol}"));
        if let Some(node_port) = port.node_port {
            field(out, "NodePort", &format!("{name}  {node_port}/{protocol}"));
        }
        let ready: Vec<SocketAddr> = described
            .endpoints
            .iter()
            .filter(|e| e.ready && e.port_name == port.name && e.protocol == *protocol)
            .map(|e| SocketAddr::new(e.address, e.port))
            .collect();
        field(out, "Endpoints", &abbreviated(&ready));
    }
    if let Some(source) = &described.endpoint_source {
        field(out, "Endpoints From", source);
    }
    let affinity = match service.session_affinity_seconds {
        Some(seconds) => format!("ClientIP ({seconds} s)"),
        None => "None".to_owned(),
    };
    field(out, "Session Affinity", &affinity);
    if service.service_type != "ClusterIP" {
        field(out, "External Traffic Policy", &service.external_traffic_policy);
    }
    field(out, "Internal Traffic Policy", &service.internal_traffic_policy);
    if let Some(health) = &described.health {
        field(out, "HealthCheck NodePort", &health.port.to_string());
    }
}

fn render_health(out: &mut String, health: &DescribedHealth) {
    let _ = writeln!(out, "  health checks at port {}/TCP (HTTP)", health.port);
    let mut line = |text: &str| {
        let _ = writeln!(out, "    {:<12}{}", "Answer:", escape(text));
    };
    if let Some(why_not) = &health.why_not {
        line(&format!("none about this service: {why_not}"));
        return;
    }
    for answer in &health.answers {
        let noun = if answer.local_endpoints == 1 { "endpoint" } else { "endpoints" };
        line(&format!(
            "{} to {}: {} ready {noun} on this node",
            answer.status, answer.family, answer.local_endpoints
        ));
    }
}

fn render_frontend(out: &mut String, port: &DescribedPort, frontend: &FrontendView) {
    let _ = writeln!(out, "  {} ({})", frontend.at, frontend.kind);
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(out, "    {name:<12}{}", escape(value));
    };
    if let Some(holder) = &frontend.lost_to {
        line("Action:", &format!("none: {holder} holds this address and port"));
        return;
    }
    let spread = |used: usize| {
        let noun = if used == 1 { "endpoint" } else { "endpoints" };
        format!("spread over {used} {noun}")
    };
    match (&*frontend.action, frontend.scope.as_deref()) {
        ("forward", Some("local-from-outside")) => {
            let outside = match port.local_pool {
                0 => "drop: policy Local, and no endpoint on this node".to_owned(),
                used => format!("forward, {} of this node", spread(used)),
            };
            line("Action:", &format!("from outside {outside}"));
            let inside = spread(port.cluster_pool);
            line("", &format!("from this node and its pods forward, {inside}"));
        }
        ("forward", Some("local")) => {
            line("Action:", &format!("forward, {} of this node", spread(port.local_pool)));
        }
        ("forward", _) => line("Action:", &format!("forward, {}", spread(port.cluster_pool))),
        ("reject", _) => line("Action:", "reject at once: no endpoint can take a connection"),
        _ => line("Action:", "drop: policy Local, and no endpoint on this node"),
    }
    if let Some(relay) = &frontend.relay {
        line("Relay:", &render_relay(relay));
    } else if let Some(masquerade) = frontend.masquerade.as_deref() {
        line("Masquerade:", &render_masquerade(masquerade, port.local.as_deref()));
    }
    if let Some(limits) = frontend.relay.as_ref().and_then(|relay| relay.limits.as_ref()) {
        line("Limits:", &render_limits(limits));
    }
    if let Some(why) = &frontend.unrelayed {
        line("Relay:", &format!("none, the kernel translates: {why}"));
    }
    if let Some(version) = frontend.relay.as_ref().and_then(|relay| relay.requests.as_ref()) {
        let told = "an endpoint finds the client in X-Forwarded-For";
        line("Requests:", &format!("balanced one by one, {version}; {told}"));
    }
    if let Some(why) = &frontend.unsplit {
        line("Requests:", &format!("connections are balanced: {why}"));
    }
    if let Some(seconds) = port.affinity_seconds {
        line("Affinity:", &format!("a client keeps its endpoint for {seconds} s"));
    }
    if let Some(allow) = &frontend.allow {
        line("Allowed:", &joined(allow));
    }
}

fn render_masquerade(masquerade: &str, local: Option<&str>) -> String {
    match (masquerade, local) {
        ("unless-local", Some(local)) => format!("unless it comes from a local pod ({local})"),
        ("always", _) => "always".to_owned(),
        ("node-only", _) => "only what this node itself sends".to_owned(),
        _ => "only when an endpoint reaches itself".to_owned(),
    }
}

fn render_relay(relay: &RelayView) -> String {
    let client = match &relay.proxy_protocol {
        Some(version) => format!("is told the client's address by PROXY protocol {version}"),
        None => "sees this node's address as the client's".to_owned(),
    };
    format!("by vipd, {}; an endpoint {client}", relay.balancer)
}

fn render_limits(limits: &LimitsView) -> String {
    let (noun, timeouts) = match &limits.timeouts {
        TimeoutsView::Tcp { idle_timeout, half_closed_timeout, connect_timeout } => (
            "connections",
            format!(
                "idle {idle_timeout}, half-closed {half_closed_timeout}, connect {connect_timeout}"
            ),
        ),
        TimeoutsView::Udp { session_timeout } => ("sessions", format!("idle {session_timeout}")),
    };
    match limits.max_connections {
        Some(most) => format!("{most} {noun} (of the whole Service); {timeouts}"),
        None => format!("as many {noun} as there are files; {timeouts}"),
    }
}

fn render_endpoint(endpoint: &DescribedEndpoint) -> String {
    let place = match endpoint.locality.as_deref() {
        Some("here") => ", on this node",
        Some("elsewhere") => ", on another node",
        Some(_) => ", node unknown",
        None => "",
    };
    let not = if endpoint.used { "" } else { "not used: " };
    let relayed = endpoint.relayed.map(|counted| {
        let ejected = if counted.ejected { ", left out for failing" } else { "" };
        let requests = match (counted.requests, counted.broken) {
            (0, _) => String::new(),
            (all, broken) => format!(", {all} requests, {broken} broken off"),
        };
        format!(
            "; relayed: {} open, {} in all, {} failed{requests}{ejected}",
            counted.active, counted.opened, counted.failed
        )
    });
    let relayed = relayed.unwrap_or_default();
    format!("{}  {not}{}{place}{relayed}", endpoint.address, endpoint.why)
}

fn field(out: &mut String, name: &str, value: &str) {
    let _ = writeln!(out, "{:<VALUE_COLUMN$}{}", format!("{name}:"), escape(value));
}

/// One value a line, as kubectl lists labels.
fn list(out: &mut String, name: &str, values: &[String]) {
    match values.split_first() {
        None => field(out, name, "<none>"),
        Some((first, rest)) => {
            field(out, name, first);
            for value in rest {
                let _ = writeln!(out, "{:VALUE_COLUMN$}{}", "", escape(value));
            }
        }
    }
}
