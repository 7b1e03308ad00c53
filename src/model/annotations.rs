//! What the annotations of a Service ask of this proxy, in one byte: most Services ask for nothing,
//! and there is one of these for each.

use super::{Balancer, ProxyProtocol, Unit};
use std::fmt;

/// What serves Services: `--proxy-mode` for all, `vipd.io/dataplane` for one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum ProxyMode {
    /// The kernel translates addresses.
    #[default]
    Nftables,
    /// vipd accepts connections, and opens one of its own to an endpoint for each.
    Userspace,
}

impl ProxyMode {
    pub const ALL: [ProxyMode; 2] = [ProxyMode::Nftables, ProxyMode::Userspace];

    pub fn name(self) -> &'static str {
        match self {
            ProxyMode::Nftables => "nftables",
            ProxyMode::Userspace => "userspace",
        }
    }
}

impl Balancer {
    pub const ALL: [Balancer; 4] =
        [Balancer::Random, Balancer::RoundRobin, Balancer::LeastConnections, Balancer::Maglev];

    pub fn name(self) -> &'static str {
        match self {
            Balancer::Random => "random",
            Balancer::RoundRobin => "round-robin",
            Balancer::LeastConnections => "least-connections",
            Balancer::Maglev => "maglev",
        }
    }
}

impl ProxyProtocol {
    pub const ALL: [ProxyProtocol; 2] = [ProxyProtocol::V1, ProxyProtocol::V2];

    pub fn name(self) -> &'static str {
        match self {
            ProxyProtocol::V1 => "v1",
            ProxyProtocol::V2 => "v2",
        }
    }
}

/// Two bits for the mode, three for the balancer, two for the PROXY protocol; each 0 where nothing is
/// said, else one more than its place among `ALL`. One bit for requests, which nobody asks for where
/// nothing is said.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Annotations(u8);

const BALANCER: u32 = 2;
const PROXY_PROTOCOL: u32 = 5;
const REQUESTS: u8 = 1 << 7;

impl Annotations {
    pub fn new(
        mode: Option<ProxyMode>,
        balancer: Option<Balancer>,
        proxy_protocol: Option<ProxyProtocol>,
    ) -> Self {
        let mode = place(mode, &ProxyMode::ALL);
        let balancer = place(balancer, &Balancer::ALL);
        let proxy_protocol = place(proxy_protocol, &ProxyProtocol::ALL);
        Self(mode | balancer << BALANCER | proxy_protocol << PROXY_PROTOCOL)
    }

    pub fn with_unit(self, unit: Unit) -> Self {
        match unit {
            Unit::Connections => Self(self.0 & !REQUESTS),
            Unit::Requests => Self(self.0 | REQUESTS),
        }
    }

    pub fn mode(self) -> Option<ProxyMode> {
        at(self.0 & 0b11, &ProxyMode::ALL)
    }

    pub fn balancer(self) -> Option<Balancer> {
        at(self.0 >> BALANCER & 0b111, &Balancer::ALL)
    }

    pub fn proxy_protocol(self) -> Option<ProxyProtocol> {
        at(self.0 >> PROXY_PROTOCOL & 0b11, &ProxyProtocol::ALL)
    }

    pub fn unit(self) -> Unit {
        if self.0 & REQUESTS == 0 { Unit::Connections } else { Unit::Requests }
    }
}

fn place<T: PartialEq>(value: Option<T>, all: &[T]) -> u8 {
    let place = value.and_then(|value| all.iter().position(|other| *other == value));
    place.map_or(0, |place| place as u8 + 1)
}

fn at<T: Copy>(place: u8, all: &[T]) -> Option<T> {
    all.get(usize::from(place).checked_sub(1)?).copied()
}

impl fmt::Debug for Annotations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(bits) = self;
        if *bits == 0 {
            return f.write_str("Annotations");
        }
        f.debug_struct("Annotations")
            .field("mode", &self.mode())
            .field("balancer", &self.balancer())
            .field("proxy_protocol", &self.proxy_protocol())
            .field("unit", &self.unit())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Service, ServicePort};

    fn and_none<T: Copy>(all: &[T]) -> Vec<Option<T>> {
        std::iter::once(None).chain(all.iter().copied().map(Some)).collect()
    }

    #[test]
    fn what_is_put_in_comes_out() {
        for mode in and_none(&ProxyMode::ALL) {
            for balancer in and_none(&Balancer::ALL) {
                for proxy in and_none(&ProxyProtocol::ALL) {
                    let all = Annotations::new(mode, balancer, proxy);
                    let read = (all.mode(), all.balancer(), all.proxy_protocol());
                    assert_eq!(read, (mode, balancer, proxy));
                    assert_eq!(all.unit(), Unit::Connections);
                    let requests = all.with_unit(Unit::Requests);
                    let read = (requests.mode(), requests.balancer(), requests.proxy_protocol());
                    assert_eq!(read, (mode, balancer, proxy));
                    assert_eq!(requests.unit(), Unit::Requests);
                    assert_eq!(requests.with_unit(Unit::Connections), all);
                }
            }
        }
        assert_eq!(Annotations::new(None, None, None), Annotations::default());
    }

    /// There are 100,000 of them: a word more each is a megabyte and a half.
    #[test]
    fn a_service_is_no_larger_for_them() {
        assert_eq!(size_of::<Service>(), 80);
        assert_eq!(size_of::<ServicePort>(), 40);
    }
}
