//! What this node must do, in terms that know nothing of Kubernetes objects or of a dataplane.

use super::{Balanced, Carrier, Claims, Outsiders, Policy, plan_service};
use crate::model::{Created, Family, Known, NodeFacts, PortName, Protocol, ProxyMode, ServiceKey};
use imbl::OrdMap;
use ipnet::IpNet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::{NonZeroU16, NonZeroU32};
use std::sync::Arc;

/// Where a connection may be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Target {
    pub address: IpAddr,
    pub port: u16,
}

impl fmt::Display for Target {
    /// `10.0.0.1:80`, `[fd00::1]:80`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        SocketAddr::new(self.address, self.port).fmt(f)
    }
}

/// Whether an endpoint runs on this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Locality {
    Here,
    Elsewhere,
    /// No `nodeName`: it could be either, so it may be the source of a packet we see.
    Unknown,
}

/// What is known of an endpoint in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Member {
    pub locality: Locality,
    /// Used although it terminates, because nothing better is left.
    pub terminating: bool,
}

/// The endpoints that a connection is spread over. Two pools of which one came from the other share
/// most of their memory, and to find their difference costs little more than the difference has.
pub type Pool = OrdMap<Target, Member>;

/// One Service port in one address family: the unit that affinity, pools and counters hang on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortPlan {
    pub name: PortName,
    pub protocol: Protocol,
    /// The Service's port number.
    pub port: u16,
    pub family: Family,
    /// Seconds that a client keeps its endpoint after its last new connection; keyed by client
    /// address and shared by all frontends of this port.
    pub affinity: Option<NonZeroU32>,
    /// Who takes connections to the endpoints; of a single frontend see [`PortPlan::relay_of`].
    pub carrier: Carrier,
    /// Of a single frontend see [`PortPlan::requests_of`].
    pub balanced: Balanced,
    /// Endpoints under policy Cluster; empty also where no frontend uses them.
    pub cluster: Pool,
    /// Endpoints under policy Local; empty also where no frontend uses them.
    pub local: Pool,
    /// Of UDP, and of what is relayed: every serving endpoint whatever the policy, sorted. An
    /// established flow to one of these stays (graceful termination); a flow to any other is stale.
    pub serving: Box<[Target]>,
    pub frontends: Box<[Frontend]>,
}

impl PortPlan {
    pub fn pool(&self, scope: Scope) -> &Pool {
        match scope {
            Scope::Cluster => &self.cluster,
            Scope::Local => &self.local,
        }
    }

    /// Whether a pool has an endpoint at this address, whatever its port.
    pub fn has_endpoint(&self, address: IpAddr) -> bool {
        let [first, last] = [0, u16::MAX].map(|port| Target { address, port });
        let has = |pool: &Pool| pool.range(first..=last).next().is_some();
        has(&self.cluster) || has(&self.local)
    }
}

/// Which of a port's two pools.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    Cluster,
    Local,
}

/// An address and port that a Service answers on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frontend {
    pub at: FrontendKey,
    pub kind: FrontendKind,
    pub action: Action,
    /// `loadBalancerSourceRanges`, with what follows from them: who may ask at all, sorted, none
    /// inside another. Others meet silence, whatever the action. `None`: everybody may.
    pub allow: Option<Arc<[IpNet]>>,
    /// An external IP that this node does not have: who else has it answers at its other ports.
    pub foreign: bool,
    /// The service that holds the same address and port by an older claim; then this frontend is
    /// not programmed.
    pub lost_to: Option<ServiceKey>,
}

impl Frontend {
    /// Whether a client may ask here. `source` is the packet's, also of what this node sends.
    pub fn allows(&self, source: IpAddr) -> bool {
        allows(self.allow.as_deref(), source)
    }
}

/// [`Frontend::allows`], by its `allow`.
pub fn allows(allow: Option<&[IpNet]>, source: IpAddr) -> bool {
    allow.is_none_or(|ranges| {
        // The last that begins no later: none lies inside another.
        let after = ranges.partition_point(|range| range.addr() <= source);
        after.checked_sub(1).is_some_and(|last| ranges[last].contains(&source))
    })
}

/// What the packet's destination must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FrontendKey {
    pub at: FrontendAddress,
    pub protocol: Protocol,
    pub port: u16,
}

impl fmt::Display for FrontendKey {
    /// `10.0.0.1:80/TCP`, `[fd00::1]:80/TCP`, `IPv4 node port 30080/TCP`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, protocol, port } = self;
        match at {
            FrontendAddress::Address(address) => {
                write!(f, "{}/{protocol}", SocketAddr::new(*address, *port))
            }
            FrontendAddress::NodePort(family) => write!(f, "{family} node port {port}/{protocol}"),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FrontendAddress {
    Address(IpAddr),
    /// Any of the node-port addresses of this family; not expanded per address.
    NodePort(Family),
}

impl FrontendAddress {
    pub fn family(self) -> Family {
        match self {
            FrontendAddress::Address(address) => Family::of(address),
            FrontendAddress::NodePort(family) => family,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FrontendKind {
    ClusterIp,
    ExternalIp,
    LoadBalancer,
    NodePort,
}

impl FrontendKind {
    pub fn name(self) -> &'static str {
        match self {
            FrontendKind::ClusterIp => "ClusterIP",
            FrontendKind::ExternalIp => "ExternalIP",
            FrontendKind::LoadBalancer => "LoadBalancer",
            FrontendKind::NodePort => "NodePort",
        }
    }
}

/// What happens to a new connection to a frontend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Forward(Forward),
    /// No endpoint anywhere: the client is told at once.
    Reject,
    /// Endpoints exist, but policy Local allows none of them: silence.
    Drop,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forward {
    pub reach: Reach,
    pub masquerade: Masquerade,
}

/// Which of a port's endpoints a frontend leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reach {
    Cluster,
    /// Local endpoints, of which there are some.
    Local,
    /// `externalTrafficPolicy: Local`: who comes from outside gets local endpoints, or silence
    /// where there are none. This node and its own pods get those of the cluster, as if they had
    /// gone to the load balancer and come back by a node that has some.
    LocalFromOutside,
}

impl Reach {
    /// The pools that connections may go to.
    pub fn scopes(self) -> &'static [Scope] {
        match self {
            Reach::Cluster => &[Scope::Cluster],
            Reach::Local => &[Scope::Local],
            Reach::LocalFromOutside => &[Scope::Cluster, Scope::Local],
        }
    }
}

/// When the source address becomes the node's. A hairpin (endpoint = client) always does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Masquerade {
    Always,
    Never,
    /// Unless the local detector of the family says that the source is a local pod; without a
    /// detector, never.
    UnlessLocal,
    /// What the node itself sends; a pod or a client from outside keeps its address.
    NodeOnly,
}

/// The plan of one Service. Equal plans mean that nothing is to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePlan {
    pub key: ServiceKey,
    /// Sorted by (port, protocol, family).
    pub ports: Box<[PortPlan]>,
    /// Addresses of endpoints that are in no pool, sorted: connections from before may still be
    /// answered from there (a pod that terminates, or is not hinted for this node any more).
    pub idle: Box<[IpAddr]>,
    pub health: Option<HealthCheck>,
}

/// What a load balancer asks this node about a service (`healthCheckNodePort`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct HealthCheck {
    pub port: NonZeroU16,
    /// Of the Service: of two with one port the older is answered for.
    pub since: Created,
    /// Addresses of ready endpoints on this node, IPv4 and IPv6; one that terminates counts no more,
    /// although it still serves.
    pub local_endpoints: [u32; 2],
}

impl HealthCheck {
    /// What a load balancer of a family is told: its connections come in that family.
    pub fn of(&self, family: Family) -> u32 {
        self.local_endpoints[family.index()]
    }
}

impl ServicePlan {
    /// The frontends that this service really holds, with the port they belong to.
    pub fn held(&self) -> impl Iterator<Item = (&PortPlan, &Frontend)> {
        self.ports
            .iter()
            .flat_map(|port| port.frontends.iter().map(move |frontend| (port, frontend)))
            .filter(|(_, frontend)| frontend.lost_to.is_none())
    }
}

/// Who may answer at a held UDP frontend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Served {
    /// Endpoints, to which the kernel translates; sorted.
    Endpoints(Arc<[Target]>),
    /// The relay, at the frontend's own address. Where not everybody may ask, what this node itself
    /// sends is translated all the same, to these.
    Relay { own: Option<Arc<[Target]>> },
}

impl Served {
    pub fn of(port: &PortPlan, frontend: &Frontend) -> Self {
        let endpoints = || Arc::from(&*port.serving);
        match port.relay_of(frontend) {
            None => Served::Endpoints(endpoints()),
            Some(_) => Served::Relay { own: frontend.allow.as_ref().map(|_| endpoints()) },
        }
    }
}

/// Tells local pods' packets from others, for one family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LocalDetector {
    /// Not configured, or nothing known for this family: nobody is masqueraded for being remote.
    None,
    /// Source address within (ClusterCIDR, NodeCIDR).
    Cidr(IpNet),
    /// Input interface (BridgeInterface).
    Interface(Arc<str>),
    /// Start of the input interface's name (InterfaceNamePrefix).
    InterfacePrefix(Arc<str>),
}

/// What this node does whatever the services are. Resolved from configuration, ServiceCIDR objects
/// and node facts; a change of it is rare and may cost O(everything).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodePlan {
    pub masquerade_all: bool,
    pub local_v4: LocalDetector,
    pub local_v6: LocalDetector,
    /// Unallocated addresses in these are dropped silently. Sorted, none inside another.
    pub service_ranges: Vec<IpNet>,
    /// Packets of service addresses that conntrack calls INVALID are dropped.
    pub drop_invalid: bool,
    /// Where a family has no local detector nobody is known to be one.
    pub outsiders: Outsiders,
    /// Where node ports answer; sorted, no loopback address among them.
    pub node_port_addresses: Vec<IpAddr>,
    /// Addresses of this node's interfaces, sorted: packets to them are delivered here.
    pub own_addresses: Vec<IpAddr>,
    /// Families whose loopback addresses answer at node ports too (by the userspace dataplane: the
    /// kernel does not translate what never leaves the loopback interface).
    pub localhost_node_ports: [bool; 2],
    /// Families whose loopback addresses answer at the services' health-check ports too.
    pub localhost_health_checks: [bool; 2],
}

impl NodePlan {
    pub fn local_detector(&self, family: Family) -> &LocalDetector {
        match family {
            Family::V4 => &self.local_v4,
            Family::V6 => &self.local_v6,
        }
    }

    pub fn answers_node_ports_at(&self, address: IpAddr) -> bool {
        self.node_port_addresses.binary_search(&address).is_ok()
    }
}

/// Everything that must be true on this node. A copy is free: readers hold one while the writer
/// goes on.
///
/// A service's plan is a function of what is known of it, so it is made when it is asked for
/// ([`Plan::service`]): held for all services, plans would take as much memory as the objects.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What the plans are made from.
    pub known: OrdMap<ServiceKey, Arc<Known>>,
    pub claims: Claims,
    /// Who may answer at each held UDP frontend: asked for flow by flow.
    pub udp: OrdMap<FrontendKey, Served>,
    /// What load balancers ask this node about: few services, or none.
    pub health_checks: OrdMap<ServiceKey, HealthCheck>,
    /// How many services have a plan.
    pub services: usize,
    pub node: Arc<NodePlan>,
    pub facts: Arc<NodeFacts>,
    pub policy: Arc<Policy>,
}

impl Plan {
    /// Of a node that does nothing.
    pub fn empty() -> Self {
        Self::new(Policy::default(), NodeFacts::default())
    }

    /// Of a node that knows no service yet.
    pub fn new(policy: Policy, facts: NodeFacts) -> Self {
        Self {
            known: OrdMap::new(),
            claims: Claims::default(),
            udp: OrdMap::new(),
            health_checks: OrdMap::new(),
            services: 0,
            node: Arc::new(policy.node_plan(&facts, &[])),
            facts: Arc::new(facts),
            policy: Arc::new(policy),
        }
    }

    /// The plan of one service; `None` without a Service object.
    pub fn service(&self, key: &ServiceKey) -> Option<ServicePlan> {
        self.service_of(self.known.get(key)?)
    }

    /// All service plans, in the order of their keys. Each is made anew by each walk.
    pub fn services(&self) -> impl Iterator<Item = ServicePlan> {
        self.known.values().filter_map(|known| self.service_of(known))
    }

    /// As [`Plan::service`], from an entry of `known`.
    pub fn service_of(&self, known: &Known) -> Option<ServicePlan> {
        let mut plan = plan_service(known, &self.facts, &self.policy)?;
        self.settle(&mut plan);
        Some(plan)
    }

    /// Whether a service is to be relayed that has external IPs. Costs a glance at each.
    pub(super) fn relays_external_ips(&self) -> bool {
        let mut services = self.known.values().filter_map(|known| known.service.as_deref());
        services.any(|service| {
            service.external().is_some_and(|external| !external.ips.is_empty())
                && self.policy.mode_of(service) == ProxyMode::Userspace
        })
    }

    /// Says of each frontend of a service who holds it.
    pub(super) fn settle(&self, plan: &mut ServicePlan) {
        for frontend in plan.ports.iter_mut().flat_map(|port| &mut port.frontends) {
            // Not the holder's key is compared: to find it costs a walk down the tree of all claims.
            let lost = self.claims.losers(&frontend.at).contains(&plan.key);
            let holder = lost.then(|| self.claims.holder(&frontend.at)).flatten();
            frontend.lost_to = holder.cloned();
        }
    }
}

/// What changed between two states of the plan.
#[derive(Debug, Clone, Default)]
pub struct PlanDelta {
    /// Each key at most once; sorted by key.
    pub services: Vec<ServiceDelta>,
    /// The whole node plan, if any part of it changed.
    pub node: Option<Arc<NodePlan>>,
}

impl PlanDelta {
    pub fn is_empty(&self) -> bool {
        self.services.is_empty() && self.node.is_none()
    }
}

#[derive(Debug, Clone)]
pub struct ServiceDelta {
    pub key: ServiceKey,
    pub old: Option<Arc<ServicePlan>>,
    pub new: Option<Arc<ServicePlan>>,
}
