//! Datagrams of one client that come at once: the relay passes them on together where it can.

use super::support::manifests::svc;
use super::support::plan::{L1, L2, Node};
use super::support::runner::{Case, case};
use super::support::world::World;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use std::io::IoSlice;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

const PORT: u16 = 9999;
const PATIENCE: Duration = Duration::from_secs(10);

/// An endpoint that sends back what it is sent, and a Service of it.
fn echo(w: &World) {
    let at = SocketAddr::new(w.address(L1), PORT);
    let socket = w.netns(L1).enter(|| UdpSocket::bind(at)).expect("nobody has the port");
    std::thread::spawn(move || {
        let mut room = vec![0; 64 << 10];
        while let Ok((size, from)) = socket.recv_from(&mut room) {
            // A path with a smaller MTU is learned by the first that is too large for it.
            let _ = socket
                .send_to(&room[..size], from)
                .or_else(|_| socket.send_to(&room[..size], from));
        }
    });
    w.serve(svc().relayed().udp().on([L1]).to(PORT));
}

/// At once where they are of one size, so that they come to the relay as one (udp(7), UDP_SEGMENT).
fn send(client: &UdpSocket, datagrams: &[Vec<u8>]) {
    let size = datagrams[0].len();
    if datagrams.iter().all(|one| one.len() == size) {
        let parts: Vec<IoSlice<'_>> = datagrams.iter().map(|one| IoSlice::new(one)).collect();
        let size = u16::try_from(size).expect("a datagram's size");
        let together = [ControlMessage::UdpGsoSegments(&size)];
        sendmsg::<()>(client.as_raw_fd(), &parts, &together, MsgFlags::empty(), None)
            .expect("the client's own path takes them");
    } else {
        datagrams
            .iter()
            .for_each(|one| assert_eq!(client.send(one).expect("it has room"), one.len()));
    }
}

/// All of them come back, each once and as it was.
fn come_back(w: &World, sizes: &[usize]) {
    let own = SocketAddr::new(w.address(L2), 0);
    let client = w.netns(L2).enter(|| UdpSocket::bind(own)).expect("a free port");
    client.set_read_timeout(Some(PATIENCE)).expect("a socket");
    client.connect((w.cip(), 80)).expect("there is a route");
    let datagram = |number: usize, size: usize| vec![number as u8; size];
    let mut sent: Vec<Vec<u8>> =
        sizes.iter().enumerate().map(|(number, size)| datagram(number, *size)).collect();
    send(&client, &sent);
    let mut room = vec![0; 64 << 10];
    let mut came: Vec<Vec<u8>> = Vec::new();
    while came.len() < sent.len() {
        let size = client.recv(&mut room).unwrap_or_else(|error| {
            panic!("{} of {} came back: {error}", came.len(), sent.len());
        });
        came.push(room[..size].to_vec());
    }
    sent.sort_unstable();
    came.sort_unstable();
    assert!(sent == came, "what came back is something else");
}

pub fn cases() -> Vec<Case> {
    let cases = vec![
        case("a burst of a client's datagrams is passed on, of whatever sizes", |w| {
            echo(w);
            for size in [1, 64, 512, 1400] {
                come_back(w, &[size; 40]);
            }
            come_back(w, &[100, 100, 7, 100, 1400, 1400, 0, 100, 3000, 100, 100, 1]);
        }),
        case("also where the path takes less in one piece than a datagram has", |w| {
            echo(w);
            // Of both ends: what is larger than the MTU of who receives is lost.
            w.sh(Node, "ip link set pL1 mtu 1300");
            w.sh(L1, "ip link set eth0 mtu 1300");
            come_back(w, &[1400; 40]);
            come_back(w, &[1200; 40]);
        }),
    ];
    cases.into_iter().map(Case::names_its_carrier).collect()
}
