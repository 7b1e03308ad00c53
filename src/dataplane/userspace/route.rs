//! One of vipd's routes as a message of rtnetlink. PURE.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use crate::model::Family;
use crate::netlink::{Attributes, Buffer, Message};
use std::net::IpAddr;

/// `rtm_protocol` of vipd's routes: in none of /etc/iproute2/rt_protos.
pub(super) const PROTOCOL: u8 = 118;

/// `linux/rtnetlink.h`
pub(super) const RTM_NEWROUTE: u16 = 24;
pub(super) const RTM_DELROUTE: u16 = 25;
pub(super) const RTM_GETROUTE: u16 = 26;
const RT_TABLE_LOCAL: u8 = 255;
const RT_SCOPE_HOST: u8 = 254;
const RTN_LOCAL: u8 = 2;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_PREFSRC: u16 = 7;
/// Length of `struct rtmsg`.
const RTMSG: usize = 12;
/// The loopback interface has this index in every namespace.
const LOOPBACK: u32 = 1;

/// `struct rtmsg` of vipd's routes.
pub(super) fn header(family: Family, bits: u8) -> [u8; RTMSG] {
    let family = match family {
        Family::V4 => libc::AF_INET as u8,
        Family::V6 => libc::AF_INET6 as u8,
    };
    [family, bits, 0, 0, RT_TABLE_LOCAL, PROTOCOL, RT_SCOPE_HOST, RTN_LOCAL, 0, 0, 0, 0]
}

pub(super) fn host_bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

pub(super) fn put_route(out: &mut Buffer, address: IpAddr, source: Option<IpAddr>) {
    put_address(out, RTA_DST, address);
    out.attr(RTA_OIF, &LOOPBACK.to_ne_bytes());
    if let Some(source) = source {
        put_address(out, RTA_PREFSRC, source);
    }
}

fn put_address(out: &mut Buffer, kind: u16, address: IpAddr) {
    match address {
        IpAddr::V4(v4) => out.attr(kind, &v4.octets()),
        IpAddr::V6(v6) => out.attr(kind, &v6.octets()),
    }
}

/// A route of vipd's: its address, and its source.
pub(super) fn read_route(message: &Message<'_>) -> Option<(IpAddr, Option<IpAddr>)> {
    (message.kind == RTM_NEWROUTE).then(|| read_own(message))?
}

/// The address that a route of vipd's led here by, and does no more.
pub(super) fn read_departed(message: &Message<'_>) -> Option<IpAddr> {
    let departed = (message.kind == RTM_DELROUTE).then(|| read_own(message))?;
    departed.map(|(address, _)| address)
}

fn read_own(message: &Message<'_>) -> Option<(IpAddr, Option<IpAddr>)> {
    let &[family, bits, _, _, table, protocol, _, kind, ..] = message.payload else { return None };
    let attributes = Attributes(message.payload.get(RTMSG..)?);
    let address = |kind| read_address(attributes.find(kind)?.value);
    let to = address(RTA_DST)?;
    let ours = (table, protocol, kind) == (RT_TABLE_LOCAL, PROTOCOL, RTN_LOCAL)
        && family == header(Family::of(to), 0)[0]
        && bits == host_bits(to);
    ours.then(|| (to, address(RTA_PREFSRC)))
}

fn read_address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        16 => Some(IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::Messages;

    fn written(address: &str, source: Option<&str>, protocol: u8) -> Buffer {
        let address: IpAddr = address.parse().unwrap();
        let mut header = header(Family::of(address), host_bits(address));
        header[5] = protocol;
        let mut buffer = Buffer::default();
        buffer.begin_with(RTM_NEWROUTE, 0, 1, &header);
        put_route(&mut buffer, address, source.map(|source| source.parse().unwrap()));
        buffer.end();
        buffer
    }

    #[test]
    fn a_route_that_is_written_is_read_back() {
        for (address, source) in [
            ("10.96.0.1", Some("192.0.2.1")),
            ("fd00::1", Some("2001:db8::1")),
            ("10.96.0.2", None),
        ] {
            let buffer = written(address, source, PROTOCOL);
            let message = Messages(buffer.bytes()).next().unwrap();
            let expected = (address.parse().unwrap(), source.map(|text| text.parse().unwrap()));
            assert_eq!(read_route(&message), Some(expected));
        }
    }

    #[test]
    fn routes_of_others_are_nobodys_business() {
        let kernel = written("192.0.2.1", None, 2);
        let message = Messages(kernel.bytes()).next().unwrap();
        assert_eq!((read_route(&message), read_departed(&message)), (None, None));
    }

    #[test]
    fn a_route_that_goes_is_not_taken_for_one_that_is_there() {
        let buffer = written("fd00::1", None, PROTOCOL);
        let mut message = Messages(buffer.bytes()).next().unwrap();
        assert_eq!(read_departed(&message), None);
        message.kind = RTM_DELROUTE;
        assert_eq!(read_route(&message), None);
        assert_eq!(read_departed(&message), Some("fd00::1".parse().unwrap()));
    }
}
