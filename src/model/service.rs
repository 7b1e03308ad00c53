//! A Service, as the API server would have defaulted it.

use super::{Annotations, AppProtocol, OwnLimits, Ports, ServiceKey};
use arcstr::ArcStr;
use ipnet::IpNet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::{NonZeroU16, NonZeroU32};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub const BOTH: [Family; 2] = [Family::V4, Family::V6];

    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    /// Its place in a pair of things, in the order of [`Family::BOTH`].
    pub fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Family {
    /// `IPv4`, as the API writes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        })
    }
}

/// Transport protocol; the value is its IANA number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Protocol {
    Tcp = 6,
    Udp = 17,
    Sctp = 132,
}

impl Protocol {
    pub const ALL: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];

    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|p| *p as u8 == number)
    }

    /// `TCP`, as the API writes it.
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
            Protocol::Sctp => "SCTP",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// `ports[].name`; a Service's only port may have the empty name. Shared: few names are in use.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortName(pub ArcStr);

impl From<&str> for PortName {
    fn from(name: &str) -> Self {
        Self(name.into())
    }
}

/// `metadata.creationTimestamp` in seconds since 1970; a missing one sorts after any present one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Created(i64);

impl Created {
    const UNKNOWN: i64 = i64::MAX;

    pub fn new(seconds: Option<i64>) -> Self {
        Self(seconds.unwrap_or(Self::UNKNOWN))
    }

    pub fn seconds(self) -> Option<i64> {
        (self.0 != Self::UNKNOWN).then_some(self.0)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ServiceType {
    ClusterIp,
    NodePort,
    LoadBalancer,
}

impl ServiceType {
    pub fn name(self) -> &'static str {
        match self {
            ServiceType::ClusterIp => "ClusterIP",
            ServiceType::NodePort => "NodePort",
            ServiceType::LoadBalancer => "LoadBalancer",
        }
    }
}

/// `internalTrafficPolicy` or `externalTrafficPolicy`
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum TrafficPolicy {
    #[default]
    Cluster,
    Local,
}

/// `spec.clusterIPs`: at most one address per family.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct ClusterIps {
    pub v4: Option<Ipv4Addr>,
    pub v6: Option<Ipv6Addr>,
}

impl ClusterIps {
    pub fn get(&self, family: Family) -> Option<IpAddr> {
        match family {
            Family::V4 => self.v4.map(IpAddr::V4),
            Family::V6 => self.v6.map(IpAddr::V6),
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = IpAddr> + use<> {
        let ips = *self;
        Family::BOTH.into_iter().filter_map(move |family| ips.get(family))
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum TargetPort {
    Unset,
    Number(u16),
    Name(Box<str>),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ServicePort {
    pub name: PortName,
    pub protocol: Protocol,
    pub port: u16,
    pub node_port: Option<NonZeroU16>,
    /// The Service's own; what slices say of it does not count.
    pub app_protocol: AppProtocol,
    /// What makes endpoints of pods. Slices and Endpoints objects carry the port that counts
    /// (discovery/v1 `ports[].port`), and this is then only shown.
    pub target_port: TargetPort,
}

/// What reaches a Service from outside the cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct External {
    /// `spec.externalIPs`
    pub ips: Box<[IpAddr]>,
    /// `status.loadBalancer.ingress[].ip` with ipMode VIP
    pub vips: Box<[IpAddr]>,
    /// `spec.loadBalancerSourceRanges`
    pub source_ranges: Box<[IpNet]>,
    pub health_check_node_port: Option<NonZeroU16>,
}

/// What most Services have none of: one word in each of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Uncommon {
    pub external: External,
    pub limits: OwnLimits,
}

impl Uncommon {
    /// `None` where there is nothing.
    pub fn of(external: External, limits: OwnLimits) -> Option<Box<Self>> {
        let all = Self { external, limits };
        (all != Self::default()).then(|| Box::new(all))
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    pub key: ServiceKey,
    pub created: Created,
    pub service_type: ServiceType,
    pub cluster_ips: ClusterIps,
    pub ports: Ports<ServicePort>,
    pub uncommon: Option<Box<Uncommon>>,
    pub internal_policy: TrafficPolicy,
    pub external_policy: TrafficPolicy,
    /// `sessionAffinity: ClientIP` with its timeout in seconds
    pub affinity: Option<NonZeroU32>,
    pub publish_not_ready_addresses: bool,
    pub annotations: Annotations,
    pub shown: Shown,
}

impl Service {
    pub fn external(&self) -> Option<&External> {
        self.uncommon.as_deref().map(|uncommon| &uncommon.external)
    }

    pub fn limits(&self) -> OwnLimits {
        self.uncommon.as_deref().map(|uncommon| uncommon.limits).unwrap_or_default()
    }
}

/// Labels, which are only shown, and the selector, which says which pods are a Service's; each as
/// `key=value,…`, sorted by key. One text, for there is one of these per Service; and often they
/// are the same, which is then written once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shown(Box<str>);

impl Shown {
    /// Neither holds a line break: the API allows none in keys and values, and `sources/decode`
    /// rejects what the API refuses.
    pub fn new(labels: &str, selector: &str) -> Self {
        if labels == selector {
            return Self(labels.into());
        }
        Self([labels, selector].join("\n").into())
    }

    pub fn labels(&self) -> &str {
        self.0.split_once('\n').map_or(&*self.0, |(labels, _)| labels)
    }

    /// Empty where there is none: such a Service selects nothing.
    pub fn selector(&self) -> &str {
        self.0.split_once('\n').map_or(&*self.0, |(_, selector)| selector)
    }
}
