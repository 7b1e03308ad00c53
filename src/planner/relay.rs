//! Who takes connections to their endpoints: the kernel, or vipd's relay; and why not the relay.

use super::{Action, DetectLocal, Forward, Frontend, FrontendKind, Policy, PortPlan, Reach};
use crate::model::{
    AppProtocol, Balancer, HttpVersion, Limits, Protocol, ProxyMode, ProxyProtocol, Service,
    ServicePort, Unit,
};
use std::fmt;

/// Who carries a port's connections.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Carrier {
    /// The kernel translates addresses.
    #[default]
    Kernel,
    /// The same, although the relay is asked for.
    KernelFor(Unrelayed),
    /// vipd accepts them, and opens one of its own to an endpoint for each.
    Relay(Relay),
}

/// How a port's connections are relayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Relay {
    pub balancer: Balancer,
    /// Of TCP ports only: a datagram has no room of its own for it.
    pub proxy_protocol: Option<ProxyProtocol>,
    pub pods_told_by: PodsToldBy,
    pub limits: Limits,
}

/// What of a packet shows that it comes from a local pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PodsToldBy {
    /// Its source address, or nothing.
    Address,
    /// The interface that it came in by, which who accepts a connection does not see.
    Interface,
}

/// How packets to a relayed frontend come to the relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Way {
    /// As they are: all of the address leads to this node, by a route of vipd's where it is not the
    /// node's own.
    Address,
    /// Translated to a port of this node: what else has the address keeps it. Who accepts the connection
    /// asks the kernel where it was to go, which for datagrams cannot be asked.
    Port,
}

/// Why a relay that is asked for does not carry something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Unrelayed {
    Sctp,
    /// Policy Local, and pods are told by their interface.
    Interface,
    /// Datagrams to an external IP of somebody else's: the route to the relay would take all of the
    /// address, and cut this node off from who has it.
    Foreign,
}

impl fmt::Display for Unrelayed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Unrelayed::Sctp => "SCTP is not relayed",
            Unrelayed::Interface => {
                "policy Local asks who comes from a local pod, and --detect-local-mode tells that by \
                 the interface, which a relay does not see"
            }
            Unrelayed::Foreign => {
                "the external IP is not this node's: to relay its datagrams, vipd would have to take \
                 all of the address"
            }
        })
    }
}

/// What of a port's traffic is given to an endpoint as one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Balanced {
    #[default]
    Connections,
    /// The same, although requests are asked for.
    ConnectionsFor(Unsplit),
    /// Of a frontend that is relayed: see [`PortPlan::requests_of`].
    Requests(HttpVersion),
}

/// Why connections are not taken apart into requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Unsplit {
    NotTcp,
    NotRelayed,
    NoAppProtocol,
    /// appProtocol `https`
    Encrypted,
    OtherAppProtocol,
    ProxyProtocol,
}

impl fmt::Display for Unsplit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Unsplit::NotTcp => "the port is not TCP",
            Unsplit::NotRelayed => {
                "the kernel carries it; vipd.io/dataplane or --proxy-mode userspace is needed"
            }
            Unsplit::NoAppProtocol => {
                "the Service's port has no appProtocol; http, kubernetes.io/h2c or grpc is needed"
            }
            Unsplit::Encrypted => "its appProtocol is https, and what is encrypted is not read",
            Unsplit::OtherAppProtocol => {
                "its appProtocol is none of http, kubernetes.io/h2c and grpc"
            }
            Unsplit::ProxyProtocol => {
                "vipd.io/proxy-protocol names one client for a connection, and requests of several \
                 share one"
            }
        })
    }
}

impl Policy {
    /// What serves a Service: its annotation, or what all are served by.
    pub fn mode_of(&self, service: &Service) -> ProxyMode {
        service.annotations.mode().unwrap_or(self.mode)
    }

    pub(super) fn carrier(&self, service: &Service, protocol: Protocol) -> Carrier {
        match (self.mode_of(service), protocol) {
            (ProxyMode::Nftables, _) => Carrier::Kernel,
            (ProxyMode::Userspace, Protocol::Sctp) => Carrier::KernelFor(Unrelayed::Sctp),
            (ProxyMode::Userspace, Protocol::Tcp | Protocol::Udp) => {
                let proxy_protocol = service.annotations.proxy_protocol();
                Carrier::Relay(Relay {
                    balancer: service.annotations.balancer().unwrap_or_default(),
                    proxy_protocol: proxy_protocol.filter(|_| protocol == Protocol::Tcp),
                    pods_told_by: match self.detect {
                        DetectLocal::BridgeInterface(_) | DetectLocal::InterfaceNamePrefix(_) => {
                            PodsToldBy::Interface
                        }
                        DetectLocal::None | DetectLocal::ClusterCidr(_) | DetectLocal::NodeCidr => {
                            PodsToldBy::Address
                        }
                    },
                    limits: self.limits.with(service.limits()),
                })
            }
        }
    }
}

/// `carrier` is the port's.
pub(super) fn balanced(service: &Service, port: &ServicePort, carrier: Carrier) -> Balanced {
    if service.annotations.unit() == Unit::Connections {
        return Balanced::Connections;
    }
    let relay = match carrier {
        Carrier::Relay(relay) if port.protocol == Protocol::Tcp => relay,
        Carrier::Relay(_) => return Balanced::ConnectionsFor(Unsplit::NotTcp),
        Carrier::Kernel | Carrier::KernelFor(_) => {
            return Balanced::ConnectionsFor(Unsplit::NotRelayed);
        }
    };
    if relay.proxy_protocol.is_some() {
        return Balanced::ConnectionsFor(Unsplit::ProxyProtocol);
    }
    match port.app_protocol {
        AppProtocol::Http => Balanced::Requests(HttpVersion::Http1),
        AppProtocol::H2c | AppProtocol::Grpc => Balanced::Requests(HttpVersion::H2c),
        AppProtocol::Unset => Balanced::ConnectionsFor(Unsplit::NoAppProtocol),
        AppProtocol::Https => Balanced::ConnectionsFor(Unsplit::Encrypted),
        AppProtocol::Other => Balanced::ConnectionsFor(Unsplit::OtherAppProtocol),
    }
}

impl PortPlan {
    /// How a frontend of this port is relayed; `None`: the kernel has it, as it has all that is
    /// refused or met with silence.
    pub fn relay_of(&self, frontend: &Frontend) -> Option<Relay> {
        let (Carrier::Relay(relay), Action::Forward(forward)) = (self.carrier, frontend.action)
        else {
            return None;
        };
        (!self.is_anothers(frontend) && !is_blind(relay, forward)).then_some(relay)
    }

    /// How a relayed frontend's packets are led: what is not vipd's alone by their port, where that can
    /// be done.
    pub fn way_of(&self, frontend: &Frontend) -> Way {
        match (frontend.kind, self.protocol) {
            (FrontendKind::ExternalIp | FrontendKind::LoadBalancer, Protocol::Tcp) => Way::Port,
            _ => Way::Address,
        }
    }

    fn is_anothers(&self, frontend: &Frontend) -> bool {
        frontend.foreign && self.way_of(frontend) == Way::Address
    }

    /// How the requests are spoken that are balanced one by one at a frontend; `None`: connections
    /// are.
    pub fn requests_of(&self, frontend: &Frontend) -> Option<HttpVersion> {
        match self.balanced {
            Balanced::Requests(version) => self.relay_of(frontend).map(|_| version),
            Balanced::Connections | Balanced::ConnectionsFor(_) => None,
        }
    }

    /// Why connections are, although requests are asked for.
    pub fn unsplit(&self, frontend: &Frontend) -> Option<Unsplit> {
        match (self.balanced, frontend.action) {
            (Balanced::ConnectionsFor(why), Action::Forward(_)) => Some(why),
            (Balanced::Requests(_), Action::Forward(_)) if self.relay_of(frontend).is_none() => {
                Some(Unsplit::NotRelayed)
            }
            _ => None,
        }
    }

    /// Why it is not relayed, although that is asked for.
    pub fn unrelayed(&self, frontend: &Frontend) -> Option<Unrelayed> {
        match (self.carrier, frontend.action) {
            (Carrier::KernelFor(why), _) => Some(why),
            (Carrier::Relay(_), Action::Forward(_)) if self.is_anothers(frontend) => {
                Some(Unrelayed::Foreign)
            }
            (Carrier::Relay(relay), Action::Forward(forward)) if is_blind(relay, forward) => {
                Some(Unrelayed::Interface)
            }
            _ => None,
        }
    }
}

/// Whether the relay could not tell where a connection may go.
fn is_blind(relay: Relay, forward: Forward) -> bool {
    relay.pods_told_by == PodsToldBy::Interface && forward.reach == Reach::LocalFromOutside
}
