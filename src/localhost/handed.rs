//! Listening sockets that go from one process to the next, with what waits in them.

use super::places::Place;
use crate::dataplane::userspace::Part;
use crate::model::Protocol;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

/// Of one part; the kernel takes no more than 253 at once.
const MOST: usize = 128;

/// Sockets by where they listen.
#[derive(Debug, Default)]
pub struct Handed(pub(super) BTreeMap<Place, OwnedFd>);

#[derive(Serialize, Deserialize)]
struct Text {
    /// Whether it is UDP's.
    places: Vec<(SocketAddr, bool)>,
}

impl Handed {
    pub fn into_parts(self) -> impl Iterator<Item = Part> {
        let mut all = self.0.into_iter().peekable();
        std::iter::from_fn(move || {
            all.peek()?;
            let some = all.by_ref().take(MOST);
            let written = |(place, file): (Place, OwnedFd)| {
                ((place.at, place.protocol == Protocol::Udp), file)
            };
            let (places, files) = some.map(written).unzip();
            let text = serde_json::to_vec(&Text { places });
            Some(Part { text: text.expect("addresses are JSON"), files })
        })
    }

    /// What cannot be read is closed, and opened anew.
    pub fn of_parts(parts: impl IntoIterator<Item = Part>) -> Self {
        let mut handed = Self::default();
        for Part { text, files } in parts {
            match serde_json::from_slice::<Text>(&text) {
                Ok(text) => {
                    let place = |(at, udp)| {
                        let protocol = if udp { Protocol::Udp } else { Protocol::Tcp };
                        Place { protocol, at }
                    };
                    handed.0.extend(text.places.into_iter().map(place).zip(files));
                }
                Err(error) => {
                    tracing::warn!(
                        "node ports of loopback addresses are listened at anew: {error}"
                    );
                }
            }
        }
        handed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, UdpSocket};

    #[test]
    fn sockets_arrive_with_their_places() {
        let mut sent = Handed::default();
        for number in 0..150_u16 {
            let (protocol, socket, at) = if number.is_multiple_of(2) {
                let socket = TcpListener::bind("127.0.0.1:0").unwrap();
                let at = socket.local_addr().unwrap();
                (Protocol::Tcp, OwnedFd::from(socket), at)
            } else {
                let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
                let at = socket.local_addr().unwrap();
                (Protocol::Udp, OwnedFd::from(socket), at)
            };
            sent.0.insert(Place { protocol, at }, socket);
        }
        let places: Vec<Place> = sent.0.keys().copied().collect();
        let mut parts: Vec<Part> = sent.into_parts().collect();
        assert_eq!(parts.len(), 2);
        parts.push(Part { text: b"?".to_vec(), files: Vec::new() });
        let arrived = Handed::of_parts(parts).0;
        assert_eq!(arrived.keys().copied().collect::<Vec<_>>(), places);
        for (place, socket) in arrived {
            let at = match place.protocol {
                Protocol::Udp => UdpSocket::from(socket).local_addr(),
                _ => TcpListener::from(socket).local_addr(),
            };
            assert_eq!(at.unwrap(), place.at);
        }
    }
}
