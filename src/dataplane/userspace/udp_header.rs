//! The header of a datagram that no UDP socket sends (RFC 768). PURE.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use super::checksum::checksum;
use std::net::SocketAddr;

pub(super) const SIZE: usize = 8;
const UDP: u8 = 17;

/// `None`: the addresses are of two families, or there is more than a datagram can hold.
pub(super) fn udp_header(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Option<[u8; SIZE]> {
    let length = u16::try_from(payload.len() + SIZE).ok()?;
    let mut header = [0; SIZE];
    header[..2].copy_from_slice(&from.port().to_be_bytes());
    header[2..4].copy_from_slice(&to.port().to_be_bytes());
    header[4..6].copy_from_slice(&length.to_be_bytes());
    // What both families' pseudo headers have beside the addresses sums up to the same: the length in
    // RFC 8200 has two more bytes, which are 0 here.
    let [high, low] = length.to_be_bytes();
    let rest = [0, UDP, high, low];
    let sum = match (from, to) {
        (SocketAddr::V4(from), SocketAddr::V4(to)) => {
            checksum(&[&from.ip().octets(), &to.ip().octets(), &rest, &header, payload])
        }
        (SocketAddr::V6(from), SocketAddr::V6(to)) => {
            checksum(&[&from.ip().octets(), &to.ip().octets(), &rest, &header, payload])
        }
        _ => return None,
    };
    // 0 says that there is no checksum; its other form in ones' complement says the same sum.
    let sum = if sum == 0 { 0xffff } else { sum };
    header[6..].copy_from_slice(&sum.to_be_bytes());
    Some(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: (&str, &str) = ("10.96.0.10:53", "10.0.0.1:4660");
    const V6: (&str, &str) = ("[fd00:96::a]:53", "[fd00::1]:4660");

    fn header((from, to): (&str, &str), payload: &[u8]) -> Option<[u8; SIZE]> {
        udp_header(from.parse().unwrap(), to.parse().unwrap(), payload)
    }

    #[test]
    fn ports_length_and_checksum() {
        assert_eq!(header(V4, b"hello"), Some([0, 53, 0x12, 0x34, 0, 13, 0x95, 0x2e]));
        assert_eq!(header(V6, b"hello"), Some([0, 53, 0x12, 0x34, 0, 13, 0xae, 0xf6]));
        assert_eq!(header(V4, b"\0\0"), Some([0, 53, 0x12, 0x34, 0, 10, 0xd9, 0x06]));
        assert_eq!(header(V6, b"\0\0"), Some([0, 53, 0x12, 0x34, 0, 10, 0xf2, 0xce]));
    }

    #[test]
    fn a_checksum_of_zero_is_written_as_its_other_form() {
        for (ends, payload) in [(V4, [0xd9, 0x06]), (V6, [0xf2, 0xce])] {
            assert_eq!(header(ends, &payload), Some([0, 53, 0x12, 0x34, 0, 10, 0xff, 0xff]));
        }
    }

    #[test]
    fn sizes_end_where_the_length_does() {
        assert_eq!(header(V4, b"").map(|header| header[4..6].to_vec()), Some(vec![0, 8]));
        let most = vec![0xff; 65_527];
        assert_eq!(header(V4, &most).map(|header| header[4..6].to_vec()), Some(vec![0xff; 2]));
        assert_eq!(header(V6, &[0; 65_528]), None);
    }

    #[test]
    fn families_are_not_mixed() {
        assert_eq!(header((V4.0, V6.1), b"x"), None);
        assert_eq!(header((V6.0, V4.1), b"x"), None);
    }
}
