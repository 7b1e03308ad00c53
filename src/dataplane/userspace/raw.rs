//! Answers from ports that other processes of the node have, which no UDP socket can be bound to besides.
//! EDGE.
//!
//! A raw socket has no port: the UDP header is written here, and the kernel makes the rest, as for any
//! other datagram: route, fragments, and what it knows of the path's MTU.

use super::budget::{Budget, Files};
use super::udp_header::udp_header;
use foldhash::HashMap;
use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

/// Between two warnings about clients that get no answer.
const QUIET: Duration = Duration::from_secs(60);

/// One for each address, of all threads and ports: the kernel makes a copy for each of what comes to the
/// address, be it only for a filter to refuse.
#[derive(Debug)]
pub(super) struct RawSockets {
    budget: Arc<Budget>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    open: HashMap<IpAddr, Weak<RawSocket>>,
    warned: Option<Instant>,
}

#[derive(Debug)]
pub(super) struct RawSocket {
    socket: Socket,
    _file: Files,
}

impl RawSockets {
    pub(super) fn new(budget: Arc<Budget>) -> Self {
        Self { budget, state: Mutex::default() }
    }

    /// For answers of `frontend`, whose port somebody has. It takes CAP_NET_RAW.
    pub(super) fn of(&self, frontend: SocketAddr) -> io::Result<Arc<RawSocket>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(socket) = state.open.get(&frontend.ip()).and_then(Weak::upgrade) {
            return Ok(socket);
        }
        let file = self.budget.files(1);
        let file = file.ok_or_else(|| io::Error::from_raw_os_error(libc::EMFILE))?;
        let socket = open(frontend.ip()).inspect_err(|error| state.warn(frontend, error))?;
        tracing::debug!(%frontend, "a process has this port: clients are answered by a raw socket");
        let socket = Arc::new(RawSocket { socket, _file: file });
        state.open.retain(|_, socket| socket.strong_count() > 0);
        state.open.insert(frontend.ip(), Arc::downgrade(&socket));
        Ok(socket)
    }
}

impl State {
    fn warn(&mut self, frontend: SocketAddr, error: &io::Error) {
        let now = Instant::now();
        if error.kind() == io::ErrorKind::PermissionDenied
            && self.warned.is_none_or(|at| now.duration_since(at) >= QUIET)
        {
            self.warned = Some(now);
            tracing::warn!(
                %frontend,
                "UDP clients of a relayed Service get no answer: a process of this node has bound \
                 the port. Give vipd the capability CAP_NET_RAW, by which it can answer all the \
                 same, or have the process listen at its own addresses only (`ss -ulnp` names it)"
            );
        }
    }
}

impl RawSocket {
    /// One by one, as far as there is room. What is said of one that could not be sent, the last of them.
    pub(super) fn send(
        &self,
        (frontend, client): (SocketAddr, SocketAddr),
        datagrams: &[&[u8]],
    ) -> io::Result<()> {
        // To a raw socket a port is a protocol.
        let mut to = client;
        to.set_port(0);
        let to = to.into();
        let mut outcome = Ok(());
        for datagram in datagrams {
            let Some(header) = udp_header(frontend, client, datagram) else { continue };
            let parts = [IoSlice::new(&header), IoSlice::new(datagram)];
            if let Err(error) = self.socket.send_to_vectored(&parts, &to) {
                outcome = Err(error);
            }
        }
        outcome
    }
}

fn open(address: IpAddr) -> io::Result<Socket> {
    let at = SocketAddr::new(address, 0);
    let socket = Socket::new(Domain::for_address(at), Type::RAW, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    let _ = socket.set_recv_buffer_size(0);
    receive_nothing(&socket)?;
    bind_to(&socket, at)?;
    Ok(socket)
}

/// Until it is bound the node's whole UDP traffic is a raw socket's too.
fn receive_nothing(socket: &Socket) -> io::Result<()> {
    const RETURN: u16 = 0x06; // BPF_RET | BPF_K
    socket.attach_filter(&[SockFilter::new(RETURN, 0, 0, 0)])?;
    // What came before the filter was there.
    while socket.recv(&mut []).is_ok() {}
    Ok(())
}

/// Whosever address it is.
pub(super) fn bind_to(socket: &Socket, at: SocketAddr) -> io::Result<()> {
    match at {
        SocketAddr::V4(_) => socket.set_ip_transparent_v4(true)?,
        SocketAddr::V6(_) => socket.set_ip_transparent_v6(true)?,
    }
    socket.bind(&at.into())?;
    // Bound it needs that no more, since the address is led here by a route. To the kernel's rules a
    // transparent socket at a frontend is the relay's, which takes all that comes there.
    match at {
        SocketAddr::V4(_) => socket.set_ip_transparent_v4(false),
        SocketAddr::V6(_) => socket.set_ip_transparent_v6(false),
    }
}
