//! The oracle: what must happen to a packet under a plan, and why.

use super::{
    Action, Forward, Frontend, FrontendAddress, FrontendKey, FrontendKind, LocalDetector,
    Masquerade, Outsiders, Plan, Pool, PortPlan, Reach, Relay, Scope, ServicePlan, Target, Way,
};
use crate::model::{Family, Protocol, ServiceKey};
use std::fmt;
use std::net::IpAddr;
use thiserror::Error;

/// The first packet of a connection, as it reaches this node or leaves a process on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet<'a> {
    pub source: IpAddr,
    /// Where it comes in; only some local detectors ask.
    pub in_interface: Option<&'a str>,
    pub protocol: Protocol,
    pub destination: IpAddr,
    pub port: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    Forward,
    /// The client is told at once.
    Reject,
    /// Silence.
    Drop,
    /// Not ours: the packet is left alone.
    Pass,
}

impl Verdict {
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Forward => "forward",
            Verdict::Reject => "reject",
            Verdict::Drop => "drop",
            Verdict::Pass => "pass",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TracedEndpoint {
    pub target: Target,
    pub masquerade: bool,
}

/// One thing that is decided about the packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub what: String,
    pub why: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    pub verdict: Verdict,
    /// Where it may go, all with the same chance; sorted by target.
    pub endpoints: Vec<TracedEndpoint>,
    /// `None`: it depends on the endpoint.
    pub masquerade: Option<bool>,
    pub steps: Vec<Step>,
}

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TraceError {
    #[error(
        "local pods are told by the interface their packets come in by ({detector}): \
         say which one with --in-interface"
    )]
    InterfaceNeeded { detector: LocalDetector },
    #[error("the source {from} and the destination {to} are of different address families")]
    MixedFamilies { from: IpAddr, to: IpAddr },
}

/// What must happen to `packet`: its address and port as a service's; else its port as a node port;
/// else its address as a cluster IP with other ports, or as an unallocated one of the service ranges.
pub fn trace(plan: &Plan, packet: &Packet<'_>) -> Result<Trace, TraceError> {
    if packet.source.is_ipv4() != packet.destination.is_ipv4() {
        return Err(TraceError::MixedFamilies { from: packet.source, to: packet.destination });
    }
    let key = |at| FrontendKey { at, protocol: packet.protocol, port: packet.port };
    let at = key(FrontendAddress::Address(packet.destination));
    let family = Family::of(packet.destination);
    let node_port = key(FrontendAddress::NodePort(family));
    let answers = plan.node.answers_node_ports_at(packet.destination);
    let mut tracer = Tracer { plan, packet, steps: Vec::new() };
    let owner = cluster_ip_owner(plan, packet.destination);
    if let Some(owner) = &owner
        && tracer.turns_away(owner)?
    {
        return Ok(tracer.end(Verdict::Drop));
    }
    for at in [Some(at), answers.then_some(node_port)].into_iter().flatten() {
        let holder = holder(plan, at);
        if let Some(held) = holder.as_ref().and_then(|service| held(service, at)) {
            return tracer.service(at, held);
        }
    }
    if let Some(owner) = owner {
        tracer.step(
            format!("{at} is not a port of Service {owner}"),
            format!("{} is its cluster IP, but it has no such port", packet.destination),
        );
        tracer.step("the packet is rejected", "so that the client learns of it at once");
        return Ok(tracer.end(Verdict::Reject));
    }
    let listens =
        packet.destination.is_loopback() && plan.node.localhost_node_ports[family.index()];
    let at_loopback = listens.then(|| holder(plan, node_port)).flatten();
    let relayed = at_loopback.as_ref().and_then(|service| held(service, node_port));
    if let Some(held) = relayed.filter(|held| held.port.relay_of(held.frontend).is_some()) {
        return tracer.service(node_port, held);
    }
    if let Some(holder) = plan.claims.holder(&node_port).filter(|_| listens) {
        tracer.step(
            format!("port {} is a node port of Service {holder}", packet.port),
            "this node's loopback addresses answer at node ports too, while there are endpoints",
        );
        tracer.step(
            "the packet is left alone",
            "a listener of vipd's takes the connection and passes it on from this node",
        );
        return Ok(tracer.end(Verdict::Pass));
    }
    let range = plan.node.service_ranges.iter().find(|range| range.contains(&packet.destination));
    if let Some(range) = range {
        tracer.step(
            format!("{} is an unallocated service address", packet.destination),
            format!("it lies in the service range {range}, and no service has it"),
        );
        tracer.step("the packet is dropped", "it must not leave by the default route");
        return Ok(tracer.end(Verdict::Drop));
    }
    if let Some(service) = relayed_at(plan, packet.destination) {
        tracer.step(
            format!("{at} belongs to no service"),
            format!(
                "Service {service} is relayed at this address, which therefore leads to this node"
            ),
        );
        tracer.step("the packet is rejected", "nothing else of this node is to be reached by it");
        return Ok(tracer.end(Verdict::Reject));
    }
    tracer.step(
        format!("{at} belongs to no service"),
        "no service answers there, and it lies in no service range",
    );
    tracer.step("the packet is left alone", "it is not ours");
    Ok(tracer.end(Verdict::Pass))
}

/// A frontend with the service and port that hold it.
#[derive(Clone, Copy)]
struct Held<'a> {
    service: &'a ServicePlan,
    port: &'a PortPlan,
    frontend: &'a Frontend,
}

fn holder(plan: &Plan, at: FrontendKey) -> Option<ServicePlan> {
    plan.service(plan.claims.holder(&at)?)
}

fn held(service: &ServicePlan, at: FrontendKey) -> Option<Held<'_>> {
    let (port, frontend) = service.held().find(|(_, frontend)| frontend.at == at)?;
    Some(Held { service, port, frontend })
}

/// The service whose cluster IP this is, by whichever port.
fn cluster_ip_owner(plan: &Plan, address: IpAddr) -> Option<ServiceKey> {
    plan.claims
        .at(address)
        .filter_map(|(at, holder)| Some((*at, plan.service(holder)?)))
        .find(|(at, service)| {
            held(service, *at).is_some_and(|held| held.frontend.kind == FrontendKind::ClusterIp)
        })
        .map(|(_, service)| service.key)
}

/// The service that brings a route of vipd's to this address.
fn relayed_at(plan: &Plan, address: IpAddr) -> Option<ServiceKey> {
    if plan.node.own_addresses.binary_search(&address).is_ok() {
        return None;
    }
    let mut services =
        plan.claims.at(address).filter_map(|(at, holder)| Some((*at, plan.service(holder)?)));
    let relayed = |(at, service): &(FrontendKey, ServicePlan)| {
        held(service, *at).is_some_and(|held| {
            held.port.relay_of(held.frontend).is_some()
                && held.port.way_of(held.frontend) == Way::Address
        })
    };
    services.find(relayed).map(|(_, service)| service.key)
}

struct Tracer<'a> {
    plan: &'a Plan,
    packet: &'a Packet<'a>,
    steps: Vec<Step>,
}

impl<'a> Tracer<'a> {
    fn step(&mut self, what: impl Into<String>, why: impl Into<String>) {
        self.steps.push(Step { what: what.into(), why: why.into() });
    }

    /// An end other than forwarding.
    fn end(self, verdict: Verdict) -> Trace {
        Trace { verdict, endpoints: Vec::new(), masquerade: Some(false), steps: self.steps }
    }

    fn service(mut self, at: FrontendKey, held: Held<'_>) -> Result<Trace, TraceError> {
        let losers = self.plan.claims.losers(&at);
        let losers: Vec<&str> = losers.iter().map(ServiceKey::as_str).collect();
        let kind = held.frontend.kind.name();
        let why = match &losers[..] {
            [] => format!("it is the service's {kind}"),
            [one] => format!(
                "it is the service's {kind}; {one} claims it too, but comes later by age and name"
            ),
            more => format!(
                "it is the service's {kind}; {} claim it too, but come later by age and name",
                more.join(", ")
            ),
        };
        self.step(format!("{at} is Service {}{}", held.service.key, port_name(held.port)), why);
        let source = self.packet.source;
        if !held.frontend.allows(source) {
            self.step(
                "the packet is dropped",
                format!("{source} is in none of the service's loadBalancerSourceRanges"),
            );
            return Ok(self.end(Verdict::Drop));
        }
        match &held.frontend.action {
            Action::Reject => {
                self.step(
                    "the packet is rejected",
                    "no endpoint is ready, and none serves while terminating",
                );
                Ok(self.end(Verdict::Reject))
            }
            Action::Drop => {
                self.step(
                    "the packet is dropped",
                    "policy Local allows endpoints of this node only, and they are all elsewhere",
                );
                Ok(self.end(Verdict::Drop))
            }
            Action::Forward(forward) => {
                // What this node itself sends past a guard is translated by the kernel.
                let guarded = held.frontend.allow.is_some() && self.plan.facts.owns(source);
                let relay = held.port.relay_of(held.frontend).filter(|_| !guarded);
                self.forward(held.port, (forward, relay))
            }
        }
    }

    fn forward(
        mut self,
        port: &PortPlan,
        (forward, relay): (&Forward, Option<Relay>),
    ) -> Result<Trace, TraceError> {
        let source = self.packet.source;
        let scope = self.scope(forward.reach)?;
        let pool = port.pool(scope);
        if pool.is_empty() {
            self.step(
                "the packet is dropped",
                "policy Local sends clients from outside to endpoints of this node only, and they \
                 are all elsewhere",
            );
            return Ok(self.end(Verdict::Drop));
        }
        let targets: Vec<String> = pool.keys().map(ToString::to_string).collect();
        let what = match &targets[..] {
            [only] => format!("it is sent to the one endpoint, {only}"),
            [rest @ .., last] => format!(
                "it is sent to one of {} endpoints, {} and {last}",
                targets.len(),
                rest.join(", ")
            ),
            [] => "it is sent nowhere".to_owned(),
        };
        let why = match (scope, pool.values().any(|member| member.terminating)) {
            (Scope::Cluster, false) => "ready, and no hint keeps it from this node",
            (Scope::Cluster, true) => "nothing ready is left; it serves while it terminates",
            (Scope::Local, false) => "ready and on this node, as policy Local asks for",
            (Scope::Local, true) => {
                "on this node, as policy Local asks for, where nothing ready is left; \
                 it serves while it terminates"
            }
        };
        let each = if targets.len() == 1 { "" } else { "each of them: " };
        self.step(what, format!("{each}{why}"));
        if let Some(timeout) = port.affinity {
            self.step(
                "the client keeps the endpoint it had",
                format!("session affinity, for {timeout} s after its last new connection"),
            );
        }
        if let Some(relay) = relay {
            return Ok(self.relay(pool, relay));
        }
        let hairpin = |target: Target| target.address == source;
        let others = !pool.keys().all(|target| hairpin(*target));
        let remote = if others { self.masquerade(forward.masquerade)? } else { true };
        if pool.keys().any(|target| hairpin(*target)) {
            self.step(
                format!("towards {source} itself the source becomes this node's"),
                "an endpoint must answer itself through this node",
            );
        }
        // What is delivered here leaves by no interface, where sources are changed.
        let facts = &self.plan.facts;
        let delivered = |target: Target| facts.owns(target.address) && !facts.owns(source);
        if remote && pool.keys().any(|target| delivered(*target)) {
            self.step(
                "towards this node itself the source is kept",
                "an endpoint on its own network gets the packet where it is",
            );
        }
        let endpoints: Vec<TracedEndpoint> = pool
            .keys()
            .map(|&target| TracedEndpoint {
                target,
                masquerade: (remote || hairpin(target)) && !delivered(target),
            })
            .collect();
        let mut all = endpoints.iter().map(|endpoint| endpoint.masquerade);
        let masquerade = all.next().filter(|first| all.all(|other| other == *first));
        Ok(Trace { verdict: Verdict::Forward, endpoints, masquerade, steps: self.steps })
    }

    /// The connection ends here, and another one begins.
    fn relay(mut self, pool: &Pool, relay: Relay) -> Trace {
        self.step(
            "vipd accepts the connection and opens one to the endpoint",
            format!("the relay carries it, balanced by {}", relay.balancer.name()),
        );
        let endpoints = pool.keys().map(|&target| TracedEndpoint { target, masquerade: true });
        Trace {
            verdict: Verdict::Forward,
            endpoints: endpoints.collect(),
            masquerade: Some(true),
            steps: self.steps,
        }
    }

    /// Which pool the client is sent to.
    fn scope(&mut self, reach: Reach) -> Result<Scope, TraceError> {
        let source = self.packet.source;
        let who = match reach {
            Reach::Cluster => return Ok(Scope::Cluster),
            Reach::Local => return Ok(Scope::Local),
            Reach::LocalFromOutside if self.is_local_pod()? => "a local pod",
            Reach::LocalFromOutside if self.plan.facts.owns(source) => "this node itself",
            Reach::LocalFromOutside => return Ok(Scope::Local),
        };
        self.step(
            "policy Local does not hold for it",
            format!(
                "{source} is {who}: it goes on as if it had been to the load balancer and back"
            ),
        );
        Ok(Scope::Cluster)
    }

    /// Whether the client has no business at the cluster IP of `owner`.
    fn turns_away(&mut self, owner: &ServiceKey) -> Result<bool, TraceError> {
        let source = self.packet.source;
        let detector = self.plan.node.local_detector(Family::of(source));
        let all = self.plan.node.outsiders == Outsiders::Served || *detector == LocalDetector::None;
        if all || self.plan.facts.owns(source) || !self.unless_local()?.0 {
            return Ok(false);
        }
        self.step(
            format!("{} is a cluster IP", self.packet.destination),
            format!("that of Service {owner}"),
        );
        self.step(
            "the packet is dropped",
            format!(
                "{source} is neither this node nor a local pod (not {detector}), and cluster IPs \
                 are not for others (--cluster-ip-outsiders drop)"
            ),
        );
        Ok(true)
    }

    /// Whether the local detector takes the client for a pod of this node.
    fn is_local_pod(&self) -> Result<bool, TraceError> {
        let family = Family::of(self.packet.source);
        match self.plan.node.local_detector(family) {
            LocalDetector::None => Ok(false),
            _ => Ok(!self.unless_local()?.0),
        }
    }

    /// Whether the source becomes the node's towards an endpoint other than the source itself.
    fn masquerade(&mut self, masquerade: Masquerade) -> Result<bool, TraceError> {
        let (masqueraded, why) = match masquerade {
            Masquerade::Always if self.plan.node.masquerade_all => {
                (true, "--masquerade-all is set".to_owned())
            }
            Masquerade::Always => (true, "this way into the service always is".to_owned()),
            Masquerade::Never => (false, "no local detector is configured".to_owned()),
            Masquerade::UnlessLocal => self.unless_local()?,
            Masquerade::NodeOnly if self.plan.facts.owns(self.packet.source) => {
                (true, format!("{} is this node itself", self.packet.source))
            }
            Masquerade::NodeOnly => (
                false,
                "policy Local keeps the addresses of pods and of clients outside".to_owned(),
            ),
        };
        let what =
            if masqueraded { "the source becomes this node's" } else { "the source is kept" };
        self.step(what, why);
        Ok(masqueraded)
    }

    fn unless_local(&self) -> Result<(bool, String), TraceError> {
        let source = self.packet.source;
        let detector = self.plan.node.local_detector(Family::of(source));
        let by_interface = |matches: &dyn Fn(&str) -> bool| {
            let needed = || TraceError::InterfaceNeeded { detector: detector.clone() };
            let name = self.packet.in_interface.ok_or_else(needed)?;
            Ok(if matches(name) {
                (false, format!("it comes from a local pod: {name} is {detector}"))
            } else {
                (true, format!("it comes from no local pod: {name} is not {detector}"))
            })
        };
        match detector {
            LocalDetector::None => {
                Ok((false, "no local detector is known for this address family".to_owned()))
            }
            // As in kube-proxy: also the node itself, where its address lies among the pods'.
            LocalDetector::Cidr(cidr) if cidr.contains(&source) => {
                Ok((false, format!("{source} is a local pod: it lies in {cidr}")))
            }
            LocalDetector::Cidr(cidr) => {
                Ok((true, format!("{source} is no local pod: it lies outside {cidr}")))
            }
            // Its own packets have no input interface.
            _ if self.plan.facts.owns(source) => {
                Ok((true, format!("{source} is this node itself, which is no pod")))
            }
            LocalDetector::Interface(bridge) => by_interface(&|name| *name == **bridge),
            LocalDetector::InterfacePrefix(prefix) => {
                by_interface(&|name| name.starts_with(&**prefix))
            }
        }
    }
}

fn port_name(port: &PortPlan) -> String {
    if port.name.0.is_empty() { String::new() } else { format!(" port {}", port.name.0) }
}

impl fmt::Display for LocalDetector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LocalDetector::None => f.write_str("no local detector"),
            LocalDetector::Cidr(cidr) => write!(f, "a source address in {cidr}"),
            LocalDetector::Interface(name) => write!(f, "the interface {name}"),
            LocalDetector::InterfacePrefix(prefix) => write!(f, "an interface named {prefix}*"),
        }
    }
}
