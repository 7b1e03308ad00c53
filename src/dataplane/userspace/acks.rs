//! The acknowledgement that ends a handshake.

use socket2::SockRef;
use std::os::fd::AsFd;

/// It waits for what is sent first, to be one segment with it. Said before connecting; the kernel
/// waits for 200 ms (`TCP_DELACK_MAX`), and forgets it with the first acknowledgement.
pub(super) fn wait(socket: &impl AsFd) {
    let _ = SockRef::from(socket).set_tcp_quickack(false);
}

/// It is sent, if it still waits.
pub(super) fn now(socket: &impl AsFd) {
    let _ = SockRef::from(socket).set_tcp_quickack(true);
}
