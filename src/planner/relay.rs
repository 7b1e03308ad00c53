//! Who takes connections to their endpoints: the kernel, or vipd's relay; and why not the relay.

use super::{Action, DetectLocal, Forward, Frontend, Policy, PortPlan, Reach};
use crate::model::{Balancer, Protocol, ProxyMode, ProxyProtocol, Service};
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
}

/// What of a packet shows that it comes from a local pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PodsToldBy {
    /// Its source address, or nothing.
    Address,
    /// The interface that it came in by, which who accepts a connection does not see.
    Interface,
}

/// Why a relay that is asked for does not carry something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Unrelayed {
    Sctp,
    /// Policy Local, and pods are told by their interface.
    Interface,
    /// An external IP of somebody else's: the route to the relay would take all of the address, and
    /// cut this node off from who has it.
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
                "the external IP is not this node's: to relay it, vipd would have to take all of the \
                 address"
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
                })
            }
        }
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
        (!frontend.foreign && !is_blind(relay, forward)).then_some(relay)
    }

    /// Why it is not relayed, although that is asked for.
    pub fn unrelayed(&self, frontend: &Frontend) -> Option<Unrelayed> {
        match (self.carrier, frontend.action) {
            (Carrier::KernelFor(why), _) => Some(why),
            (Carrier::Relay(_), Action::Forward(_)) if frontend.foreign => Some(Unrelayed::Foreign),
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
