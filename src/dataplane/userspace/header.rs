//! The PROXY protocol's header: who the client is, said to the endpoint before anything else.
//! <https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use crate::model::ProxyProtocol;
use std::net::SocketAddr;

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, a connection on behalf of somebody else.
const VERSION_AND_COMMAND: u8 = 0x21;
const UNSPECIFIED: u8 = 0x00;
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;

/// `frontend` is the address and port that the client connected to.
pub(super) fn header(version: ProxyProtocol, client: SocketAddr, frontend: SocketAddr) -> Vec<u8> {
    match version {
        ProxyProtocol::V1 => {
            let family = match (client, frontend) {
                (SocketAddr::V4(_), SocketAddr::V4(_)) => "TCP4",
                (SocketAddr::V6(_), SocketAddr::V6(_)) => "TCP6",
                _ => return b"PROXY UNKNOWN\r\n".to_vec(),
            };
            let (from, to) = (client.ip(), frontend.ip());
            format!("PROXY {family} {from} {to} {} {}\r\n", client.port(), frontend.port())
                .into_bytes()
        }
        ProxyProtocol::V2 => {
            let mut addresses = Vec::with_capacity(36);
            let family = match (client, frontend) {
                (SocketAddr::V4(from), SocketAddr::V4(to)) => {
                    addresses.extend(from.ip().octets());
                    addresses.extend(to.ip().octets());
                    TCP4
                }
                (SocketAddr::V6(from), SocketAddr::V6(to)) => {
                    addresses.extend(from.ip().octets());
                    addresses.extend(to.ip().octets());
                    TCP6
                }
                _ => UNSPECIFIED,
            };
            if family != UNSPECIFIED {
                addresses.extend(client.port().to_be_bytes());
                addresses.extend(frontend.port().to_be_bytes());
            }
            let mut header = SIGNATURE.to_vec();
            header.extend([VERSION_AND_COMMAND, family, 0, addresses.len() as u8]);
            header.extend(addresses);
            header
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn version_1_is_a_line() {
        let line = |client, frontend| {
            String::from_utf8(header(ProxyProtocol::V1, at(client), at(frontend))).unwrap()
        };
        assert_eq!(
            line("10.0.0.1:50000", "10.96.0.1:80"),
            "PROXY TCP4 10.0.0.1 10.96.0.1 50000 80\r\n"
        );
        assert_eq!(
            line("[fd00::1]:50000", "[fd00:96::1]:80"),
            "PROXY TCP6 fd00::1 fd00:96::1 50000 80\r\n"
        );
        assert_eq!(line("[fd00::1]:50000", "10.96.0.1:80"), "PROXY UNKNOWN\r\n");
    }

    #[test]
    fn version_2_is_binary() {
        let v4 = header(ProxyProtocol::V2, at("10.0.0.1:258"), at("10.96.0.1:80"));
        assert_eq!(v4[..12], [13, 10, 13, 10, 0, 13, 10, 0x51, 0x55, 0x49, 0x54, 10]);
        assert_eq!(v4[12..], [0x21, 0x11, 0, 12, 10, 0, 0, 1, 10, 96, 0, 1, 1, 2, 0, 80]);
        let v6 = header(ProxyProtocol::V2, at("[fd00::1]:258"), at("[fd00:96::1]:80"));
        assert_eq!(v6[12..16], [0x21, 0x21, 0, 36]);
        assert_eq!(v6[16], 0xfd);
        assert_eq!(v6[48..], [1, 2, 0, 80]);
        let none = header(ProxyProtocol::V2, at("[fd00::1]:258"), at("10.96.0.1:80"));
        assert_eq!(none[12..], [0x21, 0, 0, 0]);
    }
}
