//! Single fields, checked as the API server checks them.
//!
//! In: strings and numbers of an object. Out: typed values, or a [`Fault`].
//! Never: a value that the dataplane could not program.

use crate::model::{Family, ObjectRef, Origin, Problem, Protocol, Severity};
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What is wrong with one field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct Fault {
    pub field: String,
    pub reason: String,
}

impl Fault {
    pub fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { field: field.into(), reason: reason.into() }
    }

    pub fn into_problem(
        self,
        severity: Severity,
        origin: Origin,
        object: Option<ObjectRef>,
    ) -> Problem {
        Problem { severity, origin, object, field: self.field.into(), reason: self.reason.into() }
    }
}

/// An address as the API server reads it: octets with leading zeros are decimal, and an
/// IPv4-mapped IPv6 address is the IPv4 address.
pub fn parse_ip(text: &str) -> Option<IpAddr> {
    if text.contains(':') {
        return text.parse::<Ipv6Addr>().ok().map(|ip| IpAddr::V6(ip).to_canonical());
    }
    let mut octets = [0u8; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        *octet = decimal(parts.next()?, 255)? as u8;
    }
    parts.next().is_none().then(|| IpAddr::V4(Ipv4Addr::from(octets)))
}

/// A network, its host bits cleared.
pub fn parse_cidr(text: &str) -> Option<IpNet> {
    let (address, length) = text.split_once('/')?;
    let address = parse_ip(address)?;
    let length = decimal(length, 128)? as u8;
    IpNet::new(address, length).ok().map(|net| net.trunc())
}

/// Digits only: `str::parse` would take a leading plus.
fn decimal(text: &str, max: u32) -> Option<u32> {
    if text.is_empty() {
        return None;
    }
    text.bytes().try_fold(0u32, |value, byte| {
        let digit = char::from(byte).to_digit(10)?;
        let value = value * 10 + digit;
        (value <= max).then_some(value)
    })
}

pub(super) fn ip(field: &str, text: &str) -> Result<IpAddr, Fault> {
    parse_ip(text).ok_or_else(|| {
        Fault::new(field, format!("{text:?} is not an IP address (such as 10.254.0.1 or fd00::1)"))
    })
}

pub(super) fn cidr(field: &str, text: &str) -> Result<IpNet, Fault> {
    parse_cidr(text).ok_or_else(|| {
        Fault::new(field, format!("{text:?} is not a CIDR (such as 10.254.0.0/16 or fd00::/108)"))
    })
}

/// An address that packets can be sent to from anywhere: a frontend or an endpoint.
pub(super) fn routable_ip(field: &str, text: &str) -> Result<IpAddr, Fault> {
    let address = ip(field, text)?;
    let special = match address {
        _ if address.is_unspecified() => "the unspecified address",
        _ if address.is_loopback() => "a loopback address",
        _ if address.is_multicast() => "a multicast address",
        IpAddr::V4(Ipv4Addr::BROADCAST) => "the broadcast address",
        IpAddr::V6(v6) if v6.is_unicast_link_local() => "a link-local address",
        _ => return Ok(address),
    };
    Err(Fault::new(field, format!("{address} is {special}; nothing can be served there")))
}

pub(super) fn family(field: &str, text: &str) -> Result<Family, Fault> {
    match text {
        "IPv4" => Ok(Family::V4),
        "IPv6" => Ok(Family::V6),
        _ => Err(unsupported(field, text, "IPv4, IPv6")),
    }
}

pub(super) fn protocol(field: &str, text: Option<&str>) -> Result<Protocol, Fault> {
    match text {
        None | Some("" | "TCP") => Ok(Protocol::Tcp),
        Some("UDP") => Ok(Protocol::Udp),
        Some("SCTP") => Ok(Protocol::Sctp),
        Some(other) => Err(unsupported(field, other, "TCP, UDP, SCTP")),
    }
}

pub(super) fn port(field: &str, number: i32) -> Result<u16, Fault> {
    match u16::try_from(number) {
        Ok(port) if port != 0 => Ok(port),
        _ => Err(Fault::new(field, format!("{number} is not a port (1 to 65535)"))),
    }
}

pub(super) fn unsupported(field: &str, value: impl Display, supported: &str) -> Fault {
    Fault::new(field, format!("\"{value}\" is none of {supported}"))
}

/// RFC 1123 label: lower case letters, digits and inner dashes, at most 63.
pub(super) fn label(field: &str, text: &str) -> Result<(), Fault> {
    let shape = "at most 63 lower case letters, digits and '-', not '-' first or last";
    if is_label(text) { Ok(()) } else { Err(name_fault(field, text, shape)) }
}

/// RFC 1123 subdomain: labels joined by dots, at most 253.
pub(super) fn subdomain(field: &str, text: &str) -> Result<(), Fault> {
    let good = text.len() <= 253
        && text.split('.').all(|part| {
            let bytes = part.as_bytes();
            let ends =
                bytes.first().is_some_and(alphanumeric) && bytes.last().is_some_and(alphanumeric);
            ends && bytes.iter().all(|b| alphanumeric(b) || *b == b'-')
        });
    let shape =
        "at most 253 lower case letters, digits, '-' and '.', a letter or digit first and last";
    if good { Ok(()) } else { Err(name_fault(field, text, shape)) }
}

/// Name of a container's port (RFC 6335, section 5.1).
pub(super) fn port_name(field: &str, text: &str) -> Result<(), Fault> {
    let good = text.len() <= 15
        && is_label(text)
        && !text.contains("--")
        && text.bytes().any(|byte| byte.is_ascii_lowercase());
    let shape = "at most 15 lower case letters, digits and single inner '-', at least one letter";
    if good { Ok(()) } else { Err(name_fault(field, text, shape)) }
}

/// Labels or a selector, checked, as `key=value,…` in the order of their keys.
pub(super) fn pairs(
    field: &str,
    given: Option<&BTreeMap<String, String>>,
) -> Result<String, Fault> {
    let mut joined = String::new();
    for (key, value) in given.into_iter().flatten() {
        let (prefix, name) = key.rsplit_once('/').unwrap_or(("", key));
        if !is_qualified(name) || (key.contains('/') && subdomain("", prefix).is_err()) {
            let shape = "at most 63 letters, digits, '-', '_' and '.', a letter or digit first and \
                         last; before it, if anything, a DNS name and '/'";
            return Err(Fault::new(field, format!("{key:?} is not a key ({shape})")));
        }
        if !value.is_empty() && !is_qualified(value) {
            let shape = "empty, or at most 63 letters, digits, '-', '_' and '.', a letter or digit \
                         first and last";
            let field = format!("{field}[{key}]");
            return Err(Fault::new(field, format!("{value:?} is not a value ({shape})")));
        }
        let separator = if joined.is_empty() { "" } else { "," };
        joined.extend([separator, key, "=", value]);
    }
    Ok(joined)
}

/// The name of a label's key, or a label's value.
fn is_qualified(text: &str) -> bool {
    let bytes = text.as_bytes();
    let ends = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    text.len() <= 63
        && ends(bytes.first())
        && ends(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b))
}

fn is_label(text: &str) -> bool {
    text.len() <= 63 && !text.contains('.') && subdomain("", text).is_ok()
}

fn alphanumeric(byte: &u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

fn name_fault(field: &str, text: &str, shape: &str) -> Fault {
    if text.is_empty() {
        Fault::new(field, "is missing")
    } else {
        Fault::new(field, format!("{text:?} is not a name ({shape})"))
    }
}
