//! "Port unreachable", as the frontend itself would say it: an IP packet with an ICMP message.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use super::checksum::checksum;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

const TTL: u8 = 64;
const ICMP: u8 = 1;
const ICMP_V6: u8 = 58;
const UDP: u8 = 17;
const UDP_HEADER: u16 = 8;

/// Answers a datagram of `size` bytes that a client sent to a frontend. The message quotes the
/// datagram's headers, by which the client's kernel finds the socket. `None`: of two families.
pub(super) fn port_unreachable(
    client: SocketAddr,
    frontend: SocketAddr,
    size: usize,
) -> Option<Vec<u8>> {
    let length = u16::try_from(size).ok()?.checked_add(UDP_HEADER)?;
    let mut udp = [0; 8];
    udp[..2].copy_from_slice(&client.port().to_be_bytes());
    udp[2..4].copy_from_slice(&frontend.port().to_be_bytes());
    udp[4..6].copy_from_slice(&length.to_be_bytes());
    match (client, frontend) {
        (SocketAddr::V4(client), SocketAddr::V4(frontend)) => {
            let (client, frontend) = (*client.ip(), *frontend.ip());
            let mut message = vec![3, 3, 0, 0, 0, 0, 0, 0];
            message.extend(ipv4((client, frontend), UDP, length.saturating_add(20)));
            message.extend(udp);
            let sum = checksum(&[&message]);
            message[2..4].copy_from_slice(&sum.to_be_bytes());
            let total = u16::try_from(message.len()).ok()? + 20;
            let mut packet = ipv4((frontend, client), ICMP, total).to_vec();
            packet.extend(message);
            Some(packet)
        }
        (SocketAddr::V6(client), SocketAddr::V6(frontend)) => {
            let (client, frontend) = (*client.ip(), *frontend.ip());
            let mut message = vec![1, 4, 0, 0, 0, 0, 0, 0];
            message.extend(ipv6((client, frontend), UDP, length));
            message.extend(udp);
            let size = u16::try_from(message.len()).ok()?;
            let [high, low] = size.to_be_bytes();
            let (from, to) = (frontend.octets(), client.octets());
            let sum = checksum(&[&from, &to, &[0, 0, high, low, 0, 0, 0, ICMP_V6], &message]);
            message[2..4].copy_from_slice(&sum.to_be_bytes());
            let mut packet = ipv6((frontend, client), ICMP_V6, size).to_vec();
            packet.extend(message);
            Some(packet)
        }
        _ => None,
    }
}

fn ipv4((from, to): (Ipv4Addr, Ipv4Addr), protocol: u8, total: u16) -> [u8; 20] {
    let mut header = [0; 20];
    header[0] = 0x45;
    header[2..4].copy_from_slice(&total.to_be_bytes());
    header[8] = TTL;
    header[9] = protocol;
    header[12..16].copy_from_slice(&from.octets());
    header[16..].copy_from_slice(&to.octets());
    let sum = checksum(&[&header]);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    header
}

fn ipv6((from, to): (Ipv6Addr, Ipv6Addr), next: u8, payload: u16) -> [u8; 40] {
    let mut header = [0; 40];
    header[0] = 0x60;
    header[4..6].copy_from_slice(&payload.to_be_bytes());
    header[6] = next;
    header[7] = TTL;
    header[8..24].copy_from_slice(&from.octets());
    header[24..].copy_from_slice(&to.octets());
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(client: &str, frontend: &str) -> Option<Vec<u8>> {
        port_unreachable(client.parse().unwrap(), frontend.parse().unwrap(), 5)
    }

    #[test]
    fn an_ipv4_refusal_quotes_the_datagram() {
        let packet = refusal("10.0.0.1:4660", "10.96.0.10:53").unwrap();
        assert_eq!(packet.len(), 56);
        assert_eq!(checksum(&[&packet[..20]]), 0, "of the IP header");
        assert_eq!(checksum(&[&packet[20..]]), 0, "of the message");
        assert_eq!(packet[9], ICMP);
        assert_eq!(packet[12..20], [10, 96, 0, 10, 10, 0, 0, 1]);
        assert_eq!(packet[20..22], [3, 3]);
        assert_eq!(packet[40..48], [10, 0, 0, 1, 10, 96, 0, 10]);
        assert_eq!(packet[48..54], [0x12, 0x34, 0, 53, 0, 13]);
    }

    #[test]
    fn an_ipv6_refusal_quotes_the_datagram() {
        let packet = refusal("[fd00::1]:4660", "[fd00:96::a]:53").unwrap();
        assert_eq!(packet.len(), 96);
        assert_eq!(packet[4..7], [0, 56, ICMP_V6]);
        let pseudo = [0, 0, 0, 56, 0, 0, 0, ICMP_V6];
        assert_eq!(checksum(&[&packet[8..40], &pseudo, &packet[40..]]), 0);
        assert_eq!(packet[40..42], [1, 4]);
        assert_eq!(packet[88..94], [0x12, 0x34, 0, 53, 0, 13]);
    }

    #[test]
    fn families_are_not_mixed() {
        assert_eq!(refusal("10.0.0.1:4660", "[fd00:96::a]:53"), None);
    }
}
