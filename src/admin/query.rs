//! The question "what happens to this packet?" as a URL's query.

use crate::model::Protocol;
use crate::planner::Packet;
use std::fmt::Write as _;
use std::net::IpAddr;

/// A packet to trace, owned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceQuery {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub port: u16,
    pub protocol: Protocol,
    pub in_interface: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TraceQueryError {
    #[error("{name} is missing: {expected}")]
    Missing { name: &'static str, expected: &'static str },
    #[error("{name} \"{value}\": {expected}")]
    Invalid { name: &'static str, value: String, expected: &'static str },
}

const ADDRESS: &str = "expected an IP address";

impl TraceQuery {
    pub fn packet(&self) -> Packet<'_> {
        Packet {
            source: self.source,
            in_interface: self.in_interface.as_deref(),
            protocol: self.protocol,
            destination: self.destination,
            port: self.port,
        }
    }

    pub(super) fn encode(&self) -> String {
        let Self { source, destination, port, protocol, in_interface } = self;
        let mut query =
            format!("source={source}&destination={destination}&port={port}&protocol={protocol}");
        if let Some(name) = in_interface {
            query.push_str("&in-interface=");
            percent_encode(name, &mut query);
        }
        query
    }

    pub(super) fn parse(query: &str) -> Result<Self, TraceQueryError> {
        let address = |name| read(query, name, ADDRESS, |text| text.parse().ok());
        let protocol = parameter(query, "protocol").unwrap_or_else(|| "TCP".to_owned());
        Ok(Self {
            source: address("source")?,
            destination: address("destination")?,
            port: read(query, "port", "expected a port, 1 to 65535", |text| {
                text.parse().ok().filter(|port| *port > 0)
            })?,
            protocol: protocol_named(&protocol).ok_or(TraceQueryError::Invalid {
                name: "protocol",
                value: protocol,
                expected: "expected TCP, UDP or SCTP",
            })?,
            in_interface: parameter(query, "in-interface"),
        })
    }
}

/// In any case of letters.
pub(crate) fn protocol_named(name: &str) -> Option<Protocol> {
    Protocol::ALL.into_iter().find(|protocol| protocol.name().eq_ignore_ascii_case(name))
}

fn read<T>(
    query: &str,
    name: &'static str,
    expected: &'static str,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<T, TraceQueryError> {
    let value = parameter(query, name).ok_or(TraceQueryError::Missing { name, expected })?;
    parse(&value).ok_or(TraceQueryError::Invalid { name, value, expected })
}

/// The decoded value of a parameter, if it is given and not empty.
pub(super) fn parameter(query: &str, name: &str) -> Option<String> {
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let (_, value) = pairs.find(|(found, _)| *found == name)?;
    Some(percent_decode(value)).filter(|value| !value.is_empty())
}

fn percent_encode(text: &str, out: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
}

/// What is no escape stands for itself.
fn percent_decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let escaped = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        let decoded = escaped.and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match decoded {
            Some(byte) if first == b'%' => {
                bytes.push(byte);
                rest = &after[2..];
            }
            _ => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_survives_the_way() {
        let query = TraceQuery {
            source: "fd00::1".parse().unwrap(),
            destination: "fd00:254::9".parse().unwrap(),
            port: 53,
            protocol: Protocol::Udp,
            in_interface: Some("a&b=c %41é".to_owned()),
        };
        assert_eq!(TraceQuery::parse(&query.encode()), Ok(query));
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        let text = |query| TraceQuery::parse(query).unwrap_err().to_string();
        assert_eq!(text("destination=1.2.3.4&port=1"), "source is missing: expected an IP address");
        assert!(text("source=1.2.3.4&destination=x&port=1").starts_with("destination \"x\""));
        assert!(text("source=1.2.3.4&destination=1.2.3.5&port=0").starts_with("port \"0\""));
        let icmp = "source=1.2.3.4&destination=1.2.3.5&port=1&protocol=icmp";
        assert!(text(icmp).contains("TCP, UDP or SCTP"));
    }
}
