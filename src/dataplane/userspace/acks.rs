//! Acknowledgements that ride on what is sent anyway.
//!
//! Linux acknowledges each of the first segments of a connection at once (`TCP_MAX_QUICKACKS`), by a
//! segment of its own: of a short exchange that is every third one. Told that talk goes back and forth
//! it waits a moment for an answer to ride on, as it does later in the life of a connection by itself.
//! Whoever sends a second small segment only when the first is acknowledged (Nagle) would wait 40 ms
//! for a relay whose endpoint says nothing yet, so the relay does not let it wait longer than
//! [`PROMPT`].

use socket2::SockRef;
use std::os::fd::AsFd;
use std::time::Duration;

/// How long an acknowledgement may wait.
pub(super) const PROMPT: Duration = Duration::from_millis(2);

/// From now on. The kernel forgets it when the connection is established, and of itself keeps it for
/// what is accepted where the listener has it.
pub(super) fn wait(socket: &impl AsFd) {
    let _ = SockRef::from(socket).set_tcp_quickack(false);
}

/// What is owed is sent, and nothing waits any more.
pub(super) fn now(socket: &impl AsFd) {
    let _ = SockRef::from(socket).set_tcp_quickack(true);
}
